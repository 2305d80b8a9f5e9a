// A pool of worker threads that make samples; jobs are handed out in the order in which they were asked for.
import { KvaError } from "../native/error.ts";
import type { CellJob, CellResult } from "./cell-job.ts";
import type { FromSampleWorker, ToSampleWorker } from "./sample-worker.ts";

interface Waiting {
  job: CellJob;
  resolve(result: CellResult): void;
  reject(error: Error): void;
}

export class SampleWorkers {
  private readonly workers: Worker[] = [];
  private readonly free: Worker[] = [];
  private readonly queue: Waiting[] = [];
  private readonly running = new Map<Worker, Waiting>();
  private failure: Error | undefined;

  /** `tokenizer`: its directory */
  constructor(tokenizer: string, count: number) {
    for (let i = 0; i < count; i++) {
      const worker = new Worker(new URL("./sample-worker.ts", import.meta.url).href);
      worker.onmessage = ({ data }: MessageEvent<FromSampleWorker>) => this.receive(worker, data);
      worker.onerror = ({ message }) =>
        this.fail(new KvaError("data", `a thread that makes samples ended: ${message}`));
      this.send(worker, { tokenizer });
      this.workers.push(worker);
      this.free.push(worker);
    }
  }

  run(job: CellJob): Promise<CellResult> {
    return new Promise((resolve, reject) => {
      if (this.failure) return reject(this.failure);
      this.queue.push({ job, resolve, reject });
      this.next();
    });
  }

  end(): void {
    for (const worker of this.workers) worker.terminate();
  }

  private send(worker: Worker, message: ToSampleWorker): void {
    worker.postMessage(message);
  }

  private next(): void {
    while (this.free.length > 0 && this.queue.length > 0) {
      const worker = this.free.pop()!;
      const waiting = this.queue.shift()!;
      this.running.set(worker, waiting);
      this.send(worker, { job: waiting.job });
    }
  }

  private receive(worker: Worker, message: FromSampleWorker): void {
    if ("error" in message) {
      this.fail(new KvaError(message.error.code, message.error.message));
      return;
    }
    const done = this.running.get(worker);
    this.running.delete(worker);
    this.free.push(worker);
    done?.resolve(message.result);
    this.next();
  }

  /** One bad sample is the end of all: what waits would only be thrown away. */
  private fail(error: Error): void {
    this.failure ??= error;
    for (const { reject } of [...this.queue.splice(0), ...this.running.values()]) reject(error);
    this.running.clear();
  }
}

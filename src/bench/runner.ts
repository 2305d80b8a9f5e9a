// Runs measurements on one or several engines: warm-up, longest first, a row for each, retry once on a fresh engine, clean stop.
import type { Completion, EngineInfo, EngineOptions, Request } from "../engine/protocol.ts";
import { KvaError } from "../native/error.ts";
import { EngineError, type EngineProcess } from "./engine-process.ts";
import { followUpMs, followUpRequest, followUpRows } from "./follow-ups.ts";
import { type KeptRow, keptRow } from "./kept-rows.ts";
import { type Job, JobQueue, makeJobs } from "./queue.ts";
import {
  completedRow,
  failedRow,
  identity,
  type Row,
  type RowContext,
  type Task,
  type TimingRow,
  timingRow,
} from "./rows.ts";
import type { RunControl, RunEvent, RunOutcome, RunPlan } from "./run-contract.ts";
import type { RowStore } from "./rundir.ts";
import type { Replan } from "./steering.ts";
import { WeightHolders } from "./weight-holders.ts";

const maxDeathsInARow = 3;

export async function runTasks(
  plan: RunPlan,
  directory: RowStore,
  report: (event: RunEvent) => void = () => {},
  control: RunControl = {},
): Promise<RunOutcome> {
  const due = plan.tasks.filter((task) => directory.rows.get(identity(task))?.status !== "ok");
  return new Runner(plan, directory, report, control, due).run();
}

class Runner {
  private readonly queue: JobQueue;
  private readonly started = performance.now();
  private readonly engines = new Set<EngineProcess>();
  private readonly holders: WeightHolders;
  private readonly infos: EngineInfo[] = [];
  private readonly failures: string[] = [];
  /** consecutive samples of a method that ended their engine */
  private readonly deaths = new Map<string, number>();
  private readonly dropped = new AbortController();
  private readonly inFlight = new Set<Job>();
  /** when each engine was last free */
  private readonly freeSince: number[] = [];
  private done: number;
  private skipped = 0;
  private stopped = false;
  private failure: unknown;

  constructor(
    private readonly plan: RunPlan,
    private readonly directory: RowStore,
    private readonly report: (event: RunEvent) => void,
    private readonly control: RunControl,
    private due: Task[],
  ) {
    this.holders = new WeightHolders({ ...plan.process, abort: this.dropped.signal });
    const jobs = this.jobs(due);
    this.queue = control.queue?.(jobs) ?? new JobQueue(jobs, control.steering?.holdsOpen);
    control.steering?.listen((change) => this.replan(change));
    this.done = plan.tasks.length - due.length;
  }

  async run(): Promise<RunOutcome> {
    const unlisten = this.listen();
    try {
      const watching = this.control.steering?.holdsOpen === true;
      const slots = watching
        ? this.plan.engines.length
        : Math.min(this.plan.engines.length, Math.max(1, this.queue.left));
      if (this.due.length > 0 || watching)
        await Promise.all(this.plan.engines.slice(0, slots).map((_, at) => this.slot(at)));
    } finally {
      unlisten();
      await Promise.all([...this.engines].map((engine) => engine.stop()));
      await this.holders.stop();
    }
    if (this.failure !== undefined) throw this.failure;
    const missing = this.due.filter(
      (task) => this.directory.rows.get(identity(task))?.run !== this.directory.run,
    ).length;
    return {
      infos: this.infos,
      interrupted: this.stopped,
      missing: missing - this.skipped,
      skipped: this.skipped,
      reused: this.plan.tasks.length - this.due.length,
      wallMs: performance.now() - this.started,
      failures: this.failures,
    };
  }

  // The first wish to stop closes the queue; what is in flight is dropped when the grace is over, or at the second wish.
  private listen(): () => void {
    let timer: Timer | undefined;
    const drop = () => {
      this.stopped = true;
      this.queue.close();
      this.dropped.abort();
    };
    const stop = () => {
      this.stopped = true;
      this.queue.close();
      this.control.steering?.resume();
      timer ??= setTimeout(drop, this.control.graceMs ?? 3000);
    };
    if (this.control.stop?.aborted) stop();
    this.control.stop?.addEventListener("abort", stop);
    this.control.abort?.addEventListener("abort", drop);
    return () => {
      clearTimeout(timer);
      this.control.stop?.removeEventListener("abort", stop);
      this.control.abort?.removeEventListener("abort", drop);
    };
  }

  private jobs(tasks: readonly Task[]): Job[] {
    return makeJobs(tasks, this.plan.engines[0]!.device.split("+").length);
  }

  /** One model copy: an engine, started again when it dies, until the queue is empty. */
  private async slot(at: number): Promise<void> {
    let engine: EngineProcess | undefined;
    let warm = new Set<string>();
    for (let job = await this.next(); job !== undefined; job = await this.next()) {
      try {
        if (!engine?.alive) {
          if (engine) this.engines.delete(engine);
          engine = await this.start(at);
          warm = new Set();
        }
      } catch (error) {
        this.queue.giveBack(job);
        return this.lost(at, error as Error);
      }
      this.inFlight.add(job);
      try {
        await this.attempt(engine, at, job, warm);
      } catch (error) {
        this.failure ??= error;
        this.queue.close();
        return;
      } finally {
        this.inFlight.delete(job);
      }
    }
  }

  /** The next job that is not skipped, when the run is not paused. */
  private async next(): Promise<Job | undefined> {
    const { steering } = this.control;
    for (;;) {
      await steering?.opened();
      const job = await this.queue.next(() => this.inFlight.size === 0 && this.report({ type: "idle" }));
      if (steering?.paused && job !== undefined) this.queue.giveBack(job);
      else if (job === undefined || !steering?.skips(job.tasks[0]!)) return job;
      else {
        this.skipped += job.tasks.length;
        this.report({ type: "skipped", tasks: job.tasks });
      }
    }
  }

  /** Other tasks from here on: rows of saved methods are forgotten, and what of them is in flight will not count. */
  private replan({ tasks, stale, held }: Replan): void {
    this.directory.forget([...this.directory.rows.values()].filter(stale));
    for (const job of this.inFlight) job.outdated ||= stale({ method_hash: job.tasks[0]!.method.hash });
    this.plan.tasks = tasks;
    this.due = tasks.filter((task) => this.directory.rows.get(identity(task))?.status !== "ok");
    this.done = tasks.length - this.due.length;
    this.skipped = 0;
    this.deaths.clear();
    const running = new Set(
      [...this.inFlight].filter((job) => !job.outdated).flatMap((job) => job.tasks.map(identity)),
    );
    this.queue.refill(this.jobs(this.due.filter((task) => !held(task) && !running.has(identity(task)))));
    this.report({ type: "replanned", tasks, rows: this.directory.rows });
  }

  private async start(at: number): Promise<EngineProcess> {
    const options = this.plan.engines[at]!;
    this.report({ type: "loading", engine: at, device: options.device });
    const engine = await this.load(options);
    this.engines.add(engine);
    this.infos[at] = engine.info;
    this.report({ type: "loaded", engine: at, info: engine.info });
    this.freeSince[at] = performance.now();
    return engine;
  }

  /** A process that was ended while it loaded is started once more; one that says why it cannot load is not. */
  private async load(options: EngineOptions): Promise<EngineProcess> {
    try {
      return await this.holders.engine(options);
    } catch (error) {
      if (!(error instanceof EngineError) || !error.died || this.stopped) throw error;
      this.report({ type: "note", text: `${options.device}, while loading: ${error.message}; it is started again` });
      return this.holders.engine(options);
    }
  }

  // Without an engine left, the rest has no row and runs at the next start. The first load of all failing is the run's error.
  private lost(at: number, error: Error): void {
    if (this.stopped) return;
    this.failures.push(error.message);
    if (this.infos.length === 0 && this.failures.length === this.plan.engines.length) this.failure ??= error;
    else this.report({ type: "note", text: `no engine on ${this.plan.engines[at]!.device}: ${error.message}` });
  }

  private async attempt(engine: EngineProcess, at: number, job: Job, warm: Set<string>): Promise<void> {
    const first = job.tasks[0]!;
    const context = { run: this.directory.run, attempts: job.attempts + 1, device: this.plan.engines[at]!.device };
    if ((this.deaths.get(first.method.label) ?? 0) >= maxDeathsInARow) {
      const text = `not run: ${first.method.label} ended the engine process at ${maxDeathsInARow} samples in a row`;
      return this.fail(job, "error", text, context);
    }
    if (job.attempts > 1) {
      const text = `not run: ${job.attempts} processes of the run ended while they ran it`;
      return this.fail(job, "error", text, { ...context, attempts: job.attempts });
    }
    let completions: Completion[];
    try {
      if (await this.warmUp(engine, first, warm)) this.freeSince[at] = performance.now();
      this.report({ type: "start", engine: at, tasks: job.tasks });
      completions = await engine.generate(
        first.method,
        job.tasks.map((task) => this.request(task)),
        {
          token: () => this.report({ type: "token", engine: at }),
          phase: (phase, done, total) => this.report({ type: "phase", engine: at, phase, done, total }),
        },
        job.pipeline,
      );
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      this.freeSince[at] = performance.now();
      // A device that failed stays failed in its process: a fresh one finds it again, or says that it is gone.
      if (error.code === "device") {
        engine.kill(error.message);
        await engine.stop();
      }
      return this.recover(error, job, context);
    }
    if (job.outdated) return;
    this.deaths.delete(first.method.label);
    const deviceMs = Math.max(...completions.map((c) => c.prefillMs + c.decodeMs));
    const now = performance.now();
    const busyMs = deviceMs + followUpMs(completions);
    const shared = engine.info.sharedWeights;
    const gapMs = Math.max(0, now - this.freeSince[at]! - busyMs) / job.tasks.length;
    this.freeSince[at] = now;
    for (const [index, task] of job.tasks.entries()) {
      await this.completed(task, completions[index], {
        ...context,
        sequences: job.pipeline ?? job.tasks.length,
        ...(job.pipeline ? { pipelined: job.tasks.length } : {}),
        wallMs: deviceMs / job.tasks.length,
        gapMs,
        logSamples: this.plan.logSamples,
        ...(shared && { sharedWeightBytes: shared.bytes }),
      });
    }
  }

  // Once per engine and method: the first use pays for buffers, kernels and graphs, and is not a sample's time.
  private async warmUp(engine: EngineProcess, task: Task, warm: Set<string>): Promise<boolean> {
    const name = `${task.method.label} ${task.method.hash}`;
    if (warm.has(name)) return false;
    const { sample } = task;
    const ids = Array.from(sample.ids.subarray(0, 512));
    const request = { ...this.request(task), id: "warm-up", ids, maxNewTokens: 4, followUps: [] };
    if ((sample.questionStart ?? 0) >= request.ids.length) delete request.questionStart;
    try {
      await engine.generate(task.method, [{ ...request, ignoreStop: true, logKept: false }]);
    } catch (error) {
      if (!(error instanceof EngineError) || error.died) throw error; // a refusal comes again, with the sample's own row
    }
    warm.add(name);
    return true;
  }

  private request({ sample }: Task): Request {
    return {
      id: sample.id,
      ids: Array.from(sample.ids),
      maxNewTokens: sample.maxNewTokens,
      stopIds: [...this.plan.stopIds, ...(sample.stopIds ?? [])],
      ...(sample.minNewTokens === undefined ? {} : { minNewTokens: sample.minNewTokens }),
      sampling: this.plan.sampling,
      ...(sample.questionStart === undefined ? {} : { questionStart: sample.questionStart }),
      ...followUpRequest(sample),
      ...(this.plan.logKept ? { logKept: true } : {}),
    };
  }

  // A batch that failed as a whole is run sample by sample; a sample that ended its engine is run once more on a fresh one.
  private async recover(error: EngineError, job: Job, context: Pick<RowContext, "run" | "attempts" | "device">) {
    const died = error.died || error.code === "device";
    if (job.outdated || (this.stopped && died)) return;
    const label = job.tasks[0]!.method.label;
    if (job.tasks.length > 1) {
      this.report({
        type: "note",
        text: `${label}, batch of ${job.tasks.length}: ${error.message}; its samples run alone`,
      });
      return this.queue.giveBack(...job.tasks.map((task) => ({ tasks: [task], attempts: job.attempts + 1 })));
    }
    const retry = died && job.attempts === 0;
    if (retry) {
      this.report({ type: "note", text: `${label}, ${job.tasks[0]!.sample.id}: ${error.message}; it is run again` });
      return this.queue.giveBack({ tasks: job.tasks, attempts: 1 });
    }
    if (died) this.deaths.set(label, (this.deaths.get(label) ?? 0) + 1);
    return this.fail(job, error.code === "oom" ? "oom" : "error", error.message, context);
  }

  private async fail(
    job: Job,
    status: "oom" | "error",
    text: string,
    context: Pick<RowContext, "run" | "attempts" | "device">,
  ): Promise<void> {
    const rest = { sequences: job.tasks.length, wallMs: 0, logSamples: this.plan.logSamples };
    for (const task of job.tasks) await this.write(failedRow(task, status, text, { ...context, ...rest }));
  }

  private completed(task: Task, completion: Completion | undefined, context: RowContext): Promise<void> {
    if (completion?.id !== task.sample.id) {
      throw new KvaError(
        "native",
        `the engine answered ${completion?.id ?? "nothing"} where ${task.sample.id} was asked`,
      );
    }
    const row = completedRow(task, completion, this.plan.decode(completion.ids), context);
    Object.assign(row, followUpRows(task.sample, completion, this.plan.decode));
    const kept = completion.kept && keptRow(task, completion, completion.kept, this.directory.run);
    return this.write(row, timingRow(task, completion, this.directory.run), kept);
  }

  private async write(row: Row, timing?: TimingRow, kept?: KeptRow): Promise<void> {
    await this.directory.append(row, timing, kept);
    this.done += 1;
    this.report({ type: "row", row, done: this.done, total: this.plan.tasks.length });
  }
}

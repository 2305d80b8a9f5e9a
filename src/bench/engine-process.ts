// One engine in a child process: starts it, turns messages into promises, and ends it when it stops answering.
import { join } from "node:path";
import type {
  Completion,
  EngineInfo,
  EngineOptions,
  FromEngine,
  MethodSpec,
  Request,
  ScoreRequest,
  ScoreResult,
  SharedWeights,
  ToEngine,
} from "../engine/protocol.ts";
import { type ErrorCode, KvaError } from "../native/error.ts";

/** What an engine says of itself when it fails; `died` tells that the process is gone and a new one is needed. */
export class EngineError extends KvaError {
  constructor(
    code: ErrorCode,
    message: string,
    readonly died: boolean,
    readonly childStack?: string,
  ) {
    super(code, message);
    this.name = "EngineError";
  }
}

export interface CallEvents {
  token?(index: number, id: number): void;
  phase?(phase: "prefill" | "decode", done: number, total: number): void;
}

export interface ProcessOptions {
  /** the child's command line; the default runs src/engine/worker.ts */
  command?: string[];
  /** silence after which a busy child is ended */
  heartbeatMs?: number;
  /** ends the child at once, loading or not */
  abort?: AbortSignal;
  /** likewise; its reason is the error's text */
  lost?: AbortSignal;
}

interface Call {
  resolve(value: Completion[] | ScoreResult): void;
  reject(error: EngineError): void;
  events: CallEvents;
}

const defaultCommand = () => [process.execPath, join(import.meta.dir, "..", "engine", "worker.ts")];
const codes: Record<string, ErrorCode> = { oom: "oom", plugin: "plugin", model: "model", device: "device" };

/** A loaded engine, or the holder of weights. Calls may overlap: the child answers them in order. */
export class EngineProcess {
  /** of an engine */
  info!: EngineInfo;
  /** of a holder */
  weights!: SharedWeights;
  /** when the process is gone, why */
  readonly gone: Promise<EngineError>;
  private readonly isGone: (error: EngineError) => void;
  private readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  private readonly calls = new Map<number, Call>();
  private readonly heartbeatMs: number;
  private loading: { resolve(): void; reject(error: EngineError): void } | undefined;
  private nextCall = 1;
  private lastSign = performance.now();
  private lastTick = performance.now();
  private readonly watchdog: Timer;
  private readonly outputDone: Promise<unknown>;
  private ended: EngineError | undefined;
  private stopping = false;
  private killed = false;
  private reason: string | undefined;
  private tail = "";

  /** Starts a child and loads the model in it. */
  static start(options: EngineOptions, settings: ProcessOptions = {}): Promise<EngineProcess> {
    return new EngineProcess(settings, "the engine process").load({ type: "load", options });
  }

  /** Starts a child that loads weights and holds them for the engines of a device; `ps` shows which. */
  static hold(options: EngineOptions, settings: ProcessOptions = {}): Promise<EngineProcess> {
    const { device } = options;
    const command = [...(settings.command ?? defaultCommand()), "weights", device];
    const name = `the process that holds the weights of ${device}`;
    return new EngineProcess({ ...settings, command }, name).load({ type: "hold", options });
  }

  private async load(message: ToEngine): Promise<EngineProcess> {
    try {
      await new Promise<void>((resolve, reject) => {
        this.loading = { resolve, reject };
        this.send(message);
      });
    } catch (error) {
      this.kill();
      throw error;
    }
    return this;
  }

  private constructor(
    settings: ProcessOptions,
    /** in error texts */
    private readonly name: string,
  ) {
    const { promise, resolve } = Promise.withResolvers<EngineError>();
    this.gone = promise;
    this.isGone = resolve;
    this.heartbeatMs = settings.heartbeatMs ?? 60_000;
    // A session of its own: Ctrl-C in the terminal reaches the parent alone, which decides what happens to the sample in flight.
    this.child = Bun.spawn(settings.command ?? defaultCommand(), {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: process.env,
      detached: true,
      serialization: "json",
      ipc: (message) => this.receive(message as FromEngine),
      onExit: (_child, code, signal) => void this.exited(code, signal),
    });
    this.outputDone = Promise.all([this.forward(this.child.stdout), this.forward(this.child.stderr)]);
    this.watchdog = setInterval(() => this.watch(), Math.min(1000, this.heartbeatMs / 4));
    this.watchdog.unref();
    const { abort, lost } = settings;
    const interrupted = () => this.kill("the run was interrupted");
    if (abort?.aborted) interrupted();
    abort?.addEventListener("abort", interrupted, { once: true });
    const without = () => this.kill(String(lost?.reason));
    if (lost?.aborted) without();
    lost?.addEventListener("abort", without, { once: true });
  }

  get pid(): number {
    return this.child.pid;
  }

  get alive(): boolean {
    return this.ended === undefined && !this.killed;
  }

  /** Runs requests as one batch, or as a pipeline of batches. Rejects with an EngineError when the whole call fails. */
  generate(method: MethodSpec, requests: Request[], events: CallEvents = {}, pipeline?: number): Promise<Completion[]> {
    const how = pipeline === undefined ? {} : { pipeline };
    return this.call((call) => ({ type: "generate", call, method, requests, ...how }), events) as Promise<Completion[]>;
  }

  score(method: MethodSpec, request: ScoreRequest): Promise<ScoreResult> {
    return this.call((call) => ({ type: "score", call, method, request }), {}) as Promise<ScoreResult>;
  }

  /** Asks the child to end and waits; after `graceMs` it is killed. */
  async stop(graceMs = 2000): Promise<void> {
    if (this.ended === undefined) {
      this.stopping = true;
      this.send({ type: "stop" });
      const timer = setTimeout(() => this.child.kill("SIGKILL"), graceMs);
      await this.child.exited;
      clearTimeout(timer);
    }
    await this.child.exited;
  }

  /** Ends the child at once; running calls are rejected. */
  kill(reason?: string): void {
    this.reason ??= reason;
    this.killed = true;
    this.child.kill("SIGKILL");
  }

  private call(message: (call: number) => ToEngine, events: CallEvents): Promise<Completion[] | ScoreResult> {
    if (this.ended !== undefined) return Promise.reject(this.ended);
    if (this.calls.size === 0) this.lastSign = performance.now();
    const number = this.nextCall++;
    return new Promise((resolve, reject) => {
      this.calls.set(number, { resolve, reject, events });
      this.send(message(number));
    });
  }

  private send(message: ToEngine): void {
    try {
      this.child.send(message);
    } catch {
      this.kill(`the connection to ${this.name} was closed`);
    }
  }

  private receive(message: FromEngine): void {
    this.lastSign = performance.now();
    switch (message.type) {
      case "heartbeat":
        break;
      case "loaded":
        this.info = message.info;
        this.loaded();
        break;
      case "held":
        this.weights = message.weights;
        this.loaded();
        break;
      case "token":
        this.calls.get(message.call)?.events.token?.(message.index, message.id);
        break;
      case "phase":
        this.calls.get(message.call)?.events.phase?.(message.phase, message.done, message.total);
        break;
      case "generated":
        this.finish(message.call, (call) => call.resolve(message.completions));
        break;
      case "scored":
        this.finish(message.call, (call) => call.resolve(message.result));
        break;
      case "failed":
        this.failed(message);
        break;
    }
  }

  private loaded(): void {
    this.loading?.resolve();
    this.loading = undefined;
  }

  private failed(message: FromEngine & { type: "failed" }): void {
    const error = new EngineError(codes[message.code] ?? "native", message.message, false, message.stack);
    if (message.call === undefined) {
      this.loading?.reject(error);
      this.loading = undefined;
    } else this.finish(message.call, (call) => call.reject(error));
  }

  private finish(number: number, settle: (call: Call) => void): void {
    const call = this.calls.get(number);
    this.calls.delete(number);
    if (call) settle(call);
  }

  // A suspended parent (Ctrl-Z) wakes with old clocks: a late tick says nothing about the child.
  private watch(): void {
    const now = performance.now();
    const late = now - this.lastTick > Math.max(5000, this.heartbeatMs / 2);
    this.lastTick = now;
    if (late || (this.calls.size === 0 && this.loading === undefined)) this.lastSign = now;
    else if (now - this.lastSign > this.heartbeatMs)
      this.kill(`${this.name} gave no sign of life for ${Math.round(this.heartbeatMs / 1000)} s and was ended`);
  }

  private async exited(code: number | null, signal: number | string | null): Promise<void> {
    clearInterval(this.watchdog);
    const name = this.child.signalCode ?? signal;
    const how = name ? `was ended by ${name}` : `ended with exit code ${code}`;
    const error = new EngineError("native", this.reason ?? `${this.name} ${how}`, true);
    this.ended = error;
    await Promise.race([this.outputDone, Bun.sleep(500)]);
    const said = this.lastWords();
    if (this.reason === undefined && !this.stopping && said !== "") error.message += `; its last words: ${said}`;
    this.loading?.reject(error);
    for (const call of this.calls.values()) call.reject(error);
    this.calls.clear();
    this.isGone(error);
  }

  // What plugins print is shown at once, on stderr; the runtime's own crash banner is kept for the error text.
  private async forward(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    let banner = false;
    for await (const chunk of stream) {
      const text = decoder.decode(chunk, { stream: true });
      banner ||= text.includes("=".repeat(40));
      if (!banner) process.stderr.write(text);
      this.tail = (this.tail + text).slice(-4000);
    }
  }

  private lastWords(): string {
    const lines = this.tail.split("\n").map((line) => line.trim());
    const telling = lines.filter((line) =>
      /error|panic|terminate|abort|segmentation|assert|killed|what\(\)/i.test(line),
    );
    return telling.slice(-2).join(" ").slice(0, 400);
  }
}

// What a run has done and is doing, from its events: cells that fill, samples in flight, tokens per second, memory, time left.
import type { MethodSpec } from "../engine/protocol.ts";
import { identity, type Row, type Task } from "./rows.ts";
import type { RunEvent } from "./run-contract.ts";

export interface LiveCell {
  total: number;
  done: number;
  oom: number;
  errors: number;
  skipped: number;
  /** sum and count of scores by task, 0 to 100 */
  scores: Map<string, { sum: number; n: number }>;
}

/** A sample, or a batch of them, on an engine. */
export interface Doing {
  tasks: Task[];
  phase: "prefill" | "decode";
  done: number;
  total: number;
}

export interface MethodFigures {
  cacheBytes: number;
  msPerToken: number | null;
  length: number | null;
}

const rateWindowMs = 5000;

export class LiveState {
  tasks: readonly Task[] = [];
  methods: MethodSpec[] = [];
  lengths: (number | null)[] = [];
  readonly loading = new Map<number, string>();
  readonly doing = new Map<number, Doing>();
  /** the allocator's highest peak so far, weights included */
  peakBytes = 0;
  /** the smallest free memory that a device had when its model was loaded, and what that takes */
  deviceBytes = 0;
  idle = false;
  private rows = new Map<string, Row>();
  private skipped = new Set<string>();
  private cells = new Map<string, LiveCell>();
  private readonly tokens: number[] = [];
  /** rows made since this start */
  private made = { ms: 0, tokens: 0 };

  constructor(tasks: readonly Task[], rows: ReadonlyMap<string, Row>) {
    this.replace(tasks, rows);
  }

  private replace(tasks: readonly Task[], rows: ReadonlyMap<string, Row>): void {
    this.tasks = tasks;
    this.methods = [...new Map(tasks.map(({ method }) => [method.hash, method])).values()];
    this.lengths = [...new Set(tasks.map(({ sample }) => sample.length))].toSorted((a, b) => (a ?? 0) - (b ?? 0));
    this.rows = new Map();
    this.skipped = new Set();
    this.cells = new Map();
    const known = new Set(tasks.map(identity));
    for (const task of tasks) this.cellOf(task.method.hash, task.sample.length).total += 1;
    for (const [name, row] of rows) if (known.has(name) && row.status === "ok") this.count(name, row);
  }

  private cellOf(method: string, length: number | null): LiveCell {
    const name = `${method}/${length}`;
    let cell = this.cells.get(name);
    if (cell === undefined) {
      cell = { total: 0, done: 0, oom: 0, errors: 0, skipped: 0, scores: new Map() };
      this.cells.set(name, cell);
    }
    return cell;
  }

  cell(method: MethodSpec, length: number | null): LiveCell | undefined {
    return this.cells.get(`${method.hash}/${length}`);
  }

  private count(name: string, row: Row): void {
    if (this.rows.has(name)) return;
    this.rows.set(name, row);
    const cell = this.cellOf(row.method_hash, row.length);
    cell.done += 1;
    if (row.status === "oom") cell.oom += 1;
    if (row.status === "error") cell.errors += 1;
    this.peakBytes = Math.max(this.peakBytes, row.peak_bytes);
    if (row.score === null || row.repeat > 0) return;
    const task = cell.scores.get(row.task) ?? { sum: 0, n: 0 };
    cell.scores.set(row.task, { sum: task.sum + 100 * row.score, n: task.n + 1 });
  }

  note(event: RunEvent): void {
    switch (event.type) {
      case "loading":
        this.loading.set(event.engine, event.device);
        break;
      case "loaded":
        this.loading.delete(event.engine);
        this.deviceBytes = event.info.totalBytes;
        this.peakBytes = Math.max(this.peakBytes, event.info.weightBytes);
        break;
      case "start":
        this.idle = false;
        this.doing.set(event.engine, { tasks: event.tasks, phase: "prefill", done: 0, total: 0 });
        break;
      case "phase": {
        const doing = this.doing.get(event.engine);
        if (doing) Object.assign(doing, { phase: event.phase, done: event.done, total: event.total });
        break;
      }
      case "token":
        this.tokens.push(performance.now());
        if (this.tokens.length > 4000) this.tokens.splice(0, 2000);
        break;
      case "row":
        this.count(identity(event.row), event.row);
        if (event.row.status === "ok") {
          this.made.ms += event.row.wall_ms;
          this.made.tokens += event.row.prompt_tokens + event.row.new_tokens;
        }
        for (const [engine, { tasks }] of this.doing)
          if (tasks.some((task) => identity(task) === identity(event.row))) this.doing.delete(engine);
        break;
      case "skipped":
        for (const task of event.tasks) {
          this.skipped.add(identity(task));
          this.cellOf(task.method.hash, task.sample.length).skipped += 1;
        }
        break;
      case "replanned":
        this.replace(event.tasks, event.rows);
        this.idle = false;
        break;
      case "idle":
        this.idle = true;
        break;
      case "note":
        break;
    }
  }

  get done(): number {
    return this.rows.size;
  }

  /** new tokens a second, of the last seconds; null while none come */
  tokensPerSecond(now = performance.now()): number | null {
    const recent = this.tokens.filter((time) => now - time < rateWindowMs);
    return recent.length > 1 ? (recent.length * 1000) / Math.max(1, now - recent[0]!) : null;
  }

  /** Milliseconds: what is left, by its tokens, at the speed so far; null before the first row. */
  timeLeft(engines = Math.max(1, this.doing.size)): number | null {
    const { ms, tokens } = this.made;
    if (tokens === 0) return null;
    const open = this.tasks.filter((task) => !this.rows.has(identity(task)) && !this.skipped.has(identity(task)));
    const left = open.reduce((sum, { sample }) => sum + sample.ids.length + sample.maxNewTokens / 2, 0);
    return ((ms / tokens) * left) / engines;
  }

  /** Score so far: the mean over the tasks that have one. */
  score({ scores }: LiveCell): number | null {
    const means = [...scores.values()].map(({ sum, n }) => sum / n);
    return means.length === 0 ? null : means.reduce((sum, mean) => sum + mean, 0) / means.length;
  }

  /** Cost figures of the longest length that has a row. */
  figures(method: MethodSpec): MethodFigures | undefined {
    for (const length of this.lengths.toReversed()) {
      const rows = [...this.rows.values()].filter(
        (row) => row.method_hash === method.hash && row.length === length && row.status === "ok",
      );
      if (rows.length === 0) continue;
      const decoded = rows.filter((row) => row.new_tokens > 1);
      const steps = decoded.reduce((sum, row) => sum + row.new_tokens - 1, 0);
      return {
        length,
        cacheBytes: rows.reduce((sum, row) => sum + row.cache_bytes, 0) / rows.length,
        msPerToken: steps === 0 ? null : decoded.reduce((sum, row) => sum + row.decode_ms, 0) / steps,
      };
    }
    return undefined;
  }
}

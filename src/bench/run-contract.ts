// What a run is given, what it tells while it runs, and what it ends with.
import type { EngineInfo, EngineOptions, Sampling } from "../engine/protocol.ts";
import type { ProcessOptions } from "./engine-process.ts";
import type { Job, JobQueue } from "./queue.ts";
import type { Row, Task } from "./rows.ts";
import type { Steering } from "./steering.ts";

export interface RunPlan {
  tasks: Task[];
  /** one per model copy */
  engines: EngineOptions[];
  stopIds: number[];
  sampling: Sampling;
  /** rows carry the prompt's text */
  logSamples: boolean;
  /** the positions that each layer and KV head keeps go to files of their own */
  logKept: boolean;
  decode(ids: number[]): string;
  process?: ProcessOptions;
}

/** What happens during a run, for progress and the wizard. */
export type RunEvent =
  | { type: "loading"; engine: number; device: string }
  | { type: "loaded"; engine: number; info: EngineInfo }
  | { type: "start"; engine: number; tasks: Task[] }
  | { type: "phase"; engine: number; phase: "prefill" | "decode"; done: number; total: number }
  | { type: "token"; engine: number }
  | { type: "row"; row: Row; done: number; total: number }
  | { type: "note"; text: string }
  /** what is left of a cell was skipped */
  | { type: "skipped"; tasks: Task[] }
  /** other tasks in place of the earlier ones; `rows` are those that still count */
  | { type: "replanned"; tasks: Task[]; rows: ReadonlyMap<string, Row> }
  /** all is measured; the run waits for plugin files to be saved */
  | { type: "idle" };

export interface RunControl {
  /** no new sample is started; the one in flight may finish within `graceMs`, then it is dropped */
  stop?: AbortSignal;
  /** what is in flight is dropped at once */
  abort?: AbortSignal;
  graceMs?: number;
  /** pause, skip, measure anew */
  steering?: Steering;
  /** hands the jobs out; default: all of them here */
  queue?(jobs: Job[]): JobQueue;
}

export interface RunOutcome {
  infos: EngineInfo[];
  interrupted: boolean;
  /** measurements without a row: after an interruption, or when no engine was left */
  missing: number;
  /** measurements that were skipped by hand; not among the missing */
  skipped: number;
  reused: number;
  /** from the start of the engines to the last row */
  wallMs: number;
  /** why engines could not be started again */
  failures: string[];
}

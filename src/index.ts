// The scripted way in: the runs of `accel run`, from `bun test` or any script.

import type { RunControl } from "./bench/run-contract.ts";
import { execute, type Watcher } from "./cli/execute.ts";
import type { RunReport } from "./cli/run-report.ts";
import { type RunFlags, readSettings } from "./cli/settings.ts";

export { expectWithin, type Tolerance } from "./bench/baseline.ts";
export type { AccuracyCell, Cells, CostCell, TaskCell } from "./bench/cells.ts";
export type { RunEvent } from "./bench/run-contract.ts";
export type { RunFlags, RunReport };

/** The flags of `accel run` by their names; `acceleration: ["SnapKV"], length: [512]`. */
export type BenchmarkOptions = RunFlags;

/**
 * Runs a benchmark as `accel run` does, resumes what its directory already has, and gives the cells of the tables. Nothing is
 * printed; `watcher` sees what happens, `control` stops it. Throws a KvaError on bad options; failed samples are in the cells.
 */
export function runBenchmark(
  options: BenchmarkOptions,
  watcher: Watcher = {},
  control: RunControl = {},
): Promise<RunReport> {
  return execute(readSettings(options), watcher, control);
}

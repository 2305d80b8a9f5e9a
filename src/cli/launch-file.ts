// slurm/launch.json: what was launched into a run directory last.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { writeWhole } from "../bench/appender.ts";
import { KvaError } from "../native/error.ts";
import { slurmFolder } from "./slurm-script.ts";

const launchSchema = v.object({
  /** absent: sbatch did not take it */
  job: v.optional(v.object({ id: v.string(), cluster: v.optional(v.string()) })),
  /** of the run directory, for the tasks to join */
  start: v.number(),
  tasks: v.number(),
  /** in all, and those that were done before */
  measurements: v.number(),
  before: v.number(),
  /** the run's configuration, a file beside this one; its batch sizes, which the file cannot hold */
  cfg: v.string(),
  batches: v.array(v.number()),
});
export type Launch = v.InferOutput<typeof launchSchema>;

const fileOf = (path: string) => join(slurmFolder(path), "launch.json");

export function readLaunch(path: string): Launch | undefined {
  const file = fileOf(path);
  if (!existsSync(file)) return undefined;
  try {
    return v.parse(launchSchema, JSON.parse(readFileSync(file, "utf8")));
  } catch (cause) {
    throw new KvaError("io", `${file} is damaged: ${(cause as Error).message}`, { cause });
  }
}

export function writeLaunch(path: string, launch: Launch): void {
  writeWhole(fileOf(path), `${JSON.stringify(launch, null, 2)}\n`);
}

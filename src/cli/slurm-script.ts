// The batch script of a run: a job array whose tasks join one start of the run directory.
import { join } from "node:path";
import { KvaError } from "../native/error.ts";
import { listOf } from "./argv.ts";
import { placeModels } from "./placement.ts";
import type { RunFlags } from "./settings.ts";

/** The flags of `accel launch slurm` that are not those of `accel run`. */
export interface SlurmFlags {
  copies?: number;
  nodes?: number;
  partition?: string;
  time?: string;
  account?: string;
  qos?: string;
  gres?: string;
  cpus_per_task?: number;
  mem?: string;
  sbatch?: string;
  takeover?: number;
  detach?: boolean;
  follow?: string;
}

/** How the model copies of a run become array tasks. */
export interface TaskArray {
  tasks: number;
  /** what a task gives to --device; undefined: all GPUs that it sees */
  device: string[] | undefined;
  /** sbatch's options for the resources of a task */
  resources: Record<string, string | number | true>;
}

const isCpu = (words: readonly string[]) => words.length > 0 && words.every((word) => /^cpu(:|$)/i.test(word));

/**
 * One task for each model copy, with the GPUs of one copy: `--gp_num 2` takes two, `1/2` lets two copies share one. On whole nodes and on CPUs
 * a task runs as many copies as `accel run` would there.
 */
export function arrayOf(run: Pick<RunFlags, "device" | "gp_num">, flags: SlurmFlags): TaskArray {
  const words = listOf(run.device);
  const { copies, nodes, gres } = flags;
  if (copies !== undefined && nodes !== undefined)
    throw new KvaError("usage", "--copies and --nodes exclude each other: a task for each copy, or for each node");
  const given = { ...(gres === undefined ? {} : { gres }), ...cpus(flags.cpus_per_task) };
  if (nodes !== undefined) {
    const device = isCpu(words) ? ["cpu"] : undefined;
    return { tasks: nodes, device, resources: { nodes: 1, exclusive: true, ...given } };
  }
  if (isCpu(words)) return { tasks: copies ?? 1, device: ["cpu"], resources: given };
  const [size, sharing] = (run.gp_num ?? "1").split("/").map(Number) as [number, number?];
  const gpus = words.map((word) => word.replace(/^\d+$/, "cuda:$&"));
  const placed = gpus.length > 0 ? placeModels(gpus, run.gp_num).groups.length : 1;
  return {
    tasks: copies ?? placed,
    device: Array.from({ length: size }, (_, at) => String(at)), // Slurm numbers a task's own from 0
    resources: { gres: `gpu:${size}`, ...cpus((sharing ?? 1) + 1), ...given },
  };
}

const cpus = (count: number | undefined): Record<string, number> =>
  count === undefined ? {} : { "cpus-per-task": count };

export interface ScriptParts {
  /** absolute path of the run directory */
  path: string;
  /** folder from which the run was launched: relative paths in its configuration start there */
  cwd: string;
  name: string;
  array: TaskArray;
  flags: SlurmFlags;
  /** the task's command, word by word; the first two are bun and kvaccel's main file */
  command: readonly string[];
}

/** Where a job array's logs, script and configuration are, in the run directory. */
export const slurmFolder = (path: string): string => join(path, "slurm");
export const logOf = (path: string, job: string, task: number | string): string =>
  join(slurmFolder(path), `${job}_${task}.log`);

export function batchScript({ path, cwd, name, array, flags, command }: ScriptParts): string {
  const { partition, time, account, qos, mem, sbatch } = flags;
  if (/[\n\r]/.test([path, cwd, sbatch ?? ""].join(""))) {
    throw new KvaError("usage", "a batch script takes no path and no --sbatch with a line break");
  }
  const options: TaskArray["resources"] = {
    "job-name": `accel_${name.replaceAll(/[^\w.+-]+/g, "_")}`,
    array: `0-${array.tasks - 1}`,
    output: logOf(path.replaceAll("%", "%%"), "%A", "%a"),
    "open-mode": "append",
    chdir: cwd,
    ...array.resources,
    ...given({ partition, time, account, qos, mem }),
  };
  const [bun, main] = command as [string, string];
  return [
    "#!/bin/bash",
    "# Written by accel launch slurm; sbatch takes it as it is, once for each start of the run.",
    ...Object.entries(options).map(
      ([key, value]) => `#SBATCH --${key}${value === true ? "" : `=${quoted(String(value))}`}`,
    ),
    "#SBATCH --requeue",
    ...(sbatch === undefined ? [] : [`#SBATCH ${sbatch}`]),
    "",
    'say() { echo "accel: on $(hostname) $1 is not there: it must be on a file system that all nodes share"; exit 1; }',
    `[ -d ${quoted(path)} ] || say ${quoted(path)}`,
    `[ -x ${quoted(bun)} ] || say ${quoted(bun)}`,
    `[ -f ${quoted(main)} ] || say ${quoted(main)}`,
    `cd ${quoted(cwd)} || say ${quoted(cwd)}`,
    // the process itself gets Slurm's signals: it gives back what it holds
    `exec ${command.map(quoted).join(" ")}`,
    "",
  ].join("\n");
}

const given = (options: Record<string, string | undefined>) =>
  Object.fromEntries(Object.entries(options).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])));

/** One word for the shell and for sbatch's own reading of its lines. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

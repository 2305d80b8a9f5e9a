// `accel launch slurm`: makes the run directory, its batch script and its configuration, submits, follows.
import { basename, join, resolve } from "node:path";
import { writeWhole } from "../bench/appender.ts";
import { endWriters } from "../bench/members.ts";
import { makeJobs } from "../bench/queue.ts";
import { identity } from "../bench/rows.ts";
import { RunDirectory } from "../bench/rundir.ts";
import { KvaError } from "../native/error.ts";
import { effectiveConfig } from "./effective-config.ts";
import { refuseOtherWriters, runPath } from "./execute.ts";
import { follow, prepareHere } from "./follow.ts";
import { defaultTakeover } from "./join.ts";
import { type Launch, readLaunch, writeLaunch } from "./launch-file.ts";
import { tell } from "./output.ts";
import type { PreparedRun } from "./plan.ts";
import { finish, print } from "./present.ts";
import { manifest, mergedReport } from "./run-report.ts";
import { type RunFlags, readSettings, type Settings } from "./settings.ts";
import { need, queued, submit } from "./slurm.ts";
import { arrayOf, batchScript, type SlurmFlags, slurmFolder, type TaskArray } from "./slurm-script.ts";

const main = join(import.meta.dir, "..", "main.ts");
const ours = [
  "copies",
  "nodes",
  "partition",
  "time",
  "account",
  "qos",
  "gres",
  "cpus_per_task",
  "mem",
  "sbatch",
  "takeover",
  "detach",
  "follow",
] as const satisfies (keyof SlurmFlags)[];

export async function launchSlurm(flags: RunFlags & SlurmFlags): Promise<void> {
  if (flags.follow !== undefined) return again(flags.follow, flags);
  const run: RunFlags & SlurmFlags = { ...flags };
  for (const name of ours) delete run[name];
  const settings = readSettings(run);
  if (settings.batches.includes("auto")) {
    throw new KvaError("usage", "--batch_size auto: this machine does not see the nodes' GPUs; name a size");
  }
  const array = arrayOf(settings.config as RunFlags, flags);
  if (flags.dry_run !== true) need("sbatch");
  const prepared = await prepareHere(settings);
  const path = resolve(runPath(settings, prepared));
  const { tasks } = prepared.plan;
  if (flags.dry_run === true) {
    tell(`${path}: ${tasks.length} measurements; the batch script of a first start:`);
    return void process.stdout.write(scriptOf({ path, start: 1, array, settings, flags }));
  }
  await refuseEarlier(path);
  const launch = await begin(path, settings, prepared, array.tasks);
  if (launch === undefined) {
    tell(`${path}: ${tasks.length} measurements, all of them done before`);
    const report = await mergedReport(settings, prepared, path);
    print(report, settings);
    return finish(report);
  }
  const parts = { path, start: launch.start, array: { ...array, tasks: launch.tasks }, settings, flags };
  const job = await submit(writeScript(parts));
  writeLaunch(path, { ...launch, job });
  const left = `${launch.measurements - launch.before} of ${launch.measurements} measurements`;
  tell(`job ${job.id}: ${left} in ${launch.tasks === 1 ? "1 task" : `${launch.tasks} tasks`}; ${path}`);
  if (flags.detach === true) {
    tell(`accel launch slurm --follow ${path} shows it and prints its tables; scancel ${job.id} ends it.`);
    return void process.stdout.write(`${job.id}\n`);
  }
  await follow(path, { ...launch, job }, settings, prepared);
}

/** Goes on with the job that was launched into the directory. */
async function again(directory: string, flags: RunFlags): Promise<void> {
  const path = resolve(directory);
  const launch = readLaunch(path);
  if (launch?.job === undefined) {
    throw new KvaError(
      "usage",
      `--follow ${directory}: no job was launched into this directory; it has no slurm/launch.json`,
    );
  }
  need("squeue");
  const output = flags.output === undefined ? {} : { output: flags.output };
  const settings = readSettings({
    cfg_path: join(slurmFolder(path), launch.cfg),
    batch_size: launch.batches,
    output_path: path,
    ...output,
  });
  await follow(path, { ...launch, job: launch.job }, settings);
}

/** Two jobs on one directory would both run what is left. */
async function refuseEarlier(path: string): Promise<void> {
  const launch = readLaunch(path);
  if (launch?.job === undefined) return refuseOtherWriters(path, tell);
  const tasks = await queued(launch.job);
  if (tasks === undefined)
    throw new KvaError("io", `squeue does not answer, and job ${launch.job.id} of ${path} may still run`);
  if (tasks.length > 0) {
    throw new KvaError(
      "io",
      `job ${launch.job.id} is at work on ${path}: accel launch slurm --follow ${path} shows it, scancel ${launch.job.id} ends it`,
    );
  }
  endWriters(path, launch.start);
}

/** A new start of the directory, for the tasks to join; undefined where nothing is left to measure. */
async function begin(path: string, settings: Settings, run: PreparedRun, most: number): Promise<Launch | undefined> {
  const directory = RunDirectory.open(path, { fresh: settings.config.fresh === true });
  try {
    const { tasks } = run.plan;
    const due = tasks.filter((task) => directory.rows.get(identity(task))?.status !== "ok");
    if (due.length === 0) return undefined;
    directory.writeManifest(manifest({ settings, run, directory }, { engines: [], devices: [] }));
    directory.writeFile("config.yaml", effectiveConfig(settings));
    return {
      start: directory.run,
      tasks: Math.min(most, makeJobs(due).length),
      measurements: tasks.length,
      before: tasks.length - due.length,
      ...configOf(settings),
    };
  } finally {
    await directory.close();
  }
}

const configOf = ({ name, batches }: Settings) => ({ cfg: `${name}.yaml`, batches: batches.map(Number) });

interface LaunchParts {
  path: string;
  start: number;
  array: TaskArray;
  settings: Settings;
  flags: SlurmFlags;
}

function scriptOf({ path, start, array, settings, flags }: LaunchParts): string {
  const { cfg, batches } = configOf(settings);
  const options = {
    cfg_path: join(slurmFolder(path), cfg),
    batch_size: batches.join(","),
    output_path: path,
    join: start,
    takeover: flags.takeover ?? defaultTakeover,
  };
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const command = [process.execPath, main, "run", ...words];
  return batchScript({ path, cwd: process.cwd(), name: basename(path), array, flags, command });
}

/** Script and configuration, in the run directory; the path of the script. */
function writeScript(parts: LaunchParts): string {
  const { path, array, settings } = parts;
  const { device: _, ...config } = settings.config;
  const own = { ...settings, config: { ...config, ...(array.device && { device: array.device }) } };
  writeWhole(join(slurmFolder(path), configOf(settings).cfg), effectiveConfig(own));
  const script = join(slurmFolder(path), "job.sh");
  writeWhole(script, scriptOf(parts));
  return script;
}

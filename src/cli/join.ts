// `accel run --join N`: one of several processes, on several machines, that measure the samples of one run directory.
import { hostname } from "node:os";
import { JoinedRun } from "../bench/joined.ts";
import { makeLive } from "../bench/live.ts";
import { identity, type Task } from "../bench/rows.ts";
import { readRows } from "../bench/rundir.ts";
import { runTasks } from "../bench/runner.ts";
import type { EngineInfo } from "../engine/protocol.ts";
import { KvaError } from "../native/error.ts";
import { Interrupted, listenForInterrupts } from "./interrupt.ts";
import { colourOn, tell } from "./output.ts";
import { type PreparedRun, prepareRun } from "./plan.ts";
import { mergedReport } from "./run-report.ts";
import type { Settings } from "./settings.ts";

/** seconds; a heartbeat every 5 s, and an NFS client may show a file as it was a minute ago */
export const defaultTakeover = 120;

export async function joinRun(settings: Settings, start: number, takeover = defaultTakeover): Promise<void> {
  const path = settings.config.output_path;
  if (path === undefined) throw new KvaError("usage", "--join needs --output_path, the run directory");
  const interrupts = listenForInterrupts(tell);
  try {
    const run = await prepareRun(settings, tell);
    refuseCpuByChance(settings, run);
    await work(run, path, { start, takeoverMs: 1000 * takeover, ...whoAmI() }, interrupts);
    if (isMeasured(path, run.plan.tasks, start)) await merge(settings, run, path);
  } finally {
    interrupts.dispose();
  }
}

type Joining = ConstructorParameters<typeof JoinedRun>[1];

/** A task of a Slurm job array, or a process like any other. */
function whoAmI(): { task: string; host: string } {
  const { SLURM_ARRAY_JOB_ID: job, SLURM_ARRAY_TASK_ID: task, SLURMD_NODENAME: node } = process.env;
  const host = node ?? hostname();
  return { task: job && task ? `${job}_${task}` : `${host}-${process.pid}`, host };
}

/** Where no device is named, a node whose GPUs do not open would run on its CPU for days. */
function refuseCpuByChance({ config }: Settings, { plan }: PreparedRun): void {
  if (config.device !== undefined || !plan.engines.some(({ device }) => device.startsWith("cpu:"))) return;
  throw new KvaError(
    "device",
    `no GPU opens on ${whoAmI().host}; accel devices says why, --device cpu runs on the CPU`,
  );
}

async function work(
  run: PreparedRun,
  path: string,
  options: Joining,
  { stop, abort }: { stop: AbortSignal; abort: AbortSignal },
): Promise<void> {
  const joined = new JoinedRun(path, options);
  try {
    const { engines, tasks } = run.plan;
    joined.say({ engines, driver: run.facts.driver });
    tell(`${options.task} on ${options.host} joins start ${options.start} of ${path}: ${tasks.length} measurements`);
    const frame = () => ({ colour: colourOn(process.stderr), paused: false, watching: false, keys: false });
    const live = makeLive({ stream: process.stderr, tasks, rows: joined.rows, frame });
    const devices: EngineInfo[] = [];
    const outcome = await runTasks(
      run.plan,
      joined,
      (event) => {
        if (event.type === "loaded") {
          devices[event.engine] = event.info;
          joined.say({ devices: devices.filter((info) => info !== undefined) });
        }
        live.event(event);
      },
      { stop, abort, queue: (jobs) => joined.makeQueue(jobs) },
    );
    live.end();
    joined.say({ wall_ms: outcome.wallMs });
    if (outcome.interrupted) {
      tell("Stopped: the other tasks, or the same command later, do what is left.");
      throw new Interrupted();
    }
    for (const failure of outcome.failures) tell(failure);
    if (outcome.failures.length > 0) process.exitCode = 1;
  } finally {
    await joined.close();
  }
}

function isMeasured(path: string, tasks: readonly Task[], start: number): boolean {
  const rows = readRows(path).filter(({ status, run }) => status === "ok" || run === start);
  const there = new Set(rows.map(identity));
  return tasks.every((task) => there.has(identity(task)));
}

/** Whoever writes the last row writes the results; where another does so already, that is as good. */
async function merge(settings: Settings, run: PreparedRun, path: string): Promise<void> {
  try {
    await mergedReport(settings, run, path);
    tell(`All is measured. Results: ${path}`);
  } catch (error) {
    if (!(error instanceof KvaError) || error.code !== "io") throw error;
    tell(`All is measured; the results are not written here: ${error.message}`);
  }
}

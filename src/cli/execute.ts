// One run from settings to cells: opens the run directory, runs what is missing, writes manifest, configuration and results.
import { join } from "node:path";
import { livingWriters } from "../bench/members.ts";
import type { Row } from "../bench/rows.ts";
import type { RunControl, RunEvent } from "../bench/run-contract.ts";
import { RunDirectory } from "../bench/rundir.ts";
import { runTasks } from "../bench/runner.ts";
import type { EngineInfo } from "../engine/protocol.ts";
import { KvaError } from "../native/error.ts";
import { effectiveConfig } from "./effective-config.ts";
import { type PreparedRun, prepareRun } from "./plan.ts";
import { manifest, type RunReport, reportOf, writeResults } from "./run-report.ts";
import type { Settings } from "./settings.ts";

export interface Watcher {
  /** called once, when it is known what runs */
  prepared?(run: PreparedRun, path: string, rows: ReadonlyMap<string, Row>): void;
  event?(event: RunEvent): void;
  say?(text: string): void;
}

export async function execute(settings: Settings, watcher: Watcher = {}, control: RunControl = {}): Promise<RunReport> {
  const run = await prepareRun(settings, watcher.say ?? (() => {}));
  const path = runPath(settings, run);
  await refuseOtherWriters(path, watcher.say);
  const directory = RunDirectory.open(path, { fresh: settings.config.fresh === true });
  try {
    const measured = { settings, run, directory };
    const { engines } = run.plan;
    directory.writeManifest(manifest(measured, { engines, devices: [] }));
    directory.writeFile("config.yaml", effectiveConfig(settings));
    watcher.prepared?.(run, path, directory.rows);
    const devices: EngineInfo[] = [];
    const started = performance.now();
    let writing: Promise<unknown> = Promise.resolve();
    const outcome = await runTasks(
      run.plan,
      directory,
      (event) => {
        if (event.type === "loaded") devices[event.engine] = event.info;
        if (event.type === "idle") {
          writing = writing.then(() => writeResults(measured, { engines, devices }, performance.now() - started));
        }
        watcher.event?.(event);
      },
      control,
    );
    await writing;
    const written = await writeResults(measured, { engines, devices }, outcome.wallMs);
    return reportOf(measured, written, outcome);
  } finally {
    await directory.close();
  }
}

/** The run directory: as asked for, or by model and benchmark. */
export function runPath({ name, config }: Settings, { modelName }: PreparedRun): string {
  const tag = config.save_tag === undefined ? "" : `_${config.save_tag}`;
  return config.output_path ?? join("results", `${modelName}_${name}${tag}`);
}

export async function refuseOtherWriters(path: string, say?: (text: string) => void): Promise<void> {
  const [first] = await livingWriters(path, say);
  if (first === undefined) return;
  const who = `task ${first.task} on ${first.host} (process ${first.pid})`;
  throw new KvaError("io", `${who} is writing to ${path}: wait for it, or choose another --output_path`);
}

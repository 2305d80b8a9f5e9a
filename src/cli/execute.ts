// One run from settings to cells: opens the run directory, runs what is missing, writes manifest, configuration and results.
import { join } from "node:path";
import { stringify } from "yaml";
import { type Cells, makeCells } from "../bench/cells.ts";
import { makeFindings, type Pipeline, pipelineOf } from "../bench/findings.ts";
import { formatShare } from "../bench/format.ts";
import { predictionFiles } from "../bench/predictions.ts";
import { makeResults } from "../bench/results.ts";
import { identity, type Row, type Task } from "../bench/rows.ts";
import type { RunControl, RunEvent, RunOutcome } from "../bench/run-contract.ts";
import { RunDirectory } from "../bench/rundir.ts";
import { runTasks } from "../bench/runner.ts";
import type { TableContext } from "../bench/tables.ts";
import { sourceOf, taskFacts } from "../bench/tasks.ts";
import type { EngineInfo } from "../engine/protocol.ts";
import { match } from "../plugin/nearest.ts";
import { layersOf, type Sets, splitPath } from "../plugin/sets.ts";
import { type PreparedRun, prepareRun } from "./plan.ts";
import type { Settings } from "./settings.ts";

export interface RunReport {
  /** the run directory */
  path: string;
  cells: Cells;
  /** what results.json holds */
  results: Record<string, unknown>;
  outcome: RunOutcome;
  /** rows with an error, out of memory not counted */
  failed: number;
  context: TableContext;
  dtype: string;
}

export interface Watcher {
  /** called once, when it is known what runs */
  prepared?(run: PreparedRun, path: string, rows: ReadonlyMap<string, Row>): void;
  event?(event: RunEvent): void;
  say?(text: string): void;
}

export async function execute(settings: Settings, watcher: Watcher = {}, control: RunControl = {}): Promise<RunReport> {
  const run = await prepareRun(settings, watcher.say ?? (() => {}));
  const path = settings.config.output_path ?? defaultPath(settings, run);
  const directory = RunDirectory.open(path, { fresh: settings.config.fresh === true });
  try {
    directory.writeManifest(manifest(settings, run, []));
    directory.writeFile("config.yaml", effectiveConfig(settings));
    watcher.prepared?.(run, path, directory.rows);
    const infos: EngineInfo[] = [];
    const started = performance.now();
    const write = async (wallMs: number) => {
      directory.writeManifest(manifest(settings, run, infos));
      const cells = makeCells(run.plan.tasks, directory.rows);
      const findings = makeFindings(settings.config.benchmark_name, cells, run.plan.tasks, directory.rows);
      const pipeline = pipelineOf(okRows(run.plan.tasks, directory), run.preparation.ms);
      const results = makeResults(cells, {
        findings,
        pipeline,
        tasks: allTaskFacts(settings),
        config: settings.config,
        facts: { ...run.facts, devices: infos, wall_ms: wallMs, date: new Date().toISOString() },
      });
      directory.writeFile("results.json", `${JSON.stringify(results, null, 2)}\n`);
      const predictions = predictionFiles(settings.config.benchmark_name, run.plan.tasks, directory.rows);
      for (const [name, text] of predictions) directory.writeFile(name, text);
      await writeReport(directory);
      return { cells, results, findings, pipeline };
    };
    let writing: Promise<unknown> = Promise.resolve();
    const outcome = await runTasks(
      run.plan,
      directory,
      (event) => {
        if (event.type === "loaded") infos[event.engine] = event.info;
        if (event.type === "idle") writing = writing.then(() => write(performance.now() - started));
        watcher.event?.(event);
      },
      control,
    );
    await writing;
    const { cells, results, findings, pipeline } = await write(outcome.wallMs);
    const failed = cells.cost.reduce((sum, cell) => sum + cell.errors, 0);
    const context = { ...tableContext(settings, run), findings };
    context.remarks = [...context.remarks, ...pipelineRemark(pipeline)];
    return { path, cells, results, outcome, failed, context, dtype: run.dtype };
  } finally {
    await directory.close();
  }
}

function okRows(tasks: readonly Task[], directory: RunDirectory): Row[] {
  return tasks.flatMap((task) => {
    const row = directory.rows.get(identity(task));
    return row?.status === "ok" ? [row] : [];
  });
}

function pipelineRemark({ idleShare, idleShareLong }: Pipeline): string[] {
  if (idleShare === null) return [];
  const long = idleShareLong === null ? "" : `; ${formatShare(idleShareLong)} at 32K and above`;
  return [`Time of the engines between samples: ${formatShare(idleShare)}${long}.`];
}

// Drawing needs libraries that no other part of a run does: they are loaded when it is over.
async function writeReport(directory: RunDirectory): Promise<void> {
  const { makeReport } = await import("../report/report.ts");
  directory.writeFile("report.html", makeReport([directory.path]));
}

function defaultPath({ name, config }: Settings, { modelName }: PreparedRun): string {
  const tag = config.save_tag === undefined ? "" : `_${config.save_tag}`;
  return join("results", `${modelName}_${name}${tag}`);
}

function manifest(settings: Settings, run: PreparedRun, infos: EngineInfo[]): Record<string, unknown> {
  return {
    ...run.facts,
    benchmark: { file: settings.name, name: settings.config.benchmark_name, remarks: run.preparation.remarks },
    methods: run.methods,
    engines: run.plan.engines,
    devices: infos,
  };
}

/** A benchmark file that runs the same thing again. */
export function effectiveConfig(settings: Settings): string {
  const { fresh: _fresh, output: _output, set: _set, length, ...config } = settings.config;
  const set = mergedSets(settings.sets);
  const lengths = length.length > 0 ? { length } : {}; // LongBench has none
  return stringify({
    ...config,
    ...lengths,
    batch_size: settings.batches[0],
    ...(Object.keys(set).length > 0 ? { set } : {}),
  });
}

/** All sets as one record, later ones over earlier ones; of the two ways to give a budget the later one stays. */
export function mergedSets(sets: Sets): Record<string, Record<string, unknown>> {
  const merged: Record<string, Record<string, unknown>> = {};
  const put = (method: string, key: string, value: unknown) => {
    const name = match(method, Object.keys(merged)) ?? method;
    const values = merged[name] ?? {};
    merged[name] = values;
    const budget = ["capacity", "keepRatio"];
    const replaced = match(key, budget) ? budget : [key];
    for (const other of Object.keys(values)) if (match(other, replaced)) delete values[other];
    values[key] = value;
  };
  for (const layer of layersOf(sets)) {
    if (typeof layer === "string") put(...splitPath(layer));
    else
      for (const [method, values] of Object.entries(layer))
        for (const [key, value] of Object.entries(values)) put(method, key, value);
  }
  return merged;
}

function allTaskFacts({ config }: Settings) {
  const source = sourceOf(config);
  return Object.fromEntries(
    config.task_names.map((name) => {
      const { metric, params, version } = taskFacts(config, name);
      return [name, { metric, version, source, params: { ...params, ...config.params[name] } }];
    }),
  );
}

function tableContext({ name, config }: Settings, run: PreparedRun): TableContext {
  const benchmark =
    config.benchmark_name.toLowerCase() === name.toLowerCase() ? name : `${config.benchmark_name} (${name})`;
  return {
    benchmark,
    model: `${run.modelName} ${run.dtype}`,
    view: config.view.replace("_", " "),
    remarks: run.preparation.remarks,
  };
}

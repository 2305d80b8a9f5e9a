// What a run leaves and prints: manifest, results.json, predictions and report from its rows, and the context of its tables.
import { type Cells, makeCells } from "../bench/cells.ts";
import { type MethodFindings, makeFindings, type Pipeline, pipelineOf } from "../bench/findings.ts";
import { formatShare } from "../bench/format.ts";
import { readMembers } from "../bench/members.ts";
import { predictionFiles } from "../bench/predictions.ts";
import { makeResults } from "../bench/results.ts";
import { identity, type Row, type Task } from "../bench/rows.ts";
import type { RunOutcome } from "../bench/run-contract.ts";
import { RunDirectory } from "../bench/rundir.ts";
import type { TableContext } from "../bench/tables.ts";
import { sourceOf, taskFacts } from "../bench/tasks.ts";
import type { EngineInfo, EngineOptions } from "../engine/protocol.ts";
import type { PreparedRun } from "./plan.ts";
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

/** A run, and the directory that has its rows. */
export interface Measured {
  settings: Settings;
  run: PreparedRun;
  directory: RunDirectory;
}

/** With what it was measured. */
export interface Machines {
  engines: readonly (EngineOptions | { device: string })[];
  devices: readonly (EngineInfo | { deviceName: string })[];
  /** more facts, of a run on several machines */
  [fact: string]: unknown;
}

export interface Written {
  cells: Cells;
  results: Record<string, unknown>;
  findings: MethodFindings[];
  pipeline: Pipeline;
}

export function manifest({ settings, run }: Measured, machines: Machines): Record<string, unknown> {
  return {
    ...run.facts,
    benchmark: { file: settings.name, name: settings.config.benchmark_name, remarks: run.preparation.remarks },
    methods: run.methods,
    ...machines,
  };
}

/** Writes everything that follows from the rows that there are. */
export async function writeResults(measured: Measured, machines: Machines, wallMs: number): Promise<Written> {
  const { settings, run, directory } = measured;
  const { config } = settings;
  directory.writeManifest(manifest(measured, machines));
  const cells = makeCells(run.plan.tasks, directory.rows);
  const findings = makeFindings(config.benchmark_name, cells, run.plan.tasks, directory.rows);
  const pipeline = pipelineOf(okRows(run.plan.tasks, directory), run.preparation.ms);
  const results = makeResults(cells, {
    findings,
    pipeline,
    tasks: allTaskFacts(settings),
    config,
    facts: { ...run.facts, devices: machines.devices, wall_ms: wallMs, date: new Date().toISOString() },
  });
  directory.writeFile("results.json", `${JSON.stringify(results, null, 2)}\n`);
  const predictions = predictionFiles(config.benchmark_name, run.plan.tasks, directory.rows);
  for (const [name, text] of predictions) directory.writeFile(name, text);
  await writeReport(directory);
  return { cells, results, findings, pipeline };
}

export function reportOf({ settings, run, directory }: Measured, written: Written, outcome: RunOutcome): RunReport {
  const { cells, results, findings, pipeline } = written;
  const failed = cells.cost.reduce((sum, cell) => sum + cell.errors, 0);
  const context = { ...tableContext(settings, run), findings };
  context.remarks = [...context.remarks, ...pipelineRemark(pipeline)];
  return { path: directory.path, cells, results, outcome, failed, context, dtype: run.dtype };
}

/** What the writers of the directory's last start measured, as if it were a run on one machine. */
export async function mergedReport(settings: Settings, run: PreparedRun, path: string): Promise<RunReport> {
  const directory = RunDirectory.open(path, { again: true });
  try {
    const writers = readMembers(path, directory.run);
    const machines = {
      engines: writers.flatMap(({ engines }) => engines ?? []),
      devices: writers.flatMap(({ devices }) => devices ?? []),
      writers,
    };
    const wallMs = Math.max(0, ...writers.map(({ wall_ms }) => wall_ms ?? 0));
    const measured = { settings, run, directory };
    const written = await writeResults(measured, machines, wallMs);
    const rows = run.plan.tasks.map((task) => directory.rows.get(identity(task)));
    return reportOf(measured, written, {
      infos: [],
      interrupted: false,
      missing: rows.filter((row) => row === undefined || (row.status !== "ok" && row.run !== directory.run)).length,
      skipped: 0,
      reused: rows.filter((row) => row?.status === "ok" && row.run !== directory.run).length,
      wallMs,
      failures: [],
    });
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

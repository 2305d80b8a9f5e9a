// A run directory as the report takes it: manifest, cells and rows. Cells come from results.json; where a later start has not
// written it yet, from the rows that are there.
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import * as v from "valibot";
import { type CellSource, type Cells, makeCells } from "../bench/cells.ts";
import { identity, type Row } from "../bench/rows.ts";
import { readRows } from "../bench/rundir.ts";
import type { TableContext } from "../bench/tables.ts";
import type { MethodSpec } from "../engine/protocol.ts";
import { KvaError } from "../native/error.ts";
import { type Manifest, manifestSchema, resultsSchema } from "./schemas.ts";

export interface RunData {
  /** the run directory */
  path: string;
  /** the directory's last name, told apart where several runs share one */
  name: string;
  manifest: Manifest;
  /** manifest.json as it stands */
  manifestText: string;
  cells: Cells;
  rows: Row[];
  context: TableContext;
  /** results.json is not there yet, or is older than the last start */
  unfinished: boolean;
}

export function readRuns(paths: readonly string[]): RunData[] {
  const runs = [...new Set(paths.map((path) => resolve(path)))].map(readRun);
  const names = new Map<string, number>();
  return runs.map((run) => {
    const times = (names.get(run.name) ?? 0) + 1;
    names.set(run.name, times);
    return times === 1 ? run : { ...run, name: `${run.name} (${times})` };
  });
}

export function readRun(path: string): RunData {
  if (!existsSync(path) || !statSync(path).isDirectory()) {
    throw new KvaError("usage", `${path} is not a directory; give a run directory, as accel run leaves it in results/`);
  }
  const file = join(path, "manifest.json");
  if (!existsSync(file)) {
    throw new KvaError(
      "usage",
      `${path} has no manifest.json; give a run directory, as accel run leaves it in results/`,
    );
  }
  const manifestText = readFileSync(file, "utf8").trimEnd();
  const manifest = checked(manifestSchema, manifestText, file);
  const usable = usableRows(readRows(path), manifest);
  const written = writtenCells(path, manifest);
  const cells = written ?? makeCells(sourcesOf(usable, manifest.methods), byIdentity(usable));
  const inCells = (row: Row) => cells.tasks.includes(row.task) && cells.lengths.includes(row.length);
  return {
    path,
    name: basename(path),
    manifest,
    manifestText,
    cells,
    rows: usable.filter(inCells),
    context: contextOf(manifest),
    unfinished: written === undefined,
  };
}

function checked<T>(schema: v.GenericSchema<unknown, T>, text: string, file: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new KvaError("data", `${file} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new KvaError("data", `${file}, ${v.getDotPath(issue) ?? "top"}: ${issue.message}; accel run writes it anew`);
}

/** Rows since the last fresh start, of the manifest's methods; of a sample measured under several settings, the last one. */
function usableRows(rows: readonly Row[], { runs, methods }: Manifest): Row[] {
  const first = runs.findLast((start) => start.fresh)?.run ?? 0;
  const hashes = new Set(methods.map((method) => method.hash));
  const last = new Map<string, Row>();
  for (const row of rows) {
    if (row.run < first || !hashes.has(row.method_hash)) continue;
    const slot = JSON.stringify([row.method_hash, row.id, row.batch, row.repeat]);
    if ((last.get(slot)?.run ?? 0) <= row.run) last.set(slot, row);
  }
  return [...last.values()];
}

function writtenCells(path: string, { runs, methods }: Manifest): Cells | undefined {
  const file = join(path, "results.json");
  if (!existsSync(file)) return undefined;
  const { cells, date } = checked(resultsSchema, readFileSync(file, "utf8"), file);
  if (date < (runs.at(-1)?.started ?? "")) return undefined;
  const unique = <T>(values: T[]) => [...new Set(values)];
  return {
    methods,
    lengths: unique(cells.accuracy.map((cell) => cell.length)),
    tasks: unique(cells.by_task.map((cell) => cell.task)),
    batches: unique(cells.cost.map((cell) => cell.batch)),
    byTask: cells.by_task,
    accuracy: cells.accuracy,
    cost: cells.cost,
    totals: cells.totals,
  };
}

/** Every sample that any method has run, under every method: what no row stands for is missing. */
function sourcesOf(rows: readonly Row[], methods: readonly MethodSpec[]): CellSource[] {
  const samples = Map.groupBy(rows, (row) => JSON.stringify([row.id, row.batch, row.repeat]));
  return [...samples.values()].flatMap((same) =>
    methods.map((method): CellSource => {
      const { batch, repeat, task, length } = same[0]!;
      const key = same.find((row) => row.method_hash === method.hash)?.key ?? "";
      return { key, method, batch, repeat, sample: { task, length } };
    }),
  );
}

const byIdentity = (rows: readonly Row[]) => new Map(rows.map((row) => [identity(row), row]));

function contextOf({ benchmark, model, view }: Manifest): TableContext {
  const { name, file } = benchmark;
  return {
    benchmark: name.toLowerCase() === file.toLowerCase() ? file : `${name} (${file})`,
    model: `${basename(model.path)} ${model.dtype}`,
    view: view.replace("_", " "),
    remarks: benchmark.remarks,
  };
}

// Runs side by side: scores, differences on the samples that both have, and what each costs beside the one it is compared with.
import type { CostCell } from "../bench/cells.ts";
import type { Interval } from "../bench/intervals.ts";
import type { Row } from "../bench/rows.ts";
import { bootstrap, type Comparison, comparePaired } from "../bench/statistics.ts";
import { KvaError } from "../native/error.ts";
import { seriesName } from "./points.ts";
import { type RunData, readRuns } from "./run-data.ts";

const seed = 42;

/** A method of a run, and what it is compared with: its namesake of the first run, else the full cache of the first run. */
export interface Series {
  name: string;
  run: string;
  method: string;
  /** null: it is what others are compared with */
  against: string | null;
}

export interface ComparedScore {
  series: string;
  /** null: all lengths */
  length: number | null;
  /** null: all tasks */
  task: string | null;
  n: number;
  /** 0 to 100 */
  score: number;
  /** null where a task has one sample only */
  interval: Interval | null;
}

export interface Difference extends Omit<Comparison, "mean"> {
  series: string;
  against: string;
  length: number | null;
  task: string | null;
  /** points, series less the other */
  difference: number;
}

export interface ComparedCost extends CostCell {
  series: string;
  /** this over the compared one's; null where one of them is missing */
  ttftRatio: number | null;
  msPerTokenRatio: number | null;
  cacheRatio: number | null;
}

export interface RunComparison {
  runs: { name: string; model: string; benchmark: string; view: string; commit: string | null }[];
  series: Series[];
  lengths: (number | null)[];
  tasks: string[];
  scores: ComparedScore[];
  differences: Difference[];
  cost: ComparedCost[];
  /** what a reader must know before believing the differences */
  notes: string[];
}

interface Measured extends Series {
  data: RunData;
  rows: Row[];
}

export function compareRuns(paths: readonly string[]): RunComparison {
  if (paths.length === 0)
    throw new KvaError("usage", "accel compare takes run directories, as accel run leaves them in results/");
  const runs = readRuns(paths);
  const all = seriesOf(runs);
  const unique = <T>(values: T[]) => [...new Set(values)];
  const lengths = unique(all.flatMap(({ rows }) => rows.map(({ length }) => length)));
  lengths.sort((a, b) => (a ?? 0) - (b ?? 0));
  const tasks = unique(runs.flatMap(({ cells }) => cells.tasks));
  const places = placesOf(lengths, tasks);
  return {
    runs: runs.map(({ name, context, manifest }) => ({
      name,
      model: context.model,
      benchmark: context.benchmark,
      view: context.view,
      commit: manifest.commit,
    })),
    series: all.map(({ name, run, method, against }) => ({ name, run, method, against })),
    lengths,
    tasks,
    scores: all.flatMap((one) => places.flatMap((place) => scoreAt(one, place))),
    differences: all.flatMap((one) => {
      const other = all.find(({ name }) => name === one.against);
      return other ? places.flatMap((place) => differenceAt(one, other, place)) : [];
    }),
    cost: all.flatMap((one) => costOf(one, all)),
    notes: notesOf(runs, all),
  };
}

function seriesOf(runs: readonly RunData[]): Measured[] {
  const [first] = runs as [RunData];
  const full = (first.cells.methods.find(({ parts }) => parts.length === 0) ?? first.cells.methods[0])!.label;
  return runs.flatMap((data) => {
    const smallest = Math.min(...data.cells.batches);
    return data.cells.methods.map(({ label }): Measured => {
      const namesake = data !== first && first.cells.methods.some((method) => method.label === label);
      const against = namesake ? label : data === first && label === full ? null : full;
      return {
        name: seriesName(runs, data, label),
        run: data.name,
        method: label,
        against: against === null ? null : seriesName(runs, first, against),
        data,
        rows: data.rows.filter(
          (row) =>
            row.method === label &&
            row.batch === smallest &&
            row.repeat === 0 &&
            row.status === "ok" &&
            row.score !== null,
        ),
      };
    });
  });
}

type Place = Pick<ComparedScore, "length" | "task"> & { holds(row: Row): boolean };

/** all of it, each length, each task, each task at each length */
function placesOf(lengths: readonly (number | null)[], tasks: readonly string[]): Place[] {
  const known = lengths.filter((length) => length !== null);
  return [null, ...(known.length > 1 ? known : [])].flatMap((length) =>
    [null, ...(tasks.length > 1 ? tasks : [])].map((task) => ({
      length,
      task,
      holds: (row: Row) => (length === null || row.length === length) && (task === null || row.task === task),
    })),
  );
}

const points = (rows: readonly Row[]) => new Map(rows.map((row) => [row.id, 100 * row.score!]));

function scoreAt({ name, rows }: Measured, { length, task, holds }: Place): ComparedScore[] {
  const groups = Map.groupBy(rows.filter(holds), (row) => `${row.task} ${row.length}`);
  if (groups.size === 0) return [];
  const scores = [...groups.values()].map((group) => group.map((row) => 100 * row.score!));
  const { mean, low, high, n } = bootstrap(scores, seed);
  const interval: Interval | null = scores.every((group) => group.length > 1) ? [low, high] : null;
  return [{ series: name, length, task, n, score: mean, interval }];
}

/** Only samples with the same question on both sides count: same id, same references. */
function differenceAt(one: Measured, other: Measured, { length, task, holds }: Place): Difference[] {
  const asked = new Map(other.rows.map((row) => [row.id, JSON.stringify(row.refs)]));
  const mine = one.rows.filter((row) => holds(row) && asked.get(row.id) === JSON.stringify(row.refs));
  const compared = comparePaired(points(mine), points(other.rows), seed);
  if (compared === null) return [];
  const { mean, ...rest } = compared;
  return [{ series: one.name, against: other.name, length, task, difference: mean, ...rest }];
}

function costOf({ name, method, against, data }: Measured, all: readonly Measured[]): ComparedCost[] {
  const other = all.find((one) => one.name === against);
  const theirs = (cell: CostCell) =>
    other?.data.cells.cost.find((c) => c.method === other.method && c.length === cell.length && c.batch === cell.batch);
  const ratio = (a: number | null | undefined, b: number | null | undefined) => (a && b ? a / b : null);
  return data.cells.cost
    .filter((cell) => cell.method === method)
    .map((cell) => ({
      ...cell,
      series: name,
      ttftRatio: ratio(cell.ttftMs?.median, theirs(cell)?.ttftMs?.median),
      msPerTokenRatio: ratio(cell.msPerToken?.median, theirs(cell)?.msPerToken?.median),
      cacheRatio: ratio(cell.cacheBytes, theirs(cell)?.cacheBytes),
    }));
}

function notesOf(runs: readonly RunData[], all: readonly Measured[]): string[] {
  const notes: string[] = [];
  const differing = (what: string, values: string[]) => {
    if (new Set(values).size > 1) notes.push(`The runs differ in ${what}: ${values.join("; ")}.`);
  };
  differing(
    "benchmark",
    runs.map(({ context }) => context.benchmark),
  );
  differing(
    "model",
    runs.map(({ context }) => context.model),
  );
  differing(
    "view",
    runs.map(({ context }) => context.view),
  );
  differing(
    "seed",
    runs.map(({ manifest }) => String(manifest.seed ?? "unknown")),
  );
  differing(
    "device",
    runs.map(({ manifest }) => manifest.devices.map(({ deviceName }) => deviceName).join(", ")),
  );
  for (const run of runs) if (run.unfinished) notes.push(`${run.name} is not finished: its rows so far are compared.`);
  for (const one of all) {
    const other = all.find(({ name }) => name === one.against);
    if (!other) continue;
    const ids = new Map(other.rows.map((row) => [row.id, JSON.stringify(row.refs)]));
    const shared = one.rows.filter((row) => ids.get(row.id) === JSON.stringify(row.refs)).length;
    if (shared === 0) notes.push(`${one.name} and ${other.name} have no question in common: no difference is given.`);
    else if (shared < Math.max(one.rows.length, other.rows.length))
      notes.push(`${one.name} and ${other.name}: differences are over the ${shared} samples that both have.`);
  }
  return notes;
}

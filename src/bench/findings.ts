// What the scores of a run say: named averages, each method against the full cache on the same samples, and ranks.
import {
  type LongbenchAverages,
  longbenchAverages,
  type RulerAverages,
  rulerAverages,
  type TaskScore,
} from "./averages.ts";
import { type Cells, idleShare } from "./cells.ts";
import type { BenchmarkName } from "./config-schema.ts";
import { lengthRange, longbenchTask } from "./longbench-tasks.ts";
import { identity, type Row } from "./rows.ts";
import { mean } from "./score.ts";
import { type Comparison, comparePaired } from "./statistics.ts";

const seed = 42;

export interface MethodFindings {
  method: string;
  ruler?: RulerAverages;
  longbench?: LongbenchAverages;
  /** LongBench-E: task -> range of lengths -> score and samples */
  ranges?: Record<string, Record<string, { score: number; n: number }>>;
  /** several questions over one compressed context: the score of the one that the method saw, and of those it did not */
  questions?: { first: number; later: number; n: number };
  /** this method less the full cache, in points, over the samples that both have; null for the full cache itself */
  versusFull: Comparison | null;
  /** 1 is the best; methods that the samples do not tell apart share a rank; null without a score */
  rank: number | null;
}

/** A measurement as the plan names it. */
export interface Measurement {
  key: string;
  batch: number;
  repeat: number;
  method: { label: string };
  sample: { id: string };
}

/** One method's scores by sample id, 0 to 100, from the smallest batch and the first repeat. */
export type SampleScores = ReadonlyMap<string, ReadonlyMap<string, number>>;

export function sampleScores(tasks: readonly Measurement[], rows: ReadonlyMap<string, Row>): SampleScores {
  const smallest = Math.min(...tasks.map(({ batch }) => batch));
  const scores = new Map<string, Map<string, number>>();
  for (const task of tasks) {
    if (task.batch !== smallest || task.repeat !== 0) continue;
    const row = rows.get(identity(task));
    const mine = scores.get(task.method.label) ?? new Map<string, number>();
    scores.set(task.method.label, mine);
    if (row?.status === "ok" && row.score !== null) mine.set(task.sample.id, 100 * row.score);
  }
  return scores;
}

const overall = (scores: ReadonlyMap<string, number>): number => {
  const cells = Map.groupBy(scores, ([id]) => id.slice(0, id.lastIndexOf("/")));
  return mean([...cells.values()].map((cell) => mean(cell.map(([, score]) => score))));
};

/** From the best mean down: a method begins a new rank where it is distinct from the best of the rank before. */
export function rankMethods(scores: SampleScores): Map<string, number> {
  const ordered = [...scores]
    .filter(([, mine]) => mine.size > 0)
    .map(([label, mine]) => ({ label, mine, mean: overall(mine) }))
    .sort((a, b) => b.mean - a.mean);
  const ranks = new Map<string, number>();
  let leader = ordered[0];
  for (const [place, entry] of ordered.entries()) {
    if (leader !== entry && comparePaired(leader!.mine, entry.mine, seed)?.distinct !== false) leader = entry;
    ranks.set(entry.label, entry === leader ? place + 1 : ranks.get(leader!.label)!);
  }
  return ranks;
}

export function makeFindings(
  benchmark: BenchmarkName,
  cells: Cells,
  tasks: readonly Measurement[],
  rows: ReadonlyMap<string, Row>,
): MethodFindings[] {
  const scores = sampleScores(tasks, rows);
  const ranks = rankMethods(scores);
  const full = cells.methods.find(({ parts }) => parts.length === 0)?.label;
  return cells.methods.map(({ label }) => {
    const mine = cells.byTask
      .filter((cell) => cell.method === label)
      .map(({ task, length, score, status }): TaskScore => ({ task, length, score, whole: status === "full" }));
    const against = label === full || full === undefined ? undefined : scores.get(full);
    return {
      method: label,
      ...(benchmark === "RULER"
        ? { ruler: rulerAverages(mine) }
        : { longbench: longbenchAverages(mine), ranges: rangesOf(label, tasks, rows) }),
      ...questionsOf(label, tasks, rows),
      versusFull: against ? comparePaired(scores.get(label)!, against, seed) : null,
      rank: ranks.get(label) ?? null,
    };
  });
}

function rangesOf(label: string, tasks: readonly Measurement[], rows: ReadonlyMap<string, Row>) {
  const ranges: Record<string, Record<string, { score: number; n: number }>> = {};
  const mine = tasks
    .filter((task) => task.method.label === label && task.repeat === 0)
    .map((t) => rows.get(identity(t)));
  const scored = mine.flatMap((row) => (row?.status === "ok" && row.source_length !== undefined ? [row] : []));
  for (const [task, same] of Map.groupBy(
    scored.filter((row) => longbenchTask(row.task).extended),
    (row) => row.task,
  )) {
    const bins = Map.groupBy(same, (row) => lengthRange(row.source_length!));
    ranges[task] = Object.fromEntries(
      [...bins].map(([range, list]) => [
        range,
        { score: Math.round(10000 * mean(list.map((row) => row.score ?? 0))) / 100, n: list.length },
      ]),
    );
  }
  return ranges;
}

function questionsOf(label: string, tasks: readonly Measurement[], rows: ReadonlyMap<string, Row>) {
  const mine = tasks
    .filter((task) => task.method.label === label && task.repeat === 0)
    .map((t) => rows.get(identity(t)));
  const asked = mine.flatMap((row) => (row?.status === "ok" && row.follow_ups?.length ? [row] : []));
  if (asked.length === 0) return {};
  const cells = [...Map.groupBy(asked, (row) => `${row.task} ${row.length}`).values()];
  const over = (score: (row: Row) => number) => 100 * mean(cells.map((cell) => mean(cell.map(score))));
  return {
    questions: {
      first: over((row) => row.score ?? 0),
      later: over((row) => mean(row.follow_ups!.map(({ score }) => score))),
      n: asked.reduce((sum, row) => sum + row.follow_ups!.length, 0),
    },
  };
}

/** Of the engines' time, the share in which no sample of the run was prefilled or decoded; null without a row that knows it. */
export interface Pipeline {
  idleShare: number | null;
  /** of samples of 32768 tokens and more */
  idleShareLong: number | null;
  /** milliseconds in which the samples were made, before the engines were started */
  prepareMs: number;
}

export function pipelineOf(rows: readonly Row[], prepareMs: number): Pipeline {
  const long = rows.filter(({ prompt_tokens, length }) => (length ?? prompt_tokens) >= 32768);
  return { idleShare: idleShare(rows), idleShareLong: idleShare(long), prepareMs };
}

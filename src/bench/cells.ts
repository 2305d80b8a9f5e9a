// From sample rows to cells: accuracy by method, length and task; cost by method and length; total times.
import type { MethodSpec } from "../engine/protocol.ts";
import { type Interval, meanInterval, medianInterval } from "./intervals.ts";
import { identity, type Row, type Task } from "./rows.ts";
import { isNull } from "./score.ts";

/** full: every sample has a score. partial: some have. oom, error, missing: none has, and why. */
export type CellStatus = "full" | "partial" | "oom" | "error" | "missing";

export interface Counts {
  n: number;
  oom: number;
  errors: number;
  missing: number;
  status: CellStatus;
}

export interface TaskCell extends Counts {
  method: string;
  task: string;
  length: number | null;
  /** 0 to 100 */
  score: number | null;
  stderr: number | null;
  interval: Interval | null;
  /** empty predictions */
  nulls: number;
  /** prompts that lost their middle; absent: none */
  truncated?: number;
}

export interface AccuracyCell extends Counts {
  method: string;
  length: number | null;
  /** mean over the tasks */
  score: number | null;
  interval: Interval | null;
}

export interface Measure {
  median: number;
  interval: Interval;
}

export interface CostCell extends Counts {
  method: string;
  length: number | null;
  batch: number;
  ttftMs: Measure | null;
  methodMs: number | null;
  /** of it, choosing the blocks that prefill attention reads; null where all are read */
  selectMs: number | null;
  /** share of the causal blocks that prefill attention read */
  density: number | null;
  msPerToken: Measure | null;
  tokensPerSecond: number | null;
  cacheBytes: number | null;
  cacheAllocatedBytes: number | null;
  expectedCacheBytes: number | null;
  /** decode steps of a sample, on average */
  steps: number;
  /** cache bytes over those of Full */
  cacheShare: number | null;
  peakBytes: number | null;
  /** of it, the weights that all workers of a device read; null where each has its own */
  sharedWeightBytes: number | null;
  /** time of Full over that of this method, both for as many new tokens as Full wrote */
  speedUp: number | null;
  /** of the engines' time, the share in which none of these samples was prefilled or decoded */
  idleShare: number | null;
  /** of a split model: prompt and new tokens per second of the samples that went through its stages together */
  throughput: number | null;
}

export interface TotalCell {
  method: string;
  batch: number;
  ms: number;
  partial: boolean;
}

export interface Cells {
  methods: MethodSpec[];
  lengths: (number | null)[];
  tasks: string[];
  batches: number[];
  byTask: TaskCell[];
  accuracy: AccuracyCell[];
  cost: CostCell[];
  totals: TotalCell[];
}

/** What cells need to know of a measurement. */
export type CellSource = Pick<Task, "key" | "method" | "batch" | "repeat"> & {
  sample: Pick<Task["sample"], "task" | "length">;
};

interface Pair {
  task: CellSource;
  row: Row | undefined;
}

/** Scores come from the smallest batch that ran and its first repeat; times from all repeats of a batch. */
export function makeCells(tasks: readonly CellSource[], rows: ReadonlyMap<string, Row>): Cells {
  const pairs = tasks.map((task): Pair => ({ task, row: rows.get(identity(task)) }));
  const unique = <T>(values: T[]) => [...new Set(values)];
  const methods = [...new Map(tasks.map((task) => [task.method.label, task.method])).values()];
  const lengths = unique(tasks.map((task) => task.sample.length)).toSorted((a, b) => (a ?? 0) - (b ?? 0));
  const taskNames = unique(tasks.map((task) => task.sample.task));
  const batches = unique(tasks.map((task) => task.batch)).toSorted((a, b) => a - b);
  const of = (method: string, length: number | null, batch: number) =>
    pairs.filter(({ task: t }) => t.method.label === method && t.sample.length === length && t.batch === batch);

  const byTask: TaskCell[] = [];
  const accuracy: AccuracyCell[] = [];
  const cost: CostCell[] = [];
  for (const length of lengths) {
    for (const { label } of methods) {
      const scored = of(label, length, batches[0]!).filter(({ task }) => task.repeat === 0);
      const cells = taskNames.flatMap((name) => {
        const mine = scored.filter(({ task }) => task.sample.task === name);
        return mine.length === 0 ? [] : [taskCell(label, name, length, mine)];
      });
      byTask.push(...cells);
      accuracy.push(accuracyCell(label, length, scored, cells));
      for (const batch of batches) cost.push(costCell(label, length, batch, of(label, length, batch)));
    }
  }
  const full = methods.find((method) => method.parts.length === 0)?.label;
  for (const cell of cost) {
    compare(
      cell,
      cost.find((c) => c.method === full && c.length === cell.length && c.batch === cell.batch),
    );
  }
  const totals = batches.flatMap((batch) =>
    methods.map(({ label }) =>
      totalCell(
        label,
        batch,
        pairs.filter((p) => p.task.method.label === label && p.task.batch === batch),
      ),
    ),
  );
  return { methods, lengths, tasks: taskNames, batches, byTask, accuracy, cost, totals };
}

function counts(pairs: Pair[]): Counts {
  const having = (status: Row["status"]) => pairs.filter(({ row }) => row?.status === status).length;
  const [n, oom, errors] = [having("ok"), having("oom"), having("error")];
  const missing = pairs.length - n - oom - errors;
  const none = oom > 0 ? "oom" : errors > 0 ? "error" : "missing";
  return { n, oom, errors, missing, status: n === pairs.length ? "full" : n > 0 ? "partial" : none };
}

const okRows = (pairs: Pair[]) => pairs.flatMap(({ row }) => (row?.status === "ok" ? [row] : []));

function taskCell(method: string, task: string, length: number | null, pairs: Pair[]): TaskCell {
  const rows = okRows(pairs);
  const scores = rows.map((row) => 100 * (row.score ?? 0));
  const mean = average(scores);
  const deviation = Math.sqrt(
    average(scores.map((score) => (score - mean) ** 2)) * (scores.length / Math.max(1, scores.length - 1)),
  );
  const known = scores.length > 0;
  return {
    method,
    task,
    length,
    ...counts(pairs),
    score: known ? round2(mean) : null,
    stderr: scores.length > 1 ? round2(deviation / Math.sqrt(scores.length)) : null,
    interval: scores.length > 1 ? meanInterval([scores]) : null,
    nulls: rows.filter((row) => isNull(row.prediction ?? "")).length,
    ...(rows.some((row) => row.truncated) && { truncated: rows.filter((row) => row.truncated).length }),
  };
}

function accuracyCell(method: string, length: number | null, pairs: Pair[], cells: TaskCell[]): AccuracyCell {
  const scores = cells.flatMap((cell) => (cell.score === null ? [] : [cell.score]));
  const groups = Map.groupBy(okRows(pairs), (row) => row.task);
  const byTask = [...groups.values()].map((rows) => rows.map((row) => 100 * (row.score ?? 0)));
  return {
    method,
    length,
    ...counts(pairs),
    score: scores.length > 0 ? round2(average(scores)) : null,
    interval: byTask.length > 0 && byTask.every((group) => group.length > 1) ? meanInterval(byTask) : null,
  };
}

/** Decode steps of a row: the first new token comes from the prompt, the stop id is a step too. */
export function decodeSteps(row: Row): number {
  return Math.max(0, row.finish === "stop" ? row.new_tokens : row.new_tokens - 1);
}

function costCell(method: string, length: number | null, batch: number, pairs: Pair[]): CostCell {
  const all = okRows(pairs);
  const rows = all.filter((row) => row.pipelined === undefined);
  const decoded = rows.filter((row) => decodeSteps(row) > 0);
  const steps = decoded.reduce((sum, row) => sum + decodeSteps(row), 0);
  const decodeSeconds = decoded.reduce((sum, row) => sum + row.decode_ms / row.sequences, 0) / 1000;
  const ttftMs = measure(rows.map((row) => row.ttft_ms));
  const msPerToken = measure(decoded.map((row) => row.decode_ms / decodeSteps(row)));
  const cacheBytes = rows.length > 0 ? average(rows.map((row) => row.cache_bytes)) : null;
  return {
    method,
    length,
    batch,
    ...counts(pairs),
    ttftMs,
    methodMs: rows.length > 0 ? average(rows.map((row) => row.method_ms)) : null,
    selectMs: averageOf(rows.map((row) => row.select_ms)),
    density: averageOf(rows.map((row) => row.numbers.density)),
    msPerToken,
    tokensPerSecond: decodeSeconds > 0 ? steps / decodeSeconds : null,
    cacheBytes,
    cacheAllocatedBytes: rows.length > 0 ? average(rows.map((row) => row.cache_allocated_bytes)) : null,
    expectedCacheBytes: rows.length > 0 ? average(rows.map((row) => row.expected_cache_bytes)) : null,
    steps: average(rows.map(decodeSteps)),
    cacheShare: null,
    peakBytes: rows.length > 0 ? Math.max(...rows.map((row) => row.peak_bytes)) : null,
    sharedWeightBytes: averageOf(rows.map((row) => row.shared_weight_bytes)),
    speedUp: null,
    idleShare: idleShare(all),
    throughput: throughput(all),
  };
}

/** of the numbers there are; null where there is none */
function averageOf(values: readonly (number | undefined)[]): number | null {
  const known = values.filter((value) => value !== undefined);
  return known.length > 0 ? average(known) : null;
}

/** Prompt and new tokens per second of what ran in a pipeline; null where nothing did. */
function throughput(rows: readonly Row[]): number | null {
  const piped = rows.filter((row) => row.pipelined !== undefined);
  const tokens = piped.reduce((sum, row) => sum + row.prompt_tokens + row.new_tokens, 0);
  const seconds = piped.reduce((sum, row) => sum + row.wall_ms, 0) / 1000;
  return seconds > 0 ? tokens / seconds : null;
}

/** Time between samples over all time of the rows that know it; null where none does. */
export function idleShare(rows: readonly Row[]): number | null {
  const known = rows.filter((row) => row.gap_ms !== undefined);
  const gaps = known.reduce((sum, row) => sum + row.gap_ms!, 0);
  const device = known.reduce((sum, row) => sum + row.wall_ms, 0);
  return gaps + device > 0 ? gaps / (gaps + device) : null;
}

function compare(cell: CostCell, full: CostCell | undefined): void {
  if (!full) return;
  if (cell.cacheBytes !== null && full.cacheBytes) cell.cacheShare = cell.cacheBytes / full.cacheBytes;
  const time = ({ ttftMs, msPerToken }: CostCell) =>
    ttftMs === null ? null : ttftMs.median + full.steps * (msPerToken?.median ?? 0);
  const [theirs, ours] = [time(full), time(cell)];
  if (theirs !== null && ours !== null && ours > 0) cell.speedUp = theirs / ours;
}

function totalCell(method: string, batch: number, pairs: Pair[]): TotalCell {
  const rows = okRows(pairs);
  return { method, batch, ms: rows.reduce((sum, row) => sum + row.wall_ms, 0), partial: rows.length < pairs.length };
}

function measure(values: number[]): Measure | null {
  return values.length === 0 ? null : medianInterval(values);
}

export function average(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

const round2 = (value: number) => Math.round(value * 100) / 100;

// The tables behind the charts: every figure as text and as value.
import { formatDuration, formatShare } from "../bench/format.ts";
import { samplesFile } from "../bench/row-files.ts";
import { blank, type Cell, type Column, type TableData, text } from "../bench/table.ts";
import { sharedWeightsNote } from "../bench/tables.ts";
import { depthText } from "./depth-chart.ts";
import type { DepthCell } from "./depths.ts";
import { cacheCost, frontOf, placed, timeCost } from "./pareto-chart.ts";
import { chartPoints, lengthsOf, type Point, seriesName } from "./points.ts";
import type { RunData } from "./run-data.ts";
import { bytesText, intervalText, lengthText, msText, scoreText } from "./words.ts";

const left = (title: string, key: string): Column => ({ title, key, align: "left" });
const right = (title: string, key: string): Column => ({ title, key });
const valued = (value: number | null, format: (x: number) => string): Cell =>
  value === null ? blank : { text: format(value), value };
const whole = (n: number): Cell => ({ text: String(n), value: n });
const head = [left("method", "method"), right("length", "length")];
const heads = ({ series, length }: { series: string; length: number | null }): Cell[] => [
  text(series),
  { text: lengthText(length), value: length },
];
const plain = { headColumns: 1, notes: [] };

const scoreOf = (point: Point | undefined): Cell => {
  if (point?.score === null || point === undefined) {
    return { text: point === undefined ? "" : point.status === "oom" ? "out of memory" : point.status, value: null };
  }
  const partial = point.status === "partial" ? " partial" : "";
  return { text: `${scoreText(point.score)} ${intervalText(point.interval)}${partial}`, value: point.score };
};

/** Methods x lengths, with the total time of a run. */
export function accuracySheet(runs: readonly RunData[], points: readonly Point[]): TableData {
  const lengths = lengthsOf(points);
  const series = Map.groupBy(chartPoints(points), (point) => point.series);
  const totals = new Map(
    runs.flatMap((run) => {
      const first = run.cells.totals.filter((total) => total.batch === run.cells.batches[0]);
      return first.map((total) => [seriesName(runs, run, total.method), total] as const);
    }),
  );
  const rows = [...series].map(([name, mine]) => {
    const total = totals.get(name);
    const time = total === undefined || total.ms === 0 ? blank : valued(total.ms, formatDuration);
    const cells = lengths.map((length) => scoreOf(mine.find((point) => point.length === length)));
    const n = mine.reduce((sum, point) => sum + point.n, 0);
    return [text(name), ...cells, whole(n), total?.partial ? { ...time, text: `${time.text} partial` } : time];
  });
  return {
    ...plain,
    title: "Accuracy by method and length",
    columns: [
      left("method", "method"),
      ...lengths.map((length) => right(lengthText(length), `score_${length ?? "all"}`)),
      right("n", "n"),
      right("time", "time_ms"),
    ],
    rows,
    notes: [
      "Scores 0 to 100, mean over the tasks, with the 95 % bootstrap interval; n: samples with a score, over all lengths.",
      "Time: prefill and decode of all samples, loading not included; partial where samples are missing.",
    ],
  };
}

export function taskSheet(runs: readonly RunData[]): TableData {
  const rows = runs.flatMap((run) => {
    const hashes = new Map(run.cells.methods.map(({ label, hash }) => [label, hash]));
    return run.cells.byTask.map((cell) => [
      ...heads({ series: seriesName(runs, run, cell.method), length: cell.length }),
      text(cell.task),
      valued(cell.score, scoreText),
      valued(cell.interval?.[0] ?? null, scoreText),
      valued(cell.interval?.[1] ?? null, scoreText),
      ...[cell.n, cell.nulls, cell.oom, cell.errors, cell.missing].map(whole),
      text(samplesFile({ ...cell, method_hash: hashes.get(cell.method) ?? "" })),
    ]);
  });
  return {
    ...plain,
    title: "Accuracy by task",
    columns: [
      ...head,
      left("task", "task"),
      right("score", "score"),
      right("low", "score_low"),
      right("high", "score_high"),
      right("n", "n"),
      right("empty", "empty"),
      right("out of memory", "oom"),
      right("errors", "errors"),
      right("missing", "missing"),
      left("rows", "rows"),
    ],
    rows,
  };
}

export function paretoSheet(points: readonly Point[]): TableData {
  const fronts = [cacheCost, timeCost].map((cost) => {
    const byLength = Map.groupBy(placed(points, cost), ({ point }) => point.length);
    return new Set([...byLength.values()].flatMap((items) => frontOf(items).map(({ point }) => point)));
  });
  const mark = (on: boolean): Cell => ({ text: on ? "yes" : "", value: on });
  return {
    ...plain,
    title: "Accuracy, cache and time",
    columns: [
      ...head,
      right("score", "score"),
      right("low", "score_low"),
      right("high", "score_high"),
      right("cache", "cache_bytes"),
      right("time", "time_ms"),
      left("on the front: cache", "front_cache"),
      left("on the front: time", "front_time"),
    ],
    rows: points.map((point) => [
      ...heads(point),
      valued(point.score, scoreText),
      valued(point.interval?.[0] ?? null, scoreText),
      valued(point.interval?.[1] ?? null, scoreText),
      valued(point.cacheBytes, bytesText),
      valued(point.time?.total ?? null, msText),
      ...fronts.map((front) => mark(front.has(point))),
    ]),
  };
}

export function timeSheet(points: readonly Point[]): TableData {
  return {
    ...plain,
    title: "Time of a sample",
    columns: [
      ...head,
      right("batch", "batch"),
      right("prefill", "prefill_ms"),
      right("method", "method_ms"),
      right("decode", "decode_ms"),
      right("total", "total_ms"),
    ],
    rows: points.map((point) => [
      ...heads(point),
      whole(point.batch),
      ...(["prefill", "method", "decode", "total"] as const).map((key) => valued(point.time?.[key] ?? null, msText)),
    ]),
  };
}

export function memorySheet(points: readonly Point[]): TableData {
  const shared = Math.max(0, ...points.map(({ sharedWeightBytes }) => sharedWeightBytes ?? 0));
  return {
    ...plain,
    notes: shared > 0 ? [sharedWeightsNote(shared)] : [],
    title: "Memory",
    columns: [
      ...head,
      right("batch", "batch"),
      right("cache", "cache_bytes"),
      right("of Full", "cache_share"),
      right("expected", "expected_cache_bytes"),
      right("allocated", "cache_allocated_bytes"),
      right("peak", "peak_bytes"),
    ],
    rows: points.map((point) => [
      ...heads(point),
      whole(point.batch),
      valued(point.cacheBytes, bytesText),
      valued(point.cacheShare, formatShare),
      valued(point.expectedCacheBytes, bytesText),
      valued(point.allocatedBytes, bytesText),
      valued(point.peakBytes, bytesText),
    ]),
  };
}

export function depthSheet(cells: readonly DepthCell[]): TableData {
  return {
    ...plain,
    title: "Needles found by depth",
    columns: [...head, right("depth", "depth"), right("needles", "needles"), right("found", "found")],
    rows: cells.map((cell) => [
      ...heads(cell),
      { text: depthText(cell.depth), value: cell.depth },
      whole(cell.needles),
      { text: `${cell.score.toFixed(0)} %`, value: cell.score },
    ]),
  };
}

// A run against a recorded one: less accurate, slower or larger than it by more than noise is an error with every figure.
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import { formatBytes, formatCount, formatMs } from "./format.ts";

const interval = v.tuple([v.number(), v.number()]);
const measure = v.nullable(v.object({ median: v.number(), interval }));
const length = v.nullable(v.number());
const cellsSchema = v.looseObject({
  accuracy: v.array(
    v.looseObject({ method: v.string(), length, score: v.nullable(v.number()), interval: v.nullable(interval) }),
  ),
  cost: v.array(
    v.looseObject({
      method: v.string(),
      length,
      batch: v.number(),
      ttftMs: measure,
      msPerToken: measure,
      cacheBytes: v.nullable(v.number()),
      peakBytes: v.nullable(v.number()),
    }),
  ),
});
/** The cells of results.json. */
export type RecordedCells = v.InferOutput<typeof cellsSchema>;

export interface Tolerance {
  /** points of score that may be lost; default 2 */
  points?: number;
  /** factor of TTFT and time per token; default 1.25. Times count as different only where their intervals do not meet. */
  time?: number;
  /** factor of cache and peak bytes; default 1.02 */
  bytes?: number;
}

/** Throws where a cell of the baseline is missing in the run or worse by more than the tolerance, naming each. */
export function expectWithin(
  run: { cells: unknown } | string,
  baseline: { cells: unknown } | string,
  tolerance: Tolerance = {},
): void {
  const [ours, theirs] = [recorded(run), recorded(baseline)];
  const limits = { points: 2, time: 1.25, bytes: 1.02, ...tolerance };
  const faults = [
    ...theirs.accuracy.flatMap((before) => {
      const now = ours.accuracy.find((cell) => cell.method === before.method && cell.length === before.length);
      return accuracyFaults(place(before), before, now, limits.points);
    }),
    ...theirs.cost.flatMap((before) => {
      const same = (cell: typeof before) =>
        cell.method === before.method && cell.length === before.length && cell.batch === before.batch;
      return costFaults(place(before), before, ours.cost.find(same), limits);
    }),
  ];
  if (faults.length > 0) throw new Error(`outside of the baseline:\n${faults.map((fault) => `  ${fault}`).join("\n")}`);
}

function recorded(source: { cells: unknown } | string): RecordedCells {
  let value: unknown = source;
  const name = typeof source === "string" ? source : "the results";
  if (typeof source === "string") {
    try {
      value = JSON.parse(readFileSync(source, "utf8"));
    } catch (cause) {
      throw new KvaError("data", `${source} cannot be read as results.json: ${reason(cause)}`, { cause });
    }
  }
  const result = v.safeParse(v.looseObject({ cells: cellsSchema }), value);
  if (result.success) return result.output.cells;
  throw new KvaError("data", `${name}: ${v.getDotPath(result.issues[0]) ?? "cells"}: ${result.issues[0].message}`);
}

const place = (cell: { method: string; length: number | null; batch?: number }) =>
  [
    cell.method,
    cell.length === null ? "all lengths" : formatCount(cell.length),
    ...(cell.batch && cell.batch > 1 ? [`batch ${cell.batch}`] : []),
  ].join(", ");

type Accuracy = RecordedCells["accuracy"][number];
type Cost = RecordedCells["cost"][number];

function accuracyFaults(where: string, before: Accuracy, now: Accuracy | undefined, points: number): string[] {
  if (before.score === null) return [];
  if (now === undefined || now.score === null) return [`${where}: no score; the baseline has ${before.score}`];
  const certain = now.interval === null || now.interval[1] < before.score;
  if (before.score - now.score <= points || !certain) return [];
  return [`${where}: score ${now.score}, the baseline has ${before.score}; ${points} points may be lost`];
}

function costFaults(where: string, before: Cost, now: Cost | undefined, limits: Required<Tolerance>): string[] {
  if (now === undefined) return before.ttftMs === null ? [] : [`${where}: no times; the baseline has them`];
  const faults: string[] = [];
  for (const [name, key] of [
    ["time to first token", "ttftMs"],
    ["time per token", "msPerToken"],
  ] as const) {
    const [old, own] = [before[key], now[key]];
    if (old === null) continue;
    if (own === null) faults.push(`${where}: no ${name}; the baseline has ${formatMs(old.median)}`);
    else if (own.median > old.median * limits.time && own.interval[0] > old.interval[1]) {
      faults.push(
        `${where}: ${name} ${formatMs(own.median)}, the baseline has ${formatMs(old.median)}; x ${limits.time} is allowed`,
      );
    }
  }
  for (const [name, key] of [
    ["cache", "cacheBytes"],
    ["peak memory", "peakBytes"],
  ] as const) {
    const [old, own] = [before[key], now[key]];
    if (old === null || own === null || own <= old * limits.bytes) continue;
    faults.push(
      `${where}: ${name} ${formatBytes(own)}, the baseline has ${formatBytes(old)}; x ${limits.bytes} is allowed`,
    );
  }
  return faults;
}

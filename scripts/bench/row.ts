// A measured row, its floor and its target, and how rows are printed.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Ceilings } from "./device.ts";

export interface Row {
  table: "end to end" | "layer" | "methods" | "scaling" | "memory limit" | "long prompt";
  name: string;
  /** raw samples in milliseconds; empty where it was not run or failed */
  ms: number[];
  /** least possible time on this card, by the measured ceilings */
  floorMs?: number;
  /** what the design asks for on an H100 */
  targetMs?: number;
  peakBytes?: number;
  targetPeakBytes?: number;
  /** more figures, in words */
  note?: string;
  /** why it was left out */
  notRun?: string;
  error?: string;
}

/** Whether the design's targets are for this card: by its name, that of an H100 with 80 GB of HBM3, whole. */
export function isTargetCard(device: string): boolean {
  return /\bH100 80GB HBM3$/.test(device);
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

export const gib = (bytes: number) => bytes / 2 ** 30;

function digits(ms: number): string {
  return ms >= 1000 ? ms.toFixed(0) : ms >= 100 ? ms.toFixed(1) : ms >= 1 ? ms.toFixed(2) : ms.toFixed(3);
}

function verdict(value: number | undefined, target: number | undefined): string {
  if (target === undefined || value === undefined) return "";
  return value <= target ? "yes" : "no";
}

/** A row of the table; `verdicts`: whether targets are met. */
export function line(row: Row, verdicts: boolean): string {
  const { ms, floorMs, targetMs, peakBytes, targetPeakBytes, note, notRun, error } = row;
  const blank = ms.length === 0;
  const middle = median(ms);
  const met = verdicts ? [blank ? "" : verdict(middle, targetMs)] : [];
  const metPeak = verdicts ? ` ${verdict(peakBytes, targetPeakBytes)}` : "";
  const cells = [
    row.name,
    blank ? "-" : digits(middle),
    blank ? "" : `${digits(Math.min(...ms))}..${digits(Math.max(...ms))} (${ms.length})`,
    floorMs === undefined ? "" : digits(floorMs),
    floorMs === undefined || blank ? "" : `${((100 * floorMs) / middle).toFixed(0)} %`,
    targetMs === undefined ? "" : digits(targetMs),
    ...met,
    peakBytes === undefined ? "" : gib(peakBytes).toFixed(2),
    targetPeakBytes === undefined ? "" : `${gib(targetPeakBytes).toFixed(1)}${metPeak}`,
    [note, notRun && `not run: ${notRun}`, error].filter(Boolean).join("; "),
  ];
  return `| ${cells.join(" | ")} |`;
}

export function head(table: Row["table"], verdicts: boolean): string {
  const target = verdicts ? ["target", "met"] : ["H100 target"];
  const columns = ["row", "ms, median", "spread (samples)", "floor", "share", ...target, "peak GiB", target[0], ""];
  return `### ${table}\n\n| ${columns.join(" | ")} |\n|${"---|".repeat(columns.length)}`;
}

/** Markdown tables, one for each kind of row that there is. */
function tables(rows: readonly Row[], verdicts: boolean): string {
  const kinds = [...new Set(rows.map((row) => row.table))];
  const of = (kind: Row["table"]) => rows.filter((row) => row.table === kind).map((row) => line(row, verdicts));
  return kinds.map((kind) => `${head(kind, verdicts)}\n${of(kind).join("\n")}\n`).join("\n");
}

export function save(folder: string, name: string, title: string, ceilings: Ceilings, rows: readonly Row[]): void {
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify({ title, ceilings, rows }, null, 1)}\n`);
  writeFileSync(join(folder, `${name}.md`), `${title}\n\n${tables(rows, isTargetCard(ceilings.device))}`);
}

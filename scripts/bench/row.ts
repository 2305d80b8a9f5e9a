// A measured row, its floor and its target, and how rows are printed.
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Row {
  table: "end to end" | "layer" | "methods" | "scaling" | "memory limit" | "long prompt";
  name: string;
  /** raw samples in milliseconds; empty where it failed */
  ms: number[];
  /** least possible time on this card, by the measured ceilings */
  floorMs?: number;
  /** what the design asks for on an H100 */
  targetMs?: number;
  peakBytes?: number;
  targetPeakBytes?: number;
  /** more figures, in words */
  note?: string;
  error?: string;
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

export function line(row: Row): string {
  const { ms, floorMs, targetMs, peakBytes, targetPeakBytes, note, error } = row;
  const blank = ms.length === 0;
  const middle = median(ms);
  const cells = [
    row.name,
    blank ? "-" : digits(middle),
    blank ? "" : `${digits(Math.min(...ms))}..${digits(Math.max(...ms))} (${ms.length})`,
    floorMs === undefined ? "" : digits(floorMs),
    floorMs === undefined || blank ? "" : `${((100 * floorMs) / middle).toFixed(0)} %`,
    targetMs === undefined ? "" : digits(targetMs),
    blank ? "" : verdict(middle, targetMs),
    peakBytes === undefined ? "" : gib(peakBytes).toFixed(2),
    targetPeakBytes === undefined ? "" : `${gib(targetPeakBytes).toFixed(1)} ${verdict(peakBytes, targetPeakBytes)}`,
    [note, error].filter(Boolean).join("; "),
  ];
  return `| ${cells.join(" | ")} |`;
}

export function head(table: Row["table"]): string {
  return `### ${table}\n\n| row | ms, median | spread (samples) | floor | share | target | met | peak GiB | target | |\n|---|---|---|---|---|---|---|---|---|---|`;
}

/** Markdown tables, one for each kind of row that there is. */
function tables(rows: readonly Row[]): string {
  const kinds = [...new Set(rows.map((row) => row.table))];
  const of = (kind: Row["table"]) => rows.filter((row) => row.table === kind).map(line);
  return kinds.map((kind) => `${head(kind)}\n${of(kind).join("\n")}\n`).join("\n");
}

export function save(folder: string, name: string, title: string, ceilings: unknown, rows: readonly Row[]): void {
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify({ title, ceilings, rows }, null, 1)}\n`);
  writeFileSync(join(folder, `${name}.md`), `${title}\n\n${tables(rows)}`);
}

// The two tables of a run: accuracy (lengths x methods, total times below) and cost (a row for each length and method).
import type { AccuracyCell, Cells, CostCell, Counts, Measure, TotalCell } from "./cells.ts";
import { average } from "./cells.ts";
import { findingRows, rangeRow } from "./finding-rows.ts";
import type { MethodFindings } from "./findings.ts";
import { formatBytes, formatCount, formatDuration, formatFactor, formatMs, formatRate, formatShare } from "./format.ts";
import type { Interval } from "./intervals.ts";
import { blank, type Cell, type Column, type TableData, text } from "./table.ts";

export interface TableContext {
  benchmark: string;
  model: string;
  view: string;
  /** what else a reader must know: changed caps, source of the samples */
  remarks: string[];
  /** averages, comparisons and ranks, as rows below the scores */
  findings?: readonly MethodFindings[];
}

const lengthText = (length: number | null) => (length === null ? "all" : formatCount(length));

export function accuracyTable(cells: Cells, context: TableContext): TableData {
  const find = (method: string, length: number | null) =>
    cells.accuracy.find((cell) => cell.method === method && cell.length === length)!;
  const byTask = cells.lengths.every((length) => length === null); // LongBench: its sets are the rows
  const columns: Column[] = [
    byTask ? { title: "data set", key: "task", align: "left" } : { title: "length", key: "length" },
    { title: "n", key: "n" },
    ...cells.methods.map(({ label }): Column => ({ title: broken(label), key: label })),
  ];
  const rows = byTask ? taskRows(cells, context.findings ?? []) : lengthRows(cells, find);
  if (!byTask && cells.lengths.length > 1) rows.push(averageRow(cells, find));
  const findings = findingRows(context.findings ?? []);
  rows.push(...findings.rows);
  for (const batch of cells.batches) rows.push(timeRow(cells, batch));
  const marks = new Set([...cells.accuracy, ...(byTask ? cells.byTask : [])].flatMap((cell) => statusNote(cell)));
  const over = byTask ? "" : `, mean over ${counted(cells.tasks.length, "task")}`;
  return {
    title: `Accuracy: ${context.benchmark}, ${context.model}, ${context.view}`,
    columns,
    headColumns: 2,
    rows,
    notes: [
      `Scores 0 to 100${over}; below it the 95 % bootstrap interval; n: samples in each cell.`,
      ...findings.notes,
      "Time: prefill and decode of all samples, loading not included.",
      ...marks,
      ...context.remarks,
    ],
  };
}

function lengthRows(cells: Cells, find: (method: string, length: number | null) => AccuracyCell): Cell[][] {
  return cells.lengths.map((length) => {
    const row = cells.methods.map(({ label }) => find(label, length));
    return [{ text: lengthText(length), value: length }, samplesCell(row), ...row.map(scoreCell)];
  });
}

function taskRows(cells: Cells, findings: readonly MethodFindings[]): Cell[][] {
  return cells.tasks.flatMap((task) => {
    const row = cells.methods.map(({ label }) => cells.byTask.find((c) => c.method === label && c.task === task)!);
    const ranges = ["0-4k", "4-8k", "8k+"].map((range) => rangeRow(findings, task, range));
    return [[text(task), samplesCell(row), ...row.map(scoreCell)], ...ranges.filter((range) => range !== null)];
  });
}

const counted = (n: number, noun: string) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// Compositions and parameters go on a line of their own, so that a column stays narrow.
const broken = (label: string) => label.replaceAll("+", "+\n").replace("[", "\n[").replace("@", "\n@");

function samplesCell(row: Counts[]): Cell {
  const [low, high] = [Math.min(...row.map((cell) => cell.n)), Math.max(...row.map((cell) => cell.n))];
  return { text: low === high ? String(low) : `${low}-${high}`, value: low };
}

function scoreCell(cell: Counts & { score: number | null; interval: Interval | null }): Cell {
  if (cell.score === null) return { text: cell.status === "oom" ? "-" : cell.status, value: null };
  const interval = cell.interval ? `\n[${cell.interval.map((x) => x.toFixed(0)).join(", ")}]` : "";
  return {
    text: `${cell.score.toFixed(1)}${interval}${cell.status === "partial" ? "\npartial" : ""}`,
    value: cell.score,
  };
}

function statusNote(cell: Counts): string[] {
  if (cell.status === "oom") return ["-: out of memory."];
  if (cell.status === "partial") return ["partial: some samples have no score; their rows say why."];
  if (cell.status === "error") return ["error: no sample has a score; their rows say why."];
  return cell.status === "missing" ? ["missing: not run yet; the same command goes on."] : [];
}

function averageRow(cells: Cells, find: (method: string, length: number | null) => AccuracyCell): Cell[] {
  const means = cells.methods.map(({ label }) => {
    const row = cells.lengths.map((length) => find(label, length));
    const scores = row.flatMap((cell) => (cell.score === null ? [] : [cell.score]));
    if (scores.length === 0) return blank;
    const mean = average(scores);
    const whole = row.every((cell) => cell.status === "full");
    return { text: `${mean.toFixed(1)}${whole ? "" : "\npartial"}`, value: mean };
  });
  return [text("mean"), blankText, ...means];
}

const blankText: Cell = { text: "", value: null };

function timeRow(cells: Cells, batch: number): Cell[] {
  const title = batch === 1 ? "time" : `time,\nbatch ${batch}`;
  const times = cells.methods.map(({ label }) => {
    const total = cells.totals.find((cell) => cell.method === label && cell.batch === batch)!;
    return total.ms === 0 ? blank : { text: timeText(total), value: total.ms };
  });
  return [{ text: title, value: batch === 1 ? "time_ms" : `time_ms_batch_${batch}` }, blankText, ...times];
}

const timeText = ({ ms, partial }: TotalCell) => `${formatDuration(ms)}${partial ? "\npartial" : ""}`;

const costColumns: Column[] = [
  { title: "length", key: "length" },
  { title: "method", key: "method", align: "left" },
  { title: "n", key: "n" },
  { title: "TTFT", key: "ttft_ms" },
  { title: "per token", key: "ms_per_token" },
  { title: "tokens/s", key: "tokens_per_s" },
  { title: "speed-up", key: "speed_up" },
  { title: "cache", key: "cache_bytes" },
  { title: "of Full", key: "cache_share" },
  { title: "expected", key: "expected_cache_bytes" },
  { title: "allocated", key: "cache_allocated_bytes", optional: true },
  { title: "peak", key: "peak_bytes" },
];

/** Shown where a method chose what prefill attention reads. */
const sparseColumns: Column[] = [
  { title: "density", key: "density" },
  { title: "choice", key: "select_ms" },
];

export function costTable(cells: Cells, context: TableContext): TableData {
  const batched = cells.batches.length > 1 || cells.batches[0]! > 1;
  const sparse = cells.cost.some(({ density }) => density !== null);
  const plain = sparse ? [...costColumns, ...sparseColumns] : costColumns;
  const columns = batched ? plain.toSpliced(2, 0, { title: "batch", key: "batch" }) : plain;
  const rows = cells.cost.map((cell) => {
    const row = sparse ? [...costRow(cell), ...sparseCells(cell)] : costRow(cell);
    return batched ? row.toSpliced(2, 0, { text: String(cell.batch), value: cell.batch }) : row;
  });
  return {
    title: `Cost: ${context.benchmark}, ${context.model}, ${context.view}`,
    columns,
    headColumns: batched ? 3 : 2,
    rows,
    notes: [
      "TTFT (time to first token) and time per token: medians over the samples, with their 95 % rank intervals (the range below 6 samples). " +
        "Speed-up: time of Full over the method's, for as many new tokens as Full wrote.",
      "Cache: bytes of the rows held after the prompt, measured; expected: by the method's formula, pages and padding included; " +
        "allocated: what the allocator gave out for it; peak: weights included.",
      ...sharedNotes(cells),
      ...(sparse
        ? [
            "Density: blocks that prefill attention read, of those up to the diagonal, mean over layers and heads; choice: time of finding them.",
          ]
        : []),
      ...pipelineNotes(cells),
    ],
  };
}

const number = (value: number | null, format: (x: number) => string): Cell =>
  value === null ? blank : { text: format(value), value };

const sparseCells = ({ density, selectMs }: CostCell): Cell[] => [
  number(density, formatShare),
  number(selectMs, formatMs),
];

function sharedNotes({ cost }: Cells): string[] {
  const shared = cost.flatMap(({ sharedWeightBytes }) => sharedWeightBytes ?? []);
  return shared.length === 0 ? [] : [sharedWeightsNote(Math.max(...shared))];
}

export const sharedWeightsNote = (bytes: number): string =>
  `Each peak has ${formatBytes(bytes)} of weights that the workers of a device share: the device holds them once.`;

function pipelineNotes({ cost }: Cells): string[] {
  const piped = cost.flatMap(({ method, length, throughput }) =>
    throughput === null ? [] : [`${method} ${lengthText(length)} ${formatRate(throughput)}`],
  );
  return piped.length === 0
    ? []
    : [`Samples in a pipeline over the devices, prompt and new tokens per second: ${piped.join(", ")}.`];
}

function costRow(cell: CostCell): Cell[] {
  return [
    { text: lengthText(cell.length), value: cell.length },
    { text: broken(cell.method), value: cell.method },
    { text: `${cell.n}${cell.status === "partial" ? " partial" : ""}`, value: cell.n },
    measureCell(cell.ttftMs),
    measureCell(cell.msPerToken),
    number(cell.tokensPerSecond, formatRate),
    number(cell.speedUp, formatFactor),
    number(cell.cacheBytes, formatBytes),
    number(cell.cacheShare, formatShare),
    number(cell.expectedCacheBytes, formatBytes),
    number(cell.cacheAllocatedBytes, formatBytes),
    number(cell.peakBytes, formatBytes),
  ];
}

// The interval in the unit of the median, so that three numbers compare at a glance: `12.3 ms [11.9, 12.8]`.
function measureCell(measure: Measure | null): Cell {
  if (measure === null) return blank;
  const [low, high] = measure.interval.map((ms) => formatMs(ms).replace(/ [a-z]+$/, ""));
  const unit = (ms: number) => formatMs(ms).split(" ").at(-1);
  const same = measure.interval.every((ms) => unit(ms) === unit(measure.median));
  const range = same ? `[${low}, ${high}]` : `[${measure.interval.map(formatMs).join(", ")}]`;
  return { text: `${formatMs(measure.median)}\n${range}`, value: measure.median };
}

// The tables of accel compare: scores with their differences, and costs with their ratios.
import { formatBytes, formatCount, formatFactor, formatMs } from "../bench/format.ts";
import { blank, type Cell, type Column, type TableData, text } from "../bench/table.ts";
import type { ComparedCost, Difference, RunComparison } from "./compare.ts";

const lengthCell = (length: number | null): Cell => ({
  text: length === null ? "all" : formatCount(length),
  value: length,
});
const signed = (value: number) => `${value > 0 ? "+" : ""}${value.toFixed(1)}`;
const broken = (name: string) => name.replaceAll("+", "+\n").replace("[", "\n[").replace(": ", ":\n");

/** better or worse only where the samples tell the two apart */
export function verdict({ distinct, difference }: Difference): "better" | "worse" | "within noise" {
  if (!distinct) return "within noise";
  return difference > 0 ? "better" : "worse";
}

export function comparisonTables(comparison: RunComparison): TableData[] {
  return [scoreTable(comparison), differenceTable(comparison), costTable(comparison)];
}

function rowPlaces({ lengths, tasks }: RunComparison): { length: number | null; task: string | null }[] {
  if (lengths.every((length) => length === null)) return [null, ...tasks].map((task) => ({ length: null, task }));
  const known = lengths.filter((length) => length !== null);
  return [...(known.length > 1 ? known : []), null].map((length) => ({ length, task: null }));
}

function scoreTable(comparison: RunComparison): TableData {
  const { series, scores, differences, notes } = comparison;
  const byTask = comparison.lengths.every((length) => length === null);
  const columns: Column[] = [
    byTask ? { title: "data set", key: "task", align: "left" } : { title: "length", key: "length" },
    ...series.map(({ name }): Column => ({ title: broken(name), key: name })),
  ];
  const rows = rowPlaces(comparison).map(({ length, task }) => {
    const here = (one: { series: string; length: number | null; task: string | null }, name: string) =>
      one.series === name && one.length === length && one.task === task;
    const cells = series.map(({ name }): Cell => {
      const score = scores.find((one) => here(one, name));
      if (score === undefined) return blank;
      const difference = differences.find((one) => here(one, name));
      const mark =
        difference === undefined ? "" : `\n${signed(difference.difference)}${difference.distinct ? "" : " ~"}`;
      return { text: `${score.score.toFixed(1)}${mark}`, value: score.score };
    });
    return [byTask ? text(task ?? "all") : lengthCell(length), ...cells];
  });
  return {
    title: "Scores, side by side",
    columns,
    headColumns: 1,
    rows,
    notes: [
      "Scores 0 to 100; below them the difference on the same samples to the method compared with; ~: within noise.",
      ...notes,
    ],
  };
}

function differenceTable(comparison: RunComparison): TableData {
  const columns: Column[] = [
    { title: "series", key: "series", align: "left" },
    { title: "against", key: "against", align: "left" },
    { title: "length", key: "length" },
    { title: "task", key: "task", align: "left" },
    { title: "n", key: "n" },
    { title: "difference", key: "difference" },
    { title: "95 %", key: "interval" },
    { title: "p", key: "p" },
    { title: "won", key: "wins" },
    { title: "lost", key: "losses" },
    { title: "", key: "verdict", align: "left" },
  ];
  const wanted = rowPlaces(comparison);
  const shown = comparison.differences.filter((one) =>
    wanted.some(({ length, task }) => length === one.length && task === one.task),
  );
  const rows = shown.map((one): Cell[] => [
    text(one.series),
    text(one.against),
    lengthCell(one.length),
    { text: one.task ?? "all", value: one.task },
    { text: String(one.n), value: one.n },
    { text: signed(one.difference), value: one.difference },
    {
      text: `[${one.low.toFixed(1)}, ${one.high.toFixed(1)}]`,
      value: `${one.low.toFixed(2)} to ${one.high.toFixed(2)}`,
    },
    { text: one.p.toFixed(3), value: one.p },
    { text: String(one.wins), value: one.wins },
    { text: String(one.losses), value: one.losses },
    text(verdict(one)),
  ]);
  return {
    title: "Differences on the same samples",
    columns,
    headColumns: 2,
    rows,
    notes: [
      "Paired bootstrap over the samples that both have, each task alike. Better and worse: the 95 % interval leaves out 0.",
    ],
  };
}

const withRatio = (value: number | null | undefined, ratio: number | null, format: (x: number) => string): Cell =>
  value === null || value === undefined
    ? blank
    : { text: ratio === null ? format(value) : `${format(value)}\n${formatFactor(ratio)}`, value };

function costTable({ cost }: RunComparison): TableData {
  const columns: Column[] = [
    { title: "series", key: "series", align: "left" },
    { title: "length", key: "length" },
    { title: "batch", key: "batch" },
    { title: "TTFT", key: "ttft_ms" },
    { title: "per token", key: "ms_per_token" },
    { title: "cache", key: "cache_bytes" },
    { title: "peak", key: "peak_bytes" },
  ];
  const rows = cost.map((cell: ComparedCost): Cell[] => [
    text(cell.series),
    lengthCell(cell.length),
    { text: String(cell.batch), value: cell.batch },
    withRatio(cell.ttftMs?.median, cell.ttftRatio, formatMs),
    withRatio(cell.msPerToken?.median, cell.msPerTokenRatio, formatMs),
    withRatio(cell.cacheBytes, cell.cacheRatio, formatBytes),
    withRatio(cell.peakBytes, null, formatBytes),
  ]);
  return {
    title: "Cost, side by side",
    columns,
    headColumns: 3,
    rows,
    notes: ["Medians; below them the factor to the method compared with."],
  };
}

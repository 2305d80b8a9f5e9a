// Rows of the accuracy table below the scores: weighted averages, effective length, differences to the full cache, ranks.
import { type LongbenchAverages, longbenchAverageNames, type RulerAverages } from "./averages.ts";
import type { MethodFindings } from "./findings.ts";
import { formatCount } from "./format.ts";
import { blank, type Cell } from "./table.ts";

const number = (value: number | null | undefined): Cell =>
  value === null || value === undefined ? blank : { text: value.toFixed(1), value };

const head = (title: string, key: string): Cell[] => [
  { text: title, value: key },
  { text: "", value: null },
];

const signed = (value: number) => `${value > 0 ? "+" : ""}${value.toFixed(1)}`;

function differenceCell({ versusFull }: MethodFindings): Cell {
  if (versusFull === null) return blank;
  const { mean, low, high, distinct } = versusFull;
  return { text: `${signed(mean)}${distinct ? "" : " ~"}\n[${low.toFixed(0)}, ${high.toFixed(0)}]`, value: mean };
}

function rulerRows(averages: readonly RulerAverages[]): { rows: Cell[][]; notes: string[] } {
  if (Object.keys(averages[0]!.byLength).length < 2) return { rows: [], notes: [] };
  const effective = averages.map(
    ({ effectiveLength }): Cell =>
      effectiveLength === null ? blank : { text: formatCount(effectiveLength), value: effectiveLength },
  );
  const rows = [
    [...head("wAvg inc", "wavg_inc"), ...averages.map(({ wavgInc }) => number(wavgInc))],
    [...head("wAvg dec", "wavg_dec"), ...averages.map(({ wavgDec }) => number(wavgDec))],
    [...head("effective", "effective_length"), ...effective],
  ];
  const without = averages.map(({ loom12 }) => {
    const values = Object.values(loom12 ?? {});
    return values.length > 0 && !values.includes(null) ? values.reduce((sum, v) => sum! + v! / values.length, 0) : null;
  });
  if (averages[0]!.loom12) rows.push([...head("loom12", "loom12"), ...without.map(number)]);
  return {
    rows,
    notes: [
      "wAvg: the longest (inc) or the shortest (dec) length counts most; effective: the largest length up to which all score 85.6 or more." +
        (averages[0]!.loom12 ? " loom12: mean without fwe." : ""),
    ],
  };
}

function longbenchRows(averages: readonly LongbenchAverages[]): Cell[][] {
  return longbenchAverageNames
    .filter((name) => averages.some((one) => one[name] !== null))
    .map((name) => [...head(name, name), ...averages.map((one) => number(one[name]))]);
}

export function findingRows(findings: readonly MethodFindings[]): { rows: Cell[][]; notes: string[] } {
  const ruler = findings.flatMap((one) => one.ruler ?? []);
  const longbench = findings.flatMap((one) => one.longbench ?? []);
  const { rows, notes } = ruler.length > 0 ? rulerRows(ruler) : { rows: longbenchRows(longbench), notes: [] };
  if (findings.some(({ questions }) => questions !== undefined)) {
    rows.push([
      ...head("1st question", "first_question"),
      ...findings.map(({ questions }) => number(questions?.first)),
    ]);
    rows.push([...head("later ones", "later_questions"), ...findings.map(({ questions }) => number(questions?.later))]);
    notes.push(
      "later ones: questions asked over the cache that the first one left; in view question aware no method saw them.",
    );
  }
  if (findings.some(({ versusFull }) => versusFull !== null)) {
    rows.push([...head("to Full", "difference"), ...findings.map(differenceCell)]);
    notes.push(
      "to Full: mean difference on the same samples with its interval; ~: within noise (paired bootstrap and sign-flip test).",
    );
  }
  if (findings.length > 1) {
    const ranks = findings.map(({ rank }): Cell => (rank === null ? blank : { text: String(rank), value: rank }));
    rows.push([...head("rank", "rank"), ...ranks]);
    notes.push("rank: methods that the samples do not tell apart share one.");
  }
  return { rows, notes };
}

/** a row for a range of lengths of a LongBench-E set; null where no method has a sample in it */
export function rangeRow(findings: readonly MethodFindings[], task: string, range: string): Cell[] | null {
  const found = findings.map(({ ranges }) => ranges?.[task]?.[range]);
  const n = Math.max(0, ...found.map((one) => one?.n ?? 0));
  if (n === 0) return null;
  const title = { text: `  ${range}`, value: `${task} ${range}` };
  return [title, { text: String(n), value: n }, ...found.map((one) => number(one?.score))];
}

// accel compare: runs side by side, paired differences and whether they are noise, ratios of cost, notes.
import { expect, test } from "bun:test";
import type { Row } from "../../src/bench/rows.ts";
import { renderCsv, renderMarkdown } from "../../src/bench/table.ts";
import { compareRuns } from "../../src/report/compare.ts";
import { comparisonTables } from "../../src/report/compare-tables.ts";
import { accel } from "../support/accel.ts";
import { fixture } from "./fixture.ts";

const scored = (score: (row: Row) => number) => (row: Row) => ({ ...row, score: score(row) });
const labels = ["Full", "Half"];
const place = (row: Row) => Number(row.id.slice(row.id.lastIndexOf("/") + 1));

test("methods of two runs stand side by side, each beside its namesake of the first run", () => {
  const before = fixture({ name: "before", labels, samples: 20, lengths: [512, 1024], row: scored(() => 1) });
  const after = fixture({
    name: "after",
    labels,
    samples: 20,
    lengths: [512, 1024],
    row: scored((row) => (row.method === "Half" && place(row) < 10 ? 0 : 1)),
  });
  const { series, scores, differences, cost, notes, lengths } = compareRuns([before, after]);
  expect(lengths).toEqual([512, 1024]);
  expect(series.map(({ run, method, against }) => [run, method, against])).toEqual([
    ["before", "Full", null],
    ["before", "Half", "Full (before)"],
    ["after", "Full", "Full (before)"],
    ["after", "Half", "Half (before)"],
  ]);
  const overall = (name: string) => differences.find((one) => one.series === name && one.length === null)!;
  expect(overall("Half (after)")).toMatchObject({ difference: -50, n: 40, wins: 0, losses: 20, distinct: true });
  expect(overall("Half (after)").p).toBeLessThan(0.01);
  expect(overall("Full (after)")).toMatchObject({ difference: 0, ties: 40, distinct: false });
  expect(scores.find((one) => one.series === "Half (after)" && one.length === 512)).toMatchObject({
    score: 50,
    n: 20,
  });
  const snap = cost.find((cell) => cell.series === "Half (before)" && cell.length === 512)!;
  expect(snap.ttftRatio).toBeCloseTo(0.5, 5);
  expect(snap.cacheRatio).toBeCloseTo(0.5, 5);
  expect(notes).toEqual([]);
});

test("a handful of samples is noise, however large the difference", () => {
  const run = fixture({
    name: "few",
    labels,
    lengths: [512],
    samples: 5,
    row: scored((row) => (row.method === "Full" ? 1 : 0)),
  });
  const { differences } = compareRuns([run]);
  expect(differences[0]).toMatchObject({ difference: -100, losses: 5, distinct: false });
});

test("samples with other questions are not paired, and a note says so", () => {
  const one = fixture({ name: "one", labels, lengths: [512], samples: 8 });
  const other = fixture({
    name: "other",
    labels,
    lengths: [512],
    samples: 8,
    row: (row) => ({ ...row, refs: [`other ${row.id}`] }),
  });
  const { differences, notes } = compareRuns([one, other]);
  expect(differences.filter(({ series }) => series.includes("(other)"))).toEqual([]);
  expect(notes.join(" ")).toContain("have no question in common");
  const half = fixture({
    name: "half",
    labels,
    lengths: [512],
    samples: 8,
    row: (row) => (place(row) < 4 ? row : null),
  });
  expect(compareRuns([one, half]).notes.join(" ")).toContain("over the 4 samples that both have");
});

test("the tables say better, worse or within noise, in every format", async () => {
  const paths = ["a", "b"].map((name) =>
    fixture({
      name,
      labels,
      lengths: [512],
      samples: 12,
      row: scored((row) => (row.method === "Half" ? place(row) % 2 : 1)),
    }),
  );
  const [scores, differences] = comparisonTables(compareRuns(paths));
  expect(renderMarkdown(scores!)).toContain("| 50.0 -50.0 |");
  expect(renderMarkdown(scores!)).toContain("| 100.0 0.0 ~ |");
  expect(renderCsv(differences!)).toContain("Half (a),Full (a),,,12,-50,");
  expect(renderCsv(differences!)).toContain(",6,worse");
  const json = await accel("compare", ...paths, "-o", "json");
  expect(json.code).toBe(0);
  expect(Object.keys(JSON.parse(json.out))).toEqual([
    "runs",
    "series",
    "lengths",
    "tasks",
    "scores",
    "differences",
    "cost",
    "notes",
  ]);
  const wrong = await accel("compare", "/nowhere");
  expect(wrong.code).toBe(2);
  expect(wrong.err).toContain("/nowhere is not a directory; give a run directory");
});

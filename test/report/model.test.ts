// From rows to what the report draws: points, Pareto fronts, depths, ticks, places of names, refusals.
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Row } from "../../src/bench/rows.ts";
import { depthCells } from "../../src/report/depths.ts";
import { placeLabels } from "../../src/report/labels.ts";
import { makePoints, paretoFront } from "../../src/report/points.ts";
import { readRun, readRuns } from "../../src/report/run-data.ts";
import { accuracySheet, memorySheet, paretoSheet } from "../../src/report/sheets.ts";
import { byteAxis, linearByteTicks, linearTimeTicks, timeAxis } from "../../src/report/ticks.ts";
import { folder } from "../support/folder.ts";
import { fixture, outOfMemory } from "./fixture.ts";

describe("points", () => {
  test("carry a cell's score, bytes and time split", () => {
    const points = makePoints([readRun(fixture())]);
    expect(points.length).toBe(6);
    const half = points.find((point) => point.method === "Half" && point.length === 512)!;
    expect(half).toMatchObject({ series: "Half", score: 100, n: 4, isFull: false, cacheBytes: 25600, cacheShare: 0.5 });
    expect(half.time).toEqual({ prefill: 45, method: 5, decode: 50, total: 100 });
    expect(points.find((point) => point.method === "Full")!.isFull).toBe(true);
  });

  test("are the same from rows as from results.json, and say that the run is not finished", () => {
    const [written, open] = [readRun(fixture()), readRun(fixture({ results: false }))];
    expect([written.unfinished, open.unfinished]).toEqual([false, true]);
    expect(makePoints([open])).toEqual(makePoints([written]));
  });

  test("come from the rows where a later start has not written its results", () => {
    const path = fixture();
    const file = join(path, "manifest.json");
    const manifest = JSON.parse(readFileSync(file, "utf8"));
    manifest.runs.push({ run: 2, fresh: true, started: "2026-01-02T00:00:00.000Z" });
    writeFileSync(file, JSON.stringify(manifest));
    expect(readRun(path)).toMatchObject({ unfinished: true, rows: [] });
  });

  test("count what no row stands for as missing", () => {
    const path = fixture({ results: false, row: (row) => (row.method === "Half" && row.length === 512 ? null : row) });
    const half = makePoints([readRun(path)]).find((point) => point.method === "Half" && point.length === 512)!;
    expect(half).toMatchObject({ status: "missing", missing: 4, score: null, time: null });
  });

  test("of several runs carry the run's name, also where two share one", () => {
    const runs = readRuns([fixture({ name: "same" }), fixture({ name: "same" })]);
    expect(runs.map((run) => run.name)).toEqual(["same", "same (2)"]);
    expect(makePoints(runs).at(-1)!.series).toBe("Quarter (same (2))");
  });
});

describe("tables", () => {
  test("memory says how much of the peaks the workers of a device share", () => {
    const notes = (row: (row: Row) => Row) =>
      memorySheet(makePoints([readRun(fixture({ results: false, row }))])).notes;
    expect(notes((row) => row)).toEqual([]);
    expect(notes((row) => ({ ...row, shared_weight_bytes: 2 ** 20 }))).toEqual([
      "Each peak has 1.00 MiB of weights that the workers of a device share: the device holds them once.",
    ]);
  });

  test("accuracy has a row for each method and a column for each length", () => {
    const runs = [readRun(fixture({ row: (row) => (row.method === "Half" ? outOfMemory(row, "too large") : row) }))];
    const sheet = accuracySheet(runs, makePoints(runs));
    expect(sheet.columns.map((column) => column.key)).toEqual(["method", "score_512", "score_1024", "n", "time_ms"]);
    expect(sheet.rows.map((row) => row[1]!.text)).toEqual(["100.0 [100, 100]", "out of memory", "0.0 [0, 0]"]);
    expect(sheet.rows[0]!.at(-1)!.value).toBe(8 * 150);
  });

  test("Pareto marks the methods on each front", () => {
    const sheet = paretoSheet(makePoints([readRun(fixture())]));
    const marks = sheet.rows.map((row) => [row[0]!.value, row[7]!.value, row[8]!.value]);
    expect(marks.slice(0, 3)).toEqual([
      ["Full", false, false],
      ["Half", true, true],
      ["Quarter", true, true],
    ]);
  });
});

test("a Pareto front holds what nothing beats", () => {
  const items = [
    [1, 10],
    [2, 10],
    [2, 50],
    [3, 40],
    [4, 90],
  ] as const;
  const front = paretoFront(
    items,
    ([cost]) => cost,
    ([, score]) => score,
  );
  expect(front).toEqual([items[0], items[2], items[4]]);
});

test("depths come from where a logged prompt holds its needle", () => {
  const row = (at: number, prediction: string) => ({ prompt: `${"x".repeat(at)}77${"x".repeat(98 - at)}`, prediction });
  let made = 0;
  const path = fixture({
    labels: ["Full"],
    lengths: [512],
    row: (one) => ({ ...one, refs: ["77"], ...row([5, 45, 48, 91][made]!, ["77", "it is 77", "no", "no"][made++]!) }),
  });
  const cells = depthCells([readRun(path)]).map(({ depth, needles, score }) => [depth, needles, score]);
  expect(cells).toEqual([
    [0, 1, 100],
    [40, 2, 50],
    [90, 1, 0],
  ]);
  expect(depthCells([readRun(fixture())])).toEqual([]);
});

test("axes end at round ticks and hold every value", () => {
  expect(byteAxis([300, 3000])).toEqual({ domain: [256, 4096], ticks: [256, 512, 1024, 2048, 4096] });
  expect(byteAxis([1024])).toEqual({ domain: [1024, 2048], ticks: [1024, 2048] });
  expect(timeAxis([30, 400])).toEqual({ domain: [20, 500], ticks: [20, 50, 100, 200, 500] });
  expect(timeAxis([100])).toEqual({ domain: [100, 200], ticks: [100, 200] });
  expect(timeAxis([1, 100_000]).ticks.length).toBeLessThanOrEqual(6);
  expect(linearByteTicks(5000)).toEqual([0, 2048, 4096]);
  expect(linearTimeTicks(206)).toEqual([0, 100, 200]);
  expect(linearTimeTicks(110)).toEqual([0, 50, 100]);
  expect(linearTimeTicks(0)).toEqual([0]);
});

test("names of points keep off points, edges and each other; what has no place is left out", () => {
  const bounds = { left: 0, right: 200, top: 0, bottom: 100 };
  const [first, second] = placeLabels(
    [
      { x: 100, y: 50, text: "first" },
      { x: 120, y: 50, text: "second" },
    ],
    bounds,
  );
  expect(first).toMatchObject({ textX: 92, anchor: "end" });
  expect(second).toMatchObject({ textX: 128, anchor: "start" });
  expect(placeLabels([{ x: 100, y: 50, text: "n".repeat(60) }], bounds)).toEqual([]);
});

describe("a directory that is no run is refused with what would be right", () => {
  test("nothing there, no manifest, a manifest of something else", () => {
    const path = folder();
    expect(() => readRun(join(path, "none"))).toThrow("is not a directory; give a run directory");
    expect(() => readRun(path)).toThrow("has no manifest.json; give a run directory");
    writeFileSync(join(path, "manifest.json"), "{");
    expect(() => readRun(path)).toThrow("manifest.json is not JSON");
    writeFileSync(join(path, "manifest.json"), '{"version": 3}');
    expect(() => readRun(path)).toThrow("manifest.json, version: ");
  });
});

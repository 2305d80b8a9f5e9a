// What is said of a run's scores: averages by name, differences to the full cache, ranks; and predictions for the reference scorers.
import { expect, test } from "bun:test";
import { rulerAverages, type TaskScore } from "../../src/bench/averages.ts";
import { makeCells } from "../../src/bench/cells.ts";
import { makeFindings, rankMethods } from "../../src/bench/findings.ts";
import { predictionFiles } from "../../src/bench/predictions.ts";
import { completedRow, identity, type Row, type Task } from "../../src/bench/rows.ts";
import { rulerTaskNames } from "../../src/bench/ruler-tasks.ts";
import { accuracyTable } from "../../src/bench/tables.ts";
import { sample, tasksOf } from "../support/fake-plan.ts";

const completion = {
  status: "ok" as const,
  ids: [1],
  finish: "stop" as const,
  promptTokens: 500,
  prefillMs: 10,
  methodMs: 0,
  decodeMs: 5,
  tokenMs: [5],
  cacheBytes: 1,
  cacheAllocatedBytes: 1,
  expectedCacheBytes: 1,
  peakBytes: 1,
  numbers: {},
};
const rowOf = (task: Task, score: number, more: Partial<Row> = {}): Row => ({
  ...completedRow(task, { ...completion, id: task.sample.id }, "an answer", {
    run: 1,
    attempts: 1,
    device: "cpu:0",
    sequences: 1,
    wallMs: 15,
    gapMs: 5,
    logSamples: false,
  }),
  score,
  ...more,
});
const byIdentity = (rows: Row[]) => new Map(rows.map((row) => [identity(row), row]));

function ruler(scores: readonly number[], tasks = rulerTaskNames): TaskScore[] {
  return scores.flatMap((score, i) => tasks.map((task) => ({ task, length: 4096 * 2 ** i, score, whole: true })));
}

test("RULER's averages are those published", () => {
  const found = rulerAverages(ruler([96.5, 95.8, 95.4, 94.8, 88.4, 66.6]));
  expect(found.subset).toBe("ruler13");
  expect(found.mean).toBeCloseTo(89.6, 1);
  expect(found.wavgInc).toBeCloseTo(85.5, 1);
  expect(found.wavgDec).toBeCloseTo(93.7, 1);
  expect(found.effectiveLength).toBe(65536);
  expect(found.byLength["4096"]).toBeCloseTo(96.5, 10);
});

test("the twelve tasks without fwe are loom12, and stand beside all thirteen", () => {
  const twelve = rulerTaskNames.filter((task) => task !== "fwe");
  expect(rulerAverages(ruler([90], twelve)).subset).toBe("loom12");
  expect(rulerAverages(ruler([90], ["vt", "fwe"])).subset).toBe("tasks");
  const mixed = ruler([90]).map((cell) => (cell.task === "fwe" ? { ...cell, score: 0 } : cell));
  const { byLength, loom12 } = rulerAverages(mixed);
  expect(loom12!["4096"]).toBeCloseTo(90, 10);
  expect(byLength["4096"]).toBeCloseTo((12 * 90) / 13, 10);
});

test("an average that lacks a sample is none", () => {
  const partly = ruler([90, 80]).map((cell, i) => (i === 0 ? { ...cell, whole: false } : cell));
  expect(rulerAverages(partly)).toMatchObject({ mean: null, wavgInc: null, byLength: { "4096": null } });
});

test("methods within noise share a rank", () => {
  const scores = (value: (i: number) => number) =>
    new Map(Array.from({ length: 40 }, (_, i) => [`vt/512/${i}`, value(i)] as const));
  const ranks = rankMethods(
    new Map([
      ["Worst", scores(() => 0)],
      ["Best", scores(() => 100)],
      ["Close", scores((i) => (i < 2 ? 0 : 100))],
      ["Half", scores((i) => (i % 2 === 0 ? 0 : 100))],
      ["None", new Map()],
    ]),
  );
  expect([...ranks]).toEqual([
    ["Best", 1],
    ["Close", 1],
    ["Half", 3],
    ["Worst", 4],
  ]);
});

test("the accuracy table has the averages, the differences and the ranks below the scores", () => {
  const samples = [512, 1024].flatMap((length) => Array.from({ length: 10 }, (_, i) => sample("vt", length, i)));
  const tasks = tasksOf(samples, ["Full", "Poor"]);
  const rows = byIdentity(tasks.map((task) => rowOf(task, task.method.label === "Full" ? 1 : 0)));
  const cells = makeCells(tasks, rows);
  const findings = makeFindings("RULER", cells, tasks, rows);
  const table = accuracyTable(cells, { benchmark: "RULER", model: "m", view: "v", remarks: [], findings });
  const named = new Map(table.rows.map((row) => [row[0]!.text, row.slice(2).map((cell) => cell.text)]));
  expect(named.get("wAvg inc")).toEqual(["100.0", "0.0"]);
  expect(named.get("effective")).toEqual(["1K", "-"]);
  expect(named.get("to Full")).toEqual(["-", "-100.0\n[-100, -100]"]);
  expect(named.get("rank")).toEqual(["1", "2"]);
  expect(cells.cost[0]!.idleShare).toBeCloseTo(0.25, 10);
});

test("LongBench's sets are the rows, LongBench-E's by range of length", () => {
  const one = (task: string, at: number, sourceLength: number) => ({
    ...sample(task, 512, at),
    id: `${task}/all/${at}`,
    length: null,
    sourceLength,
  });
  const tasks = tasksOf([one("trec", 0, 10), one("qasper_e", 0, 3999), one("qasper_e", 1, 8000)], ["Full"]);
  const rows = byIdentity(tasks.map((task, i) => rowOf(task, i / 2)));
  const cells = makeCells(tasks, rows);
  const findings = makeFindings("LongBench", cells, tasks, rows);
  const table = accuracyTable(cells, { benchmark: "LongBench", model: "m", view: "v", remarks: [], findings });
  expect(table.rows.map((row) => [row[0]!.text, row[2]!.text.split("\n")[0]!]).slice(0, 4)).toEqual([
    ["trec", "0.0"],
    ["qasper_e", "75.0"],
    ["  0-4k", "50.0"],
    ["  8k+", "100.0"],
  ]);
});

test("predictions have the keys that RULER's scorer reads, and a summary", () => {
  const tasks = tasksOf([sample("vt", 512, 0), sample("vt", 512, 1), sample("cwe", 512, 0)], ["Full"]);
  const rows = tasks.map((task, i) => rowOf(task, i / 2, i === 0 ? { prediction: " \n" } : {}));
  const files = predictionFiles("RULER", tasks, byIdentity(rows));
  expect([...files.keys()]).toEqual([
    "predictions/Full/512/vt.jsonl",
    "predictions/Full/512/cwe.jsonl",
    "predictions/Full/512/summary.csv",
  ]);
  const lines = files.get("predictions/Full/512/vt.jsonl")!.trim().split("\n");
  expect(JSON.parse(lines[1]!)).toEqual({
    index: 1,
    pred: "an answer",
    input: "",
    outputs: ["0 1 2 3 4"],
    others: { id: "vt/512/1" },
    truncation: -1,
    length: 512,
  });
  expect(files.get("predictions/Full/512/summary.csv")).toBe("Tasks,vt,cwe\nScore,25,100\nNulls,1,0\n");
});

test("predictions have the keys that LongBench's scorer reads, LongBench-E's in a folder of their own", () => {
  const one = { ...sample("trec_e", 512, 0), length: null, sourceLength: 7, classes: ["Person", "Place"] };
  const tasks = tasksOf([one], ["Full"]);
  const files = predictionFiles("LongBench", tasks, byIdentity([rowOf(tasks[0]!, 1)]));
  expect([...files.keys()]).toEqual(["predictions_e/Full/trec.jsonl"]);
  expect(JSON.parse([...files.values()][0]!)).toEqual({
    pred: "an answer",
    answers: ["0 1 2 3 4"],
    all_classes: ["Person", "Place"],
    length: 7,
  });
});

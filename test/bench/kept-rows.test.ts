// Kept positions: as ranges and back, in files beside the samples, and for a plugin's end hook.
import { expect, test } from "bun:test";
import { appendFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { readKept } from "../../src/bench/kept-rows.ts";
import { RunDirectory } from "../../src/bench/rundir.ts";
import { runTasks } from "../../src/bench/runner.ts";
import { positionsOf, rangesOf } from "../../src/engine/kept.ts";
import { range } from "../support/choice.ts";
import { planOf, sample, tasksOf } from "../support/fake-plan.ts";
import { folder } from "../support/folder.ts";
import { Random } from "../support/random.ts";

test("positions become ranges and come back", () => {
  for (const [positions, text] of [
    [[], ""],
    [[0], "0"],
    [[0, 1], "0-1"],
    [[5, 7, 8, 9, 40], "5,7-9,40"],
    [range(0, 131072), "0-131071"],
  ] as const) {
    expect(rangesOf(positions)).toBe(text);
    expect(positionsOf(text)).toEqual([...positions]);
  }
  const random = new Random(1);
  for (let i = 0; i < 50; i++) {
    const positions = random.choose(random.ints(1, 0, 60)[0]!, 0, 60);
    expect(positionsOf(rangesOf(positions))).toEqual(positions);
  }
});

test("every logged sample has a line in the file beside its rows; a torn line is passed over", async () => {
  const path = folder();
  const directory = RunDirectory.open(path);
  const tasks = tasksOf([sample("vt", 512, 0), sample("vt", 512, 1)], ["Full", "SnapKV"]);
  await runTasks(planOf(tasks, { logKept: true }), directory);
  await directory.close();
  expect(readdirSync(path).filter((name) => name.startsWith("kept_"))).toEqual([
    "kept_Full_vt_512.jsonl",
    "kept_SnapKV_vt_512.jsonl",
  ]);
  const file = join(path, "kept_SnapKV_vt_512.jsonl");
  const lines = readKept(file);
  expect(lines.map(({ key }) => key).sort()).toEqual(["vt/512/0 SnapKV", "vt/512/1 SnapKV"]);
  expect(lines[0]).toMatchObject({ run: 1, task: "vt", length: 512, method: "SnapKV", batch: 1, repeat: 0 });
  expect(lines[0]).toMatchObject({ tokens: 11, prompt: [["0-3,9"]], end: [["0-3,9-10"]] });
  appendFileSync(file, '{"key": "half a li');
  expect(readKept(file)).toHaveLength(2);
  expect(readKept(join(path, "kept_None_vt_512.jsonl"))).toEqual([]);
});

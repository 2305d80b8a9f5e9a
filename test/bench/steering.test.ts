// A run that is steered: pause, skip a cell, measure a method anew after its file was saved.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { identity, type Task } from "../../src/bench/rows.ts";
import type { RunEvent, RunOutcome } from "../../src/bench/run-contract.ts";
import { RunDirectory, readRows } from "../../src/bench/rundir.ts";
import { runTasks } from "../../src/bench/runner.ts";
import { cellName, Steering } from "../../src/bench/steering.ts";
import { method, planOf, sample, tasksOf } from "../support/fake-plan.ts";
import { folder } from "../support/folder.ts";

let state: string;
beforeEach(() => {
  state = folder();
  process.env.FAKE_ENGINE_STATE = state;
});
afterEach(() => {
  delete process.env.FAKE_ENGINE_STATE;
});

const log = () => (existsSync(join(state, "log")) ? readFileSync(join(state, "log"), "utf8").trim().split("\n") : []);
const four = () => [0, 1, 2, 3].map((at) => sample("vt", 512, at));

/** Runs tasks; `on` sees each event while it happens. */
async function steered(
  tasks: Task[],
  steering: Steering,
  on: (event: RunEvent, stop: () => void) => void,
  path = folder(),
) {
  const directory = RunDirectory.open(path);
  directory.writeManifest({ version: "test" });
  const stop = new AbortController();
  let outcome: RunOutcome;
  try {
    const control = { steering, stop: stop.signal };
    outcome = await runTasks(planOf(tasks), directory, (event) => on(event, () => stop.abort()), control);
  } finally {
    await directory.close();
  }
  return { outcome, rows: new Map(directory.rows), path };
}

test("a paused run starts no sample until it goes on, and then finishes", async () => {
  const steering = new Steering();
  let seen = 0;
  const { outcome } = await steered(tasksOf(four(), ["Full"]), steering, (event) => {
    if (event.type !== "row" || event.done !== 2) return;
    steering.pause();
    setTimeout(() => {
      seen = log().length;
      steering.resume();
    }, 150);
  });
  expect(seen).toBe(2);
  expect(outcome).toMatchObject({ missing: 0, interrupted: false });
  expect(log()).toHaveLength(4);
});

test("a paused run can be stopped", async () => {
  const steering = new Steering();
  const { outcome } = await steered(tasksOf(four(), ["Full"]), steering, (event, stop) => {
    if (event.type !== "row" || event.done !== 1) return;
    steering.pause();
    setTimeout(stop, 50);
  });
  expect(outcome).toMatchObject({ missing: 3, interrupted: true });
});

test("what is left of a skipped cell is not run, is no failure, and runs at the next start", async () => {
  const tasks = tasksOf(four(), ["Full", "SnapKV"]);
  const steering = new Steering();
  const skipped: string[] = [];
  const { outcome, rows, path } = await steered(tasks, steering, (event) => {
    if (event.type === "start" && event.tasks[0]!.method.label === "SnapKV") steering.skip(cellName(event.tasks[0]!));
    if (event.type === "skipped") skipped.push(...event.tasks.map((task) => task.sample.id));
  });
  expect(outcome).toMatchObject({ skipped: 3, missing: 0, interrupted: false });
  expect(skipped).toEqual(["vt/512/1", "vt/512/2", "vt/512/3"]);
  expect(rows.size).toBe(5);
  const again = await steered(tasks, new Steering(), () => {}, path);
  expect(again.outcome).toMatchObject({ skipped: 0, missing: 0, reused: 5 });
});

test("after a save the method's rows are stale, also on disk, and only they are measured anew", async () => {
  const tasks = tasksOf(four(), ["Full", "SnapKV"]);
  const steering = new Steering(true);
  let idle = 0;
  const { outcome, rows, path } = await steered(tasks, steering, (event, stop) => {
    if (event.type !== "idle") return;
    idle += 1;
    if (idle === 2) return stop();
    steering.replan({ tasks, stale: (row) => row.method_hash === method("SnapKV").hash, held: () => false });
  });
  expect(log().filter((line) => line.startsWith("Full"))).toHaveLength(4);
  expect(log().filter((line) => line.startsWith("SnapKV"))).toHaveLength(8);
  expect(outcome.missing).toBe(0);
  expect([...rows.values()].every((row) => row.status === "ok")).toBe(true);
  expect(
    readRows(path)
      .filter((row) => row.status === "stale")
      .map((row) => row.method),
  ).toEqual(Array(4).fill("SnapKV"));
});

test("rows that are stale when the run ends are measured at the next start", async () => {
  const tasks = tasksOf(four(), ["SnapKV"]);
  const steering = new Steering(true);
  const first = await steered(tasks, steering, (event, stop) => {
    if (event.type !== "idle") return;
    steering.replan({ tasks, stale: () => true, held: () => true });
    stop();
  });
  expect(first.outcome.missing).toBe(4);
  const second = await steered(tasks, new Steering(), () => {}, first.path);
  expect(second.outcome).toMatchObject({ reused: 0, missing: 0 });
});

test("a sample that was in flight when its file was saved does not count, and runs again", async () => {
  const tasks = tasksOf(four(), ["Slow"]);
  const steering = new Steering(true);
  let saved = false;
  const { rows } = await steered(tasks, steering, (event, stop) => {
    if (event.type === "start" && !saved) {
      saved = true;
      steering.replan({ tasks, stale: () => true, held: () => false });
    } else if (event.type === "idle") stop();
  });
  expect(log().filter((line) => line.endsWith("vt/512/0"))).toHaveLength(2);
  expect(rows.size).toBe(4);
});

test("a plan with other tasks takes over: a task that is held waits, the others run", async () => {
  const [one, two] = [tasksOf(four().slice(0, 1), ["Full"]), tasksOf(four().slice(0, 2), ["Full", "SnapKV"])];
  const steering = new Steering(true);
  let idle = 0;
  const { outcome, rows } = await steered(one, steering, (event, stop) => {
    if (event.type !== "idle") return;
    idle += 1;
    if (idle === 1) steering.replan({ tasks: two, stale: () => false, held: (task) => task.method.label === "SnapKV" });
    else stop();
  });
  expect([...rows.keys()].sort()).toEqual(
    two
      .filter((task) => task.method.label === "Full")
      .map(identity)
      .sort(),
  );
  expect(outcome).toMatchObject({ missing: 2 });
});

// What goes wrong around a run: workers killed at any point, a full disk, a device that disappears. Rows say it, nothing is lost.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { identity } from "../../src/bench/rows.ts";
import type { RunPlan } from "../../src/bench/run-contract.ts";
import { readRows } from "../../src/bench/rundir.ts";
import { engineOptions, planOf, sample, tasksOf } from "../support/fake-plan.ts";
import { killEngines, run } from "../support/fault-run.ts";
import { folder } from "../support/folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

let state: string;
let model: string;
beforeAll(() => {
  model = writeTinyModel(join(mkdtempSync(join(tmpdir(), "kvaccel-faults-")), "model"));
});
afterAll(() => rmSync(join(model, ".."), { recursive: true }));
beforeEach(() => {
  state = folder();
  process.env.FAKE_ENGINE_STATE = state;
});
afterEach(() => {
  delete process.env.FAKE_ENGINE_STATE;
});

/** Real engines on a tiny model; the result lists who ran what. */
const realPlan = (count: number, more: Partial<RunPlan> = {}) =>
  planOf(
    tasksOf(
      Array.from({ length: count }, (_, n) => ({ ...sample("vt", 512, n), maxNewTokens: 1000 })),
      ["Full"],
    ),
    { engines: [{ ...engineOptions, model: { dir: model } }], process: {}, ...more },
  );

test("a worker killed while it loads is started again, and says so", async () => {
  const engines = [{ ...engineOptions, model: { dir: "dies-once" } }];
  const { rows, notes, outcome } = await run(folder(), planOf(tasksOf([sample("vt", 512, 0)], ["Full"]), { engines }));
  expect(rows.map(({ status, attempts }) => [status, attempts])).toEqual([["ok", 1]]);
  expect(notes).toEqual(["cpu:0, while loading: the engine process was ended by SIGKILL; it is started again"]);
  expect(outcome).toMatchObject({ missing: 0, failures: [] });
});

test.each(["prefill", "decode"] as const)("a worker killed in %s: its sample runs again, once", async (phase) => {
  let killed = false;
  const { rows, notes } = await run(folder(), realPlan(3), (event) => {
    if (killed || event.type !== "phase" || event.phase !== phase) return;
    killed = true;
    killEngines();
  });
  expect(rows.map(({ status }) => status)).toEqual(["ok", "ok", "ok"]);
  expect(rows.map(({ attempts }) => attempts).toSorted()).toEqual([1, 1, 2]);
  expect(notes).toHaveLength(1);
  expect(notes[0]).toContain("the engine process was ended by SIGKILL; it is run again");
  expect(new Set(rows.map(identity)).size).toBe(3);
});

test("a worker killed while a row is written takes no row with it", async () => {
  let kills = 0;
  const path = folder();
  const { rows } = await run(path, realPlan(4), (event) => {
    if (event.type === "row" && kills++ < 2) killEngines();
  });
  expect(rows.every(({ status }) => status === "ok")).toBe(true);
  expect(readRows(path).map(identity).toSorted()).toEqual(rows.map(identity).toSorted());
});

test("a full disk ends the run with the file's name; what was written stays, and the same command goes on", async () => {
  const path = folder();
  const tasks = tasksOf([sample("vt", 1024, 0), sample("cwe", 512, 1)], ["Full"]);
  await run(path, planOf(tasks.slice(0, 1)));
  const times = join(path, "timings.jsonl");
  renameSync(times, `${times}.aside`);
  symlinkSync("/dev/full", times); // takes nothing: ENOSPC
  await expect(run(path, planOf(tasks))).rejects.toThrow(/timings.jsonl cannot be written: the disk is full/);
  renameSync(`${times}.aside`, times);
  expect(readRows(path).map(({ id }) => id)).toEqual(["vt/1024/0"]);
  const { outcome, rows } = await run(path, planOf(tasks));
  expect(outcome).toMatchObject({ reused: 1, missing: 0 });
  expect(rows.map(({ status }) => status)).toEqual(["ok", "ok"]);
  expect(readRows(path)).toHaveLength(2);
});

test("a device that disappears: its sample runs on another, the run goes on without it", async () => {
  const engines = [engineOptions, { ...engineOptions, device: "cpu:9" }];
  const tasks = tasksOf(
    Array.from({ length: 6 }, (_, n) => sample("vt", 512, n)),
    ["LosesDevice", "Slow"],
  );
  // the first sample of LosesDevice ends its engine wherever it runs: cpu:9 does not come back
  const { rows, notes, outcome } = await run(folder(), planOf(tasks, { engines }));
  expect(rows).toHaveLength(12);
  expect(rows.every(({ status }) => status === "ok")).toBe(true);
  expect(notes.some((note) => note.includes("the GPU has fallen off the bus; it is run again"))).toBe(true);
  expect(outcome.missing).toBe(0);
});

test("when the only device disappears the rest has no rows, and the outcome says why", async () => {
  const engines = [{ ...engineOptions, device: "cpu:9" }];
  const tasks = tasksOf(
    Array.from({ length: 3 }, (_, n) => sample("vt", 512, n)),
    ["LosesDevice"],
  );
  const { rows, notes, outcome } = await run(folder(), planOf(tasks, { engines }));
  expect(rows).toEqual([]);
  expect(outcome).toMatchObject({ missing: 3, failures: ["device 9 is not one of the 1 that the driver shows"] });
  expect(notes.at(-1)).toBe("no engine on cpu:9: device 9 is not one of the 1 that the driver shows");
});

test("four engines are busy nine tenths of the time on a skewed set of lengths", async () => {
  const lengths = [...Array.from({ length: 6 }, () => 8192), ...Array.from({ length: 60 }, (_, n) => 512 + 32 * n)];
  const engines = Array.from({ length: 4 }, (_, n) => ({ ...engineOptions, device: `cpu:${n}` }));
  const tasks = tasksOf(
    lengths.map((length, n) => sample("vt", length, n % 9)).map((one, n) => ({ ...one, id: `${n}` })),
    ["Timed"],
  );
  const since = new Map<number, number>();
  const busy = [0, 0, 0, 0];
  let [begin, end] = [0, 0];
  const { rows } = await run(folder(), planOf(tasks, { engines }), (event) => {
    const now = performance.now();
    if (event.type === "start") {
      begin ||= now;
      since.set(event.engine, now);
    } else if (event.type === "row") {
      end = now;
      const at = Number(event.row.device.slice(4));
      busy[at]! += now - since.get(at)!;
    }
  });
  expect(rows).toHaveLength(66);
  for (const share of busy.map((ms) => ms / (end - begin))) expect(share).toBeGreaterThan(0.9);
}, 30_000);

// The runner with a fake engine: rows, retries, batches, out of memory, stopping, resuming, kill -9.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeCells } from "../../src/bench/cells.ts";
import { identity } from "../../src/bench/rows.ts";
import type { RunControl, RunEvent, RunPlan } from "../../src/bench/run-contract.ts";
import { RunDirectory, readRows } from "../../src/bench/rundir.ts";
import { runTasks } from "../../src/bench/runner.ts";
import { renderMarkdown } from "../../src/bench/table.ts";
import { accuracyTable, costTable } from "../../src/bench/tables.ts";
import { engineOptions, killedTasks, planOf, sample, tasksOf } from "../support/fake-plan.ts";
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

async function run(path: string, plan: RunPlan, control: RunControl = {}, fresh = false) {
  const directory = RunDirectory.open(path, { fresh });
  directory.writeManifest({ version: "test" });
  const events: RunEvent[] = [];
  try {
    const outcome = await runTasks(plan, directory, (event) => events.push(event), control);
    return { outcome, events, rows: new Map(directory.rows) };
  } finally {
    await directory.close();
  }
}

test("every sample and method gets one row and one line of raw times", async () => {
  const path = folder();
  const samples = [512, 1024].flatMap((length) => [0, 1].map((at) => sample("vt", length, at)));
  const { outcome, rows } = await run(path, planOf(tasksOf(samples, ["Full", "SnapKV"])));
  expect(outcome).toMatchObject({ interrupted: false, missing: 0, reused: 0, failures: [] });
  expect(rows.size).toBe(8);
  expect([...rows.values()].every((row) => row.status === "ok" && row.score === 1 && row.attempts === 1)).toBe(true);
  expect(readdirSync(path).sort()).toEqual([
    "manifest.json",
    "samples_Full_vt_1024.jsonl",
    "samples_Full_vt_512.jsonl",
    "samples_SnapKV_vt_1024.jsonl",
    "samples_SnapKV_vt_512.jsonl",
    "timings.jsonl",
  ]);
  const times = readFileSync(join(path, "timings.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(times.length).toBe(8);
  expect(times[0].token_ms).toEqual([2, 2, 2, 2]);
});

test("the longest samples run first, and equal lengths method by method", async () => {
  const samples = [sample("vt", 512, 0), sample("vt", 2048, 0), sample("vt", 2048, 1)];
  await run(folder(), planOf(tasksOf(samples, ["A", "B"])));
  expect(log()).toEqual(["A vt/2048/0", "A vt/2048/1", "B vt/2048/0", "B vt/2048/1", "A vt/512/0", "B vt/512/0"]);
});

test("a finished run is reused as it is", async () => {
  const path = folder();
  const plan = planOf(tasksOf([sample("vt", 512, 0)], ["Full", "SnapKV"]));
  const first = await run(path, plan);
  const second = await run(path, plan);
  expect(second.outcome).toMatchObject({ reused: 2, missing: 0, infos: [] });
  expect(log().length).toBe(2);
  expect(second.rows).toEqual(first.rows);
});

test("fresh measures anew and keeps the earlier rows in their files", async () => {
  const path = folder();
  const plan = planOf(tasksOf([sample("vt", 512, 0)], ["Full"]));
  await run(path, plan);
  const second = await run(path, plan, {}, true);
  expect(second.outcome.reused).toBe(0);
  expect(readRows(path).map((row) => row.run)).toEqual([1, 2]);
  const third = await run(path, plan);
  expect(third.outcome.reused).toBe(1);
});

test("a sample whose engine died is run once more on a fresh one", async () => {
  const samples = [sample("vt", 512, 0), sample("vt", 512, 1)];
  const { rows, events } = await run(folder(), planOf(tasksOf(samples, ["DiesOnce"])));
  expect([...rows.values()].map((row) => [row.status, row.attempts])).toEqual([
    ["ok", 2],
    ["ok", 2],
  ]);
  expect(events.filter((event) => event.type === "loaded").length).toBe(3);
});

test("a sample that ends two engines is marked, and the others go on", async () => {
  const samples = [sample("vt", 512, 0)];
  const { rows, outcome } = await run(folder(), planOf(tasksOf(samples, ["Dies", "Full"])));
  const [dead, full] = [...rows.values()];
  expect(dead).toMatchObject({ method: "Dies", status: "error", attempts: 2, score: null });
  expect(dead!.error).toContain("SIGSEGV");
  expect(full).toMatchObject({ method: "Full", status: "ok" });
  expect(outcome.missing).toBe(0);
});

test("a method that ends the engine at every sample is given up", async () => {
  const samples = [0, 1, 2, 3, 4].map((at) => sample("vt", 512, at));
  const { rows } = await run(folder(), planOf(tasksOf(samples, ["Dies"])));
  expect(log().length).toBe(6);
  expect([...rows.values()].at(-1)!.error).toContain("not run: Dies ended the engine process at 3 samples in a row");
});

test("an engine that never answers is ended after the time without a heartbeat", async () => {
  const plan = planOf(tasksOf([sample("vt", 512, 0)], ["Hangs", "Full"]));
  plan.process = { ...plan.process, heartbeatMs: 300 };
  const { rows } = await run(folder(), plan);
  const [hung, full] = [...rows.values()];
  expect(hung).toMatchObject({ status: "error", attempts: 2 });
  expect(hung!.error).toContain("no sign of life");
  expect(full!.status).toBe("ok");
});

test("a plugin's error is its sample's row, without a second try", async () => {
  const { rows } = await run(folder(), planOf(tasksOf([sample("vt", 512, 0)], ["Throws"])));
  expect([...rows.values()][0]).toMatchObject({
    status: "error",
    attempts: 1,
    error: expect.stringContaining("layer 0"),
  });
  expect(log().length).toBe(1);
});

test("out of memory is a row with the figures, and a later start tries it again", async () => {
  const path = folder();
  const plan = planOf(tasksOf([sample("vt", 512, 0), sample("vt", 1024, 0)], ["OutOfMemory"]));
  const { rows } = await run(path, plan);
  expect([...rows.values()].map((row) => row.status)).toEqual(["oom", "ok"]);
  expect([...rows.values()][0]!.error).toContain("2.0 GiB");
  await run(path, plan);
  expect(log()).toEqual(["OutOfMemory vt/1024/0", "OutOfMemory vt/512/0", "OutOfMemory vt/1024/0"]);
});

test("batches hold samples of one length and method, and a batch that fails runs sample by sample", async () => {
  const samples = [sample("vt", 512, 0), sample("cwe", 512, 1), sample("vt", 512, 2), sample("vt", 1024, 0)];
  const { rows } = await run(folder(), planOf(tasksOf(samples, ["ThrowsInBatch"], { batch: 2 })));
  expect(log()).toEqual([
    "ThrowsInBatch vt/1024/0",
    "ThrowsInBatch vt/512/0 cwe/512/1",
    "ThrowsInBatch vt/512/0",
    "ThrowsInBatch cwe/512/1",
    "ThrowsInBatch vt/512/2",
  ]);
  expect([...rows.values()].every((row) => row.status === "ok" && row.batch === 2)).toBe(true);
});

test("several engines share one queue, and each sample runs once", async () => {
  const samples = Array.from({ length: 12 }, (_, at) => sample("vt", 512, at));
  const plan = planOf(tasksOf(samples, ["Slow"]), { engines: [engineOptions, { ...engineOptions, device: "cpu:1" }] });
  const { rows } = await run(folder(), plan);
  expect(log().length).toBe(12);
  expect(new Set([...rows.values()].map((row) => row.device))).toEqual(new Set(["cpu:0", "cpu:1"]));
});

test("an engine that cannot load is the run's error", async () => {
  const plan = planOf(tasksOf([sample("vt", 512, 0)], ["Full"]), {
    engines: [{ ...engineOptions, model: { shape: "x", seed: 1 } }],
  });
  expect(run(folder(), plan)).rejects.toThrow("the model needs 16 GiB, 8 GiB is free");
});

test("a wish to stop drops what does not finish within the grace; a resumed run does the rest", async () => {
  const path = folder();
  const tasks = [...tasksOf([sample("vt", 1024, 0)], ["Full"]), ...tasksOf([sample("vt", 512, 0)], ["Sleeps", "Full"])];
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 600);
  const started = performance.now();
  const { outcome, rows } = await run(path, planOf(tasks), { stop: stop.signal, graceMs: 200 });
  expect(performance.now() - started).toBeLessThan(5000);
  expect(outcome).toMatchObject({ interrupted: true, missing: 2 });
  expect([...rows.values()].map((row) => row.id)).toEqual(["vt/1024/0"]);
});

test("a torn last line is passed over and left in the file", async () => {
  const path = folder();
  const plan = planOf(tasksOf([sample("vt", 512, 0), sample("vt", 512, 1)], ["Full"]));
  await run(path, plan);
  const file = join(path, "samples_Full_vt_512.jsonl");
  const lines = readFileSync(file, "utf8").trim().split("\n");
  const torn = lines[1]!.slice(0, 100);
  writeFileSync(file, `${lines[0]}\n${torn}`);
  const { outcome } = await run(path, plan);
  expect(outcome).toMatchObject({ reused: 1, missing: 0 });
  const after = readFileSync(file, "utf8").trim().split("\n");
  expect(after[1]).toBe(torn);
  expect(JSON.parse(after[2]!).id).toBe("vt/512/1");
});

test("a second run in one directory is refused while the first lives", () => {
  const path = folder();
  const directory = RunDirectory.open(path);
  expect(() => RunDirectory.open(path)).toThrow(`process ${process.pid} is writing to ${path}`);
  directory.close();
});

test("the lock of a dead process is taken over", async () => {
  const path = folder();
  const child = Bun.spawn(["true"]);
  await child.exited;
  writeFileSync(
    join(path, "lock"),
    JSON.stringify({ pid: child.pid, host: (await import("node:os")).hostname(), started: "1" }),
  );
  const directory = RunDirectory.open(path);
  await directory.close();
  expect(existsSync(join(path, "lock"))).toBe(false);
});

test("a directory that cannot be written is named", () => {
  expect(() => RunDirectory.open("/proc/nowhere")).toThrow("the run directory /proc/nowhere cannot be made");
});

test("a manifest that is none is not overwritten", () => {
  const path = folder();
  appendFileSync(join(path, "manifest.json"), "{}");
  expect(() => RunDirectory.open(path)).toThrow("is not the manifest of a run");
  expect(existsSync(join(path, "lock"))).toBe(false);
});

/** `make test-kills` takes 200. */
const kills = Number(process.env.KILLS ?? 10);

test(
  `after kill -9 at ${kills} random moments a resumed run has each sample once, and the tables of an undisturbed one`,
  async () => {
    const script = join(import.meta.dir, "..", "support", "fake-run-child.ts");
    const start = (path: string) => Bun.spawn([process.execPath, script, path], { stdout: "ignore", stderr: "ignore" });
    const path = folder();
    const moments = Array.from({ length: kills }, () => Math.round(80 + 420 * Math.random()));
    for (const moment of moments) {
      const child = start(path);
      await Bun.sleep(moment);
      child.kill("SIGKILL");
      await child.exited;
    }
    const undisturbed = folder();
    expect(await Promise.all([start(path), start(undisturbed)].map((child) => child.exited))).toEqual([0, 0]);
    const rows = readRows(path);
    expect({ moments, rows: rows.length, different: new Set(rows.map(identity)).size }).toEqual({
      moments,
      rows: 60,
      different: 60,
    });
    const [killed, whole] = [rows, readRows(undisturbed)].map((some) => {
      const cells = makeCells(killedTasks(), new Map(some.map((row) => [identity(row), row])));
      const context = { benchmark: "RULER", model: "fake", view: "question aware", remarks: [] };
      return [accuracyTable(cells, context), costTable(cells, context)].map(renderMarkdown).join("\n");
    });
    expect(killed).toBe(whole!);
    expect(killed).not.toContain("missing");
  },
  60_000 + 1000 * kills,
);

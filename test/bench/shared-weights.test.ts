// Engines that share a device's weights: one copy in memory, which outlives each of them, and what happens when its holder does not.
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { EngineProcess } from "../../src/bench/engine-process.ts";
import { WeightHolders } from "../../src/bench/weight-holders.ts";
import { request } from "../../src/check/trace.ts";
import type { EngineOptions } from "../../src/engine/protocol.ts";
import { parseConfig } from "../../src/model/config.ts";
import { startAccel } from "../support/accel.ts";
import { engineOptions, method, planOf, sample, tasksOf } from "../support/fake-plan.ts";
import { run, workersOf } from "../support/fault-run.ts";
import { folder } from "../support/folder.ts";
import { tinyConfig } from "../support/tiny-model.ts";

/** What a process maps of shared blocks, and what of its memory no other process has; bytes. */
function memoryOf(pid: number): { blocks: number; share: number; own: number } {
  const maps = readFileSync(`/proc/${pid}/smaps`, "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const sum = (texts: string[], field: string) =>
    1024 * texts.reduce((total, text) => total + Number(new RegExp(`^${field}: +(\\d+)`, "m").exec(text)?.[1] ?? 0), 0);
  const blocks = maps.filter((map) => map.includes("/memfd:kvaccel"));
  return { blocks: sum(blocks, "Size"), share: sum(blocks, "Pss"), own: sum(maps, "Private_Dirty") };
}

test("the weights are in memory once; a later engine finds them there; without their holder all start anew", async () => {
  const wide = { ...tinyConfig, hidden_size: 768, intermediate_size: 1536, num_hidden_layers: 2 };
  const source = { config: parseConfig(wide, "config.json"), seed: 1, deviation: 0.02 };
  const own: EngineOptions = { ...engineOptions, model: source };
  const shared: EngineOptions = { ...own, sharedBy: 2 };
  const holders = new WeightHolders({});
  const engines = await Promise.all([shared, shared, own].map((options) => holders.engine(options)));
  const answer = async (engine: EngineProcess) => (await engine.generate(method("Full"), [request([5, 6, 7, 8])]))[0]!;
  const answers = await Promise.all(engines.map(answer));
  expect(new Set(answers.map(({ ids }) => ids.join(" "))).size).toBe(1);
  expect(new Set(answers.map(({ peakBytes }) => peakBytes)).size).toBe(1);
  const { bytes, loadMs } = engines[0]!.info.sharedWeights!;
  expect(bytes).toBeGreaterThan(25 * 2 ** 20);
  expect(engines.map(({ info }) => info.weightBytes)).toEqual([bytes, bytes, bytes]);
  expect(engines[2]!.info.sharedWeights).toBeUndefined();

  const pids = engines.map(({ pid }) => pid);
  const [holder] = workersOf().holders;
  const readers = [holder!, pids[0]!, pids[1]!].map(memoryOf);
  const whole = Math.ceil(bytes / 4096) * 4096;
  expect(readers.map(({ blocks }) => blocks)).toEqual([whole, whole, whole]);
  const inMemory = readers.reduce((sum, { share }) => sum + share, 0);
  expect(Math.abs(inMemory / bytes - 1), `${inMemory} bytes for ${bytes}`).toBeLessThan(0.01);
  expect(memoryOf(pids[2]!).own - readers[1]!.own).toBeGreaterThan(0.6 * bytes);

  process.kill(pids[0]!, "SIGKILL");
  const [again, other] = await Promise.all([holders.engine(shared), answer(engines[1]!)]);
  expect(other.ids).toEqual(answers[0]!.ids);
  expect((await answer(again)).ids).toEqual(answers[0]!.ids);
  expect(workersOf().holders).toEqual([holder!]);
  expect(again.info.loadMs, `loading took ${loadMs}`).toBeLessThan(loadMs / 2);

  process.kill(holder!, "SIGKILL");
  const reasons = await Promise.all([again, engines[1]!].map(async ({ gone }) => (await gone).message));
  const reason = "the process that holds the weights of cpu:0 was ended by SIGKILL";
  expect(reasons).toEqual([reason, reason]);
  expect((await answer(engines[2]!)).ids).toEqual(answers[0]!.ids);
  const anew = await holders.engine(shared);
  expect((await answer(anew)).ids).toEqual(answers[0]!.ids);
  expect(workersOf().holders).toHaveLength(1);
  expect(workersOf().holders).not.toEqual([holder!]);
  await Promise.all([anew, engines[2]!].map((engine) => engine.stop()));
  await holders.stop();
  expect(workersOf()).toEqual({ engines: [], holders: [] });
}, 30_000);

/** Two engines on one device without a model, whose holder does what `model` says. */
async function faked(model: EngineOptions["model"], label = "Full") {
  process.env.FAKE_ENGINE_STATE = folder();
  try {
    const engine = { ...engineOptions, model, sharedBy: 2 };
    const tasks = tasksOf(
      [0, 1, 2, 3].map((n) => sample("vt", 512, n)),
      [label],
    );
    return await run(folder(), planOf(tasks, { engines: [engine, engine] }));
  } finally {
    delete process.env.FAKE_ENGINE_STATE;
  }
}

test("a killed engine comes back to the holder that lives", async () => {
  const { rows, notes } = await faked({ dir: "counted" }, "DiesOnce");
  expect(rows.map(({ status, attempts, numbers }) => [status, attempts, numbers])).toEqual(
    rows.map(() => ["ok", 2, { holder: 1 }]),
  );
  expect(rows.map((row) => row.shared_weight_bytes)).toEqual([5000, 5000, 5000, 5000]);
  expect(notes).toHaveLength(4);
  for (const note of notes) expect(note).toContain("the engine process was ended by SIGKILL; it is run again");
});

test("when the holder is killed its engines are ended, and their samples run again over a new one", async () => {
  const { rows, notes, outcome } = await faked({ dir: "counted" }, "KillsHolder");
  expect(rows.map(({ status }) => status)).toEqual(["ok", "ok", "ok", "ok"]);
  expect(rows.some(({ attempts, numbers }) => attempts === 2 && numbers.holder === 2)).toBe(true);
  expect(outcome).toMatchObject({ missing: 0, failures: [] });
  const lost = "the process that holds the weights of cpu:0 was ended by SIGKILL";
  expect(notes.some((note) => note.endsWith(`${lost}; it is run again`))).toBe(true);
  expect(notes.every((note) => note.includes(lost))).toBe(true); // the other engine may have been loading
});

test("a holder killed while it loads is started again", async () => {
  const { rows, notes, outcome } = await faked({ dir: "dies-once" });
  expect(rows.map(({ status, attempts }) => [status, attempts])).toEqual(rows.map(() => ["ok", 1]));
  const note =
    "cpu:0, while loading: the process that holds the weights of cpu:0 was ended by SIGKILL; it is started again";
  expect(notes).toEqual([note, note]);
  expect(outcome).toMatchObject({ missing: 0, failures: [] });
});

test("weights that cannot be read are loaded once more; a second time, the device has no engine", async () => {
  const said = "shared_open: its maker is gone";
  const once = await faked({ dir: "unreadable-once" });
  expect(once.rows.map(({ status }) => status)).toEqual(["ok", "ok", "ok", "ok"]);
  expect(once.notes.length).toBeGreaterThan(0);
  expect(new Set(once.notes.map((note) => note.split("; ").at(-1)))).toEqual(new Set(["it is started again"]));
  await expect(faked({ dir: "unreadable" })).rejects.toThrow(new RegExp(said));
});

test("a model that does not fit is the run's error, as without sharing", async () => {
  await expect(faked({ shape: "none", seed: 0 })).rejects.toThrow("the model needs 16 GiB, 8 GiB is free");
});

test("after kill -9 of the run neither engines nor holders are left, and no file in shared memory", async () => {
  const files = () => readdirSync("/dev/shm").sort();
  const before = files();
  const words = ["--task_names", "vt", "--length", "512", "--num_samples", "4", "--gp_num", "1/2", "--device", "cpu"];
  const child = startAccel(["run", ...words, "--threads", "1", "--output_path", folder()]);
  const started = () => workersOf(child.pid);
  while (started().engines.length < 2 && child.exitCode === null) await Bun.sleep(20);
  const { engines, holders } = started();
  child.kill("SIGKILL");
  expect([engines.length, holders.length]).toEqual([2, 1]);
  const left = () => [...engines, ...holders].filter((pid) => existsSync(`/proc/${pid}`));
  for (let waited = 0; left().length > 0 && waited < 10_000; waited += 50) await Bun.sleep(50);
  expect(left()).toEqual([]);
  expect(files()).toEqual(before);
}, 30_000);

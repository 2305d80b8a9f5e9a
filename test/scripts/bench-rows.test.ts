// Rows of `make bench` as they are measured: a layer's decode attention, tests through an engine, and the end of an engine's time.
import { expect, test } from "bun:test";
import { freeBytes } from "../../scripts/bench/device.ts";
import { type Card, engineGroup } from "../../scripts/bench/engine-jobs.ts";
import { layerGroup } from "../../scripts/bench/layer-jobs.ts";
import type { Part } from "../../scripts/bench/plan.ts";
import type { Row } from "../../scripts/bench/row.ts";
import { type Group, Schedule } from "../../scripts/bench/schedule.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { eachBackend } from "../support/backends.ts";

const registry = await loadPlugins([ownPlugins]);

async function rowsOf(group: Group): Promise<Row[]> {
  const rows: Row[] = [];
  const failures: (string | undefined)[] = [];
  const start = performance.now();
  await new Schedule([group], {
    totalMs: 60_000,
    now: () => performance.now() - start,
    emit: (made) => void rows.push(...made),
    done: (_name, _ms, failure) => void failures.push(failure),
  }).run();
  expect(failures).toEqual([undefined]);
  return rows;
}

eachBackend("the rows of make bench", (backend) => {
  const card = (): Card => ({
    shape: "tiny-ruler",
    device: backend.device,
    backend: backend.name,
    top: { device: "a device", copy: 1e11, gemm: 1e12 },
    free: freeBytes(backend.device),
    registry,
  });
  const part: Part = {
    name: "end",
    table: "end to end",
    layers: 5,
    tests: [
      { method: "Full", prompt: 1, newTokens: 6 },
      { method: "SnapKV[capacity=64]", prompt: 300, newTokens: 4, repetitions: 3, wanted: () => ({ prefillMs: 7 }) },
    ],
  };

  test("a layer's decode attention has 20 samples, and targets beside its floor", async () => {
    const rows = await rowsOf(layerGroup(2048, card()));
    expect(rows.map(({ name, error }) => [name, error])).toEqual([
      ["dense attention, 2K", undefined],
      ["decode attention, 2K", undefined],
      ["decode attention of 4-bit codes, 2K", undefined],
    ]);
    const bytes = [2048 * 4 * 4 * 64, 2048 * 4 * 2 * (32 + 8)];
    for (const [at, { ms, floorMs, targetMs }] of rows.slice(1).entries()) {
      expect(ms.length).toBe(20);
      expect(Math.min(...ms)).toBeGreaterThan(0);
      expect(floorMs).toBeCloseTo((1000 * bytes[at]!) / 1e11, 6);
      expect(targetMs).toBeCloseTo(floorMs! / [0.94, 0.88][at]!, 6);
    }
  });

  test("tests share an engine; each has its samples, its floors and its targets", async () => {
    const rows = await rowsOf(engineGroup(part, card()));
    expect(rows.map(({ name, ms, targetMs, error }) => [name, ms.length, targetMs, error])).toEqual([
      ["decode, Full 1", 6, undefined, undefined],
      ["prefill, SnapKV[capacity=64] 300", 3, 7, undefined],
      ["decode, SnapKV[capacity=64] 300", 12, undefined, undefined],
    ]);
    for (const { floorMs } of rows) expect(floorMs).toBeGreaterThan(0);
  });

  test("with fewer layers than planned the names say so, and there is no target", async () => {
    // between what three layers need and what five do; 32 MiB are cuBLAS's
    const memoryLimit = (backend.name === "cuda" ? 41.9 : 9.9) * 2 ** 20;
    const rows = await rowsOf(engineGroup({ ...part, memoryLimit }, card()));
    expect(rows.map(({ name, targetMs, notRun }) => [name, targetMs, notRun])).toEqual([
      ["decode, Full 1, 3 of 5 layers", undefined, undefined],
      ["prefill, SnapKV[capacity=64] 300, 3 of 5 layers", undefined, undefined],
      ["decode, SnapKV[capacity=64] 300, 3 of 5 layers", undefined, undefined],
    ]);
  });

  test("an engine whose time is over is ended, and its rows say why", async () => {
    const lost = new AbortController();
    const tests = [{ method: "Full", prompt: 1, newTokens: 1e6 }];
    const group = engineGroup({ ...part, tests }, { ...card(), lost: lost.signal });
    const jobs = group.jobs.map((job) => ({ ...job, cost: { ...job.cost, floorMs: 1 }, needBytes: 0 }));
    setTimeout(() => lost.abort("the 460 s of this run were over"), 1500);
    const start = performance.now();
    const rows = await rowsOf({ ...group, jobs });
    expect(rows.map(({ error }) => error)).toEqual(["the 460 s of this run were over"]);
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});

// Ada-KV: a layer's rows shared among its heads, against float64; ragged heads really save memory.
import { describe, expect, test } from "bun:test";
import plugin, { officialHeadRows } from "../../plugins/adakv.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { expectBest, range } from "../support/choice.ts";
import { generate, methodOf, openEngine, randomIds, request } from "../support/engine.ts";
import { matrix, row } from "../support/guarded.ts";
import { hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { topkCounts } from "../support/reference-heads.ts";
import * as reference from "../support/reference-scores.ts";

const sum = (list: readonly number[]) => list.reduce((all, x) => all + x, 0);

test("a window that fills the capacity, an even kernel and a floor above 1 are refused", () => {
  const refused = (overrides: Record<string, unknown>) => () => resolveParams(plugin, "paper", overrides);
  expect(refused({ capacity: 32 })).toThrow(/capacity must be above window/);
  expect(refused({ kernel: 2 })).toThrow(/odd/);
  expect(refused({ floor: 1.1 })).toThrow(/floor: must be a number from 0 to 1/);
});

describe("the authors' rule", () => {
  test("a floor and a share of the best rows, halves to even", () => {
    expect(officialHeadRows([0, 200], 100, 0.2)).toEqual([20, 180]);
    expect(officialHeadRows([5, 15], 10, 0.5)).toEqual([8, 12]); // 7.5, 12.5
    expect(officialHeadRows([10, 10], 10, 1)).toEqual([10, 10]);
    expect(officialHeadRows([3, 17], 10, 0)).toEqual([3, 17]);
    expect(officialHeadRows([435], 100, 0.7)).toEqual([200]); // 200.5 in fp32, above it in fp64
  });
});

eachBackend("Ada-KV on one layer", (backend) => {
  /** Heads whose votes differ in size: later ones attend more sharply. */
  function uneven(groupSize: number) {
    const columns = (groupSize + 2) * 3 * 64;
    return new Random(7).normals(150 * columns).map((x, i) => {
      const head = Math.floor((i % columns) / 64);
      return head < 3 * groupSize ? x * (1 + Math.floor(head / groupSize)) : x;
    });
  }

  for (const [groupSize, floor, allocation] of [
    [1, 0.2, "pinned"],
    [4, 0.2, "pinned"],
    [7, 0, "pinned"],
    [4, 1, "pinned"],
    [4, 0.2, "official"],
  ] as const) {
    test(`groups of ${groupSize}, floor ${floor}, ${allocation}: the formula's rows for every head`, () => {
      using scope = new Scope(backend.context);
      const shape = { kvHeads: 3, groupSize, headDim: 64, dtype: "float32" as const };
      const { hooks, shape: needed } = hooksOf(plugin, { capacity: 40, window: 8, floor, allocation }, shape);
      const prompt = prompted(scope, needed, uneven(groupSize));
      const queries = matrix(
        8,
        prompt.queryValues.columns,
        prompt.queryValues.data.slice(-8 * prompt.queryValues.columns),
      );
      const { mean } = reference.windowStats(prompt.twin.layer, queries, scaleOf(64), "mean", exact);
      const scores = reference.pool(mean, "max", 7);
      const least = Math.floor(floor * 32 + 1e-9);
      const pinned = matrix(3, scores.columns, scores.data);
      for (let h = 0; h < 3 && allocation === "pinned"; h++) {
        for (const c of reference.topk(row(scores, h), least)) row(pinned, h)[c] = Infinity;
      }
      const best = topkCounts(pinned, 96);
      const counts = allocation === "pinned" ? best : officialHeadRows(best, 32, floor);
      const kept = runPrefill(scope, hooks, prompt);
      if (floor < 1) expect(new Set(counts).size).toBeGreaterThan(1);
      if (allocation === "pinned") expect(sum(kept.map((positions) => positions.length))).toBe(3 * 40);
      kept.forEach((positions, h) => {
        expect(positions.length).toBe(counts[h]! + 8);
        expect(positions.length - 8).toBeGreaterThanOrEqual(Math.floor(floor * 32));
        expect(positions.slice(-8)).toEqual(range(142, 150));
        expectBest(positions.slice(0, -8), row(scores, h), counts[h]!);
      });
    });
  }
});

eachBackend("Ada-KV in the engine", (backend) => {
  test("heads of one layer hold different numbers of rows, and no byte more than their sum is held or kept allocated", async () => {
    const engine = openEngine(backend, { config: { num_hidden_layers: 4 } });
    const asked = [request(randomIds(400, 1), { maxNewTokens: 6 })];
    const before = engine.decoder.context.memory("cache").bytes;
    const [done] = await generate(engine, await methodOf("AdaKV[capacity=40,window=8,floor=0]"), asked);
    const [same] = await generate(engine, await methodOf("SnapKV[capacity=40,window=8]"), asked);
    expect(engine.decoder.context.memory("cache").bytes).toBe(before);
    engine.dispose();
    const lengths = done!.kept!.map((heads) => heads.map((positions) => positions.length));
    expect(lengths.some(([a, b]) => a !== b)).toBe(true);
    for (const heads of lengths) expect(sum(heads)).toBe(80);
    expect(done!.cacheBytes).toBe(same!.cacheBytes);
    expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
    expect(done!.cacheAllocatedBytes).toBeLessThanOrEqual(same!.cacheAllocatedBytes + 4 * 2 * 3 * 128);
  });

  test("beside ThinK and KIVI the ragged rows are stored smaller, and decoding goes on", async () => {
    const engine = openEngine(backend, { config: { head_dim: 64, num_hidden_layers: 3 } });
    const asked = [request(randomIds(300, 2), { maxNewTokens: 6 })];
    for (const text of ["AdaKV[capacity=80,window=8]", "DuoAttention[capacity=40]"]) {
      const [alone] = await generate(engine, await methodOf(text), asked);
      const [both] = await generate(engine, await methodOf(`${text}+ThinK+KIVI[residual=32]`), asked);
      expect(both!.kept).toEqual(alone!.kept!);
      expect(both!.ids).toHaveLength(6);
      expect(both!.cacheBytes).toBeLessThan(0.7 * alone!.cacheBytes);
      expect(Math.abs(both!.cacheBytes / both!.expectedCacheBytes - 1)).toBeLessThan(0.02);
    }
    engine.dispose();
  });
});

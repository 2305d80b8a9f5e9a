// PyramidKV: rows of each layer in its three ways, against the specification's numbers; SnapKV's votes inside a layer.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import plugin from "../../plugins/pyramidkv.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { expectBest, range } from "../support/choice.ts";
import { generate, methodOf, openEngine, randomIds, request, trace, traceOf } from "../support/engine.ts";
import { matrix, row } from "../support/guarded.ts";
import { scaleOf } from "../support/hooks.ts";
import { exact } from "../support/reference.ts";
import { attend, headOf } from "../support/reference-attention.ts";
import { causal, type LayerInputs, referenceLogits } from "../support/reference-model.ts";
import * as reference from "../support/reference-scores.ts";

const model = (layers: number) => ({ family: "llama", layers, heads: 8, kvHeads: 2, headDim: 64, hiddenSize: 512 });

/** Rows of each layer for a prompt of n tokens. */
function rowsOf(params: Record<string, unknown>, layers: number, n: number, preset = "paper"): number[] {
  const { values } = resolveParams(plugin, preset, params);
  return range(0, layers).map((l) => plugin.expectedRows!(values as never, n, 0, l, model(layers)));
}
const sum = (list: readonly number[]): number => list.reduce((all, x) => all + x, 0);

describe("layer budgets", () => {
  test("defaults: window 8, kernel 7, max, beta 20; the presets of the specification", () => {
    const values = (preset: string) => resolveParams(plugin, preset, {}).values;
    expect(values("paper")).toMatchObject({ window: 8, kernel: 7, pool: "max", beta: 20, budgets: "exact" });
    expect(values("kvcf")).toMatchObject({ window: 8, beta: 20, budgets: "kvcf" });
    expect(values("kvpress")).toMatchObject({ window: 64, kernel: 5, pool: "avg", budgets: "kvpress" });
    expect(values("paper")).toMatchObject({ gqaReduce: "mean", decodeInterval: 0 });
  });

  test("a window that fills the capacity, an even kernel and a beta below 1 are refused", () => {
    const refused = (overrides: Record<string, unknown>) => () => resolveParams(plugin, "paper", overrides);
    expect(refused({ capacity: 8 })).toThrow(/capacity must be above window/);
    expect(refused({ kernel: 4 })).toThrow(/odd/);
    expect(refused({ beta: 0.5 })).toThrow(/beta: must be a number of at least 1/);
  });

  test("check 1: the total is layers x capacity, rows never rise from layer to layer, none above the prompt", () => {
    for (const capacity of [64, 96, 128, 512, 2048, 4096]) {
      for (const layers of [4, 28, 32, 40, 80]) {
        for (const beta of [1, 2, 14, 20]) {
          for (const n of [capacity + 1, capacity + 9, 2 * capacity - 1, 2 * capacity + 17, 32_000]) {
            const rows = rowsOf({ capacity, beta }, layers, n);
            expect(sum(rows)).toBe(layers * capacity);
            expect(rows).toEqual(rows.toSorted((a, b) => b - a));
            expect(Math.max(...rows)).toBeLessThanOrEqual(n);
            expect(Math.min(...rows)).toBeGreaterThanOrEqual(8);
          }
        }
      }
    }
  });

  test("check 2: the golden vectors", () => {
    const beside = (layers: number, n: number) => rowsOf({ capacity: 128 }, layers, n).map((rows) => rows - 8);
    expect(beside(4, 8000)).toEqual([242 - 8, 166 - 8, 90 - 8, 14 - 8]);
    expect(beside(4, 200)).toEqual([200 - 8, 152 - 8, 104 - 8, 56 - 8]);
    const deep = rowsOf({ capacity: 128 }, 32, 8000);
    expect([...deep.slice(0, 3), deep[31]!]).toEqual([242, 235, 227, 14]);
  });

  test("check 2: kvcf gives the rows of the specification's table", () => {
    const table: Record<number, number[]> = {
      64: [64, 71.5, 79, 78.5],
      128: [134, 133.5, 144.5, 163],
      512: [518.5, 526, 523, 517],
      2048: [2055.5, 2048.5, 2055.5, 2050.5],
    };
    for (const [capacity, means] of Object.entries(table)) {
      const layers = [28, 32, 40, 80];
      const got = layers.map((l) => sum(rowsOf({ capacity: Number(capacity) }, l, 32_000, "kvcf")) / l);
      expect(got).toEqual(means);
    }
  });

  test("check 2: kvcf keeps all below C, is uniform below 2 B, a pyramid from there", () => {
    const rows = (n: number) => rowsOf({ capacity: 128 }, 4, n, "kvcf");
    expect(rows(127)).toEqual([127, 127, 127, 127]);
    expect(rows(128)).toEqual([128, 128, 128, 128]);
    expect(rows(239)).toEqual([128, 128, 128, 128]);
    expect(rows(240)).toEqual([240, 166, 92, 18]);
  });

  test("check 2: kvpress keeps its mean, and falls back to one budget where the top layer would hold less than a window", () => {
    for (const [n, keepRatio] of [
      [4096, 0.75],
      [8192, 0.5],
      [16384, 0.25],
    ] as const) {
      const rows = rowsOf({ keepRatio }, 32, n, "kvpress");
      const mean = Math.floor(n * keepRatio);
      expect(Math.abs(sum(rows) / 32 / mean - 1)).toBeLessThan(1e-3);
      expect(new Set(rows).size).toBeGreaterThan(1);
    }
    expect(new Set(rowsOf({ keepRatio: 0.25 }, 32, 4096, "kvpress"))).toEqual(new Set([1024]));
    expect(new Set(rowsOf({ keepRatio: 0.125 }, 32, 4096, "kvpress"))).toEqual(new Set([512]));
  });

  test("check 2: kvpress's own rows: an unrounded mean, halves to even", () => {
    // what PyramidKVPress.get_layer_budget gives for [n, 1 - compression_ratio, layers, window, beta]
    for (const [n, keepRatio, layers, window, beta, expected] of [
      [2801, 0.5, 8, 64, 20, [2731, 2351, 1971, 1591, 1210, 830, 450, 70]],
      [1001, 0.5, 4, 64, 20, [937, 646, 355, 64]],
      [3000, 0.3, 5, 32, 14, [1736, 1318, 900, 482, 64]],
      [777, 0.37, 3, 8, 6, [527, 287, 48]],
      [9, 0.5, 2, 1, 2, [7, 2]],
      [1001, 0.5, 2, 800, 20, [801, 801]], // the fallback's 500 hold no window; here a row beside it
    ] as const) {
      expect(rowsOf({ keepRatio, window, beta }, layers, n, "kvpress")).toEqual([...expected]);
    }
  });

  test("checks 3, 4: beta 1 is uniform, one layer holds the capacity", () => {
    expect(new Set(rowsOf({ capacity: 128, beta: 1 }, 32, 4000))).toEqual(new Set([128]));
    for (const preset of ["paper", "kvcf"]) expect(rowsOf({ capacity: 128 }, 1, 4000, preset)[0]).toBeGreaterThan(0);
    expect(rowsOf({ capacity: 128 }, 1, 4000)).toEqual([128]);
  });
});

eachBackend("PyramidKV in the engine", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend, { config: { num_hidden_layers: 4 } });
  });
  afterAll(() => engine.dispose());

  test("each layer keeps as many of its best rows as its budget says, and its window: those of a model in float64", async () => {
    const ids = randomIds(150, 8);
    const method = await methodOf("PyramidKV[capacity=40,window=8]");
    const [done] = await generate(engine, method, [request(ids, { maxNewTokens: 1 })]);
    const budgets = rowsOf({ capacity: 40, window: 8 }, 4, 150);
    expect(new Set(budgets).size).toBe(4);
    const inputs: LayerInputs[] = [];
    referenceLogits(engine, ids, causal, inputs);
    inputs.forEach(({ layer, queries }, l) => {
      const last = matrix(8, queries.columns, queries.data.subarray(142 * queries.columns));
      const votes = reference.windowStats(layer, last, scaleOf(16), "mean", exact).mean;
      const scores = reference.pool(votes, "max", 7);
      done!.kept![l]!.forEach((positions, h) => {
        expect(positions.slice(-8)).toEqual(range(142, 150));
        expectBest(positions.slice(0, -8), row(scores, h), budgets[l]! - 8);
      });
    });
  });

  test("check 3: beta 1 keeps SnapKV's rows", async () => {
    const input = traceOf(120, 4, 9);
    const kept = [];
    for (const text of ["PyramidKV[capacity=40,window=8,beta=1]", "SnapKV[capacity=40,window=8]"]) {
      kept.push((await trace(engine, await methodOf(text), [input]))[0]);
    }
    expect(kept[0]).toEqual(kept[1]!);
  });

  test("with a decode interval each layer goes back to its own budget, by recent votes of its float64 model; the window stays", async () => {
    const text = "PyramidKV[capacity=40,window=8,decodeInterval=3,kernel=5,pool=avg,gqaReduce=max]";
    const input = traceOf(120, 14, 12);
    const [traced] = await trace(engine, await methodOf(text), [input]);
    const budgets = rowsOf({ capacity: 40, window: 8 }, 4, 120);
    const inputs: LayerInputs[] = [];
    referenceLogits(
      engine,
      input.ids,
      (layer, kvHead, query) => {
        if (query < 120) return causal(layer, kvHead, query);
        const rows = [...traced!.kept[query - 120]![layer]![kvHead]!, query];
        return { rows: rows.map((token) => ({ token, position: token })), query };
      },
      inputs,
    );
    inputs.forEach(({ layer, queries }, l) => {
      const { headDim, groupSize } = layer;
      const prompt = { ...layer, heads: layer.heads.map((rows) => rows.slice(0, 120)) };
      const last = matrix(8, queries.columns, queries.data.slice(112 * queries.columns, 120 * queries.columns));
      const votes = reference.windowStats(prompt, last, scaleOf(headDim), "max", exact).mean;
      const scores = reference.pool(votes, "avg", 5);
      layer.heads.forEach((rows, g) => {
        const first = traced!.kept[0]![l]![g]!;
        expectBest(first.slice(0, -8), row(scores, g), budgets[l]! - 8);
        const held = new Map(first.map((p) => [p, row(scores, g)[p] ?? 0]));
        for (let token = 120; token < 134; token++) {
          held.set(token, 0);
          const seen = [...held.keys()];
          const mean = new Map(seen.map((p) => [p, 0]));
          for (let h = g * groupSize; h < (g + 1) * groupSize; h++) {
            const query = headOf(row(queries, token), h, headDim);
            const of = seen.map((p) => rows[p]!);
            const { probabilities } = attend(query, of, scaleOf(headDim), exact);
            for (const [r, p] of seen.entries()) mean.set(p, mean.get(p)! + probabilities[r]! / groupSize);
          }
          for (const [p, sum] of held) held.set(p, 0.875 * sum + mean.get(p)! / 8);
          if (held.size >= budgets[l]! + 3) {
            const old = [...held].filter(([p]) => p <= token - 8).sort((a, b) => a[1] - b[1] || a[0] - b[0]);
            for (const [p] of old.slice(0, held.size - budgets[l]!)) held.delete(p);
          }
          expect(traced!.kept[token - 119]![l]![g]).toEqual([...held.keys()].sort((a, b) => a - b));
          expect(held.size).toBeLessThan(budgets[l]! + 3);
        }
      });
    });
  });

  test("check 5: prompts of other lengths in one process get budgets of their own; decoding drops nothing", async () => {
    const method = await methodOf("PyramidKV[capacity=40,window=8]");
    for (const n of [100, 45, 300, 40, 30]) {
      const [traced] = await trace(engine, method, [traceOf(n, 3, n)]);
      const budgets = rowsOf({ capacity: 40, window: 8 }, 4, n);
      traced!.kept.forEach((layers, step) => {
        expect(layers.map((heads) => heads.map((positions) => positions.length))).toEqual(
          budgets.map((rows) => [rows + step, rows + step]),
        );
      });
    }
  });
});

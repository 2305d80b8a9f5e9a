// CakeKV: rows per layer by the specification's numbers, kept rows and decode evictions against float64.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import plugin, { officialRows, waterfill, wholeRows } from "../../plugins/cakekv.ts";
import snapkv from "../../plugins/snapkv.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { windowStats } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import type { Plugin } from "../../src/plugin/index.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { unrotating } from "../support/cache.ts";
import { expectBest, range } from "../support/choice.ts";
import { methodOf, openEngine, trace, traceOf } from "../support/engine.ts";
import { matrix, row } from "../support/guarded.ts";
import { decoderOf, hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { emptyLayer, ropeAppend } from "../support/reference-attention.ts";
import { causal, type LayerInputs, referenceLogits } from "../support/reference-model.ts";
import * as reference from "../support/reference-scores.ts";

const sum = (list: readonly number[]): number => list.reduce((all, x) => all + x, 0);

describe("layer budgets", () => {
  test("check 2: the official rule gives the golden vectors", () => {
    expect(officialRows([1, 2, 3, 4], 32, 11)).toEqual([5, 7, 9, 11]);
    expect(officialRows([1, 1, 1, 5], 32, 11)).toEqual([7, 7, 7, 11]);
    expect(officialRows([1, 2, 3, 4], 32, 98)).toEqual([4, 7, 9, 12]);
  });

  test("checks 2, 3, 5: water filling keeps the total, no layer above the prompt, and never gives rows back as layers arrive", () => {
    const random = new Random(1);
    for (let draw = 0; draw < 500; draw++) {
      const layers = random.int(1, 33);
      const most = random.int(1, 300);
      const total = random.int(0, layers * most * 2);
      const preferences = Array.from({ length: layers }, () => Math.exp(2 * random.normal()));
      const rows = wholeRows(waterfill(preferences, total, most));
      expect(sum(rows)).toBe(Math.min(total, layers * most));
      expect(Math.max(...rows)).toBeLessThanOrEqual(most);
      let before: number[] = [];
      for (let m = 1; m <= layers; m++) {
        const stage = waterfill(preferences.slice(0, m), total, most).map((x) => Math.ceil(x - 1e-9));
        for (const [l, x] of before.entries()) expect(stage[l]!).toBeLessThanOrEqual(x);
        before = stage;
      }
      for (const [l, x] of rows.entries()) expect(x).toBeLessThanOrEqual(before[l]!);
      expect(
        wholeRows(
          waterfill(
            preferences.map((p) => 1024 * p),
            total,
            most,
          ),
        ),
      ).toEqual(rows);
    }
    expect(waterfill([3, 3, 3], 30, 100)).toEqual([10, 10, 10]);
    expect(waterfill([0, 0], 30, 100)).toEqual([15, 15]);
  });

  test("defaults, and the temperatures of models that the authors searched", () => {
    expect(resolveParams(plugin, "paper", {}).values).toMatchObject({
      window: 32,
      gamma: 200,
      kernel: 5,
      cascade: true,
      allocation: "waterfill",
      decode: "sorted",
      tau1: 1,
      tau2: 1,
    });
    expect(resolveParams(plugin, "official", {}).values).toMatchObject({ allocation: "official", decode: "official" });
    expect(() => resolveParams(plugin, "paper", { capacity: 32 })).toThrow(/capacity must be above window/);
    const llama = { family: "llama", layers: 32, heads: 32, kvHeads: 8, headDim: 128, hiddenSize: 4096 };
    expect(resolveParams(plugin, "paper", {}, llama).values).toMatchObject({ tau1: 1.6, tau2: 0.4 });
    expect(resolveParams(plugin, "official", { capacity: 128 }, llama).values).toMatchObject({ tau1: 1.6, tau2: 0.6 });
    expect(resolveParams(plugin, "paper", { capacity: 512 }, llama).values).toMatchObject({ tau1: 1, tau2: 1 });
    expect(resolveParams(plugin, "paper", { tau1: 0.7 }, llama).values).toMatchObject({ tau1: 0.7, tau2: 0.4 });
    const mistral = { ...llama, family: "mistral" };
    expect(resolveParams(plugin, "paper", { capacity: 128 }, mistral).values).toMatchObject({ tau1: 1, tau2: 0.8 });
    expect(resolveParams(plugin, "paper", {}, { ...llama, family: "glm" }).values).toMatchObject({ tau1: 1, tau2: 1 });
  });
});

/** mean + gamma * variance of attention */
const combined = ({ mean, variance }: ReturnType<typeof reference.windowStats>, gamma = 200) =>
  matrix(
    mean.rows,
    mean.columns,
    mean.data.map((x, i) => x + gamma * variance.data[i]!),
  );

eachBackend("CakeKV on one layer", (backend) => {
  const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };
  const columns = 12 * 64;
  function keep(scope: Scope, params: Record<string, unknown>, qkv: ArrayLike<number>, of: Plugin = plugin) {
    const { hooks, shape: needed } = hooksOf(of, params, shape);
    const prompt = prompted(scope, needed, qkv);
    return { kept: runPrefill(scope, hooks, prompt), prompt };
  }

  test("check 1: with equal keys every row gets as much and the entropy is the largest there is; equal queries have no variance", () => {
    using scope = new Scope(backend.context);
    const random = new Random(21);
    const statistics = (qkv: Float64Array) => {
      const prompt = prompted(scope, { ...shape, sideArrays: 0 }, qkv);
      const queries = scope.view(prompt.queries, 92, 8);
      const totals = scope.tensor("float32", 1, 2);
      const [mean, variance] = [scope.tensor("float32", 2, 92), scope.tensor("float32", 2, 92)];
      windowStats(prompt.twin.cache, 0, queries, scaleOf(64), "mean", { mean, variance, scalars: totals });
      return { mean: mean.toFloats(), variance: variance.toFloats(), totals: Array.from(totals.toFloats()) };
    };
    const qkv = random.normals(100 * columns);
    const part = (i: number) => Math.floor((i % columns) / 64);
    const even = statistics(qkv.map((x, i) => (part(i) >= 8 && part(i) < 10 ? qkv[i % columns]! : x)));
    const most = range(0, 8).reduce((sum, i) => sum + (92 / (93 + i)) * Math.log(93 + i), 0);
    expect(Math.abs(even.totals[0]! / (8 * most) - 1)).toBeLessThan(1e-5);
    expect(even.totals[0]!).toBeGreaterThan(statistics(qkv).totals[0]!);
    // The window's own keys get nothing: every query then sees the same rows, and the same queries give the same attention.
    const same = qkv.map((x, i) => {
      const [r, head] = [Math.floor(i / columns), part(i)];
      if (head < 8) return r >= 92 ? Math.abs(qkv[92 * columns + (i % columns)]!) : x;
      return head < 10 && r >= 92 ? -100 : x;
    });
    const { mean, variance, totals } = statistics(same);
    expect(Math.max(...variance)).toBeLessThan(1e-9 * Math.max(...mean));
    expect(totals[1]!).toBeLessThan(1e-9);
  });

  test("check 3: gamma 0 and average pooling keep SnapKV's rows", () => {
    using scope = new Scope(backend.context);
    const qkv = new Random(22).normals(120 * columns);
    const params = { capacity: 40, window: 8, kernel: 5 };
    const { kept } = keep(scope, { ...params, gamma: 0 }, qkv);
    expect(kept).toEqual(keep(scope, { ...params, pool: "avg" }, qkv, snapkv as Plugin).kept);
  });

  test("check 4: a row that one query of the window looks at is gained by gamma, one that all look at a little stays", () => {
    using scope = new Scope(backend.context);
    const random = new Random(23);
    const qkv = random.normals(60 * columns, 0.05);
    const along = (axis: number, length: number) =>
      Float64Array.from({ length: 64 }, (_, d) => (d === axis ? length : 0));
    const [steady, spiky] = [range(10, 21), 40];
    for (let g = 0; g < 2; g++) {
      for (let h = 4 * g; h < 4 * g + 4; h++) {
        for (let r = 52; r < 60; r++) qkv.set(along(1, r === 55 ? 0 : 4), r * columns + h * 64);
        qkv.set(along(2, 12), 55 * columns + h * 64);
      }
      for (const r of steady) qkv.set(along(1, 4), r * columns + (8 + g) * 64);
      qkv.set(along(2, 2.1), spiky * columns + (8 + g) * 64);
    }
    const params = { capacity: 18, window: 8, kernel: 1 };
    const plain = keep(scope, { ...params, gamma: 0 }, qkv).kept;
    const weighed = keep(scope, { ...params, gamma: 200 }, qkv).kept;
    for (const h of [0, 1]) {
      expect(plain[h]!.filter((r) => !weighed[h]!.includes(r)).length).toBe(1);
      expect(weighed[h]!.filter((r) => !plain[h]!.includes(r))).toEqual([spiky]);
    }
  });
});

describe("check 7", () => {
  test("attention cast to fp16 before its statistics gives the same budgets within 2 %", () => {
    const random = new Random(26);
    const [window, rows, headDim] = [32, 256, 64];
    const layers = [0.5, 1, 1.5, 2].map((sharpness) => {
      const layer = emptyLayer(2, 2, headDim);
      const qkv = matrix(rows, 8 * headDim, random.normals(rows * 8 * headDim, sharpness));
      const queries = ropeAppend(layer, 0, qkv, unrotating(headDim), exact);
      const last = matrix(window, queries.columns, queries.data.slice(-window * queries.columns));
      return reference.windowProbabilities(layer, last, scaleOf(headDim));
    });
    const budgets = (cast: (p: Float64Array) => Float64Array) => {
      const preferences = layers.map((heads) => {
        let [entropy, spread] = [0, 0];
        for (const head of heads) {
          const cut = head.map((p) => cast(p.slice(0, rows - window)));
          for (const p of cut) entropy -= p.reduce((all, x) => all + x * Math.log(x + 1e-10), 0);
          for (let j = 0; j < rows - window; j++) {
            const column = cut.map((p) => p[j]!);
            const mean = sum(column) / window;
            spread += column.reduce((all, x) => all + (x - mean) ** 2, 0) / (window - 1);
          }
        }
        return entropy * spread;
      });
      return waterfill(preferences, 4 * 64, rows - window);
    };
    const single = budgets((p) => p);
    expect(new Set(single).size).toBe(4);
    const half = budgets((p) => Float64Array.from(new Float16Array(p)));
    for (const [l, count] of single.entries()) expect(Math.abs(half[l]! / count - 1)).toBeLessThan(0.02);
  });
});

eachBackend("CakeKV in the engine", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend, { config: { num_hidden_layers: 4 } });
  });
  afterAll(() => engine.dispose());

  test("checks 1, 2: budgets and rows are those of the formulas in float64; cascade or not", async () => {
    const input = traceOf(150, 1, 8);
    const [traced] = await trace(engine, await methodOf("CakeKV[capacity=40,window=8]"), [input]);
    const [late] = await trace(engine, await methodOf("CakeKV[capacity=40,window=8,cascade=false]"), [input]);
    expect(late!.kept[0]).toEqual(traced!.kept[0]!);
    const inputs: LayerInputs[] = [];
    referenceLogits(engine, input.ids.slice(0, 150), causal, inputs);
    const stats = inputs.map(({ layer, queries }) => {
      const last = matrix(8, queries.columns, queries.data.subarray(142 * queries.columns));
      return reference.windowStats(layer, last, scaleOf(16), "mean", exact);
    });
    const budgets = wholeRows(
      waterfill(
        stats.map(({ scalars }) => scalars.data[0]! * scalars.data[1]!),
        4 * 32,
        142,
      ),
    );
    stats.forEach((one, l) => {
      const scores = reference.pool(combined(one), "avg", 5);
      traced!.kept[0]![l]!.forEach((positions, h) => {
        expect(positions.slice(-8)).toEqual(range(142, 150));
        expectBest(positions.slice(0, -8), row(scores, h), budgets[l]!);
      });
    });
  });

  test("check 5: where the budget is nearly the prompt, layers keep all of it and the others the rest", async () => {
    const [traced] = await trace(engine, await methodOf("CakeKV[capacity=145,window=8]"), [traceOf(150, 1, 24)]);
    const rows = traced!.kept[0]!.map((heads) => heads[0]!.length);
    expect(sum(rows)).toBe(4 * 145);
    expect(rows.filter((count) => count === 150).length).toBeGreaterThanOrEqual(2);
    expect(Math.max(...rows)).toBe(150);
  });

  test("a window of one query has no variance: every layer gets the same", async () => {
    const [traced] = await trace(engine, await methodOf("CakeKV[capacity=30,window=1]"), [traceOf(90, 1, 25)]);
    for (const positions of traced!.kept[0]!.flat()) expect(positions).toHaveLength(30);
  });

  test("checks 6, 8: short prompts stay whole until rows exceed the capacity, and never hold more after a step", async () => {
    for (const n of [3, 20, 38]) {
      const [traced] = await trace(engine, await methodOf("CakeKV[capacity=40,window=8]"), [traceOf(n, 12, n)]);
      traced!.kept.forEach((layers, step) => {
        for (const positions of layers.flat()) {
          expect(positions).toHaveLength(Math.min(n + step, 40));
          expect(positions.slice(-3)).toEqual(range(n + step - 3, n + step));
        }
      });
    }
  });
});

eachBackend("CakeKV as the authors decode", (backend) => {
  const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };

  /** One step of a head: rows in order of storage, the window's behind; what is left, best first, and the window. */
  function cut<T>(stored: readonly T[], attention: (row: T) => number, budget: number, window: number): T[] {
    if (stored.length <= budget + window) return [...stored];
    const old = stored.slice(0, stored.length - window);
    const p = matrix(1, old.length, Float64Array.from(old, attention));
    const pooled = reference.pool(p, "avg", 5).data;
    const best = reference.topk(pooled, budget).toSorted((a, b) => pooled[b]! - pooled[a]! || a - b);
    return [...best.map((at) => old[at]!), ...stored.slice(stored.length - window)];
  }

  for (const [prompt, capacity, window] of [
    [80, 24, 6], // dropped after the prompt, stored by score
    [29, 24, 6], // C < n <= C + w: whole after the prompt, cut to C at the first token
    [30, 24, 6],
    [20, 24, 6],
  ] as const) {
    test(`${prompt} rows, ${capacity} to keep: pooling runs over rows in order of the last scores`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(prompt);
      const { hooks, shape: needed } = hooksOf(plugin, { capacity, window, decode: "official" }, shape);
      const made = prompted(scope, needed, random.normals(prompt * 12 * 64));
      const { layer } = made.twin;
      const last = matrix(
        window,
        made.queryValues.columns,
        made.queryValues.data.slice(-window * made.queryValues.columns),
      );
      const stats = reference.windowStats(layer, last, scaleOf(64), "mean", exact);
      const indicator = reference.pool(combined(stats), "avg", 5);
      const kept = runPrefill(scope, hooks, made);
      const stored = layer.heads.map((rows, h) => {
        if (prompt <= capacity + window) return [...rows];
        const scores = row(indicator, h);
        const best = reference.topk(scores, capacity - window).toSorted((a, b) => scores[b]! - scores[a]! || a - b);
        return [...best.map((at) => rows[at]!), ...rows.slice(-window)];
      });
      const positions = () => stored.map((rows) => rows.map(({ position }) => position).toSorted((a, b) => a - b));
      expect(kept).toEqual(positions());
      layer.heads = stored.map((rows) => [...rows]);
      const step = decoderOf(scope, hooks, made);
      for (let i = 0; i < 25; i++) {
        const { probabilities, kept } = step(random.normals(12 * 64));
        layer.heads.forEach((rows, h) => {
          const attention = new Map(rows.map((one, r) => [one, probabilities[h]![r]!]));
          stored[h] = cut(rows, (one) => attention.get(one)!, capacity - window, window);
        });
        layer.heads = stored.map((rows) => [...rows]);
        expect(kept).toEqual(positions());
      }
    });
  }
});

eachBackend("CakeKV while decoding", (backend) => {
  test("check 6: each step drops the row whose neighbourhood got least, before the window", () => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };
    const random = new Random(4);
    const { hooks, shape: needed } = hooksOf(plugin, { capacity: 24, window: 6 }, shape);
    const prompt = prompted(scope, needed, random.normals(80 * 12 * 64));
    const kept = runPrefill(scope, hooks, prompt);
    const { layer } = prompt.twin;
    layer.heads = layer.heads.map((rows, h) => rows.filter(({ position }) => kept[h]!.includes(position)));
    const step = decoderOf(scope, hooks, prompt);
    for (let i = 0; i < 25; i++) {
      const { probabilities, kept } = step(random.normals(12 * 64));
      layer.heads = layer.heads.map((rows, h) => {
        const p = matrix(1, rows.length - 6, probabilities[h]!.subarray(0, rows.length - 6));
        const pooled = Array.from(reference.pool(p, "avg", 5).data);
        return rows.toSpliced(pooled.indexOf(Math.min(...pooled)), 1);
      });
      expect(kept).toEqual(layer.heads.map((rows) => rows.map(({ position }) => position)));
    }
  });
});

// CakeKV: rows per layer by the specification's numbers, kept rows and decode evictions against float64.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import plugin, { officialRows, waterfill, wholeRows } from "../../plugins/cakekv.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { expectBest, range } from "../support/choice.ts";
import { methodOf, openEngine, trace, traceOf } from "../support/engine.ts";
import { matrix, row } from "../support/guarded.ts";
import { decoderOf, hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
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

// SnapKV: the rows it keeps against the voting formula in float64, its budget, its invariances.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import plugin from "../../plugins/snapkv.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { combine, pool, topk, windowStats } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { randomQueries, randomTwin } from "../support/cache.ts";
import {
  expectSameTrace,
  generate,
  groupsOfFour,
  methodOf,
  openEngine,
  randomIds,
  request,
  trace,
  traceOf,
} from "../support/engine.ts";
import { type Matrix, matrix, output, row } from "../support/guarded.ts";
import { decoderOf, hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { causal, type LayerInputs, referenceLogits } from "../support/reference-model.ts";
import * as reference from "../support/reference-scores.ts";
import type { FloatDtype } from "../support/tolerance.ts";

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

describe("parameters", () => {
  const values = (preset: string, overrides: Record<string, unknown> = {}) =>
    resolveParams(plugin, preset, overrides).values;

  test("defaults: window 32, kernel 7, max, mean over the group; the presets of the specification", () => {
    expect(values("paper")).toMatchObject({ window: 32, kernel: 7, pool: "max", gqaReduce: "mean" });
    expect(values("kvcf")).toMatchObject({ window: 8, kernel: 7, pool: "max" });
    expect(values("kvpress")).toMatchObject({ window: 64, kernel: 5, pool: "avg" });
  });

  test("a window that fills the capacity and an even kernel are refused", () => {
    expect(() => values("paper", { capacity: 32 })).toThrow(/capacity must be above window/);
    expect(() => values("paper", { kernel: 6 })).toThrow(/odd/);
    expect(() => values("paper", { window: 0 })).toThrow(/window/);
  });
});

interface Setting {
  groupSize: number;
  window: number;
  rows: number;
  capacity: number;
  headDim: number;
  kvHeads?: number;
  dtype?: FloatDtype;
  kernel?: number;
  pooling?: "max" | "avg";
  gqaReduce?: "mean" | "max";
}

/** Scores by the formula, `[kvHeads, rows - window]`: votes of the window, reduced over the group, then pooled. */
function formula(layer: Parameters<typeof reference.windowStats>[0], queries: Matrix, setting: Setting): Matrix {
  const { window, headDim, kernel = 7, pooling = "max", gqaReduce = "mean" } = setting;
  const last = matrix(window, queries.columns, queries.data.subarray((queries.rows - window) * queries.columns));
  const votes = reference.windowStats(layer, last, scaleOf(headDim), gqaReduce, exact).mean;
  return reference.pool(votes, pooling, kernel);
}

/** The chosen rows are the k best; two may have changed places only where their scores agree to 1e-5 and are not equal. */
function expectBest(chosen: readonly number[], scores: Float64Array, k: number): void {
  const best = reference.topk(scores, k);
  const wrong = chosen.filter((r) => !best.includes(r));
  const missing = best.filter((r) => !chosen.includes(r));
  expect(chosen).toHaveLength(k);
  wrong.forEach((r, i) => {
    const [taken, left] = [scores[r]!, scores[missing[i]!]!];
    expect(taken).not.toBe(left);
    expect(Math.abs(taken / left - 1)).toBeLessThan(1e-5);
  });
}

function keep(scope: Scope, setting: Setting, qkv: ArrayLike<number>) {
  const { capacity, window, kernel = 7, pooling = "max", gqaReduce = "mean" } = setting;
  const { groupSize, headDim, kvHeads = 2, dtype = "float32" } = setting;
  const { hooks, shape } = hooksOf(
    plugin,
    { capacity, window, kernel, pool: pooling, gqaReduce },
    { kvHeads, groupSize, headDim, dtype },
  );
  const prompt = prompted(scope, shape, qkv);
  const scores = setting.rows > window ? formula(prompt.twin.layer, prompt.queryValues, setting) : null;
  return { kept: runPrefill(scope, hooks, prompt), scores, prompt };
}

const columnsOf = ({ groupSize, headDim, kvHeads = 2 }: Setting): number => (groupSize + 2) * kvHeads * headDim;

eachBackend("SnapKV's choice", (backend) => {
  const settings: Setting[] = [];
  for (const groupSize of [1, 2, 4, 7]) {
    for (const window of [1, 8, 32]) {
      for (const rows of [100, 256]) {
        const headDim = (groupSize + window + rows) % 2 ? 64 : 128;
        settings.push({ groupSize, window, rows, headDim, capacity: window + (rows === 100 ? 23 : 60) });
      }
    }
  }
  const more: Setting[] = [
    { groupSize: 4, window: 32, rows: 1000, headDim: 64, capacity: 128, kvHeads: 1 },
    { groupSize: 4, window: 8, rows: 150, headDim: 64, capacity: 40, dtype: "bfloat16" },
    { groupSize: 7, window: 16, rows: 150, headDim: 64, capacity: 40, dtype: "float16" },
    { groupSize: 4, window: 8, rows: 150, headDim: 64, capacity: 40, pooling: "avg", kernel: 5 },
    { groupSize: 4, window: 8, rows: 150, headDim: 64, capacity: 40, gqaReduce: "max" },
    { groupSize: 4, window: 8, rows: 150, headDim: 64, capacity: 40, kernel: 1 },
    { groupSize: 4, window: 8, rows: 150, headDim: 64, capacity: 40, kernel: 63 },
    { groupSize: 2, window: 8, rows: 34, headDim: 64, capacity: 33 },
  ];
  test.each([...settings, ...more])(
    "group $groupSize, window $window, $rows rows, $capacity kept, $dtype $pooling $kernel $gqaReduce: the formula's rows",
    (setting) => {
      using scope = new Scope(backend.context);
      const { rows, window, capacity } = setting;
      const { kept, scores } = keep(scope, setting, new Random(rows + window).normals(rows * columnsOf(setting)));
      kept.forEach((positions, h) => {
        expect(positions).toHaveLength(capacity);
        expect(positions).toEqual(positions.toSorted((a, b) => a - b));
        expect(positions.slice(-window)).toEqual(range(rows - window, rows));
        expectBest(positions.slice(0, -window), row(scores!, h), capacity - window);
      });
    },
  );

  const setting: Setting = { groupSize: 4, window: 8, rows: 120, headDim: 64, capacity: 40 };

  test("a prompt within the capacity is left alone, at every length up to it", () => {
    using scope = new Scope(backend.context);
    for (const rows of [1, 7, 8, 9, 39, 40]) {
      const { kept } = keep(scope, { ...setting, rows }, new Random(rows).normals(rows * columnsOf(setting)));
      expect(kept).toEqual([range(0, rows), range(0, rows)]);
    }
  });

  test("kernel 1 keeps the plain best", () => {
    using scope = new Scope(backend.context);
    const plain = { ...setting, kernel: 1 };
    const { kept, prompt } = keep(scope, plain, new Random(1).normals(120 * columnsOf(setting)));
    const last = matrix(
      8,
      prompt.queryValues.columns,
      prompt.queryValues.data.subarray(112 * prompt.queryValues.columns),
    );
    const votes = reference.windowStats(prompt.twin.layer, last, scaleOf(64), "mean", exact).mean;
    kept.forEach((positions, h) => {
      expectBest(positions.slice(0, -8), row(votes, h), 32);
    });
  });

  test("window 1, kernel 1 and one group of all heads is TOVA's choice", () => {
    using scope = new Scope(backend.context);
    const tova: Setting = { groupSize: 7, kvHeads: 1, window: 1, kernel: 1, rows: 90, headDim: 64, capacity: 30 };
    const { kept, prompt } = keep(scope, tova, new Random(2).normals(90 * columnsOf(tova)));
    const last = matrix(1, prompt.queryValues.columns, row(prompt.queryValues, 89));
    const heads = reference
      .windowProbabilities(prompt.twin.layer, last, scaleOf(64))
      .map(([probabilities]) => probabilities!);
    const mean = Float64Array.from(range(0, 89), (j) => heads.reduce((sum, p) => sum + p[j]!, 0) / heads.length);
    expectBest(kept[0]!.slice(0, -1), mean, 29);
    expect(kept[0]!.at(-1)).toBe(89);
  });

  test("a key along the last query's direction is kept, and its neighbours within half a kernel", () => {
    using scope = new Scope(backend.context);
    const random = new Random(3);
    const columns = columnsOf(setting);
    for (const planted of [3, 57, 108]) {
      const qkv = random.normals(120 * columns, 0.3);
      for (let g = 0; g < 2; g++) {
        const direction = random.normals(64);
        for (let i = 0; i < 64; i++) {
          for (let h = 4 * g; h < 4 * g + 4; h++) qkv[119 * columns + h * 64 + i] = 3 * direction[i]!;
          qkv[planted * columns + (8 + g) * 64 + i] = 3 * direction[i]!;
        }
      }
      const { kept } = keep(scope, { ...setting, capacity: 20 }, qkv);
      for (const positions of kept) {
        expect(positions).toEqual(expect.arrayContaining(range(Math.max(0, planted - 3), Math.min(112, planted + 4))));
      }
    }
  });

  test("the group is reduced before the pooling", () => {
    using scope = new Scope(backend.context);
    const { kept, scores, prompt } = keep(
      scope,
      { ...setting, capacity: 24 },
      new Random(4).normals(120 * columnsOf(setting)),
    );
    const last = matrix(
      8,
      prompt.queryValues.columns,
      prompt.queryValues.data.subarray(112 * prompt.queryValues.columns),
    );
    const heads = reference.windowStats(prompt.twin.layer, last, scaleOf(64), "none", exact).mean;
    const late = (kind: "max" | "avg") => reference.reduceGroups(reference.pool(heads, kind, 7), 4, "mean");
    const early = (kind: "max" | "avg") => reference.pool(reference.reduceGroups(heads, 4, "mean"), kind, 7);
    const best = (x: Matrix) => [0, 1].map((h) => reference.topk(row(x, h), 16));
    expect(best(early("max"))).toEqual([0, 1].map((h) => reference.topk(row(scores!, h), 16)));
    expect(kept.map((positions) => positions.slice(0, -8))).toEqual(best(early("max")));
    expect(best(late("max"))).not.toEqual(best(early("max")));
    expect(best(late("avg"))).toEqual(best(early("avg")));
  });
});

eachBackend("SnapKV's scores", (backend) => {
  function votes(scope: Scope, reduce: "mean" | "sum") {
    const random = new Random(5);
    const twin = randomTwin(scope, random, { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" }, 140);
    const queries = randomQueries(scope, random, twin, 16);
    const out = output(scope, "float32", 2, 124);
    windowStats(twin.cache, 0, queries.tensor, scaleOf(64), reduce, { mean: out.tensor });
    return out.tensor;
  }
  function chosen(scope: Scope, scores: ReturnType<typeof votes>): number[] {
    const pooled = output(scope, "float32", 2, 124);
    pool(scores, "max", 7, pooled.tensor);
    expect(pooled.tensor.columns).toBe(scores.columns);
    const index = output(scope, "int32", 2, 30);
    topk(pooled.tensor, 30, index.tensor);
    return Array.from(index.readInts());
  }

  test("scaled by a power of two, or summed over the group, they choose the same rows", () => {
    using scope = new Scope(backend.context);
    const mean = votes(scope, "mean");
    const base = chosen(scope, mean);
    for (const factor of [16, 2 ** -20]) {
      const scaled = output(scope, "float32", 2, 124);
      combine(factor, mean, 0, null, scaled.tensor);
      expect(chosen(scope, scaled.tensor)).toEqual(base);
    }
    expect(chosen(scope, votes(scope, "sum"))).toEqual(base);
  });

  test("a window that sees equal keys votes evenly, and the lower rows stay", () => {
    using scope = new Scope(backend.context);
    const setting: Setting = { groupSize: 2, window: 4, rows: 40, headDim: 64, capacity: 14, kernel: 1 };
    const columns = columnsOf(setting);
    const qkv = Float64Array.from({ length: 40 * columns }, (_, i) => Math.sin(i % columns));
    const { kept } = keep(scope, setting, qkv);
    expect(kept).toEqual(new Array(2).fill([...range(0, 10), ...range(36, 40)]));
  });
});

eachBackend("SnapKV in the engine", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend, groupsOfFour);
  });
  afterAll(() => engine.dispose());

  test("exactly the capacity stays in each layer and head; what follows is added and never dropped", async () => {
    const method = await methodOf("SnapKV[capacity=40,window=16]");
    const [traced] = await trace(engine, method, [traceOf(130, 20, 1)]);
    const prompt = traced!.kept[0]!;
    traced!.kept.forEach((layers, step) => {
      expect(layers).toEqual(
        prompt.map((heads) => heads.map((positions) => [...positions, ...range(130, 130 + step)])),
      );
    });
    for (const positions of prompt.flat()) {
      expect(positions).toHaveLength(40);
      expect(positions.slice(24)).toEqual(range(114, 130));
    }
  });

  test("the engine hands it the last queries and all keys of each layer: the formula's rows of a model in float64", async () => {
    const ids = randomIds(150, 8);
    const [done] = await generate(engine, await methodOf("SnapKV[capacity=40,window=8]"), [
      request(ids, { maxNewTokens: 1 }),
    ]);
    const inputs: LayerInputs[] = [];
    referenceLogits(engine, ids, causal, inputs);
    expect(inputs).toHaveLength(2);
    inputs.forEach(({ layer, queries }, l) => {
      const scores = formula(layer, queries, { groupSize: 4, window: 8, rows: 150, headDim: 16, capacity: 40 });
      done!.kept![l]!.forEach((positions, h) => {
        expectBest(positions.slice(0, -8), row(scores, h), 32);
      });
    });
  });

  test("heads choose for themselves", async () => {
    const [done] = await generate(engine, await methodOf("SnapKV[capacity=20,window=4]"), [request(randomIds(200, 2))]);
    const [first, second] = done!.kept![0]!;
    expect(first).not.toEqual(second!);
  });

  test("keepRatio keeps floor(n * ratio + 1e-9) rows, at least the window and one", async () => {
    for (const [ratio, rows] of [
      [0.25, 25],
      [0.29, 29],
      [0.07, 9],
    ] as const) {
      const method = await methodOf(`SnapKV[keepRatio=${ratio},window=8]`);
      const [done] = await generate(engine, method, [request(randomIds(100, 3), { maxNewTokens: 1 })]);
      expect(done!.kept!.flat().map((positions) => positions.length)).toEqual([rows, rows, rows, rows]);
    }
  });

  test("prefill chunks below, at and above the window keep the same rows", async () => {
    const method = await methodOf("SnapKV[capacity=30,window=8]");
    const input = traceOf(90, 3, 4);
    const [whole] = await trace(engine, method, [input]);
    for (const prefillChunk of [3, 8, 50]) {
      const chunked = openEngine(backend, groupsOfFour, { prefillChunk });
      expectSameTrace(backend, (await trace(chunked, method, [input]))[0]!, whole!);
      chunked.dispose();
    }
  });

  test("the context_only view votes with the end of the context, whatever the question", async () => {
    const method = await methodOf("SnapKV[capacity=30,window=8]");
    const context = randomIds(90, 5);
    const kept = [];
    for (const seed of [6, 7]) {
      const ids = [...context, ...randomIds(12, seed)];
      const [done] = await generate(engine, method, [request(ids, { questionStart: 90 })]);
      kept.push(done!.kept);
      expect(done!.kept!.flat().every((positions) => positions.length === 30 && positions.at(-1) === 89)).toBe(true);
    }
    expect(kept[0]).toEqual(kept[1]);
  });
});

eachBackend("SnapKV with a decode interval", (backend) => {
  for (const interval of [1, 5]) {
    test(`every ${interval} tokens the rows of fewest recent votes go; the window stays`, () => {
      using scope = new Scope(backend.context);
      const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };
      const settings = { capacity: 20, window: 4, decodeInterval: interval };
      const { hooks, shape: needed } = hooksOf(plugin, settings, shape);
      const random = new Random(12);
      const prompt = prompted(scope, needed, random.normals(60 * 12 * 64));
      const { columns, data } = prompt.queryValues;
      const { layer } = prompt.twin;
      const queries = matrix(4, columns, data.slice(-4 * columns));
      const votes = reference.pool(reference.windowStats(layer, queries, scaleOf(64), "mean", exact).mean, "max", 7);
      const kept = runPrefill(scope, hooks, prompt);
      const held = kept.map((positions, h) => new Map(positions.map((p) => [p, row(votes, h)[p] ?? 0])));
      layer.heads = layer.heads.map((rows, h) => rows.filter(({ position }) => held[h]!.has(position)));
      const step = decoderOf(scope, hooks, prompt);
      for (let i = 0; i < 22; i++) {
        const { now, probabilities, kept: after } = step(random.normals(12 * 64));
        layer.heads = layer.heads.map((rows, h) => {
          const one = held[h]!;
          rows.forEach(({ position }, r) => {
            one.set(position, 0.75 * (one.get(position) ?? 0) + probabilities[h]![r]! / 4);
          });
          if (one.size < 20 + interval) return rows;
          const old = [...one].filter(([position]) => position <= now - 4);
          old.sort((a, b) => a[1] - b[1] || a[0] - b[0]);
          for (const [position] of old.slice(0, one.size - 20)) one.delete(position);
          return rows.filter(({ position }) => one.has(position));
        });
        expect(after).toEqual(held.map((one) => [...one.keys()].sort((a, b) => a - b)));
        expect(after[0]!.slice(-4)).toEqual(range(now - 3, now + 1));
      }
    });
  }
});

// L2Compress: the rows with the smallest key norms stay, in the prompt and while decoding, against norms in float64.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import plugin from "../../plugins/l2compress.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { llamaRope, unrotating } from "../support/cache.ts";
import { expectBest, range } from "../support/choice.ts";
import { methodOf, openEngine, trace, traceOf } from "../support/engine.ts";
import { decoderOf, hooksOf, prompted, replaceValues, runPrefill, sideValues } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import type { ReferenceLayer } from "../support/reference-attention.ts";

const shape = { kvHeads: 2, groupSize: 2, headDim: 64, dtype: "float32" as const };
const columns = 8 * 64;
const lowNorms = ({ heads }: ReferenceLayer) => heads.map((rows) => rows.map(({ key }) => -Math.hypot(...key)));

describe("parameters", () => {
  test("layers 0 and 1 are skipped, decoding drops nothing; the presets of the specification", () => {
    const values = (preset: string) => resolveParams(plugin, preset, {}).values;
    expect(values("paper")).toMatchObject({ skipLayers: [0, 1], decode: false, protectSinks: 0, protectRecent: 0 });
    expect(values("kvcf")).toMatchObject({ skipLayers: [0, 1], decode: false });
    expect(values("kvpress")).toMatchObject({ skipLayers: [], decode: false, rounding: "kvpress" });
  });

  test("protected rows beyond the capacity are refused", () => {
    const wrong = { capacity: 8, protectSinks: 4, protectRecent: 5 };
    expect(() => resolveParams(plugin, "paper", wrong)).toThrow(/capacity must hold the protected rows/);
  });
});

eachBackend("L2Compress on one layer", (backend) => {
  function keep(scope: Scope, params: Record<string, unknown>, qkv: ArrayLike<number>, rope = unrotating(64)) {
    const { hooks, shape: needed } = hooksOf(plugin, { skipLayers: [], ...params }, shape);
    const prompt = prompted(scope, needed, qkv, rope);
    return { hooks, prompt, kept: runPrefill(scope, hooks, prompt) };
  }
  const random = (rows: number, seed = 1) => new Random(seed).normals(rows * columns);

  test("check 1: exactly the lowest norms stay, none above one that went", () => {
    using scope = new Scope(backend.context);
    for (const [rows, capacity] of [
      [100, 24],
      [256, 255],
      [40, 1],
    ] as const) {
      const { kept, prompt } = keep(scope, { capacity }, random(rows, rows));
      lowNorms(prompt.twin.layer).forEach((scores, h) => {
        expectBest(kept[h]!, scores, capacity);
        const out = range(0, rows).filter((r) => !kept[h]!.includes(r));
        const [least, most] = [Math.min(...kept[h]!.map((r) => scores[r]!)), Math.max(...out.map((r) => scores[r]!))];
        expect(least).toBeGreaterThanOrEqual(most - 1e-6);
      });
    }
  });

  test("check 1: equal norms keep the lower positions", () => {
    using scope = new Scope(backend.context);
    const qkv = Float64Array.from({ length: 20 * columns }, (_, i) => Math.sin(i % columns));
    expect(keep(scope, { capacity: 6 }, qkv).kept).toEqual([range(0, 6), range(0, 6)]);
  });

  test("check 2: rotation of the keys changes no choice but between norms equal to 1e-6", () => {
    using scope = new Scope(backend.context);
    const qkv = random(120, 3);
    const before = keep(scope, { capacity: 40 }, qkv);
    for (const rope of [llamaRope(64), llamaRope(32)]) {
      keep(scope, { capacity: 40 }, qkv, rope).kept.forEach((positions, h) => {
        const norms = lowNorms(before.prompt.twin.layer)[h]!;
        const edge = norms.toSorted((a, b) => b - a)[39]!;
        const changed = positions.filter((r) => !before.kept[h]!.includes(r));
        for (const r of changed) expect(Math.abs(norms[r]! / edge - 1)).toBeLessThan(1e-6);
        expect(positions).toHaveLength(40);
      });
    }
  });

  test("check 3: scaled keys, keys with coordinates permuted and signs turned, and other values keep the same rows", () => {
    using scope = new Scope(backend.context);
    const qkv = random(90, 4);
    const { kept } = keep(scope, { capacity: 30 }, qkv);
    const keyOf = (i: number) => i % columns >= 4 * 64 && i % columns < 6 * 64;
    expect(
      keep(
        scope,
        { capacity: 30 },
        qkv.map((x, i) => (keyOf(i) ? 4 * x : x)),
      ).kept,
    ).toEqual(kept);
    const turned = qkv.map((x, i) => (keyOf(i) ? (i % 2 ? -qkv[i - 1]! : qkv[i + 1]!) : x)); // one orthogonal matrix
    keep(scope, { capacity: 30 }, turned).kept.forEach((positions, h) => {
      expect(positions).toEqual(kept[h]!);
    });
    const noise = new Random(5);
    expect(
      keep(
        scope,
        { capacity: 30 },
        replaceValues(qkv, shape, () => noise.normal()),
      ).kept,
    ).toEqual(kept);
  });

  test("check 4: keepRatio rounds up: 0.9 of 11 rows keeps 10", () => {
    using scope = new Scope(backend.context);
    for (const [rows, keepRatio, count] of [
      [11, 0.9, 10],
      [100, 0.29, 29],
      [10, 0.01, 1],
    ] as const) {
      for (const positions of keep(scope, { keepRatio }, random(rows)).kept) expect(positions).toHaveLength(count);
    }
  });

  test("check 4: as kvpress rounds: 0.9 of 11 rows keeps 9", () => {
    using scope = new Scope(backend.context);
    for (const [rows, keepRatio, count] of [
      [11, 0.9, 9],
      [11, 0.5, 5],
      [10, 0.1, 1], // kvpress's 0 leave nothing to attend to
    ] as const) {
      const { kept } = keep(scope, { keepRatio, rounding: "kvpress" }, random(rows));
      for (const positions of kept) expect(positions).toHaveLength(count);
    }
  });

  test("check 5: prompts below pruneAfter stay whole, one of that length does not", () => {
    using scope = new Scope(backend.context);
    for (const [rows, count] of [
      [49, 49],
      [50, 20],
      [51, 20],
    ] as const) {
      for (const positions of keep(scope, { capacity: 20, pruneAfter: 50 }, random(rows)).kept) {
        expect(positions).toHaveLength(count);
      }
    }
  });

  test("check 6: scores of bf16 keys are fp32, over 99 % of them different", () => {
    using scope = new Scope(backend.context);
    const bf16 = { ...shape, dtype: "bfloat16" as const };
    const { hooks, shape: needed } = hooksOf(plugin, { skipLayers: [], capacity: 2000, decode: true }, bf16);
    const prompt = prompted(scope, needed, random(1000, 6));
    runPrefill(scope, hooks, prompt);
    for (const scores of sideValues(scope, prompt.twin, 0)) {
      expect(new Set(scores).size).toBeGreaterThan(990);
    }
  });

  test("first and last rows stay where they are protected", () => {
    using scope = new Scope(backend.context);
    const { kept, prompt } = keep(scope, { capacity: 20, protectSinks: 3, protectRecent: 5 }, random(80, 7));
    lowNorms(prompt.twin.layer).forEach((scores, h) => {
      expect(kept[h]!.slice(0, 3)).toEqual([0, 1, 2]);
      expect(kept[h]!.slice(15)).toEqual(range(75, 80));
      expectBest(
        kept[h]!.slice(3, 15).map((r) => r - 3),
        scores.slice(3, 75),
        12,
      );
    });
  });

  for (const [interval, protectSinks, protectRecent] of [
    [1, 0, 0],
    [5, 0, 0],
    [4, 2, 6],
  ] as const) {
    test(`decode: every ${interval} rows it goes back to the lowest norms, ${protectSinks} first and ${protectRecent} last aside`, () => {
      using scope = new Scope(backend.context);
      const params = { capacity: 16, decode: true, interval, protectSinks, protectRecent };
      const { hooks, prompt, kept } = keep(scope, params, random(50, 8));
      const held = kept.map((positions, h) => {
        const norms = lowNorms(prompt.twin.layer)[h]!;
        return new Map(positions.map((p) => [p, norms[p]!]));
      });
      const step = decoderOf(scope, hooks, prompt);
      const tokens = new Random(9);
      let most = 0;
      for (let i = 0; i < 30; i++) {
        const { now, kept } = step(tokens.normals(columns));
        kept.forEach((positions, h) => {
          const one = held[h]!;
          const { key } = prompt.twin.layer.heads[h]!.at(-1)!;
          one.set(now, -Math.hypot(...key));
          const candidates = [...one].filter(([p]) => p >= protectSinks && p <= now - protectRecent);
          candidates.sort((a, b) => a[1] - b[1] || a[0] - b[0]);
          const gone = one.size >= 16 + interval ? candidates.slice(0, one.size - 16) : [];
          for (const [p] of gone) one.delete(p);
          expect(positions).toEqual([...one.keys()].sort((a, b) => a - b));
          most = Math.max(most, positions.length);
        });
      }
      expect(most).toBe(16 + interval - 1);
    });
  }
});

eachBackend("L2Compress as its authors evaluate language models", (backend) => {
  test("keepRatio 0.9, pruneAfter 50: rows go up to 49 and back to 45", () => {
    using scope = new Scope(backend.context);
    const params = { skipLayers: [], keepRatio: 0.9, pruneAfter: 50, decode: true };
    const { hooks, shape: needed } = hooksOf(plugin, params, shape);
    const prompt = prompted(scope, needed, new Random(10).normals(40 * columns));
    runPrefill(scope, hooks, prompt);
    const step = decoderOf(scope, hooks, prompt);
    const tokens = new Random(11);
    const lengths = Array.from({ length: 20 }, () => step(tokens.normals(columns)).kept[0]!.length);
    expect(lengths).toEqual([...range(41, 50), 45, 46, 47, 48, 49, 45, 46, 47, 48, 49, 45]);
  });
});

eachBackend("L2Compress in the engine", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend, { config: { num_hidden_layers: 4 } });
  });
  afterAll(() => engine.dispose());

  test("checks 4, 7: skipped layers hold all rows, the others the capacity; the next position is the token's number", async () => {
    for (const [skip, rows] of [
      ["[0,1]", [90, 90, 30, 30]],
      ["[]", [30, 30, 30, 30]],
      ["[3]", [30, 30, 30, 90]],
    ] as const) {
      const method = await methodOf(`L2Compress[capacity=30,skipLayers=${skip}]`);
      const [traced] = await trace(engine, method, [traceOf(90, 3, 2)]);
      traced!.kept[3]!.forEach((heads, l) => {
        for (const positions of heads) {
          expect(positions).toHaveLength(rows[l]! + 3);
          expect(positions.slice(-3)).toEqual([90, 91, 92]);
        }
      });
    }
  });
});

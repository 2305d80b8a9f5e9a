// H2O: column sums and evictions against float64, prompt and every step; what stays, what goes, and what the sums add up to.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import plugin from "../../plugins/h2o.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { expectBest, range } from "../support/choice.ts";
import {
  expectSameTrace,
  generate,
  methodOf,
  openEngine,
  randomIds,
  request,
  trace,
  traceOf,
} from "../support/engine.ts";
import { type Matrix, matrix, row } from "../support/guarded.ts";
import { decoderOf, hooksOf, prompted, runPrefill, scaleOf, sideValues } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attend, attentionPrefill, headOf, type ReferenceLayer } from "../support/reference-attention.ts";
import { causal, type LayerInputs, referenceLogits } from "../support/reference-model.ts";
import * as reference from "../support/reference-scores.ts";
import { relativeError } from "../support/tolerance.ts";

describe("parameters", () => {
  const values = (preset: string, overrides: Record<string, unknown> = {}) =>
    resolveParams(plugin, preset, overrides).values;

  test("half heavy and half recent, raw sums, no decay; the presets of the specification", () => {
    expect(values("paper")).toMatchObject({
      recent: -1,
      positions: "original",
      decay: 1,
      rolling: true,
      perQuery: false,
    });
    expect(values("kvcf")).toMatchObject({ recent: 8, rolling: false, perQuery: false });
    expect(values("kvpress")).toMatchObject({ recent: 0, rolling: false, perQuery: true });
  });

  test("more recent rows than capacity, and divided sums that go on growing, are refused", () => {
    expect(() => values("paper", { capacity: 16, recent: 17 })).toThrow(/recent must be within capacity/);
    expect(() => values("paper", { perQuery: true })).toThrow(/perQuery needs rolling: false/);
  });
});

interface Shape {
  kvHeads: number;
  groupSize: number;
  headDim: number;
  dtype: "float32";
}
const shape: Shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" };
const columnsOf = ({ kvHeads, groupSize, headDim }: Shape): number => (groupSize + 2) * kvHeads * headDim;

/** Column sums of causal attention over all queries, by KV head. */
function sumsOf(layer: ReferenceLayer, queries: Matrix): Matrix {
  const scale = scaleOf(layer.headDim);
  const { lse } = attentionPrefill(layer, 0, queries, scale, 0, exact);
  const before = matrix(layer.heads.length, queries.rows);
  return reference.columnSums(layer, 0, queries, lse, scale, "sum", before, exact);
}

/** The row with the least sum of those at or before `oldest`; ties: lower position. */
function lightest(sums: ReadonlyMap<number, number>, oldest: number): number {
  const old = [...sums].filter(([position]) => position <= oldest);
  return old.sort((a, b) => a[1] - b[1] || a[0] - b[0])[0]![0];
}

eachBackend("H2O on one layer", (backend) => {
  /** A prompt of 90 rows, and its sums in float64. */
  function setUp(scope: Scope, params: Record<string, unknown>, of: Shape = shape, rows = 90, seed = 1) {
    const { hooks, shape: needed } = hooksOf(plugin, params, of);
    const prompt = prompted(scope, needed, new Random(seed).normals(rows * columnsOf(of)));
    const sums = sumsOf(prompt.twin.layer, prompt.queryValues);
    return { hooks, prompt, sums };
  }

  test("check 1: the sums of a head add up to group x prompt, and every step adds the group once", () => {
    using scope = new Scope(backend.context);
    const { hooks, prompt } = setUp(scope, { capacity: 200 });
    runPrefill(scope, hooks, prompt, 17);
    const mass = () => sideValues(scope, prompt.twin, 0).map((sums) => sums.reduce((all, x) => all + x, 0));
    for (const sum of mass()) expect(Math.abs(sum / (4 * 90) - 1)).toBeLessThan(1e-3);
    const step = decoderOf(scope, hooks, prompt);
    const random = new Random(2);
    for (let i = 1; i <= 6; i++) {
      step(random.normals(columnsOf(shape)));
      for (const sum of mass()) expect(Math.abs(sum / (4 * (90 + i)) - 1)).toBeLessThan(1e-3);
    }
  });

  for (const groupSize of [1, 4, 7]) {
    test(`check 2: sums equal the naive softmax for groups of ${groupSize}, whatever the chunks`, () => {
      using scope = new Scope(backend.context);
      const of = { ...shape, groupSize };
      for (const chunk of [1, 7, 64, 150]) {
        const { hooks, prompt, sums } = setUp(scope, { capacity: 500 }, of, 150);
        runPrefill(scope, hooks, prompt, chunk);
        sideValues(scope, prompt.twin, 0).forEach((values, h) => {
          for (const [r, value] of values.entries()) {
            expect(Math.abs(value - row(sums, h)[r]!)).toBeLessThan(1e-4 * (1 + value));
          }
        });
      }
    });
  }

  for (const [capacity, recent, perQuery] of [
    [32, -1, false],
    [33, -1, false],
    [20, 0, false],
    [20, 20, false],
    [40, 8, false],
    [40, 0, true],
  ] as const) {
    test(`keeps the ${recent} newest of ${capacity} (-1: half) and the heaviest others; perQuery ${perQuery}`, () => {
      using scope = new Scope(backend.context);
      const { hooks, prompt, sums } = setUp(scope, { capacity, recent, perQuery, rolling: !perQuery });
      const newest = recent < 0 ? capacity - Math.floor(capacity / 2) : recent;
      runPrefill(scope, hooks, prompt).forEach((kept, h) => {
        expect(kept).toHaveLength(capacity);
        expect(kept.slice(capacity - newest)).toEqual(range(90 - newest, 90));
        const scores = row(sums, h)
          .map((sum, j) => (perQuery ? sum / (90 - j) : sum))
          .subarray(0, 90 - newest);
        expectBest(kept.slice(0, capacity - newest), scores, capacity - newest);
      });
    });
  }

  for (const [recent, decay] of [
    [8, 1],
    [0, 1],
    [16, 1],
    [8, 0.8],
  ] as const) {
    test(`checks 3, 5, 7: recent ${recent} of 16, decay ${decay}: each step drops the lightest row, which never returns`, () => {
      using scope = new Scope(backend.context);
      const { hooks, prompt, sums } = setUp(scope, { capacity: 16, recent, decay }, shape, 64, 3);
      const { layer } = prompt.twin;
      const kept = runPrefill(scope, hooks, prompt);
      const held = kept.map((positions, h) => new Map(positions.map((p) => [p, row(sums, h)[p]!])));
      layer.heads = layer.heads.map((rows, h) => rows.filter(({ position }) => kept[h]!.includes(position)));
      const step = decoderOf(scope, hooks, prompt);
      const random = new Random(4);
      const gone = [new Set<number>(), new Set<number>()];
      for (let i = 0; i < 40; i++) {
        const before = held.map((one) => new Map(one));
        const { now, probabilities, kept } = step(random.normals(columnsOf(shape)));
        layer.heads = layer.heads.map((rows, h) => {
          const one = held[h]!;
          rows.forEach(({ position }, r) => {
            one.set(position, (one.get(position) ?? 0) * decay + 4 * probabilities[h]![r]!);
          });
          if (decay === 1) for (const [p, sum] of before[h]!) expect(one.get(p)).toBeGreaterThanOrEqual(sum);
          const victim = lightest(one, now - recent);
          one.delete(victim);
          gone[h]!.add(victim);
          return rows.filter(({ position }) => position !== victim);
        });
        kept.forEach((positions, h) => {
          expect(positions).toEqual([...held[h]!.keys()].sort((a, b) => a - b));
          expect(positions).toHaveLength(16);
          expect(positions.slice(16 - recent)).toEqual(range(now + 1 - recent, now + 1));
          expect(positions.some((position) => gone[h]!.has(position))).toBe(false);
        });
      }
    });
  }

  test("check 6: sums scaled by a power of two keep the same rows", () => {
    using scope = new Scope(backend.context);
    const plain = setUp(scope, { capacity: 32 });
    const kept = runPrefill(scope, plain.hooks, plain.prompt);
    const scaled = setUp(scope, { capacity: 32 });
    const { chunk } = scaled.hooks;
    const hooks = { ...scaled.hooks };
    hooks.chunk = (layer, ops) => {
      chunk?.call(scaled.hooks, layer, ops);
      layer.setSide("mass", ops.combine(1 / 1024, layer.side("mass"), 0));
    };
    expect(runPrefill(scope, hooks, scaled.prompt)).toEqual(kept);
  });
});

eachBackend("H2O in the engine", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend);
  });
  afterAll(() => engine.dispose());

  test("check 8: 64 tokens, 8 heavy and 8 recent, 40 steps: the rows of a model in float64 in every layer and head", async () => {
    const input = traceOf(64, 40, 5);
    const [traced] = await trace(engine, await methodOf("H2O[capacity=16]"), [input]);
    const inputs: LayerInputs[] = [];
    referenceLogits(
      engine,
      input.ids,
      (layer, kvHead, query) => {
        if (query < 64) return causal(layer, kvHead, query);
        const rows = [...traced!.kept[query - 64]![layer]![kvHead]!, query];
        return { rows: rows.map((token) => ({ token, position: token })), query };
      },
      inputs,
    );
    inputs.forEach(({ layer, queries }, l) => {
      const { headDim, groupSize } = layer;
      const prompt = { ...layer, heads: layer.heads.map((rows) => rows.slice(0, 64)) };
      const sums = sumsOf(prompt, matrix(64, queries.columns, queries.data.subarray(0, 64 * queries.columns)));
      layer.heads.forEach((rows, g) => {
        const first = traced!.kept[0]![l]![g]!;
        expectBest(first.slice(0, 8), row(sums, g).subarray(0, 56), 8);
        expect(first.slice(8)).toEqual(range(56, 64));
        const held = new Map(first.map((p) => [p, row(sums, g)[p]!]));
        for (let token = 64; token < 104; token++) {
          held.set(token, 0);
          const seen = [...held.keys()];
          for (let h = g * groupSize; h < (g + 1) * groupSize; h++) {
            const query = headOf(row(queries, token), h, headDim);
            const { probabilities } = attend(
              query,
              seen.map((p) => rows[p]!),
              scaleOf(headDim),
              exact,
            );
            for (const [r, p] of seen.entries()) held.set(p, held.get(p)! + probabilities[r]!);
          }
          held.delete(lightest(held, token - 8));
          expect(traced!.kept[token - 63]![l]![g]).toEqual([...held.keys()].sort((a, b) => a - b));
        }
      });
    });
  });

  test("check 4: H + R from the total length on, logits are those of full attention, bit for bit", async () => {
    const input = traceOf(30, 10, 6);
    const [full] = await trace(engine, await methodOf("Full"), [input]);
    const texts = [
      "H2O[capacity=40]",
      "H2O[capacity=40,recent=0]",
      "H2O[capacity=90]",
      "H2O[capacity=40,positions=cache]",
    ];
    for (const text of texts) {
      expect((await trace(engine, await methodOf(text), [input]))[0]!.logits).toEqual(full!.logits);
    }
  });

  test("its own time is told apart: column sums in prefill, evictions in a decode step, nothing where there is none", async () => {
    const asked = [request(randomIds(200, 9))];
    const times = async (text: string) => {
      const [done] = await generate(engine, await methodOf(text), asked);
      return [done!.methodMs > 0, done!.decodeMethodMs! > 0, done!.methodMs < done!.prefillMs];
    };
    expect(await times("H2O[capacity=16]")).toEqual([true, true, true]);
    expect(await times("H2O@kvcf[capacity=16]")).toEqual([true, false, true]);
    const [full] = await generate(engine, await methodOf("Full"), asked);
    expect(full!.decodeMethodMs).toBe(0);
  });

  test("cache positions: logits of a model whose keys all stand at the slots 0 .. m - 1, the query at m - 1", async () => {
    for (const [text, rows] of [
      ["H2O[capacity=16,positions=cache]", 17],
      ["H2O[capacity=17,recent=0,positions=cache]", 18],
      ["H2O@kvcf[capacity=16,positions=cache]", 36],
    ] as const) {
      const input = traceOf(50, 20, 9);
      const [traced] = await trace(engine, await methodOf(text), [input]);
      let most = 0;
      const expected = referenceLogits(engine, input.ids, (layer, kvHead, query) => {
        if (query < 50) return causal(layer, kvHead, query);
        const held = [...traced!.kept[query - 50]![layer]![kvHead]!, query];
        most = Math.max(most, held.length);
        return { rows: held.map((token, slot) => ({ token, position: slot })), query: held.length - 1 };
      });
      expect(most).toBe(rows);
      traced!.logits.forEach((logits, step) => {
        expect(relativeError(logits, row(expected, 49 + step))).toBeLessThan(1e-5);
      });
    }
  });

  test("cache positions: batch equals singles, and the unrotated keys are in the bytes held and expected", async () => {
    const method = await methodOf("H2O[capacity=16,positions=cache]");
    const inputs = [traceOf(50, 8, 10), traceOf(9, 8, 11), traceOf(70, 8, 12)];
    const together = await trace(engine, method, inputs);
    for (const [s, input] of inputs.entries()) {
      expectSameTrace(backend, together[s]!, (await trace(engine, method, [input]))[0]!);
    }
    const [done] = await generate(engine, method, [request(randomIds(60, 13))]);
    expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
    const { layers, kvHeads, headDim } = engine.model;
    expect(done!.cacheBytes).toBe(layers * kvHeads * 16 * (3 * headDim * 4 + 8));
  });

  test("kvcf keeps what follows the prompt", async () => {
    const [traced] = await trace(engine, await methodOf("H2O@kvcf[capacity=24]"), [traceOf(60, 8, 7)]);
    for (const positions of traced!.kept[8]!.flat()) {
      expect(positions).toHaveLength(32);
      expect(positions.slice(16)).toEqual(range(52, 68));
    }
  });
});

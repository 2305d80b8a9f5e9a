// ThinK: which channels stay, attention over short and whole keys, bytes, and together with KIVI.
import { expect, test } from "bun:test";
import think from "../../plugins/think.ts";
import { Batch } from "../../src/native/kv.ts";
import { attentionDecode as nativeDecode } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { channelScores, keepChannels, quantize } from "../../src/native/segments.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { padded, randomQueries } from "../support/cache.ts";
import { generate, methodOf, openEngine, randomIds, request, trace, traceOf } from "../support/engine.ts";
import { row } from "../support/guarded.ts";
import { hooksOf, type Prompt, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attentionDecode, headOf, type ReferenceLayer } from "../support/reference-attention.ts";
import { decodeStep, prunedLayer, quantizedLayer, readHead } from "../support/reference-segments.ts";
import { floatDtypes, relativeError } from "../support/tolerance.ts";

const shapes = [
  { kvHeads: 2, groupSize: 4, headDim: 64 },
  { kvHeads: 3, groupSize: 7, headDim: 32 },
  { kvHeads: 1, groupSize: 1, headDim: 128 },
];

/** The channels with the largest product of norms, ties to the lower one: written from the specification, in float64. */
function bestChannels({ twin, queryValues }: Prompt, window: number, count: number): number[][] {
  const { groupSize, headDim } = twin.shape;
  return twin.layer.heads.map((rows, h) => {
    const scores = Array.from({ length: headDim }, (_, c) => {
      let queries = 0;
      for (let r = Math.max(0, queryValues.rows - window); r < queryValues.rows; r++) {
        for (let g = 0; g < groupSize; g++) queries += headOf(row(queryValues, r), h * groupSize + g, headDim)[c]! ** 2;
      }
      return Math.sqrt(queries) * Math.sqrt(rows.reduce((sum, { key }) => sum + key[c]! ** 2, 0));
    });
    const order = scores.map((_, c) => c).sort((a, b) => scores[b]! - scores[a]! || a - b);
    return order.slice(0, count).sort((a, b) => a - b);
  });
}

const columnsOf = ({ kvHeads, groupSize, headDim }: (typeof shapes)[number]) => (groupSize + 2) * kvHeads * headDim;
const keysOf = (layer: ReferenceLayer, head: number, round: (x: number) => number) =>
  Float32Array.from(layer.heads[head]!.flatMap(({ key }) => Array.from(key, round)));

eachBackend("ThinK", (backend) => {
  test("the known answer: channels 1 and 2 of four go", () => {
    using scope = new Scope(backend.context);
    const qkv = [1, 2, 1, 3, 3, 1, 1, 1, 0, 0, 0, 0];
    const prompt = prompted(scope, { kvHeads: 1, groupSize: 1, headDim: 4, dtype: "float32" }, qkv);
    const { twin, queries } = prompt;
    const out = scope.tensor("float32", 1, 4);
    channelScores(twin.cache, 0, queries, out);
    expect(Array.from(out.toFloats())).toEqual([9, 4, 1, 9]);
    const { hooks } = hooksOf(think, { ratio: 0.5, recent: 0 }, twin.shape);
    runPrefill(scope, hooks, prompt);
    expect(Array.from(readHead(scope, twin.cache, 0).keys)).toEqual([3, 0, 0, 1]);
  });

  for (const dtype of floatDtypes) {
    test.each(shapes)(`keeps the channels of most energy in all but the last rows, ${dtype}: %o`, (shape) => {
      using scope = new Scope(backend.context);
      const { hooks } = hooksOf(think, {}, { ...shape, dtype });
      const prompt = prompted(scope, { ...shape, dtype }, new Random(5).normals(150 * columnsOf(shape)));
      const dense = prompt.twin.cache.info();
      runPrefill(scope, hooks, prompt);
      const channels = bestChannels(prompt, 32, shape.headDim - Math.floor(0.4 * shape.headDim));
      const expected = prunedLayer(prompt.twin.layer, channels, 32);
      for (let h = 0; h < shape.kvHeads; h++) {
        const { keys, values } = readHead(scope, prompt.twin.cache, h);
        expect(keys).toEqual(keysOf(expected, h, Number));
        expect(values).toEqual(
          Float32Array.from(prompt.twin.layer.heads[h]!.flatMap(({ value }) => Array.from(value))),
        );
      }
      const element = dtype === "float32" ? 4 : 2;
      const count = channels[0]!.length;
      const keyBytes = (118 * Math.ceil(count / 8) * 8 + 32 * shape.headDim) * element + 2 * count;
      const { heldBytes, allocatedBytes } = prompt.twin.cache.info();
      expect(heldBytes).toBe(shape.kvHeads * (keyBytes + 150 * (shape.headDim * element + 4)));
      expect(allocatedBytes).toBeLessThan(dense.allocatedBytes);
    });

    const allowed = { float32: 3e-6, float16: 2e-3, bfloat16: 1.6e-2 }[dtype];
    test.each(shapes)(`decode over short keys is decode with zeros in their place, ${dtype}: %o`, (shape) => {
      for (const rows of [33, 150, 600]) {
        using scope = new Scope(backend.context);
        const { hooks } = hooksOf(think, {}, { ...shape, dtype });
        const prompt = prompted(scope, { ...shape, dtype }, new Random(rows).normals(rows * columnsOf(shape)));
        runPrefill(scope, hooks, prompt);
        const { twin } = prompt;
        const channels = bestChannels(prompt, 32, shape.headDim - Math.floor(0.4 * shape.headDim)); // 39, 20, 77: no multiples of 8
        twin.cache.seek(rows, 0);
        const batch = scope.own(Batch.create(backend.context, 1));
        batch.set([twin.cache]);
        const random = new Random(1);
        for (let step = 1; step <= 6; step++) {
          const { out, query } = decodeStep(scope, batch, twin, random);
          const seen = prunedLayer(twin.layer, channels, 32 + step); // generated keys stay whole
          const expected = attentionDecode(seen, rows + step, query, scaleOf(shape.headDim), 0, exact);
          expect(relativeError(out, expected.out)).toBeLessThan(allowed);
        }
      }
    });
  }

  test("a prompt within the recent rows, and a ratio of nothing, leave the cache as it is", () => {
    using scope = new Scope(backend.context);
    const shape = { ...shapes[0]!, dtype: "float32" as const };
    for (const [rows, params, short] of [
      [32, {}, false],
      [5, {}, false],
      [60, { ratio: 0 }, false],
      [33, {}, true],
    ] as const) {
      const { hooks } = hooksOf(think, params, shape);
      const prompt = prompted(scope, shape, new Random(rows).normals(rows * columnsOf(shape)));
      runPrefill(scope, hooks, prompt);
      const { keys } = readHead(scope, prompt.twin.cache, 0);
      const zeros = keys.filter((key) => key === 0).length;
      expect(zeros).toBe(short ? Math.floor(0.4 * 64) : 0);
    }
  });

  test("T1: decode over short keys is decode over a cache with zeros in their place, on the CPU bit for bit", () => {
    const shape = { ...shapes[0]!, dtype: "float32" as const };
    using scope = new Scope(backend.context);
    const qkv = new Random(21).normals(150 * columnsOf(shape));
    const [short, zeroed] = [prompted(scope, shape, qkv), prompted(scope, shape, qkv)];
    runPrefill(scope, hooksOf(think, {}, shape).hooks, short);
    for (let h = 0; h < shape.kvHeads; h++) {
      const { keys } = readHead(scope, short.twin.cache, h);
      zeroed.twin.cache.write(0, h, "keys", scope.own(Tensor.from(backend.context, keys, 150, shape.headDim)));
    }
    const outs = [short, zeroed].map(({ twin }) => {
      twin.cache.seek(150, 0);
      const batch = scope.own(Batch.create(backend.context, 1));
      batch.set([twin.cache]);
      const q = randomQueries(scope, new Random(3), twin, 1);
      const out = scope.tensor("float32", 1, q.tensor.columns);
      nativeDecode(batch, 0, q.tensor, scaleOf(shape.headDim), 0, out);
      return out.toFloats();
    });
    if (backend.name === "cpu") expect(outs[0]).toEqual(outs[1]!);
    else expect(relativeError(outs[0]!, outs[1]!)).toBeLessThan(3e-6);
  });

  test("T4: of channels with equal scores the lower ones stay", () => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 2, groupSize: 4, headDim: 32, dtype: "float32" as const };
    const prompt = prompted(scope, shape, new Array(40 * columnsOf(shape)).fill(1));
    runPrefill(scope, hooksOf(think, {}, shape).hooks, prompt);
    for (const h of [0, 1]) {
      const { keys } = readHead(scope, prompt.twin.cache, h);
      expect(Array.from(keys.subarray(0, 32))).toEqual(Array.from({ length: 32 }, (_, c) => (c < 20 ? 1 : 0)));
    }
  });

  test("T8: where the queries of a group are equal, its mask is that of each of them alone", () => {
    using scope = new Scope(backend.context);
    const [grouped, alone] = [shapes[0]!, { ...shapes[0]!, groupSize: 1 }];
    const random = new Random(22);
    const rows = Array.from({ length: 90 }, () => [0, 1, 2, 3, 4, 5].map(() => Array.from(random.normals(64))));
    const zeros = [grouped, alone].map((shape) => {
      const qkv = rows.flatMap(([a, b, ...rest]) =>
        [a!, b!]
          .flatMap((q) => new Array(shape.groupSize).fill(q))
          .concat(rest)
          .flat(),
      );
      const prompt = prompted(scope, { ...shape, dtype: "float32" }, qkv);
      runPrefill(scope, hooksOf(think, {}, { ...shape, dtype: "float32" }).hooks, prompt);
      return [0, 1].map((h) =>
        Array.from(readHead(scope, prompt.twin.cache, h).keys.subarray(0, 64), (key) => key === 0),
      );
    });
    expect(zeros[0]).toEqual(zeros[1]!);
  });

  test("the order of rows changes nothing", () => {
    using scope = new Scope(backend.context);
    const shape = { ...shapes[0]!, dtype: "float32" as const };
    const columns = columnsOf(shape);
    const qkv = new Random(8).normals(90 * columns);
    const turned = qkv.slice();
    for (let r = 0; r < 50; r++) turned.set(qkv.subarray((49 - r) * columns, (50 - r) * columns), r * columns);
    const zeros = [qkv, turned].map((values) => {
      const { hooks } = hooksOf(think, {}, shape);
      const prompt = prompted(scope, shape, values);
      runPrefill(scope, hooks, prompt);
      return Array.from(readHead(scope, prompt.twin.cache, 0).keys.subarray(0, 64), (key) => key === 0);
    });
    expect(zeros[1]).toEqual(zeros[0]!);
  });

  test("with KIVI, codes are of the kept channels, for prompt rows and for later groups", () => {
    const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };
    const how = { keyBits: 4, valueBits: 4, group: 32, residual: 32 };
    for (const rows of [40, 100, 128]) {
      using scope = new Scope(backend.context);
      const random = new Random(rows);
      const { twin } = prompted(scope, shape, random.normals(rows * columnsOf(shape)));
      const channels = [random.choose(37, 0, 64), random.choose(37, 0, 64)];
      const index = scope.own(Tensor.from(backend.context, padded(channels, 37), 2, 37));
      keepChannels(twin.cache, 0, index, 20, 0);
      quantize(twin.cache, 0, how, 0);
      twin.layer.heads = prunedLayer(twin.layer, channels, 20).heads;
      twin.cache.seek(rows, 0);
      const batch = scope.own(Batch.create(backend.context, 1));
      batch.set([twin.cache]);
      for (let step = 1; step <= 70; step++) {
        const before = quantizedLayer(twin.layer, how, channels);
        const { out, query } = decodeStep(scope, batch, twin, random);
        const seen = { ...before, heads: before.heads.map((one, h) => [...one, twin.layer.heads[h]!.at(-1)!]) };
        const expected = attentionDecode(seen, rows + step, query, scaleOf(64), 0, exact);
        expect(relativeError(out, expected.out)).toBeLessThan(3e-6);
      }
      const after = quantizedLayer(twin.layer, how, channels);
      for (const h of [0, 1]) expect(readHead(scope, twin.cache, h).keys).toEqual(keysOf(after, h, Math.fround));
    }
  });

  test("channels out of order or of range are refused, where the backend can see them", () => {
    using scope = new Scope(backend.context);
    const { twin } = prompted(
      scope,
      { ...shapes[0]!, dtype: "float32" },
      new Random(1).normals(40 * columnsOf(shapes[0]!)),
    );
    for (const [list, text] of [
      [[3, 3, 1, 2], /index\[0, 1\] is 3/],
      [[1, 2, 3, 64], /index\[1, 1\] is 64/],
    ] as const) {
      const index = scope.own(Tensor.from(backend.context, Int32Array.from(list), 2, 2));
      if (backend.name === "cpu") expect(() => keepChannels(twin.cache, 0, index, 0, 0)).toThrow(text);
    }
    expect(twin.cache.lengths(0)[0]).toBe(40);
  });
});

eachBackend("ThinK in the engine", (backend) => {
  test("the prompt's logits are exact; ratio 0 is dense bit for bit", async () => {
    const engine = openEngine(backend, { config: { head_dim: 64 } });
    const input = [traceOf(97, 4, 1)];
    const full = (await trace(engine, await methodOf("Full"), input))[0]!;
    expect(await trace(engine, await methodOf("ThinK[ratio=0]"), input)).toEqual([full]);
    const pruned = (await trace(engine, await methodOf("ThinK"), input))[0]!;
    expect(pruned.logits[0]).toEqual(full.logits[0]!);
    expect(pruned.logits[1]).not.toEqual(full.logits[1]!);
    engine.dispose();
  });

  test("composes with eviction and with KIVI, and holds what the formulas say", async () => {
    for (const dtype of ["float32", "float16"] as const) {
      const engine = openEngine(backend, { config: { head_dim: 64 } }, { dtype });
      for (const name of [
        "SnapKV[capacity=90]+ThinK",
        "H2O[capacity=90]+ThinK",
        "ThinK",
        "SnapKV[capacity=90]+ThinK+KIVI[residual=64]",
      ]) {
        const asked = [200, 120].map((rows, s) => request(randomIds(rows, s), { id: `r${s}`, maxNewTokens: 70 }));
        for (const done of await generate(engine, await methodOf(name), asked)) {
          expect(done.status).toBe("ok");
          expect(done.cacheBytes).toBe(done.expectedCacheBytes);
        }
      }
      engine.dispose();
    }
  });
});

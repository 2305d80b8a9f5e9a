// KIVI: the quantiser's known answers and bounds, the state by the number of rows, attention over codes, bytes, and the engine.
import { describe, expect, test } from "bun:test";
import kivi from "../../plugins/kivi.ts";
import { dropPooled } from "../../src/native/evict.ts";
import { Batch } from "../../src/native/kv.ts";
import { attentionDecode as nativeDecode } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { quantize } from "../../src/native/segments.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { sampleModel } from "../../src/plugin/validate.ts";
import { eachBackend, type TestBackend } from "../support/backends.ts";
import { appendRandom, deviceRope, emptyTwin, randomQueries, type TwinShape, unrotating } from "../support/cache.ts";
import { generate, methodOf, openEngine, randomIds, request, trace, traceOf } from "../support/engine.ts";
import { prompted, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attentionDecode } from "../support/reference-attention.ts";
import {
  decodeStep,
  heldBytes,
  packedRows,
  quantizedLayer,
  quantizeGroup,
  readHead,
} from "../support/reference-segments.ts";
import { floatDtypes, relativeError, rounding } from "../support/tolerance.ts";

interface Packed {
  /** a hexadecimal digit each */
  codes: string;
  scale: number[];
  zero: number[];
}
/** scripts/fidelity/kivi.py */
const golden: { name: string; bits: number; numbers: number[]; keys: Packed; values: Packed }[] = await Bun.file(
  new URL("../golden/kivi.json", import.meta.url),
).json();

const four = { keyBits: 4, valueBits: 4, group: 32, residual: 32 };
const two = { keyBits: 2, valueBits: 2, group: 32, residual: 32 };

/** Rows of one head of `headDim` channels whose keys and values are x, quantised and read back. */
function restored(
  backend: TestBackend,
  rows: number,
  headDim: number,
  x: ArrayLike<number>,
  how: typeof four,
  dtype = "float32" as TwinShape["dtype"],
) {
  using scope = new Scope(backend.context);
  const qkv = Array.from({ length: rows }, (_, r) => {
    const row = Array.from({ length: headDim }, (_, c) => x[r * headDim + c]!);
    return [...row, ...row, ...row];
  });
  const { twin } = prompted(scope, { kvHeads: 1, groupSize: 1, headDim, dtype }, qkv.flat());
  quantize(twin.cache, 0, how, 0);
  return readHead(scope, twin.cache, 0);
}

const repeated = (x: readonly number[], length: number) => Array.from({ length }, (_, i) => x[i % x.length]!);

describe("parameters", () => {
  test("four bits where query heads share keys, else two; presets and users have the last word", () => {
    const own = { ...sampleModel, kvHeads: sampleModel.heads };
    expect(resolveParams(kivi, "paper", {}, sampleModel).values).toMatchObject({
      kBits: 4,
      vBits: 4,
      groupSize: 32,
      residual: 128,
    });
    expect(resolveParams(kivi, "paper", {}, own).values).toMatchObject({ kBits: 2, vBits: 2 });
    expect(resolveParams(kivi, "official", {}, sampleModel).values).toMatchObject({ kBits: 2, vBits: 2 });
    expect(resolveParams(kivi, "paper", { kBits: 4 }, own).values).toMatchObject({ kBits: 4, vBits: 2 });
  });

  test("three bits, odd groups and a residual of other groups are refused with a sentence", () => {
    for (const [params, text] of [
      [{ kBits: 3 }, /2 or 4, not 3/],
      [{ groupSize: 48 }, /32, 64 or 128, not 48/],
      [{ groupSize: 64, residual: 96 }, /96 is none of 64/],
    ] as const)
      expect(() => resolveParams(kivi, "paper", params, sampleModel)).toThrow(text);
  });

  test("packed rows of the specification's table", () => {
    const table = [
      [127, 0, 0],
      [128, 128, 0],
      [129, 128, 1],
      [255, 128, 127],
      [256, 256, 128],
    ] as const;
    for (const [n, keys, values] of table) expect(packedRows(n, 128)).toEqual({ keys, values });
  });
});

eachBackend("the quantiser", (backend) => {
  test("known answers, halves to even", () => {
    const cases: [number[], number[]][] = [
      [[0, 1, 2, 3.5], [0, 1, 2, 3].map((code) => code * Math.f16round(3.5 / 3))],
      [
        [0, 1, 3, 6],
        [0, 0, 4, 6],
      ],
    ];
    for (const [x, expected] of cases) {
      const keys = restored(
        backend,
        32,
        32,
        repeated(x, 32).flatMap((value) => repeated([value], 32)),
        two,
      ).keys;
      expect(Array.from({ length: 32 }, (_, r) => keys[r * 32]!)).toEqual(repeated(expected.map(Math.fround), 32));
      const { values } = restored(backend, 64, 32, repeated(x, 64 * 32), two);
      expect(Array.from(values.slice(0, 32))).toEqual(repeated(expected.map(Math.fround), 32));
    }
  });

  test("K3: codes of 2 and 4 bits come back as they were packed", () => {
    for (const [how, levels] of [
      [two, 3],
      [four, 15],
    ] as const) {
      const x = new Random(levels).ints(96 * 64, 0, levels + 1);
      const whole = x.map((value, i) => {
        const [r, c] = [Math.floor(i / 64) % 32, i % 32]; // both kinds of group see 0 and the highest code
        return r === 0 ? 0 : r === 1 ? levels : c === 0 ? 0 : c === 1 ? levels : value;
      });
      expect(Array.from(restored(backend, 96, 64, whole, how).keys)).toEqual(Array.from(whole));
    }
  });

  test("K1, K2: errors stay within half a step, the minimum is exact, the maximum as close as the scale", () => {
    for (const dtype of ["float16", "bfloat16"] as const) {
      for (const how of [two, four]) {
        using scope = new Scope(backend.context);
        const twin = emptyTwin(scope, { kvHeads: 1, groupSize: 1, headDim: 64, dtype: "float32" });
        appendRandom(scope, twin, new Random(3), 96);
        const x = twin.layer.heads[0]!.flatMap(({ key }) => Array.from(key, (k) => rounding[dtype](30 + 4 * k)));
        const { keys } = restored(backend, 96, 64, x, how);
        for (let g = 0; g < 96; g += 32) {
          for (let c = 0; c < 64; c++) {
            const group = Array.from({ length: 32 }, (_, r) => x[(g + r) * 64 + c]!);
            const back = Array.from({ length: 32 }, (_, r) => keys[(g + r) * 64 + c]!);
            const { scale, restored: expected } = quantizeGroup(group, how.keyBits);
            expect(back).toEqual(expected);
            for (const [r, value] of group.entries())
              expect(Math.abs(back[r]! - value)).toBeLessThanOrEqual(0.5 * scale * (1 + 2 ** -10));
            expect(back[group.indexOf(Math.min(...group))]).toBe(Math.min(...group));
            const [most, levels] = [Math.max(...group), 2 ** how.keyBits - 1];
            const ulp = 2 ** (Math.floor(Math.log2(scale)) - 10); // of an f16 scale; half of one is lost at each level
            expect(Math.abs(back[group.indexOf(most)]! - most)).toBeLessThanOrEqual(
              levels * (ulp / 2) + most * 2 ** -23,
            );
          }
        }
      }
    }
  });

  test("the authors' code makes the same scales, zeros and codes where no rounding decides, elsewhere none two apart", () => {
    for (const { name, bits, numbers, keys, values } of golden) {
      const x = numbers.map((number) => number / 256);
      const how = { keyBits: bits, valueBits: bits, group: 32, residual: 32 };
      const held = restored(backend, 96, 32, [...x, ...x.slice(0, 32 * 32)], how, "float16"); // the values of 64 rows are packed
      const groupOfKey = (i: number) => (i >> 10) * 32 + (i & 31); // rows / 32, channel
      const groupOfValue = (i: number) => i >> 5; // row
      for (const [theirs, ours, groupOf] of [
        [keys, held.keys, groupOfKey],
        [values, held.values, groupOfValue],
      ] as const) {
        let same = 0;
        Array.from(theirs.codes, (code) => Number.parseInt(code, 16)).forEach((code, i) => {
          const [scale, zero] = [theirs.scale[groupOf(i)]!, theirs.zero[groupOf(i)]!];
          if (name === "exact") expect(ours[i]).toBe(code * scale + zero);
          const apart = Math.abs(Math.round((ours[i]! - zero) / scale) - code);
          expect(apart).toBeLessThanOrEqual(1);
          same += apart === 0 ? 1 : 0;
        });
        expect(same / theirs.codes.length).toBeGreaterThanOrEqual(name === "exact" ? 1 : 0.995);
      }
    }
  });

  test("K2: constant groups are exact; denormal and huge ones hold numbers", () => {
    expect(new Set(restored(backend, 32, 32, repeated([7.25], 1024), two).keys)).toEqual(new Set([7.25]));
    for (const x of [
      [6e-8, 1.2e-7],
      [-60000, 60000],
      [-3e38, 3e38],
    ]) {
      const { keys, values } = restored(
        backend,
        64,
        32,
        Array.from({ length: 2048 }, (_, i) => x[(i + Math.floor(i / 32)) % 2]!),
        four,
      );
      expect([...keys, ...values].every(Number.isFinite)).toBe(true);
    }
  });
});

eachBackend("quantised rows", (backend) => {
  const shapes = [
    { kvHeads: 2, groupSize: 4, headDim: 64, how: four },
    { kvHeads: 2, groupSize: 7, headDim: 128, how: two },
    { kvHeads: 1, groupSize: 1, headDim: 8, how: { ...four, valueBits: 2 } },
    { kvHeads: 1, groupSize: 3, headDim: 96, how: { keyBits: 2, valueBits: 4, group: 64, residual: 128 } },
    { kvHeads: 1, groupSize: 17, headDim: 80, how: four },
  ];

  test.each(shapes)("by prefill and by single steps the same codes, whatever n: %o", ({ how, ...shape }) => {
    using scope = new Scope(backend.context);
    const { residual } = how;
    const grown = emptyTwin(scope, { ...shape, dtype: "float16" });
    appendRandom(scope, grown, new Random(1), 1);
    quantize(grown.cache, 0, how, 0);
    const batch = scope.own(Batch.create(backend.context, 1));
    batch.set([grown.cache]);
    for (let n = 2; n <= 3 * residual + 1; n++) {
      using inner = new Scope(backend.context);
      decodeStep(inner, batch, grown, new Random(n));
      const elementBytes = 2;
      expect(grown.cache.info().heldBytes).toBe(
        shape.kvHeads * (heldBytes(n, shape.headDim, elementBytes, how) + 4 * n),
      );
      if (n % residual > 1 && n % 7 > 0) continue;
      const expected = quantizedLayer(grown.layer, how);
      for (let h = 0; h < shape.kvHeads; h++) {
        const { keys, values } = readHead(inner, grown.cache, h);
        expect(keys).toEqual(
          Float32Array.from(expected.heads[h]!.flatMap(({ key }) => Array.from(key, Math.f16round))),
        );
        expect(values).toEqual(
          Float32Array.from(expected.heads[h]!.flatMap(({ value }) => Array.from(value, Math.f16round))),
        );
        expect(Array.from(grown.cache.positions(0, h))).toEqual(Array.from({ length: n }, (_, i) => i));
      }
    }
    const lossy = quantizedLayer(grown.layer, how).heads[0]![0]!.key;
    expect(relativeError(lossy, grown.layer.heads[0]![0]!.key)).toBeGreaterThan(0.01);
  });

  for (const dtype of floatDtypes) {
    const allowed = { float32: 3e-6, float16: 2e-3, bfloat16: 1.6e-2 }[dtype];
    test.each(shapes)(`decode attends to codes and residual at once, ${dtype}: %o`, ({ how, ...shape }) => {
      for (const n of [5, 300, 700]) {
        using scope = new Scope(backend.context);
        const twin = emptyTwin(scope, { ...shape, dtype });
        appendRandom(scope, twin, new Random(n), n);
        quantize(twin.cache, 0, how, 2);
        const batch = scope.own(Batch.create(backend.context, 1));
        batch.set([twin.cache]);
        const random = new Random(7);
        for (let step = 0; step < 5; step++) {
          const old = quantizedLayer(twin.layer, how); // packing comes after attention
          const { out, query } = decodeStep(scope, batch, twin, random);
          const seen = { ...old, heads: old.heads.map((rows, h) => [...rows, twin.layer.heads[h]!.at(-1)!]) };
          const expected = attentionDecode(seen, n + step, query, scaleOf(shape.headDim), 0, exact);
          expect(relativeError(out, expected.out)).toBeLessThan(allowed);
        }
      }
    });
  }

  test.each([
    ["float32", 3e-6],
    ["float16", 2e-3],
  ] as const)("a sliding window and probabilities count rows, packed or not: %s", (dtype, allowed) => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype };
    const twin = emptyTwin(scope, shape);
    appendRandom(scope, twin, new Random(1), 300);
    quantize(twin.cache, 0, four, 1);
    const batch = scope.own(Batch.create(backend.context, 1));
    batch.set([twin.cache]);
    const q = randomQueries(scope, new Random(2), twin, 1);
    for (const window of [0, 20, 90]) {
      const out = scope.tensor(dtype, 1, q.tensor.columns);
      const probs = scope.tensor("float32", 2, 300);
      nativeDecode(batch, 0, q.tensor, scaleOf(64), window, out, probs);
      const expected = attentionDecode(
        quantizedLayer(twin.layer, four),
        300,
        q.values.data,
        scaleOf(64),
        window,
        exact,
      );
      expect(relativeError(out.toFloats(), expected.out)).toBeLessThan(allowed);
      const all = expected.probabilities.flatMap((row) => Array.from(row));
      expect(relativeError(probs.toFloats(), all)).toBeLessThan(allowed);
    }
  });

  test("forty-eight sequences at once give what one gives, however the work is divided", () => {
    using scope = new Scope(backend.context);
    const twin = emptyTwin(scope, { kvHeads: 8, groupSize: 1, headDim: 64, dtype: "float16" });
    appendRandom(scope, twin, new Random(1), 600);
    quantize(twin.cache, 0, four, 1);
    const caches = Array.from({ length: 48 }, () => scope.own(twin.cache.fork()));
    const query = randomQueries(scope, new Random(2), twin, 1);
    const outs = [1, 48].map((count) => {
      const batch = scope.own(Batch.create(backend.context, count));
      batch.set(caches.slice(0, count));
      const q = scope.tensor("float16", count, query.tensor.columns);
      for (let row = 0; row < count; row++) query.tensor.copyTo(scope.view(q, row, 1));
      const out = scope.tensor("float16", count, q.columns);
      nativeDecode(batch, 0, q, scaleOf(64), 0, out);
      return out.toFloats();
    });
    const alone = outs[0]!;
    for (let row = 0; row < 48; row++)
      expect(relativeError(outs[1]!.subarray(row * alone.length, (row + 1) * alone.length), alone)).toBeLessThan(1e-3);
  });

  test("full precision is freed, a copy goes on like its origin, and storage grows under it", () => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 2, groupSize: 2, headDim: 64, dtype: "float16" as const };
    const twin = emptyTwin(scope, shape);
    appendRandom(scope, twin, new Random(1), 512);
    const before = backend.context.memory("cache").bytes;
    const whole = twin.cache.info().allocatedBytes;
    quantize(twin.cache, 0, four, 1);
    const { allocatedBytes, heldBytes: held } = twin.cache.info();
    expect(backend.context.memory("cache").bytes).toBe(before - whole + allocatedBytes);
    expect(allocatedBytes).toBeLessThan(0.45 * whole);
    expect(held).toBe(2 * (heldBytes(512, 64, 2, four) + 4 * 512));
    const copy = scope.own(twin.cache.fork());
    for (const h of [0, 1]) expect(readHead(scope, copy, h)).toEqual(readHead(scope, twin.cache, h));
    const outs = [twin.cache, copy].map((cache) => {
      const batch = scope.own(Batch.create(backend.context, 1));
      batch.set([cache]);
      const random = new Random(9);
      const layer = structuredClone(twin.layer);
      return Array.from({ length: 70 }, () => decodeStep(scope, batch, { ...twin, cache, layer }, random).out);
    });
    expect(outs[1]).toEqual(outs[0]!);
    for (const h of [0, 1]) expect(readHead(scope, copy, h)).toEqual(readHead(scope, twin.cache, h));
  });

  test("what works on rows in full precision refuses the layer, and a missing flush is noticed", () => {
    using scope = new Scope(backend.context);
    const twin = emptyTwin(scope, { kvHeads: 1, groupSize: 1, headDim: 32, dtype: "float32" });
    appendRandom(scope, twin, new Random(1), 63);
    quantize(twin.cache, 0, four, 4);
    const batch = scope.own(Batch.create(backend.context, 1));
    batch.set([twin.cache]);
    const { native } = backend.context.library;
    const f = (rows: number, columns: number) => scope.tensor("float32", rows, columns);
    expect(() => twin.cache.keep(0, null, 4, 4, 0)).toThrow(/quantised or channel-indexed rows/);
    expect(() => dropPooled({ batch, first: 0, sequences: 1, layer: 0 }, f(1, 63), 8, 0, 1)).toThrow(/quantised/);
    expect(() => twin.cache.write(0, 0, "keys", f(63, 32))).toThrow(/quantised/);
    expect(() => quantize(twin.cache, 0, four, 0)).toThrow(/quantised already/);
    expect(native.kva_row_norms(twin.cache.pointer, 0, 0, 2, f(1, 63).pointer)).toBe(-1);
    batch.reserve(2);
    const rope = deviceRope(scope, unrotating(32));
    const append = () =>
      native.kva_rope_append_batch(batch.pointer, 0, f(1, 96).pointer, f(1, 32).pointer, rope.invFreq.pointer, 0, 1);
    expect(append()).toBe(0);
    expect(append()).toBe(-1);
    expect(String(native.kva_last_error())).toMatch(/flush is due/);
  });
});

eachBackend("KIVI in the engine", (backend) => {
  test("the prompt's logits are exact, and a prompt within the residual is dense until it leaves it", async () => {
    const engine = openEngine(backend);
    const method = await methodOf("KIVI[residual=32]");
    const full = await methodOf("Full");
    const long = [traceOf(97, 3, 1)];
    expect((await trace(engine, method, long))[0]!.logits[0]).toEqual((await trace(engine, full, long))[0]!.logits[0]!);
    expect((await trace(engine, method, long))[0]!.logits[3]).not.toEqual(
      (await trace(engine, full, long))[0]!.logits[3]!,
    );
    const short = [traceOf(20, 12, 2)];
    const [ours, dense] = [await trace(engine, method, short), await trace(engine, full, short)];
    for (const [step, logits] of ours[0]!.logits.entries()) {
      const allowed = backend.name === "cpu" ? 1e-12 : 2e-5;
      expect(relativeError(logits, dense[0]!.logits[step]!)).toBeLessThan(allowed);
    }
    engine.dispose();
  });

  test("beside eviction it packs what is left", async () => {
    const engine = openEngine(backend);
    for (const name of [
      "SnapKV[capacity=80,window=8]",
      "H2O[capacity=80]",
      "StreamingLLM[capacity=80]",
      "PyramidKV[capacity=80,window=8]",
    ]) {
      const spec = await methodOf(`${name}+KIVI[residual=32]`);
      const [done] = await generate(engine, spec, [request(randomIds(200, 3), { maxNewTokens: 40 })]);
      expect(done!.status).toBe("ok");
      expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
    }
    engine.dispose();
  });
});

// What decode steps do to the cache: keep_at_most, drop_lowest, accumulate, rotate_sinks, rotate_slots, advance.
import { expect, test } from "bun:test";
import { Batch, EVERY_ROW } from "../../src/native/kv.ts";
import { ropeAppendBatch } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { quantize } from "../../src/native/segments.ts";
import { elementBytes } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import {
  appendRandom,
  appendStep,
  batchOf,
  deviceRope,
  emptyTwin,
  flatKeys,
  keepRandom,
  llamaRope,
  randomTwin,
  readRows,
  type Twin,
} from "../support/cache.ts";
import { input, output, row } from "../support/guarded.ts";
import { Random } from "../support/random.ts";
import { type Arithmetic, exact, plain, rotate } from "../support/reference.ts";
import * as reference from "../support/reference-attention.ts";
import { floatDtypes } from "../support/tolerance.ts";

const shape = { kvHeads: 2, groupSize: 2, headDim: 64, dtype: "bfloat16" as const, sideArrays: 2 };

const sideOf = (scope: Scope, { cache }: Twin, head: number, side: number) => {
  const out = output(scope, "float32", 1, cache.lengths(0)[head]!);
  cache.read(0, head, { side }, out.tensor);
  return Array.from(out.read());
};

/** Rows, in row order, with all that belongs to them. */
function expectRows(scope: Scope, twin: Twin): void {
  twin.layer.heads.forEach((rows, h) => {
    expect(Array.from(twin.cache.positions(0, h))).toEqual(rows.map(({ position }) => position));
    expect(Array.from(readRows(scope, twin.cache, 0, h, "keys"))).toEqual(flatKeys(twin.layer, h));
    for (let side = 0; side < twin.shape.sideArrays; side++) {
      expect(sideOf(scope, twin, h, side)).toEqual(rows.map(({ sides }) => sides[side]!));
    }
  });
}

eachBackend("kv_keep_at_most", (backend) => {
  test("drops the oldest row past the sinks, by position, step after step", () => {
    using scope = new Scope(backend.context);
    const random = new Random(1);
    const twins = [
      randomTwin(scope, random, shape, 30, [12, 20]),
      randomTwin(scope, random, shape, 5),
      randomTwin(scope, random, shape, 16),
    ];
    const batch = batchOf(scope, twins);
    for (let i = 0; i < 25; i++) {
      appendStep(scope, batch, twins, random);
      batch.keepAtMost(0, 3, 0, 16, 3);
      for (const { layer } of twins) reference.keepAtMost(layer, 16, 3);
      batch.advance();
      for (const twin of twins) expectRows(scope, twin);
    }
    expect(twins.map(({ cache }) => Array.from(cache.lengths(0)))).toEqual([
      [16, 20],
      [16, 16],
      [16, 16],
    ]);
    for (const { cache } of twins) expect(cache.info().position).toBeGreaterThan(29);
  });

  test("acts on the sequences of its range only, and without sinks drops the very first row", () => {
    using scope = new Scope(backend.context);
    const random = new Random(2);
    const twins = [0, 1, 2].map(() => randomTwin(scope, random, shape, 9));
    const batch = batchOf(scope, twins);
    batch.keepAtMost(1, 1, 0, 8, 0);
    reference.keepAtMost(twins[1]!.layer, 8, 0);
    for (const twin of twins) expectRows(scope, twin);
    expect(Array.from(twins[1]!.cache.positions(0, 0)).sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });
});

eachBackend("kv_drop_lowest", (backend) => {
  function setSide(
    scope: Scope,
    { cache, layer }: Twin,
    side: number,
    value: (r: number, head: number) => number,
  ): void {
    layer.heads.forEach((rows, h) => {
      rows.forEach((held, r) => {
        held.sides[side] = Math.fround(value(r, h));
      });
      cache.write(
        0,
        h,
        { side },
        input(
          scope,
          "float32",
          1,
          rows.length,
          rows.map(({ sides }) => sides[side]!),
        ).tensor,
      );
    });
  }

  test("drops the row with the lowest score among those old enough, lower position on ties", () => {
    using scope = new Scope(backend.context);
    const random = new Random(3);
    const twins = [randomTwin(scope, random, shape, 40, [20, 31]), randomTwin(scope, random, shape, 18)];
    for (const twin of twins) setSide(scope, twin, 1, () => Math.round(4 * random.uniform()));
    const batch = batchOf(scope, twins);
    for (let i = 0; i < 20; i++) {
      appendStep(scope, batch, twins, random);
      batch.dropLowest(0, 2, 0, 18, 1, 5);
      for (const { cache, layer } of twins) reference.dropLowest(layer, 18, 1, 5, cache.info().position);
      batch.advance();
      for (const twin of twins) expectRows(scope, twin);
    }
  });

  test("recent 0 lets the newest row go, recent protects all rows but the oldest", () => {
    using scope = new Scope(backend.context);
    const random = new Random(4);
    const twin = randomTwin(scope, random, shape, 8);
    setSide(scope, twin, 0, (r) => 100 - r);
    const batch = batchOf(scope, [twin]);
    appendStep(scope, batch, [twin], random); // its score is 0: the lowest
    batch.dropLowest(0, 1, 0, 8, 0, 0);
    reference.dropLowest(twin.layer, 8, 0, 0, twin.cache.info().position);
    expectRows(scope, twin);
    expect(Array.from(twin.cache.positions(0, 0))).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    batch.advance();
    appendStep(scope, batch, [twin], random);
    batch.dropLowest(0, 1, 0, 8, 0, 8);
    reference.dropLowest(twin.layer, 8, 0, 8, twin.cache.info().position);
    expectRows(scope, twin);
    expect(Array.from(twin.cache.positions(0, 0)).sort((a, b) => a - b)).toEqual([0, 2, 3, 4, 5, 6, 7, 9]);
  });
});

eachBackend("kv_accumulate", (backend) => {
  test("side = side * decay + factor * probability, by row, in the given sequences", () => {
    using scope = new Scope(backend.context);
    const random = new Random(5);
    const twins = [randomTwin(scope, random, shape, 30, [12, 20]), randomTwin(scope, random, shape, 7)];
    const batch = batchOf(scope, twins);
    const probs = input(scope, "float32", 4, 23, random.normals(92).map(Math.abs));
    const [factor, decay] = [Math.fround(4), Math.fround(0.9)];
    for (let round = 0; round < 3; round++) {
      batch.accumulate(0, 2, 0, probs.tensor, 1, factor, decay);
      twins.forEach(({ layer }, s) => {
        layer.heads.forEach((rows, h) => {
          rows.forEach((held, r) => {
            held.sides[1] = held.sides[1]! * decay + factor * row(probs.values, 2 * s + h)[r]!;
          });
        });
      });
    }
    twins.forEach((twin) => {
      twin.layer.heads.forEach((rows, h) => {
        const expected = rows.map(({ sides }) => sides[1]!);
        expect(sideOf(scope, twin, h, 1)).toMatchReference({
          reference: expected,
          plain: expected.map(Math.fround),
          dtype: "float32",
        });
        expect(new Set(sideOf(scope, twin, h, 0))).toEqual(new Set([0]));
      });
    });
  });

  test("leaves sequences outside of its range alone", () => {
    using scope = new Scope(backend.context);
    const twins = [0, 1].map((seed) => randomTwin(scope, new Random(seed), shape, 7));
    const batch = batchOf(scope, twins);
    const probs = input(scope, "float32", 4, 7, new Array(28).fill(1));
    batch.accumulate(1, 1, 0, probs.tensor, 0, 1, 1);
    expect(new Set(sideOf(scope, twins[0]!, 0, 0))).toEqual(new Set([0]));
    expect(new Set(sideOf(scope, twins[1]!, 0, 0))).toEqual(new Set([1]));
  });
});

eachBackend("kv_rotate_sinks", (backend) => {
  for (const dtype of floatDtypes) {
    for (const [name, rope] of [
      ["Llama pairs", llamaRope(64)],
      ["adjacent pairs of half a head, scaled", llamaRope(32, 10000, true, 1.1)],
    ] as const) {
      test(`moves the kept keys by the rows dropped so far, from unrotated ones (${dtype}, ${name})`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(6);
        const twin = emptyTwin(scope, { ...shape, dtype, sideArrays: 0, unrotatedRows: 3 });
        appendRandom(scope, twin, random, 20, 0, rope);
        twin.cache.keep(0, null, 3, 7, 4);
        reference.keep(twin.layer, null, 3, 7);
        const batch = batchOf(scope, [twin]);
        const device = deviceRope(scope, rope);
        for (const now of [19, 1019, 100_019]) {
          twin.cache.seek(now, 0);
          batch.rotateSinks(0, 1, 0, 3, device);
          const plainLayer = structuredClone(twin.layer);
          reference.rotateSinks(twin.layer, 3, now, rope);
          reference.rotateSinks(plainLayer, 3, now, rope, plain(dtype));
          for (const h of [0, 1]) {
            expect(readRows(scope, twin.cache, 0, h, "keys").subarray(0, 3 * 64)).toMatchReference({
              reference: flatKeys(twin.layer, h).slice(0, 3 * 64),
              plain: flatKeys(plainLayer, h).slice(0, 3 * 64),
              dtype,
            });
          }
        }
      });
    }
  }

  test("nothing dropped, nothing moved: the keys are those that append rotated, bit for bit", () => {
    using scope = new Scope(backend.context);
    for (const dtype of floatDtypes) {
      const twin = emptyTwin(scope, { ...shape, dtype, unrotatedRows: 4 });
      appendRandom(scope, twin, new Random(7), 9, 0, llamaRope(64));
      twin.cache.seek(8, 0); // the step of the token at position 8
      const before = readRows(scope, twin.cache, 0, 1, "keys");
      batchOf(scope, [twin]).rotateSinks(0, 1, 0, 4, deviceRope(scope, llamaRope(64)));
      expect(readRows(scope, twin.cache, 0, 1, "keys")).toEqual(before);
    }
  });

  test("rows past the sinks keep their bits", () => {
    using scope = new Scope(backend.context);
    const twin = emptyTwin(scope, { ...shape, unrotatedRows: 4 });
    appendRandom(scope, twin, new Random(8), 30, 0, llamaRope(64));
    twin.cache.keep(0, null, 4, 8, 0);
    const before = readRows(scope, twin.cache, 0, 0, "keys");
    batchOf(scope, [twin]).rotateSinks(0, 1, 0, 4, deviceRope(scope, llamaRope(64)));
    const after = readRows(scope, twin.cache, 0, 0, "keys");
    expect(after.subarray(4 * 64)).toEqual(before.subarray(4 * 64));
    expect(after.subarray(0, 64)).not.toEqual(before.subarray(0, 64));
  });
});

eachBackend("kv_rotate_slots", (backend) => {
  for (const dtype of floatDtypes) {
    for (const [name, rope] of [
      ["Llama pairs", llamaRope(64)],
      ["adjacent pairs of half a head, scaled", llamaRope(32, 10000, true, 1.1)],
    ] as const) {
      test(`turns every key to its place among its head's rows, whatever their order (${dtype}, ${name})`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(14);
        const twin = emptyTwin(scope, { ...shape, dtype, sideArrays: 1, unrotatedRows: EVERY_ROW });
        const { qkv } = appendRandom(scope, twin, random, 20, 0, rope);
        keepRandom(scope, twin, random, [13, 9]);
        const batch = batchOf(scope, [twin]);
        twin.cache.seek(19, 0);
        batch.keepAtMost(0, 1, 0, 12, 1); // head 0: the last row moves into a gap
        reference.keepAtMost(twin.layer, 12, 1);
        twin.cache.reserve(0, 50);
        const copy = scope.own(twin.cache.fork());
        const copies = scope.own(Batch.create(scope.context, 1));
        copies.set([copy]);
        for (const now of [19, 1019, 100_019]) {
          copy.seek(now, 0);
          copies.rotateSlots(0, 1, 0, deviceRope(scope, rope));
          twin.layer.heads.forEach((rows, h) => {
            const places = rows.map(({ position }) => position).toSorted((a, b) => a - b);
            const turned = (a: Arithmetic) =>
              rows.flatMap(({ position }) => {
                const key = row(qkv.values, position).slice((4 + h) * 64, (5 + h) * 64);
                return Array.from(rotate(key, places.indexOf(position) + now + 1 - rows.length, rope, a));
              });
            const keys = readRows(scope, copy, 0, h, "keys");
            expect(keys).toMatchReference({ reference: turned(exact), plain: turned(plain(dtype)), dtype });
          });
        }
      });
    }
  }

  test("a new token's unrotated key is kept, too; all count as bytes held; such rows are never packed", () => {
    using scope = new Scope(backend.context);
    const twin = emptyTwin(scope, { ...shape, sideArrays: 0, unrotatedRows: EVERY_ROW });
    appendRandom(scope, twin, new Random(15), 9, 0, llamaRope(64));
    expect(twin.cache.info().heldBytes).toBe(9 * 2 * (3 * 64 * elementBytes.bfloat16 + 4));
    const batch = batchOf(scope, [twin]);
    batch.reserve(1);
    const rope = deviceRope(scope, llamaRope(64));
    const qkv = input(scope, "bfloat16", 1, 8 * 64, new Random(16).normals(8 * 64));
    ropeAppendBatch(batch, 0, qkv.tensor, scope.tensor("bfloat16", 1, 4 * 64), rope);
    const before = readRows(scope, twin.cache, 0, 1, "keys");
    batch.rotateSlots(0, 1, 0, rope); // nothing was dropped
    expect(readRows(scope, twin.cache, 0, 1, "keys")).toEqual(before);
    expect(() => quantize(twin.cache, 0, { keyBits: 4, valueBits: 4, group: 32, residual: 32 }, 0)).toThrow(
      /unrotated keys of every row/,
    );
  });
});

eachBackend("batch_advance", (backend) => {
  test("raises the position of every sequence by one, and of no other", () => {
    using scope = new Scope(backend.context);
    const twins = [3, 9, 4].map((rows) => randomTwin(scope, new Random(rows), shape, rows));
    const batch = batchOf(scope, twins.slice(0, 2));
    batch.advance();
    batch.advance();
    expect(twins.map(({ cache }) => cache.info().position)).toEqual([5, 11, 4]);
  });
});

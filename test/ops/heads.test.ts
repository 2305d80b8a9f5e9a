// Budgets of each head and scores over all heads against float64: selections, means, shared probabilities, limits of each head, keys against
// their mean, moments of queries and what is expected of later ones.
import { expect, test } from "bun:test";
import * as heads from "../../src/native/heads.ts";
import { Batch } from "../../src/native/kv.ts";
import { Scope } from "../../src/native/scope.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { appendRandom, deviceRope, emptyTwin, llamaRope, randomTwin, readRows, type Twin } from "../support/cache.ts";
import { input, matrix, output, row } from "../support/guarded.ts";
import { Random } from "../support/random.ts";
import { futureAttention, keySimilarity, meanRotation, momentsOf, topkCounts } from "../support/reference-heads.ts";
import { topk } from "../support/reference-scores.ts";
import { floatDtypes, relativeError } from "../support/tolerance.ts";

const shape = { kvHeads: 3, groupSize: 2, headDim: 64, dtype: "bfloat16" as const, sideArrays: 2 };

function batchOf(scope: Scope, twins: readonly Twin[]) {
  const batch = scope.own(Batch.create(scope.context, twins.length));
  batch.set(twins.map(({ cache }) => cache));
  return { batch, first: 0, sequences: twins.length, layer: 0 };
}

const ints = (scope: Scope, values: readonly number[], rows = 1) =>
  scope.own(Tensor.from(scope.context, Int32Array.from(values), rows, values.length / rows));

eachBackend("selections over all heads", (backend) => {
  test("counts of the k best equal a sort: ties take the lower column, then the lower row; NaN comes last", () => {
    using scope = new Scope(backend.context);
    const random = new Random(1);
    for (const [rows, columns] of [
      [1, 7],
      [2, 50],
      [8, 300],
      [7, 1111],
    ] as const) {
      for (const levels of [3, 1000]) {
        const values = Array.from({ length: rows * columns }, () => Math.round(levels * random.uniform()) - 1);
        values[Math.floor(values.length / 2)] = Number.NaN;
        values[1] = Infinity;
        const x = input(scope, "float32", rows, columns, values);
        for (const k of [1, 2, Math.ceil(values.length / 3), values.length - 1, values.length]) {
          const counts = output(scope, "int32", 1, rows);
          heads.topkCounts(x.tensor, k, counts.tensor);
          expect(Array.from(counts.readInts())).toEqual(topkCounts(x.values, k));
        }
      }
    }
  });

  test("each row gets its own number of best columns; a number outside of the range is taken within it", () => {
    using scope = new Scope(backend.context);
    const random = new Random(2);
    const x = input(
      scope,
      "float32",
      4,
      90,
      Array.from({ length: 360 }, () => Math.round(20 * random.uniform())),
    );
    for (const [asked, most] of [
      [[5, 0, 90, 33], 90],
      [[1, 2, 3, 4], 4],
      [[-3, 7, 200, 1], 7],
    ] as const) {
      const index = scope.tensor("int32", 4, most);
      heads.topkEach(x.tensor, ints(scope, asked), index);
      const all = index.toInts();
      asked.forEach((count, r) => {
        const taken = Math.min(Math.max(count, 0), most);
        expect(Array.from(all.subarray(r * most, r * most + taken))).toEqual(topk(row(x.values, r), taken));
      });
    }
  });

  test("means over rows, sums over columns, products, and values set by index", () => {
    using scope = new Scope(backend.context);
    const random = new Random(3);
    for (const [rows, columns] of [
      [1, 1],
      [3, 7],
      [8, 3000],
    ] as const) {
      const x = input(scope, "float32", rows, columns, random.normals(rows * columns));
      const y = input(scope, "float32", rows, columns, random.normals(rows * columns));
      const [mean, sums, product] = [
        output(scope, "float32", rows, columns),
        output(scope, "float32", rows, 1),
        output(scope, "float32", rows, columns),
      ];
      heads.rowsMean(x.tensor, mean.tensor);
      heads.rowSums(x.tensor, sums.tensor);
      heads.multiply(x.tensor, y.tensor, product.tensor);
      const at = (r: number, c: number) => row(x.values, r)[c]!;
      const ofRows = Array.from({ length: rows }, (_, r) => r);
      const average = Array.from({ length: columns }, (_, c) => ofRows.reduce((sum, r) => sum + at(r, c), 0) / rows);
      expect(
        relativeError(
          mean.read(),
          ofRows.flatMap(() => average),
        ),
      ).toBeLessThan(1e-6);
      const totals = ofRows.map((r) => row(x.values, r).reduce((sum, v) => sum + v, 0));
      sums.read().forEach((sum, r) => {
        expect(Math.abs(sum - totals[r]!)).toBeLessThan(1e-5 * Math.sqrt(columns));
      });
      expect(product.read()).toEqual(Float32Array.from(x.values.data, (v, i) => Math.fround(v * y.values.data[i]!)));
      heads.fillAt(
        x.tensor,
        ints(
          scope,
          ofRows.flatMap((r) => [r % columns, columns + 3]),
          rows,
        ),
        Infinity,
      );
      ofRows.forEach((r) => {
        row(x.values, r)[r % columns] = Infinity;
      });
      expect(x.tensor.toFloats()).toEqual(Float32Array.from(x.values.data));
    }
  });
});

eachBackend("decoding with budgets of each head", (backend) => {
  test("shared probabilities: all heads of a sequence add the mean over its heads", () => {
    using scope = new Scope(backend.context);
    const random = new Random(4);
    const twins = [40, 300].map((rows) => randomTwin(scope, random, shape, rows));
    const columns = 310;
    const probs = input(scope, "float32", 6, columns, Array.from(random.normals(6 * columns), Math.abs));
    const range = batchOf(scope, twins);
    heads.accumulateShared(range, probs.tensor, 1, 3, 0.5);
    heads.accumulateShared({ ...range, first: 1, sequences: 1 }, probs.tensor, 1, 2, 0);
    twins.forEach(({ cache, layer }, s) => {
      layer.heads.forEach((rows, h) => {
        const held = output(scope, "float32", 1, rows.length);
        cache.read(0, h, { side: 1 }, held.tensor);
        const mean = (r: number) => [0, 1, 2].reduce((sum, other) => sum + row(probs.values, 3 * s + other)[r]! / 3, 0);
        const expected = rows.map((_, r) => (s === 0 ? 3 : 2) * mean(r));
        expect(relativeError(held.read(), expected)).toBeLessThan(1e-6);
      });
    });
  });

  test("each head keeps as many rows as it may: its oldest row past the sinks goes, lengths follow, in a graph's order too", () => {
    using scope = new Scope(backend.context);
    const random = new Random(5);
    const twins = [30, 12].map((rows) => randomTwin(scope, random, shape, rows));
    const limits = [20, 2 ** 31 - 1, 29];
    const range = batchOf(scope, twins);
    const expected = twins.map(({ layer }) => layer.heads.map((rows) => rows.map(({ position }) => position)));
    for (let step = 0; step < 12; step++) {
      heads.keepAtMostEach(range, limits, 3);
      for (const sequence of expected) {
        sequence.forEach((positions, h) => {
          if (positions.length > limits[h]!) positions.splice(3, 1);
        });
      }
      twins.forEach(({ cache }, s) => {
        expect(Array.from(cache.lengths(0))).toEqual(expected[s]!.map((positions) => positions.length));
        expected[s]!.forEach((positions, h) => {
          expect(Array.from(cache.positions(0, h)).sort((a, b) => a - b)).toEqual(positions);
        });
      });
    }
    expect(expected[0]!.map((positions) => positions.length)).toEqual([20, 30, 29]);
  });
});

eachBackend("keys against their mean", (backend) => {
  for (const dtype of floatDtypes) {
    for (const headDim of [64, 128, 80]) {
      test(`cosines equal float64: ${dtype}, headDim ${headDim}`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(headDim);
        for (const rows of [1, 2, 17, 700]) {
          const twin = randomTwin(scope, random, { ...shape, headDim, dtype }, rows);
          const out = output(scope, "float32", 3, rows);
          heads.keySimilarity(twin.cache, 0, out.tensor);
          const values = out.read();
          twin.layer.heads.forEach((held, h) => {
            const expected = keySimilarity(held.map(({ key }) => key));
            expected.forEach((cosine, r) => {
              expect(Math.abs(values[h * rows + r]! - cosine)).toBeLessThan(2e-6);
            });
          });
        }
      });
    }
  }

  test("a zero key, and keys that cancel out, give 0", () => {
    using scope = new Scope(backend.context);
    const twin = randomTwin(scope, new Random(6), { ...shape, dtype: "float32" }, 4);
    const keys = Float64Array.from({ length: 4 * 64 }, (_, i) => [1, -1, 0, 0][Math.floor(i / 64)]!);
    for (let h = 0; h < 3; h++) twin.cache.write(0, h, "keys", input(scope, "float32", 4, 64, keys).tensor);
    const out = output(scope, "float32", 3, 4);
    heads.keySimilarity(twin.cache, 0, out.tensor);
    expect(Array.from(out.read(), Math.abs)).toEqual(new Array(12).fill(0));
  });

  test("while decoding, heads with enough rows get theirs in a side array and the others stay as they are", () => {
    using scope = new Scope(backend.context);
    const random = new Random(7);
    const twin = randomTwin(scope, random, shape, 60, [60, 20, 41]);
    heads.noteSimilarity(batchOf(scope, [twin]), 1, 41, -2);
    twin.layer.heads.forEach((rows, h) => {
      const held = output(scope, "float32", 1, rows.length);
      twin.cache.read(0, h, { side: 1 }, held.tensor);
      const values = held.read();
      const expected = h === 1 ? rows.map(() => 0) : keySimilarity(rows.map(({ key }) => key)).map((x) => -2 * x);
      expected.forEach((value, r) => {
        expect(Math.abs(values[r]! - value)).toBeLessThan(4e-6);
      });
    });
  });
});

eachBackend("moments of queries", (backend) => {
  for (const [headDim, dtype] of [
    [64, "float32"],
    [128, "bfloat16"],
    [80, "float16"],
  ] as const) {
    test(`mean and products equal float64 in whatever parts they come, far from 0 too: headDim ${headDim}, ${dtype}`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(headDim);
      const [count, rows] = [3, 150];
      for (const shift of [0, 30]) {
        const values = Array.from(random.normals(rows * count * headDim), (x, i) => x + shift * Math.cos(i % headDim));
        const x = input(scope, dtype, rows, count * headDim, values);
        for (const parts of [[150], [1, 149], [70, 1, 79]]) {
          const out = output(scope, "float32", count, headDim + headDim ** 2);
          let first = 0;
          for (const part of parts) {
            heads.queryMoments(scope.view(x.tensor, first, part), count, first, out.tensor);
            first += part;
          }
          const all = matrix(count, headDim + headDim ** 2, out.read());
          for (let h = 0; h < count; h++) {
            const own = Array.from({ length: rows }, (_, r) =>
              row(x.values, r).subarray(h * headDim, (h + 1) * headDim),
            );
            const { mean, covariance } = momentsOf(own);
            expect(relativeError(row(all, h).subarray(0, headDim), mean)).toBeLessThan(1e-5);
            const products = covariance.flatMap((line) => Array.from(line, (v) => v * rows));
            expect(relativeError(row(all, h).subarray(headDim), products)).toBeLessThan(2e-5);
          }
        }
      }
    });
  }
});

eachBackend("expected attention", (backend) => {
  for (const [groupSize, headDim, dtype, interleaved, rotary] of [
    [1, 64, "float32", false, 64],
    [4, 128, "bfloat16", false, 128],
    [7, 64, "float32", true, 32],
    [2, 80, "float16", false, 80],
    [2, 256, "float32", false, 256],
  ] as const) {
    test(`equals float64: group ${groupSize}, headDim ${headDim}, ${dtype}, ${rotary} rotated channels`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(groupSize + headDim);
      const [kvHeads, rows, firstRow] = [2, 130, 4];
      const rope = llamaRope(rotary, 10000, interleaved, 1.25);
      const twin = emptyTwin(scope, { kvHeads, groupSize, headDim, dtype });
      appendRandom(scope, twin, random, rows, 0, rope);
      twin.layer.heads.forEach((held, h) => {
        const keys = readRows(scope, twin.cache, 0, h, "keys"); // as rounded after rotation
        held.forEach((one, r) => {
          one.key = Float64Array.from(keys.subarray(r * headDim, (r + 1) * headDim));
        });
      });
      const count = kvHeads * groupSize;
      const queries = input(scope, dtype, rows, count * headDim, random.normals(rows * count * headDim));
      const moments = scope.tensor("float32", count, headDim + headDim ** 2);
      heads.queryMoments(queries.tensor, count, 0, moments);
      const own = Array.from({ length: count }, (_, h) =>
        momentsOf(
          Array.from({ length: rows }, (_, r) => row(queries.values, r).subarray(h * headDim, (h + 1) * headDim)),
        ),
      );
      const scale = Math.fround(1 / Math.sqrt(headDim));
      for (const covariance of [true, false]) {
        for (const [firstPosition, positions] of [
          [rows, 512],
          [100_000, 3],
        ] as const) {
          const out = output(scope, "float32", kvHeads, rows - firstRow);
          const of = { moments, seen: rows, firstPosition, positions, rope: deviceRope(scope, rope) };
          heads.futureAttention(twin.cache, 0, { ...of, scale, firstRow, covariance }, out.tensor);
          const R = meanRotation(rope, headDim, firstPosition, positions);
          const expected = futureAttention(twin.layer, own, R, scale, firstRow, covariance);
          expect(relativeError(out.read(), expected.data)).toBeLessThan(1e-4);
        }
      }
    });
  }
});

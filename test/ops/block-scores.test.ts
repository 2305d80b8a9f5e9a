// Scores that choose blocks against float64: windows, means, pooled attention, antidiagonals; and what is chosen from scores.
import { expect, test } from "bun:test";
import * as blocks from "../../src/native/blocks.ts";
import { Scope } from "../../src/native/scope.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { randomQueries, randomTwin, type TwinShape } from "../support/cache.ts";
import { input, type Matrix, matrix, output, row } from "../support/guarded.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attend, headOf } from "../support/reference-attention.ts";
import * as reference from "../support/reference-blocks.ts";
import { floatDtypes } from "../support/tolerance.ts";

const scaleOf = (headDim: number) => Math.fround(1 / Math.sqrt(headDim));
/** Scores reach about 8, where an fp32 sum is good to 1e-6; the relative error of a probability is the absolute one of its score. */
const SCORE_FLOOR = 4e-6;
const matches = (actual: Float32Array, expected: Matrix) =>
  expect(actual).toMatchReference({
    reference: expected.data,
    plain: expected.data,
    dtype: "float32",
    floor: SCORE_FLOOR,
  });

eachBackend("window_sums", (backend) => {
  const shapes: [TwinShape, length: number, window: number, block: number][] = [
    [{ kvHeads: 2, groupSize: 1, headDim: 64, dtype: "float32" }, 150, 64, 64],
    [{ kvHeads: 1, groupSize: 4, headDim: 128, dtype: "bfloat16" }, 300, 17, 128],
    [{ kvHeads: 1, groupSize: 7, headDim: 80, dtype: "float16" }, 97, 97, 32],
    [{ kvHeads: 2, groupSize: 2, headDim: 64, dtype: "float32" }, 128, 1, 64],
  ];
  test.each(shapes)("%j, %d rows, window %d, block %d", (shape, length, window, block) => {
    using scope = new Scope(backend.context);
    const random = new Random(length);
    const twin = randomTwin(scope, random, shape, length);
    const queries = randomQueries(scope, random, twin, window);
    const heads = shape.kvHeads * shape.groupSize;
    const count = Math.ceil(length / block);
    const out = {
      columns: output(scope, "float32", heads, length),
      diagonals: output(scope, "float32", heads, length),
      columnBlocks: output(scope, "float32", heads, count),
      diagonalBlocks: output(scope, "float32", heads, count),
    };
    const scale = scaleOf(shape.headDim);
    const expected = reference.windowSums(twin.layer, queries.values, scale, block);
    const parts = Object.keys(out) as (keyof typeof out)[];
    const tensors = Object.fromEntries(parts.map((part) => [part, out[part].tensor]));
    blocks.windowSums(twin.cache, 0, queries.tensor, scale, block, tensors);
    for (const part of parts) {
      matches(out[part].read(), expected[part]);
      const alone = output(scope, "float32", heads, out[part].tensor.columns);
      blocks.windowSums(twin.cache, 0, queries.tensor, scale, block, { [part]: alone.tensor });
      expect(alone.read()).toEqual(out[part].read());
    }
    for (let h = 0; h < heads; h++) {
      for (const part of parts) {
        const sum = row(matrix(heads, out[part].tensor.columns, out[part].read()), h).reduce((a, b) => a + b, 0);
        expect(sum).toBeCloseTo(1, 4);
      }
    }
  });

  test("groups of distances end at the largest: the worked examples", () => {
    using scope = new Scope(backend.context);
    const groups = (length: number) => {
      const twin = randomTwin(
        scope,
        new Random(1),
        { kvHeads: 1, groupSize: 1, headDim: 64, dtype: "float32" },
        length,
      );
      const queries = randomQueries(scope, new Random(2), twin, length);
      const [whole, pooled] = [output(scope, "float32", 1, length), output(scope, "float32", 1, Math.ceil(length / 4))];
      const out = { diagonals: whole.tensor, diagonalBlocks: pooled.tensor };
      blocks.windowSums(twin.cache, 0, queries.tensor, 0.125, 4, out);
      return [Array.from(whole.read()), Array.from(pooled.read())] as const;
    };
    const sum = (values: number[], from: number, to: number) => values.slice(from, to).reduce((a, b) => a + b, 0);
    const [even, evenBlocks] = groups(12);
    expect(evenBlocks[0]).toBeCloseTo(sum(even, 0, 4), 6);
    expect(evenBlocks[1]).toBeCloseTo(sum(even, 4, 8), 6);
    expect(evenBlocks[2]).toBeCloseTo(sum(even, 8, 12), 6);
    const [uneven, unevenBlocks] = groups(10);
    expect(unevenBlocks[0]).toBeCloseTo(sum(uneven, 0, 2), 6);
    expect(unevenBlocks[1]).toBeCloseTo(sum(uneven, 2, 6), 6);
    expect(unevenBlocks[2]).toBeCloseTo(sum(uneven, 6, 10), 6);
  });
});

eachBackend("means and pooled attention", (backend) => {
  test.each(floatDtypes)("%s: means of true counts, causal and whole softmax of their products", (dtype) => {
    using scope = new Scope(backend.context);
    const random = new Random(4);
    const shape = { kvHeads: 2, groupSize: 3, headDim: 64, dtype };
    const twin = randomTwin(scope, random, shape, 200);
    const queries = randomQueries(scope, random, twin, 150);
    const qMeans = output(scope, "float32", 3, 384);
    const kMeans = output(scope, "float32", 4, 128);
    blocks.blockMean(queries.tensor, 64, qMeans.tensor);
    blocks.keyBlockMean(twin.cache, 0, 64, kMeans.tensor);
    const [q, k] = [reference.blockMeans(queries.values, 64), reference.blockMeans(reference.keysOf(twin.layer), 64)];
    matches(qMeans.read(), q);
    matches(kMeans.read(), k);
    for (const first of [1, 0, null]) {
      const out = output(scope, "float32", 18, 4);
      blocks.pooledAttention(qMeans.tensor, kMeans.tensor, 6, 2, 0.125, first, out.tensor);
      matches(out.read(), reference.pooledAttention(q, k, 6, 2, 0.125, first));
    }
    const some = output(scope, "float32", 9, 4); // the heads of one group
    const [part, keys] = [scope.view(qMeans.tensor, 0, 3, 192, 192), scope.view(kMeans.tensor, 0, 4, 64, 64)];
    blocks.pooledAttention(part, keys, 3, 1, 0.125, 1, some.tensor);
    const whole = reference.pooledAttention(q, k, 6, 2, 0.125, 1);
    matches(some.read(), matrix(9, 4, whole.data.subarray(36)));
  });
});

eachBackend("antidiagonal_scores", (backend) => {
  const shapes: [TwinShape, length: number, firstRow: number, stride: number, block: number][] = [
    [{ kvHeads: 1, groupSize: 1, headDim: 64, dtype: "float32" }, 256, 0, 8, 64],
    [{ kvHeads: 2, groupSize: 2, headDim: 64, dtype: "bfloat16" }, 203, 0, 4, 64],
    [{ kvHeads: 1, groupSize: 4, headDim: 128, dtype: "float16" }, 301, 0, 16, 128],
    [{ kvHeads: 1, groupSize: 7, headDim: 80, dtype: "float32" }, 211, 128, 8, 64],
    [{ kvHeads: 1, groupSize: 2, headDim: 64, dtype: "bfloat16" }, 300, 256, 16, 128],
    [{ kvHeads: 1, groupSize: 2, headDim: 64, dtype: "float32" }, 90, 0, 1, 64],
  ];
  test.each(shapes)("%j, %d rows from %d, stride %d, block %d", (shape, length, firstRow, stride, block) => {
    using scope = new Scope(backend.context);
    const random = new Random(length);
    const twin = randomTwin(scope, random, shape, length);
    const queries = randomQueries(scope, random, twin, length - firstRow);
    const heads = shape.kvHeads * shape.groupSize;
    const queryBlocks = Math.ceil((length - firstRow) / block);
    const columns = Math.ceil(length / block);
    const scale = Math.fround(scaleOf(shape.headDim) / stride);
    const how = { firstRow, scale, stride, block };
    const out = output(scope, "float32", heads * queryBlocks, columns);
    blocks.antidiagonalScores(twin.cache, 0, queries.tensor, { ...how, firstHead: 0 }, out.tensor);
    const expected = reference.antidiagonalScores(twin.layer, queries.values, scale, stride, block);
    matches(out.read(), expected);

    // A row's scores add up to its coarse rows, the short last one included.
    const values = matrix(heads * queryBlocks, columns, out.read());
    for (let at = 0; at < values.rows; at++) {
      const begin = firstRow + (at % queryBlocks) * block;
      const coarse = Math.ceil(Math.min(block, length - begin) / stride);
      expect(row(values, at).reduce((a, b) => a + b, 0) / coarse).toBeCloseTo(1, 4);
    }

    // The heads of one group by themselves.
    const { groupSize, headDim } = shape;
    const last = heads - groupSize;
    const some = output(scope, "float32", groupSize * queryBlocks, columns);
    const part = scope.view(queries.tensor, 0, length - firstRow, last * headDim, groupSize * headDim);
    blocks.antidiagonalScores(twin.cache, 0, part, { ...how, firstHead: last }, some.tensor);
    matches(some.read(), matrix(some.tensor.rows, columns, expected.data.subarray(last * queryBlocks * columns)));
  });

  test("with a stride of 1 they are the exact masses of blocks", () => {
    using scope = new Scope(backend.context);
    const random = new Random(12);
    const twin = randomTwin(scope, random, { kvHeads: 1, groupSize: 1, headDim: 64, dtype: "float32" }, 130);
    const queries = randomQueries(scope, random, twin, 130);
    const out = output(scope, "float32", 3, 3);
    const how = { firstRow: 0, firstHead: 0, scale: 0.125, stride: 1, block: 64 };
    blocks.antidiagonalScores(twin.cache, 0, queries.tensor, how, out.tensor);
    const mass = matrix(3, 3);
    for (let i = 0; i < 130; i++) {
      const rows = twin.layer.heads[0]!.slice(0, i + 1);
      attend(headOf(row(queries.values, i), 0, 64), rows, 0.125, exact).probabilities.forEach((p, j) => {
        mass.data[(i >> 6) * 3 + (j >> 6)]! += p;
      });
    }
    matches(out.read(), mass);
  });
});

eachBackend("cumulative choice", (backend) => {
  const bitsOf = (scope: Scope, lists: readonly (readonly number[])[], columns: number) => {
    const words = Math.ceil(columns / 32);
    const all = new Int32Array(lists.length * words);
    lists.forEach((list, r) => {
      for (const c of list) all[r * words + (c >> 5)]! |= 1 << (c & 31);
    });
    return scope.own(Tensor.from(scope.context, all, lists.length, words));
  };
  const columnsOf = (bits: Int32Array, rows: number, columns: number) =>
    Array.from({ length: rows }, (_, r) =>
      Array.from({ length: columns }, (_, c) => c).filter(
        (c) => (bits[(r * bits.length) / rows + (c >> 5)]! >>> (c & 31)) & 1,
      ),
    );
  /** scores that are like a softmax's, some equal, some zero */
  const someScores = (random: Random, rows: number, columns: number) =>
    Float32Array.from({ length: rows * columns }, (_, i) =>
      i % 7 === 3 ? 0 : i % 5 === 2 ? 0.01 : Math.exp(2 * random.normal()) / 64,
    );

  const run = (
    scope: Scope,
    x: ReturnType<typeof input>,
    how: Omit<blocks.Cumulative, "shares" | "forced"> & { shares: number[]; forced?: number[][] },
  ) => {
    const { rows, columns } = x.tensor;
    const items = how.flat ? how.shares.length : rows;
    const counts = output(scope, "int32", 1, items);
    const bits = output(scope, "int32", rows, Math.ceil(columns / 32));
    bits.tensor.fill(0);
    const forced = how.forced ? bitsOf(scope, how.forced, columns) : null;
    blocks.cumulative(
      x.tensor,
      { ...how, shares: Float64Array.from(how.shares), forced },
      { counts: counts.tensor, bits: bits.tensor },
    );
    return { counts: Array.from(counts.readInts()), chosen: columnsOf(bits.readInts(), rows, columns) };
  };
  const ascending = (list: readonly number[]) => [...list].sort((a, b) => a - b);

  test("takes the best until they reach the share, or as many as fit into it; forced ones first", () => {
    using scope = new Scope(backend.context);
    for (const columns of [1, 31, 33, 130, 2050]) {
      const random = new Random(columns);
      const x = input(scope, "float32", 6, columns, someScores(random, 6, columns));
      const forced = Array.from({ length: 6 }, (_, r) => (columns > 30 ? random.choose(r % 3, 0, columns) : []));
      for (const inclusive of [true, false]) {
        const shares = [0.3, 0.9, 0.999];
        for (const given of [forced, undefined]) {
          const { counts, chosen } = run(scope, x, { shares, inclusive, ...(given && { forced: given }) });
          chosen.forEach((list, r) => {
            const scores = row(x.values, r);
            const must = given?.[r] ?? [];
            const count = reference.countOf(scores, shares[Math.floor(r / 2)]!, { inclusive, forced: must });
            expect(counts[r]).toBe(count);
            expect(list).toEqual(ascending(reference.ranked(scores, must).slice(0, count)));
          });
        }
      }
    }
  });

  test("bounds, extra columns in a group's first rows, and a gate that closes groups", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "float32", 4, 40, someScores(new Random(9), 4, 40));
    const plain = run(scope, x, { shares: [0.6, 0.6], inclusive: true }).counts;
    const more = run(scope, x, { shares: [0.6, 0.6], inclusive: true, extra: 1, extraRows: 1 }).counts;
    expect(more).toEqual([plain[0]! + 1, plain[1]!, plain[2]! + 1, plain[3]!]);
    expect(run(scope, x, { shares: [0.1, 0.1], inclusive: true, least: 7 }).counts).toEqual([7, 7, 7, 7]);
    expect(run(scope, x, { shares: [1, 1], inclusive: true, most: 3 }).counts).toEqual([3, 3, 3, 3]);
    const values = scope.own(Tensor.from(scope.context, Float32Array.of(0.5, 0.4), 1, 2));
    const gated = run(scope, x, { shares: [0.6, 0.6], inclusive: true, gate: { values, below: 0.5 } });
    expect(gated.counts).toEqual([0, 0, plain[2]!, plain[3]!]);
    expect(gated.chosen.slice(0, 2)).toEqual([[], []]);
  });

  test("a group's rows as one: the best of the whole map, ties by row, then by column", () => {
    using scope = new Scope(backend.context);
    const columns = 37;
    const x = input(scope, "float32", 10, columns, someScores(new Random(10), 10, columns));
    const { counts, chosen } = run(scope, x, { shares: [0.5, 0.95], flat: true, inclusive: false });
    for (const g of [0, 1]) {
      const scores = x.values.data.subarray(g * 5 * columns, (g + 1) * 5 * columns);
      const count = reference.countOf(scores, [0.5, 0.95][g]!, { inclusive: false });
      expect(counts[g]).toBe(count);
      const best = reference.ranked(scores).slice(0, count);
      const lists = Array.from({ length: 5 }, (_, r) =>
        ascending(best.filter((i) => Math.floor(i / columns) === r).map((i) => i % columns)),
      );
      expect(chosen.slice(g * 5, g * 5 + 5)).toEqual(lists);
    }
  });

  test("NaN and negative scores weigh nothing; a share of 0 takes only what is forced", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "float32", 1, 5, [Number.NaN, 0.5, -3, 0.25, 0.25]);
    expect(run(scope, x, { shares: [0.75], inclusive: true }).chosen).toEqual([[1, 3]]);
    expect(run(scope, x, { shares: [1], inclusive: true }).chosen).toEqual([[1, 3, 4]]);
    expect(run(scope, x, { shares: [0], inclusive: true, forced: [[2]] }).chosen).toEqual([[2]]);
  });

  test("top_bits takes each row's own number of best columns, forced ones among them", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "float32", 4, 70, someScores(new Random(11), 4, 70));
    const forced = [[69], [], [0, 1, 2], [5]];
    const wanted = [3, 0, 2, 70];
    const counts = scope.own(Tensor.from(scope.context, Int32Array.from(wanted), 1, 4));
    const bits = output(scope, "int32", 4, 3);
    bits.tensor.fill(0);
    blocks.topBits(x.tensor, counts, bitsOf(scope, forced, 70), bits.tensor);
    const expected = forced.map((must, r) =>
      ascending(reference.ranked(row(x.values, r), must).slice(0, Math.max(must.length, wanted[r]!))),
    );
    expect(columnsOf(bits.readInts(), 4, 70)).toEqual(expected);
  });

  test("numbers of blocks from numbers of tokens, replaced where a gate is open", () => {
    using scope = new Scope(backend.context);
    const counts = output(scope, "int32", 1, 5);
    const from = Tensor.from(scope.context, Int32Array.of(0, 126, 127, 5000, 300), 1, 5);
    scope.own(from).copyTo(counts.tensor);
    blocks.countsDivide(counts.tensor, 129, 128, 2, 20);
    expect(Array.from(counts.readInts())).toEqual([2, 2, 2, 20, 3]);
    const gate = scope.own(Tensor.from(scope.context, Float32Array.of(0.1, 0.3, 0.05, Number.NaN, 0), 1, 5));
    blocks.countsWhere(gate, 0.1, 9, counts.tensor);
    expect(Array.from(counts.readInts())).toEqual([2, 2, 9, 20, 9]);
  });

  test("Jensen-Shannon distance: the worked example, bounds, zeros", () => {
    using scope = new Scope(backend.context);
    const p = input(scope, "float32", 4, 2, [0.5, 0.5, 1, 0, 0.3, 0.7, 0, 0]);
    const q = input(scope, "float32", 4, 2, [0.9, 0.1, 0, 1, 0.3, 0.7, 0.5, 0.5]);
    const out = output(scope, "float32", 1, 4);
    blocks.jsDistance(p.tensor, q.tensor, out.tensor);
    const [example, apart, same, empty] = Array.from(out.read());
    expect(example).toBeCloseTo(0.3189815, 6);
    expect(apart).toBeCloseTo(Math.sqrt(Math.LN2), 6);
    expect(same).toBe(0);
    expect(empty).toBeCloseTo(reference.jsDistance([0, 0], [0.5, 0.5]), 6);
  });
});

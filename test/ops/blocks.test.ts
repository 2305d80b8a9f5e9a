// Attention over sets of blocks, and column sums of it, against float64 attention under the token mask; sets: lines, bands, lists.
import { describe, expect, test } from "bun:test";
import * as blocks from "../../src/native/blocks.ts";
import { attentionPrefill } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { randomQueries, randomTwin } from "../support/cache.ts";
import { output } from "../support/guarded.ts";
import { Random } from "../support/random.ts";
import { both } from "../support/reference.ts";
import * as reference from "../support/reference-blocks.ts";
import { type BlockLists, blocksFor, packSet, unpackSet } from "../support/reference-blocks.ts";
import { floatDtypes } from "../support/tolerance.ts";

const scaleOf = (headDim: number) => Math.fround(1 / Math.sqrt(headDim));

/** Lists of random blocks; `density` 0: empty ones. */
function randomLists(random: Random, heads: number, rows: number, firstBlock: number, density: number): BlockLists {
  return Array.from({ length: heads }, () =>
    Array.from({ length: rows }, (_, r) =>
      Array.from({ length: firstBlock + r + 1 }, (_, c) => c).filter(() => random.uniform() < density),
    ),
  );
}

function setOf(scope: Scope, lists: BlockLists, columns: number, firstBlock = 0, noise = true): blocks.BlockSet {
  const rows = lists.length * lists[0]!.length;
  const bits = packSet(lists, columns, firstBlock, noise);
  return {
    bits: scope.own(Tensor.from(scope.context, bits, rows, bits.length / rows)),
    heads: lists.length,
    firstBlock,
  };
}

/** An empty set to add to. */
function empty(scope: Scope, heads: number, rows: number, columns: number, firstBlock = 0): blocks.BlockSet {
  const bits = scope.tensor("int32", heads * rows, Math.ceil(columns / 32));
  bits.fill(0);
  return { bits, heads, firstBlock };
}

const read = ({ bits, heads, firstBlock }: blocks.BlockSet) =>
  unpackSet(bits.toInts(), heads, bits.rows / heads, firstBlock);

eachBackend("attention_blocks", (backend) => {
  const shapes = [
    { kvHeads: 2, groupSize: 1, headDim: 64, rows: 131, firstRow: 0, block: 64 },
    { kvHeads: 1, groupSize: 2, headDim: 128, rows: 140, firstRow: 0, block: 128 },
    { kvHeads: 1, groupSize: 7, headDim: 64, rows: 20, firstRow: 128, block: 64 },
    { kvHeads: 2, groupSize: 2, headDim: 80, rows: 9, firstRow: 256, block: 128 },
  ];
  for (const dtype of floatDtypes) {
    for (const { rows, firstRow, block, ...shape } of shapes) {
      test(`${dtype}: ${rows} rows from ${firstRow}, block ${block}, group ${shape.groupSize}, head ${shape.headDim}`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(rows);
        const twin = randomTwin(scope, random, { ...shape, dtype }, firstRow + rows);
        const q = randomQueries(scope, random, twin, rows);
        const heads = shape.kvHeads * shape.groupSize;
        const first = firstRow / block;
        const lists = randomLists(random, heads, blocksFor(rows, block), first, 0.5);
        const kinds = Int32Array.from({ length: heads }, (_, h) => (h % 3 === 1 ? 1 : 0));
        const seen = lists.map((list, h) =>
          kinds[h] === 1 ? list.map((_, r) => Array.from({ length: first + r + 1 }, (_, c) => c)) : list,
        );
        const out = output(scope, dtype, rows, heads * shape.headDim);
        const lse = output(scope, "float32", heads, rows);
        const scale = scaleOf(shape.headDim);
        const set = { ...setOf(scope, lists, blocksFor(firstRow + rows, block), first), block, kinds };
        blocks.attentionBlocks(twin.cache, 0, firstRow, q.tensor, scale, set, out.tensor, lse.tensor);
        const run = (a: Parameters<typeof reference.attentionBlocks>[6]) =>
          reference.attentionBlocks(twin.layer, firstRow, q.values, scale, block, seen, a);
        expect(out.read()).toMatchReference(both(dtype, (a) => run(a).out));
        expect(lse.read()).toMatchReference(both("float32", (a) => run(a).lse));
      });
    }
  }

  test("a set with every block gives attention_prefill's bits, in the queries' place too, and by row ranges", () => {
    using scope = new Scope(backend.context);
    const random = new Random(3);
    const twin = randomTwin(scope, random, { kvHeads: 2, groupSize: 2, headDim: 64, dtype: "float32" }, 330);
    const q = randomQueries(scope, random, twin, 330);
    const dense = output(scope, "float32", 330, 256);
    attentionPrefill(twin.cache, 0, 0, q.tensor, 0.125, 0, dense.tensor);
    const lists = randomLists(random, 4, 6, 0, 1);
    const set = { ...setOf(scope, lists, 6), block: 64, kinds: null };
    const parts = output(scope, "float32", 330, 256);
    for (const first of [0, 128, 256]) {
      const rows = Math.min(128, 330 - first);
      const [part, to] = [scope.view(q.tensor, first, rows), scope.view(parts.tensor, first, rows)];
      blocks.attentionBlocks(twin.cache, 0, first, part, 0.125, set, to);
    }
    blocks.attentionBlocks(twin.cache, 0, 0, q.tensor, 0.125, set, q.tensor);
    expect(q.tensor.toFloats()).toEqual(parts.read());
    if (backend.name === "cpu") expect(parts.read()).toEqual(dense.read());
    else expect(parts.read()).toMatchReference({ reference: dense.read(), plain: dense.read(), dtype: "float32" });
  });

  test("column sums are those of the attention that ran, their mass one per query and head", () => {
    using scope = new Scope(backend.context);
    for (const [dtype, headDim, groupSize] of [
      ["float32", 80, 3],
      ["bfloat16", 64, 4],
      ["float16", 128, 1],
    ] as const) {
      const random = new Random(headDim);
      const [rows, block] = [150, 64];
      const twin = randomTwin(scope, random, { kvHeads: 2, groupSize, headDim, dtype }, rows);
      const q = randomQueries(scope, random, twin, rows);
      const heads = 2 * groupSize;
      const lists = randomLists(random, heads, blocksFor(rows, block), 0, 0.4);
      for (const list of lists.flat()) if (!list.includes(0)) list.unshift(0);
      const set = { ...setOf(scope, lists, blocksFor(rows, block)), block, kinds: null };
      const out = scope.tensor(dtype, rows, heads * headDim);
      const sums = output(scope, "float32", 2, rows);
      sums.tensor.fill(0);
      for (const first of [0, 128]) {
        const count = Math.min(128, rows - first);
        const part = scope.view(q.tensor, first, count);
        const lse = scope.tensor("float32", heads, count);
        const scale = scaleOf(headDim);
        blocks.attentionBlocks(twin.cache, 0, first, part, scale, set, scope.view(out, first, count), lse);
        blocks.columnSumsBlocks(twin.cache, 0, first, part, lse, scale, "sum", set, sums.tensor);
      }
      const expected = reference.columnSums(twin.layer, q.values, scaleOf(headDim), block, lists);
      expect(sums.read()).toMatchReference({
        reference: expected.data,
        plain: expected.data,
        dtype: "float32",
        floor: 4e-6,
      });
      const mass = sums.read().reduce((sum, x) => sum + x, 0);
      expect(Math.abs(mass / (heads * rows) - 1)).toBeLessThan(1e-4);
    }
  });
});

eachBackend("sets of blocks", (backend) => {
  test("bands keep what is there, and no block right of the diagonal counts", () => {
    using scope = new Scope(backend.context);
    const set = setOf(scope, [[[1], [3], [], [2, 5]]], 40, 2, false);
    blocks.blocksBand(set, 1, 2);
    expect(read(set)).toEqual([
      [
        [0, 1, 2],
        [0, 2, 3],
        [0, 3, 4],
        [0, 2, 4, 5],
      ],
    ]);
    const counts = output(scope, "int32", 1, 1);
    blocks.blocksCount({ ...set, firstBlock: 0 }, counts.tensor);
    expect(Array.from(counts.readInts())).toEqual([1 + 1 + 1 + 2]); // the same bits under a lower diagonal
  });

  test("vertical and slash lines, over words and heads, with neighbours", () => {
    using scope = new Scope(backend.context);
    const random = new Random(5);
    const [heads, rows] = [3, 70];
    const pick = (count: number) => Array.from({ length: heads }, () => [random.choose(count, 0, rows)]);
    const [vertical, slash] = [pick(4), pick(3)];
    // As rows far down, so that no column lies right of a diagonal and all bits count.
    const marks = (lists: BlockLists) => setOf(scope, lists, rows, rows, false).bits;
    for (const [before, after] of [
      [0, 0],
      [0, 1],
      [1, 1],
    ] as const) {
      const set = empty(scope, heads, rows, rows);
      blocks.blocksVerticalSlash(marks(vertical), marks(slash), before, after, set);
      const wide = slash.map(([offsets]) => offsets!.flatMap((o) => [o - before, o, o + after]));
      const expected = vertical.map(([columns], h) =>
        Array.from({ length: rows }, (_, r) =>
          Array.from({ length: r + 1 }, (_, c) => c).filter((c) => columns!.includes(c) || wide[h]!.includes(r - c)),
        ),
      );
      expect(read(set)).toEqual(expected);
    }
  });

  test("lists are ascending and unique; what does not fit is counted and not written", () => {
    using scope = new Scope(backend.context);
    const lists = randomLists(new Random(6), 3, 40, 5, 0.3);
    const set = setOf(scope, lists, 45, 5);
    const all = lists.flat().flat();
    const starts = [0];
    for (const list of lists.flat()) starts.push(starts.at(-1)! + list.length);
    for (const capacity of [all.length, 17]) {
      const rowPtr = output(scope, "int32", 1, 121);
      const col = output(scope, "int32", 1, capacity);
      blocks.blocksToCsr(set, rowPtr.tensor, col.tensor);
      expect(Array.from(rowPtr.readInts())).toEqual(starts);
      expect(Array.from(col.readInts())).toEqual(all.slice(0, capacity));
    }
    const counts = output(scope, "int32", 1, 3);
    blocks.blocksCount(set, counts.tensor);
    expect(Array.from(counts.readInts())).toEqual(lists.map((list) => list.flat().length));
  });

  describe("thinning", () => {
    test.each([0.1, 0.35, 1])(
      "to %f of the causal blocks leaves a row its last block, and no more than it had",
      (share) => {
        using scope = new Scope(backend.context);
        const lists = randomLists(new Random(7), 2, 64, 0, 0.6);
        for (const list of lists) {
          for (const [r, blocks] of list.entries()) if (!blocks.includes(r)) blocks.push(r);
        }
        const set = setOf(scope, lists, 64);
        blocks.blocksThin(set, share);
        read(set).forEach((list, h) => {
          list.forEach((left, r) => {
            const before = lists[h]![r]!;
            const wanted = Math.floor(Math.fround(share) * (r + 1) + 0.5);
            expect(left).toHaveLength(Math.max(1, Math.min(before.length, wanted)));
            expect(left.at(-1)).toBe(r);
            expect(left.every((c) => before.includes(c))).toBe(true);
          });
        });
      },
    );
  });
});

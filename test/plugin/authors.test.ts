// What the code of CAKE's and Ada-KV's authors gave, run once (scripts/golden/allocations.py): their shares of rows, and rows dropped by rank.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { officialHeadRows } from "../../plugins/adakv.ts";
import { officialRows } from "../../plugins/cakekv.ts";
import { keepRanked } from "../../src/native/evict.ts";
import { topkCounts } from "../../src/native/heads.ts";
import { Batch } from "../../src/native/kv.ts";
import { ropeAppendBatch } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { eachBackend } from "../support/backends.ts";
import { appendRandom, deviceRope, emptyTwin, unrotating } from "../support/cache.ts";
import { input } from "../support/guarded.ts";
import { Random } from "../support/random.ts";

interface Golden {
  cakeRows: [preferences: number[], total: number, most: number, rows: number[]][];
  cakeDecode: { prompt: number; rows: number; window: number; kept: number[][][] }[];
  adaHeads: [length: number, rows: number, floor: number, counts: number[]][];
}
const golden: Golden = JSON.parse(readFileSync(join(import.meta.dir, "../golden/allocations.json"), "utf8"));

/** The numbers that the script weighed rows with: of 24 bits, smaller in later heads. */
function weight(at: number, step: number, head: number, row: number): number {
  let mixed = Math.imul(at * 7919 + step * 104729 + head * 1299709 + row * 15485863 + 1, 2654435761) >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 15), 2246822519) >>> 0;
  mixed = (mixed ^ (mixed >>> 13)) >>> 0;
  return (mixed >>> 8) / 2 ** 24 / 2 ** head;
}

describe("CAKE's authors", () => {
  test("share rows among layers as allocation: official does, at every stage of a cascade", () => {
    for (const [preferences, total, most, rows] of golden.cakeRows) {
      expect(officialRows(preferences, total, most)).toEqual(rows);
    }
  });
});

eachBackend("the authors' choices", (backend) => {
  test("CAKE's decoding keeps these rows, token by token", () => {
    const [heads, columns] = [2, 8];
    golden.cakeDecode.forEach(({ prompt, rows, window, kept }, at) => {
      using scope = new Scope(backend.context);
      const shape = { kvHeads: heads, groupSize: 2, headDim: columns, dtype: "float32" as const, sideArrays: 1 };
      const twin = emptyTwin(scope, shape);
      appendRandom(scope, twin, new Random(at), prompt);
      const batch = scope.own(Batch.create(scope.context, 1));
      batch.set([twin.cache]);
      kept.forEach((expected, step) => {
        batch.reserve(1);
        const token = input(scope, "float32", 1, 8 * columns, new Array(8 * columns).fill(0));
        const queries = scope.tensor("float32", 1, 4 * columns);
        ropeAppendBatch(batch, 0, token.tensor, queries, deviceRope(scope, unrotating(columns)));
        const held = [0, 1].map((h) => Array.from(twin.cache.positions(0, h)));
        const chances = held.flatMap((positions, h) => positions.map((row) => weight(at, step, h, row)));
        const probs = input(scope, "float32", heads, held[0]!.length, chances);
        keepRanked({ batch, first: 0, sequences: 1, layer: 0 }, probs.tensor, 0, rows, window, 5);
        batch.advance();
        expect([0, 1].map((h) => Array.from(twin.cache.positions(0, h)).sort((a, b) => a - b))).toEqual(expected);
      });
    });
  });

  test("Ada-KV's heads get these numbers of rows", () => {
    golden.adaHeads.forEach(([length, rows, floor, expected], at) => {
      using scope = new Scope(backend.context);
      const heads = expected.length;
      const values = Array.from({ length: heads * length }, (_, i) =>
        weight(at, 0, Math.floor(i / length), i % length),
      );
      const counts = scope.tensor("int32", 1, heads);
      topkCounts(input(scope, "float32", heads, length, values).tensor, heads * rows, counts);
      expect(officialHeadRows(Array.from(counts.toInts()), rows, floor)).toEqual(expected);
    });
  });
});

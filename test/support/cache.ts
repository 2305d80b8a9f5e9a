// A native cache and its float64 twin, holding exactly the same numbers.
import { Batch, KvCache } from "../../src/native/kv.ts";
import { ropeAppend, ropeAppendBatch } from "../../src/native/ops.ts";
import type { Scope } from "../../src/native/scope.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { input, type Matrix, matrix, row } from "./guarded.ts";
import type { Random } from "./random.ts";
import { exact, type ReferenceRope } from "./reference.ts";
import { emptyLayer, keep, type ReferenceLayer, ropeAppend as referenceAppend } from "./reference-attention.ts";
import type { FloatDtype } from "./tolerance.ts";

export interface TwinShape {
  kvHeads: number;
  groupSize: number;
  headDim: number;
  dtype: FloatDtype;
  layers?: number;
  sideArrays?: number;
  unrotatedRows?: number;
}

export interface Twin {
  cache: KvCache;
  /** of layer 0 */
  layer: ReferenceLayer;
  shape: Required<TwinShape>;
}

/** Frequencies of zero: the rotation changes nothing, so that a cache holds exactly what was appended. */
export const unrotating = (headDim: number): ReferenceRope => ({
  invFreq: new Float32Array(headDim / 2),
  interleaved: false,
  mscale: 1,
});

export const llamaRope = (rotary: number, theta = 10000, interleaved = false, mscale = 1): ReferenceRope => ({
  invFreq: Float32Array.from({ length: rotary / 2 }, (_, i) => theta ** ((-2 * i) / rotary)),
  interleaved,
  mscale: Math.fround(mscale),
});

/** The reference's rotation as the ops take it. */
export function deviceRope(scope: Scope, rope: ReferenceRope) {
  const invFreq = scope.own(Tensor.from(scope.context, rope.invFreq, 1, rope.invFreq.length));
  return { invFreq, interleaved: rope.interleaved, mscale: rope.mscale };
}

export function emptyTwin(scope: Scope, shape: TwinShape): Twin {
  const full = { layers: 1, sideArrays: 0, unrotatedRows: 0, ...shape };
  const { kvHeads, groupSize, headDim, dtype, layers, sideArrays, unrotatedRows } = full;
  const cache = scope.own(
    KvCache.create(scope.context, {
      layers,
      heads: kvHeads * groupSize,
      kvHeads,
      headDim,
      dtype,
      sideArrays,
      unrotatedRows,
    }),
  );
  return { cache, layer: emptyLayer(kvHeads, groupSize, headDim), shape: full };
}

/** Appends random rows to layer 0 of both, unrotated unless a rope is given; sets the position counter behind them. */
export function appendRandom(scope: Scope, twin: Twin, random: Random, rows: number, start = 0, rope?: ReferenceRope) {
  const { kvHeads, groupSize, headDim, dtype, sideArrays, unrotatedRows } = twin.shape;
  const columns = (groupSize + 2) * kvHeads * headDim;
  const qkv = input(scope, dtype, rows, columns, random.normals(rows * columns));
  const used = rope ?? unrotating(headDim);
  twin.cache.reserve(0, (twin.cache.lengths(0)[0] ?? 0) + rows);
  const q = scope.tensor(dtype, rows, kvHeads * groupSize * headDim);
  ropeAppend(twin.cache, 0, start, qkv.tensor, q, deviceRope(scope, used));
  const queries = referenceAppend(twin.layer, start, qkv.values, used, exact, sideArrays, unrotatedRows);
  twin.cache.seek(start + rows, 0);
  return { qkv, q, queries };
}

/** A cache of random rows; `counts` then keeps so many random rows in each head, so that lengths are ragged. */
export function randomTwin(scope: Scope, random: Random, shape: TwinShape, rows: number, counts?: number[]): Twin {
  const twin = emptyTwin(scope, shape);
  appendRandom(scope, twin, random, rows);
  if (counts) keepRandom(scope, twin, random, counts);
  return twin;
}

export function keepRandom(scope: Scope, twin: Twin, random: Random, counts: readonly number[], spare = 4): number[][] {
  const chosen = counts.map((count, h) => random.choose(count, 0, twin.layer.heads[h]!.length));
  const width = Math.max(...counts);
  const index = scope.own(Tensor.from(scope.context, padded(chosen, width), counts.length, width));
  twin.cache.keep(0, index, 0, 0, spare, Int32Array.from(counts));
  keep(twin.layer, chosen, 0, 0);
  return chosen;
}

/** The caches as the sequences of a batch. */
export function batchOf(scope: Scope, twins: readonly Twin[]): Batch {
  const batch = scope.own(Batch.create(scope.context, twins.length));
  batch.set(twins.map(({ cache }) => cache));
  return batch;
}

/** Appends the next token of every sequence of the batch, unrotated, to cache and twin; the counter is advanced by the caller. */
export function appendStep(scope: Scope, batch: Batch, twins: readonly Twin[], random: Random): void {
  const { kvHeads, groupSize, headDim, dtype, sideArrays } = twins[0]!.shape;
  const columns = (groupSize + 2) * kvHeads * headDim;
  const qkv = input(scope, dtype, twins.length, columns, random.normals(twins.length * columns));
  const q = scope.tensor(dtype, twins.length, kvHeads * groupSize * headDim);
  batch.reserve(1);
  ropeAppendBatch(batch, 0, qkv.tensor, q, deviceRope(scope, unrotating(headDim)));
  twins.forEach(({ cache, layer }, s) => {
    const { position } = cache.info();
    referenceAppend(layer, position, matrix(1, columns, row(qkv.values, s)), unrotating(headDim), exact, sideArrays);
  });
}

/** Lists of row numbers as the i32 [kvHeads, width] that the ops take. */
export function padded(lists: readonly (readonly number[])[], width: number): Int32Array {
  const out = new Int32Array(lists.length * width);
  lists.forEach((list, h) => {
    out.set(list, h * width);
  });
  return out;
}

/** Queries `[rows, heads * headDim]` for a twin. */
export function randomQueries(scope: Scope, random: Random, { shape }: Twin, rows: number, dtype = shape.dtype) {
  const columns = shape.kvHeads * shape.groupSize * shape.headDim;
  return input(scope, dtype, rows, columns, random.normals(rows * columns));
}

/** Keys or values of a head as the native cache holds them. */
export function readRows(
  scope: Scope,
  cache: KvCache,
  layer: number,
  head: number,
  part: "keys" | "values",
): Float32Array {
  const rows = cache.lengths(layer)[head]!;
  const out = scope.tensor(cache.shape.dtype, rows, cache.shape.headDim);
  cache.read(layer, head, part, out);
  return out.toFloats();
}

export const flatKeys = ({ heads }: ReferenceLayer, head: number): number[] =>
  heads[head]!.flatMap(({ key }) => Array.from(key));

export const matrixOf = (rows: readonly Float64Array[]): Matrix => ({
  rows: rows.length,
  columns: rows[0]?.length ?? 0,
  data: Float64Array.from(rows.flatMap((values) => Array.from(values))),
});

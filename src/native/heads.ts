// Budgets of each head, scores over all heads, keys against their mean, expected attention: kvaccel.h since 1.6.
import type { Range } from "./evict.ts";
import type { KvCache, Rotation } from "./kv.ts";
import type { Tensor } from "./tensor.ts";

/** counts i32 `[1, rows]` := how many of the k largest elements of x lie in each row */
export function topkCounts(x: Tensor, k: number, counts: Tensor): void {
  const { library } = x.context;
  library.check(library.native.kva_topk_counts(x.pointer, k, counts.pointer));
}

/** the counts[r] largest columns of row r, ascending, in index i32 `[rows, most]` */
export function topkEach(x: Tensor, counts: Tensor, index: Tensor): void {
  const { library } = x.context;
  library.check(library.native.kva_topk_each(x.pointer, counts.pointer, index.pointer));
}

/** x[r, index[r, i]] := value */
export function fillAt(x: Tensor, index: Tensor, value: number): void {
  const { library } = x.context;
  library.check(library.native.kva_fill_at(x.pointer, index.pointer, value));
}

/** out := x * y, element by element */
export function multiply(x: Tensor, y: Tensor, out: Tensor): void {
  const { library } = x.context;
  library.check(library.native.kva_multiply(x.pointer, y.pointer, out.pointer));
}

/** every row of out := the mean over the rows of x */
export function rowsMean(x: Tensor, out: Tensor): void {
  const { library } = x.context;
  library.check(library.native.kva_rows_mean(x.pointer, out.pointer));
}

/** out `[rows, 1]` := the sum over the columns */
export function rowSums(x: Tensor, out: Tensor): void {
  const { library } = x.context;
  library.check(library.native.kva_row_sums(x.pointer, out.pointer));
}

/** side = side * decay + factor * probs, averaged over all KV heads */
export function accumulateShared(
  { batch, first, sequences, layer }: Range,
  probs: Tensor,
  side: number,
  factor: number,
  decay: number,
): void {
  const { library } = batch.context;
  const { native } = library;
  library.check(
    native.kva_kv_accumulate_shared(batch.pointer, first, sequences, layer, probs.pointer, side, factor, decay),
  );
}

/** Where head h holds more than rows[h] rows, its oldest row past the sinks goes. */
export function keepAtMostEach(
  { batch, first, sequences, layer }: Range,
  rows: readonly number[],
  sinks: number,
): void {
  const { library } = batch.context;
  const most = Int32Array.from(rows);
  library.check(library.native.kva_kv_keep_at_most_each(batch.pointer, first, sequences, layer, most, sinks));
}

/** out `[kvHeads, length]` := cosine of each key and the mean of its head's normalised keys */
export function keySimilarity(kv: KvCache, layer: number, out: Tensor): void {
  const { library } = kv.context;
  library.check(library.native.kva_key_similarity(kv.pointer, layer, out.pointer));
}

/** In heads of at least `rows` rows, side value of each row := factor * that cosine. */
export function noteSimilarity(
  { batch, first, sequences, layer }: Range,
  side: number,
  rows: number,
  factor: number,
): void {
  const { library } = batch.context;
  library.check(library.native.kva_kv_note_similarity(batch.pointer, first, sequences, layer, side, rows, factor));
}

/** Joins query rows with the moments of `seen` rows before: f32 `[heads, headDim + headDim^2]`. */
export function queryMoments(queries: Tensor, heads: number, seen: number, moments: Tensor): void {
  const { library } = queries.context;
  library.check(library.native.kva_query_moments(queries.pointer, heads, seen, moments.pointer));
}

export interface Expectation {
  moments: Tensor;
  /** query rows that the moments stand for */
  seen: number;
  firstPosition: number;
  positions: number;
  rope: Rotation;
  scale: number;
  firstRow: number;
  covariance: boolean;
}

/** out `[kvHeads, length - firstRow]` := what later queries are expected to attend to, mean over the group */
export function futureAttention(kv: KvCache, layer: number, of: Expectation, out: Tensor): void {
  const { library } = kv.context;
  const { moments, seen, firstPosition, positions, rope, scale, firstRow, covariance } = of;
  library.check(
    library.native.kva_future_attention(
      kv.pointer,
      layer,
      moments.pointer,
      seen,
      firstPosition,
      positions,
      rope.invFreq.pointer,
      rope.interleaved ? 1 : 0,
      rope.mscale,
      scale,
      firstRow,
      covariance ? 1 : 0,
      out.pointer,
    ),
  );
}

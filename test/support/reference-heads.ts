// Scores over all heads, keys against their mean, and expected attention in float64, written from cuda/include/kvaccel.h and the papers.
import { type Matrix, matrix, row } from "./guarded.ts";
import { dot, exact, type ReferenceRope } from "./reference.ts";
import type { ReferenceLayer } from "./reference-attention.ts";

/** How many of the k largest elements lie in each row: higher first, then the lower column, then the lower row. */
export function topkCounts(x: Matrix, k: number): number[] {
  const all = Array.from({ length: x.rows * x.columns }, (_, i) => ({ r: i % x.rows, c: Math.floor(i / x.rows) }));
  const value = ({ r, c }: { r: number; c: number }) => {
    const v = row(x, r)[c]!;
    return Number.isNaN(v) ? -Infinity : v;
  };
  const numbers = ({ r, c }: { r: number; c: number }) => (Number.isNaN(row(x, r)[c]!) ? 1 : 0);
  all.sort((a, b) => {
    const [p, q] = [value(a), value(b)];
    return numbers(a) - numbers(b) || (p === q ? 0 : p > q ? -1 : 1) || a.c - b.c || a.r - b.r;
  });
  const counts = new Array<number>(x.rows).fill(0);
  for (const { r } of all.slice(0, k)) counts[r]! += 1;
  return counts;
}

const normOf = (x: ArrayLike<number>): number => Math.sqrt(Array.from(x).reduce((sum, v) => sum + v * v, 0));

/** Cosine of each key and the mean of the keys divided by their norms; 0 beside a zero vector. */
export function keySimilarity(keys: readonly Float64Array[]): number[] {
  const width = keys[0]!.length;
  const mean = new Float64Array(width);
  for (const key of keys) {
    const norm = normOf(key);
    for (let d = 0; d < width && norm > 0; d++) mean[d]! += key[d]! / norm / keys.length;
  }
  const length = normOf(mean);
  return keys.map((key) => {
    const norms = normOf(key) * length;
    return norms === 0 ? 0 : dot(key, mean, exact) / norms;
  });
}

export interface Moments {
  mean: Float64Array;
  /** [headDim][headDim] */
  covariance: Float64Array[];
}

/** Mean and covariance (divided by the number of rows) of one head's query rows. */
export function momentsOf(rows: readonly Float64Array[]): Moments {
  const width = rows[0]!.length;
  const mean = new Float64Array(width);
  for (const x of rows) for (let d = 0; d < width; d++) mean[d]! += x[d]! / rows.length;
  const covariance = Array.from({ length: width }, () => new Float64Array(width));
  for (const x of rows)
    for (let a = 0; a < width; a++)
      for (let b = 0; b < width; b++) covariance[a]![b]! += ((x[a]! - mean[a]!) * (x[b]! - mean[b]!)) / rows.length;
  return { mean, covariance };
}

/** The mean of the rotation matrices of positions [first, first + count). */
export function meanRotation(
  { invFreq, interleaved, mscale }: ReferenceRope,
  width: number,
  first: number,
  count: number,
) {
  const R = Array.from({ length: width }, (_, d) => {
    const line = new Float64Array(width);
    line[d] = 1;
    return line;
  });
  for (const [i, frequency] of invFreq.entries()) {
    const [a, b] = interleaved ? [2 * i, 2 * i + 1] : [i, invFreq.length + i];
    let [cosine, sine] = [0, 0];
    for (let p = first; p < first + count; p++) {
      cosine += (mscale * Math.cos(p * frequency)) / count;
      sine += (mscale * Math.sin(p * frequency)) / count;
    }
    [R[a]![a], R[a]![b], R[b]![a], R[b]![b]] = [cosine, -sine, sine, cosine];
  }
  return R;
}

const times = (m: readonly Float64Array[], x: ArrayLike<number>) =>
  Float64Array.from(m, (line) => line.reduce((sum, v, i) => sum + v * x[i]!, 0));

/**
 * E[exp(scale q.k)] of queries q ~ N(R mean, R covariance R^T), normalised over the rows from firstRow on, mean over the group:
 * `[kvHeads, length - firstRow]`.
 */
export function futureAttention(
  layer: ReferenceLayer,
  moments: readonly Moments[],
  R: readonly Float64Array[],
  scale: number,
  firstRow: number,
  covariance: boolean,
): Matrix {
  const { heads, groupSize } = layer;
  const columns = heads[0]!.length - firstRow;
  const out = matrix(heads.length, columns);
  moments.forEach(({ mean, covariance: sigma }, h) => {
    const g = Math.floor(h / groupSize);
    const turned = times(R, mean);
    const logits = heads[g]!.slice(firstRow).map(({ key }) => {
      const back = R[0]!.map((_, d) => R.reduce((sum, line, i) => sum + line[d]! * key[i]!, 0)); // R^T k
      const spread = covariance ? dot(back, times(sigma, back), exact) : 0;
      return scale * dot(turned, key, exact) + (scale ** 2 / 2) * spread;
    });
    const top = Math.max(...logits);
    const weights = logits.map((x) => Math.exp(x - top));
    const total = weights.reduce((sum, x) => sum + x, 0);
    weights.forEach((weight, j) => {
      row(out, g)[j]! += weight / total / groupSize;
    });
  });
  return out;
}

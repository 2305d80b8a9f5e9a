// Block-sparse prefill in float64 TypeScript, written from cuda/include/kvaccel.h and the methods' papers.
import { type Matrix, matrix, row } from "./guarded.ts";
import { type Arithmetic, dot, exact } from "./reference.ts";
import { attend, headOf, type ReferenceLayer } from "./reference-attention.ts";

/** [head][query block] -> key blocks, ascending, none right of the diagonal */
export type BlockLists = number[][][];

export const blocksFor = (rows: number, block: number): number => Math.ceil(rows / block);

/** The set as bits, with `more` bits right of the diagonal that mean nothing. */
export function packSet(lists: BlockLists, columns: number, firstBlock = 0, noise = false): Int32Array {
  const words = Math.ceil(columns / 32);
  const out = new Int32Array(lists.length * lists[0]!.length * words);
  lists.flat().forEach((list, at) => {
    const diagonal = firstBlock + (at % lists[0]!.length);
    const beyond = noise ? Array.from({ length: words * 32 }, (_, c) => c).filter((c) => c > diagonal) : [];
    for (const c of [...list, ...beyond]) out[at * words + (c >> 5)]! |= 1 << (c & 31);
  });
  return out;
}

export function unpackSet(bits: Int32Array, heads: number, rows: number, firstBlock = 0): BlockLists {
  const words = bits.length / (heads * rows);
  return Array.from({ length: heads }, (_, h) =>
    Array.from({ length: rows }, (_, r) =>
      Array.from({ length: firstBlock + r + 1 }, (_, c) => c).filter(
        (c) => (bits[(h * rows + r) * words + (c >> 5)]! >>> (c & 31)) & 1,
      ),
    ),
  );
}

/** Query row i is cache row firstRow + i and sees what its query block's list names, up to itself. lists start at block firstRow / block. */
export function attentionBlocks(
  layer: ReferenceLayer,
  firstRow: number,
  q: Matrix,
  scale: number,
  block: number,
  lists: BlockLists,
  a: Arithmetic,
): { out: Matrix; lse: Matrix } {
  const { headDim, groupSize, heads } = layer;
  const out = matrix(q.rows, q.columns);
  const lse = matrix(heads.length * groupSize, q.rows);
  for (let i = 0; i < q.rows; i++) {
    const own = firstRow + i;
    for (let h = 0; h < lse.rows; h++) {
      const list = new Set(lists[h]![Math.floor(i / block)]!);
      const rows = heads[Math.floor(h / groupSize)]!.filter((_, j) => j <= own && list.has(Math.floor(j / block)));
      const seen = rows.length > 0;
      const result = attend(headOf(row(q, i), h, headDim), rows, scale, a);
      if (seen) row(out, i).set(result.out, h * headDim);
      lse.data[h * q.rows + i] = seen ? result.lse : -Infinity;
    }
  }
  return { out, lse };
}

/** What each row receives from that attention, summed over the group: `[kvHeads, rows]` */
export function columnSums(
  layer: ReferenceLayer,
  q: Matrix,
  scale: number,
  block: number,
  lists: BlockLists,
  reduce: "sum" | "max" = "sum",
): Matrix {
  const { headDim, groupSize, heads } = layer;
  const out = matrix(heads.length, q.rows);
  for (let h = 0; h < heads.length * groupSize; h++) {
    const g = Math.floor(h / groupSize);
    for (let i = 0; i < q.rows; i++) {
      const list = new Set(lists[h]![Math.floor(i / block)]!);
      const seen = Array.from({ length: i + 1 }, (_, j) => j).filter((j) => list.has(Math.floor(j / block)));
      const rows = seen.map((j) => heads[g]![j]!);
      const { probabilities } = attend(headOf(row(q, i), h, headDim), rows, scale, exact);
      seen.forEach((j, n) => {
        const at = g * q.rows + j;
        out.data[at] =
          reduce === "max" ? Math.max(out.data[at]!, probabilities[n]!) : out.data[at]! + probabilities[n]!;
      });
    }
  }
  return out;
}

export interface WindowSums {
  columns: Matrix;
  diagonals: Matrix;
  columnBlocks: Matrix;
  diagonalBlocks: Matrix;
}

/** The queries are the layer's last rows. */
export function windowSums(layer: ReferenceLayer, queries: Matrix, scale: number, block: number): WindowSums {
  const { headDim, groupSize, heads } = layer;
  const n = heads[0]!.length;
  const w = queries.rows;
  const blocks = blocksFor(n, block);
  const [columns, diagonals] = [matrix(heads.length * groupSize, n), matrix(heads.length * groupSize, n)];
  const [columnBlocks, diagonalBlocks] = [matrix(columns.rows, blocks), matrix(columns.rows, blocks)];
  for (let h = 0; h < columns.rows; h++) {
    for (let i = 0; i < w; i++) {
      const own = n - w + i;
      const rows = heads[Math.floor(h / groupSize)]!.slice(0, own + 1);
      const { probabilities } = attend(headOf(row(queries, i), h, headDim), rows, scale, exact);
      probabilities.forEach((p, j) => {
        columns.data[h * n + j]! += p / w;
        diagonals.data[h * n + own - j]! += p / w;
        columnBlocks.data[h * blocks + Math.floor(j / block)]! += p / w;
        const offset = own - j;
        diagonalBlocks.data[h * blocks + blocks - 1 - Math.floor((n - 1 - offset) / block)]! += p / w;
      });
    }
  }
  return { columns, diagonals, columnBlocks, diagonalBlocks };
}

/** `[ceil(rows / block), columns]` */
export function blockMeans(x: Matrix, block: number): Matrix {
  const out = matrix(blocksFor(x.rows, block), x.columns);
  for (let r = 0; r < x.rows; r++) {
    const c = Math.floor(r / block);
    const count = Math.min(block, x.rows - c * block);
    row(x, r).forEach((value, d) => {
      out.data[c * x.columns + d]! += value / count;
    });
  }
  return out;
}

export const keysOf = ({ heads, headDim }: ReferenceLayer): Matrix => {
  const out = matrix(heads[0]!.length, heads.length * headDim);
  heads.forEach((rows, g) => {
    rows.forEach(({ key }, r) => {
      row(out, r).set(key, g * headDim);
    });
  });
  return out;
};

function softmax(scores: readonly number[]): number[] {
  const most = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** `[heads * queries.rows, keys.rows]`; firstBlock null: over all columns */
export function pooledAttention(
  queries: Matrix,
  keys: Matrix,
  heads: number,
  kvHeads: number,
  scale: number,
  firstBlock: number | null,
): Matrix {
  const headDim = queries.columns / heads;
  const out = matrix(heads * queries.rows, keys.rows);
  for (let h = 0; h < heads; h++) {
    for (let r = 0; r < queries.rows; r++) {
      const seen = firstBlock === null ? keys.rows : Math.min(keys.rows, firstBlock + r + 1);
      const q = headOf(row(queries, r), h, headDim);
      const scores = Array.from(
        { length: seen },
        (_, c) => scale * dot(q, headOf(row(keys, c), Math.floor((h * kvHeads) / heads), headDim), exact),
      );
      row(out, h * queries.rows + r).set(softmax(scores));
    }
  }
  return out;
}

/** XAttention's block scores, from the definition: `[heads * query blocks, key blocks]`. The queries are the layer's last rows. */
export function antidiagonalScores(
  layer: ReferenceLayer,
  queries: Matrix,
  scale: number,
  stride: number,
  block: number,
): Matrix {
  const { headDim, groupSize, heads } = layer;
  const n = heads[0]!.length;
  const first = n - queries.rows;
  const queryBlocks = blocksFor(queries.rows, block);
  const keyBlocks = blocksFor(n, block);
  const out = matrix(heads.length * groupSize * queryBlocks, keyBlocks);
  for (let h = 0; h < heads.length * groupSize; h++) {
    const keys = heads[Math.floor(h / groupSize)]!;
    for (let R = first / stride; R * stride < n; R++) {
      const scores = Array.from({ length: R + 1 }, (_, C) => {
        let sum = 0;
        for (let i = 0; i < stride; i++) {
          const [q, k] = [R * stride + stride - 1 - i, C * stride + i];
          if (q < n && k < n) sum += dot(headOf(row(queries, q - first), h, headDim), keys[k]!.key, exact);
        }
        return sum * scale;
      });
      const r = Math.floor((R * stride - first) / block);
      softmax(scores).forEach((p, C) => {
        out.data[(h * queryBlocks + r) * keyBlocks + Math.floor((C * stride) / block)]! += p;
      });
    }
  }
  return out;
}

/** Columns by falling score, the lower one first on ties; forced ones before all others. */
export function ranked(scores: ArrayLike<number>, forced: readonly number[] = []): number[] {
  const columns = Array.from({ length: scores.length }, (_, c) => c).filter((c) => !forced.includes(c));
  return [...forced, ...columns.sort((a, b) => scores[b]! - scores[a]! || a - b)];
}

/** How many of the ranked columns reach the share (inclusive), or fit into it. */
export function countOf(
  scores: ArrayLike<number>,
  share: number,
  { inclusive, forced = [] }: { inclusive: boolean; forced?: readonly number[] },
): number {
  const order = ranked(scores, forced);
  const budget = share * order.reduce((sum, c) => sum + scores[c]!, 0);
  let sum = 0;
  let count = 0;
  for (const c of order) {
    if (count >= forced.length && (inclusive ? sum >= budget : sum + scores[c]! > budget)) break;
    sum += scores[c]!;
    count++;
  }
  return count;
}

export function jsDistance(p: ArrayLike<number>, q: ArrayLike<number>): number {
  let sum = 0;
  for (let c = 0; c < p.length; c++) {
    const mean = (p[c]! + q[c]!) / 2;
    for (const x of [p[c]!, q[c]!]) if (x > 0) sum += x * Math.log(x / mean);
  }
  return Math.sqrt(Math.max(0, sum / 2));
}

// Prompts whose heads attend in known ways, and how much of their attention a set of blocks holds.
import { matrix, row } from "./guarded.ts";
import type { Random } from "./random.ts";
import { exact } from "./reference.ts";
import { attend, headOf, type ReferenceLayer } from "./reference-attention.ts";
import type { BlockLists } from "./reference-blocks.ts";

const patterns = ["vertical", "slash", "sink and local", "blocks", "random"] as const;
export type Pattern = (typeof patterns)[number];

export const HEAD_DIM = 64;
const STRONG = 9;

function directions(random: Random, count: number): Float64Array[] {
  return Array.from({ length: count }, () => {
    const x = random.normals(HEAD_DIM);
    const norm = Math.hypot(...x);
    return x.map((value) => (value * Math.sqrt(STRONG * Math.sqrt(HEAD_DIM))) / norm);
  });
}

/** Queries, keys and values `[rows, 3 * headDim]` of one head of such a pattern, made of blocks of `block` rows. */
export function patterned(random: Random, pattern: Pattern, rows: number, block: number): Float64Array {
  const qkv = matrix(rows, 3 * HEAD_DIM, random.normals(rows * 3 * HEAD_DIM, 0.3));
  const add = (r: number, part: 0 | 1, x: Float64Array) => {
    const to = row(qkv, r).subarray(part * HEAD_DIM);
    x.forEach((value, d) => {
      to[d]! += value;
    });
  };
  const [one] = directions(random, 1);
  const many = directions(random, rows + 200);
  for (let r = 0; r < rows; r++) {
    if (pattern === "vertical") {
      add(r, 0, one!);
      if (r % 97 === 5) add(r, 1, one!);
    }
    if (pattern === "slash") {
      add(r, 0, many[r]!);
      add(r, 1, many[r + 150]!); // key r answers query r + 150
    }
    if (pattern === "sink and local") {
      add(r, 0, one!);
      if (r < 4) add(r, 1, one!);
      add(r, 0, many[r >> 3]!);
      add(r, 1, many[r >> 3]!);
    }
    if (pattern === "blocks") {
      const own = Math.floor(r / block);
      add(r, 0, many[(own * 7) % 3]!);
      add(r, 1, many[own % 3]!);
    }
  }
  return qkv.data;
}

export { patterns };

/** The share of each query row's attention that falls on the blocks of its list, mean over rows [from, rows): [head]. */
export function recall(
  layer: ReferenceLayer,
  queries: ReturnType<typeof matrix>,
  scale: number,
  block: number,
  lists: BlockLists,
  from = 0,
): number[] {
  const { groupSize, headDim, heads } = layer;
  return lists.map((list, h) => {
    let total = 0;
    for (let i = from; i < queries.rows; i++) {
      const rows = heads[Math.floor(h / groupSize)]!.slice(0, i + 1);
      const read = new Set(list[Math.floor(i / block)]!);
      const { probabilities } = attend(headOf(row(queries, i), h, headDim), rows, scale, exact);
      probabilities.forEach((p, j) => {
        if (read.has(Math.floor(j / block))) total += p;
      });
    }
    return total / (queries.rows - from);
  });
}

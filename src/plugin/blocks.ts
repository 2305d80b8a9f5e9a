// What a plugin author sees of block-sparse prefill: the select hook's scores, choices and sets of blocks.
// Blocks are runs of `block` rows from row 0 on; the last one may be shorter. Nothing here waits for the device.
import type { CacheRows, Queries, Scores } from "./index.ts";

/** Mean of each block of rows, fp32. */
export interface Means {
  readonly rows: number;
}

/**
 * A score of each key block for each query block of each query head. Made for some heads at a time, when blocks are chosen:
 * the whole would take gigabytes.
 */
export interface BlockScores {
  readonly block: number;
}

/** A whole number for each query head. */
export interface Counts {
  readonly heads: number;
}

/** Columns marked for each query head. */
export interface Marks {
  readonly columns: number;
}

/** Which key blocks each query block of each query head reads; the select hook returns one. None lies right of the diagonal. */
export interface Blocks {
  /** rows of a block: 64 or 128 */
  readonly block: number;
}

/** Attention of window queries, mean over them: by key, and by the distance from query to key; `[heads, length]`. */
export interface WindowSums {
  readonly columns: Scores;
  readonly diagonals: Scores;
  /** columns summed over each block: `[heads, blocks]` */
  readonly columnBlocks: Scores;
  /** diagonals summed over runs of `block` distances, which end at the largest: `[heads, blocks]` */
  readonly diagonalBlocks: Scores;
}

/** Bounds of a count. */
export interface Bounds {
  least: number;
  most: number;
}

/** The first `sinks` key blocks and the last `recent` up to the diagonal, for query block `from` (default 0) and those after it. */
export interface Band {
  sinks: number;
  recent: number;
  from?: number;
}

/** Operations of the select hook, as `ops.blocks`. */
export interface BlockOps {
  /** Where the last queries attend to; at most 256 of them. */
  windowSums(queries: Queries, keys: CacheRows, block: number): WindowSums;
  /** Means of blocks of the queries, or of the layer's keys. */
  means(of: Queries | CacheRows, block: number): Means;
  /** softmax of one mean query against the means of all key blocks: `[heads, blocks]` */
  pooledAttention(query: Means, keys: Means): Scores;
  /** softmax of each query block's mean against the means of the key blocks up to its own (FlexPrefill) */
  pooledScores(queries: Means, keys: Means, block: number): BlockScores;
  /**
   * Sums along the antidiagonals of stride x stride tiles, scaled by scale / (stride * norm), softmax over a row of tiles,
   * summed over blocks (XAttention). The queries must be all of the pass.
   */
  antidiagonalScores(
    queries: Queries,
    keys: CacheRows,
    options: { stride: number; block: number; norm?: number },
  ): BlockScores;
  /** Jensen-Shannon distance of each head's two distributions, natural logarithm: `[1, heads]` */
  distance(p: Scores, q: Scores): Scores;

  /** How many of a head's largest columns fit into `share` of its sum. */
  countWithin(scores: Scores, share: number): Counts;
  /** How many of a head's columns, `forced` ones first and then the largest, it takes to reach `share` of its sum. */
  countReaching(scores: Scores, share: number, bounds: Bounds & { forced: number }): Counts;
  /** (count + offset) / divisor rounded down, within the bounds */
  divide(counts: Counts, options: Bounds & { offset: number; divisor: number }): Counts;
  /** `value` for the heads whose score is below `limit`, the others as they are */
  replaceBelow(counts: Counts, scores: Scores, limit: number, value: number): Counts;
  /** The `counts` largest columns of each head, the first `forced` columns being among them. */
  best(scores: Scores, counts: Counts, options: { forced: number }): Marks;

  /** Key blocks marked as vertical, and those at a marked distance, up to `before` less and `after` more (0 or 1). */
  lines(vertical: Marks, slash: Marks, options: { block: number; before?: number; after?: number }): Blocks;
  /** The band's key blocks, as a new set or added to `into`. */
  band(block: number, band: Band, into?: Blocks): Blocks;
  /** Adds all key blocks to the query blocks that hold the last `rows` rows. */
  readAll(blocks: Blocks, rows: number): Blocks;
  /**
   * For each query block: the blocks of `forced`, then the best by score until the sum reaches a share of the row's. shares: one
   * number, or one per head; a head with 1 reads everything. extraRows: the first so many query blocks take one more.
   */
  cover(
    scores: BlockScores,
    shares: number | readonly number[],
    options: { forced: Blocks; extraRows?: number },
  ): Blocks;
  /**
   * Adds to `blocks`, for each head whose `gate` is below `limit`: the best scores of its whole map, as many as fit into `share`
   * of their sum.
   */
  coverMap(blocks: Blocks, scores: BlockScores, share: number, options: { gate: Scores; limit: number }): Blocks;
}

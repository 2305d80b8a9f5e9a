// Block-sparse prefill: sets of blocks, the scores that make them, attention over them. Formulas stand in cuda/include/kvaccel.h, since 1.3.
import type { KvCache } from "./kv.ts";
import { type Reduction, reductions } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

const NONE = null;

/** Which key blocks each query block of each head reads. */
export interface BlockSet {
  /** i32 `[heads * rows, words]`: bit c % 32 of word c / 32 is key block c */
  bits: Tensor;
  heads: number;
  /** number of the query block that a head's first row of bits is for */
  firstBlock: number;
}

/** A set as attention reads it. */
export interface ReadSet extends BlockSet {
  /** rows of a block: 64 or 128 */
  block: number;
  /** per head: 1 reads everything, 0 the set; null: all read the set */
  kinds: Int32Array | null;
}

/** query row i is cache row firstRow + i; out may be q; lse fp32 `[heads, rows]` */
export function attentionBlocks(
  kv: KvCache,
  layer: number,
  firstRow: number,
  q: Tensor,
  scale: number,
  set: ReadSet,
  out: Tensor,
  lse: Tensor | null = null,
): void {
  const { library } = out.context;
  library.check(
    library.native.kva_attention_blocks(
      kv.pointer,
      layer,
      firstRow,
      q.pointer,
      scale,
      set.block,
      set.firstBlock,
      set.bits.pointer,
      set.kinds,
      out.pointer,
      lse?.pointer ?? NONE,
    ),
  );
}

/** columnSums of the attention that attentionBlocks computes with the same set */
export function columnSumsBlocks(
  kv: KvCache,
  layer: number,
  firstRow: number,
  queries: Tensor,
  lse: Tensor,
  scale: number,
  reduce: Reduction,
  set: ReadSet,
  out: Tensor,
): void {
  const { library } = out.context;
  library.check(
    library.native.kva_column_sums_blocks(
      kv.pointer,
      layer,
      firstRow,
      queries.pointer,
      lse.pointer,
      scale,
      reductions.indexOf(reduce),
      set.block,
      set.firstBlock,
      set.bits.pointer,
      set.kinds,
      out.pointer,
    ),
  );
}

export interface WindowSumOutputs {
  /** fp32 `[heads, length]` */
  columns?: Tensor;
  diagonals?: Tensor;
  /** fp32 `[heads, ceil(length / block)]` */
  columnBlocks?: Tensor;
  diagonalBlocks?: Tensor;
}

/** where the last queries of a layer attend to, by key and by distance */
export function windowSums(
  kv: KvCache,
  layer: number,
  queries: Tensor,
  scale: number,
  block: number,
  out: WindowSumOutputs,
): void {
  const { library } = kv.context;
  library.check(
    library.native.kva_window_sums(
      kv.pointer,
      layer,
      queries.pointer,
      scale,
      block,
      out.columns?.pointer ?? NONE,
      out.diagonals?.pointer ?? NONE,
      out.columnBlocks?.pointer ?? NONE,
      out.diagonalBlocks?.pointer ?? NONE,
    ),
  );
}

/** out fp32 `[ceil(rows / block), columns]` */
export function blockMean(x: Tensor, block: number, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_block_mean(x.pointer, block, out.pointer));
}

/** out fp32 `[ceil(length / block), kvHeads * headDim]` */
export function keyBlockMean(kv: KvCache, layer: number, block: number, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_key_block_mean(kv.pointer, layer, block, out.pointer));
}

/** out fp32 `[heads * queries.rows, keys.rows]`; firstBlock null: each row over all columns, else causal from that block on */
export function pooledAttention(
  queries: Tensor,
  keys: Tensor,
  heads: number,
  kvHeads: number,
  scale: number,
  firstBlock: number | null,
  out: Tensor,
): void {
  const { library } = out.context;
  library.check(
    library.native.kva_pooled_attention(
      queries.pointer,
      keys.pointer,
      heads,
      kvHeads,
      scale,
      firstBlock ?? -1,
      out.pointer,
    ),
  );
}

export interface Antidiagonal {
  firstRow: number;
  firstHead: number;
  /** of a sum along an antidiagonal */
  scale: number;
  stride: number;
  block: number;
}

/** out fp32 `[heads of queries * ceil(rows / block), ceil((firstRow + rows) / block)]` */
export function antidiagonalScores(kv: KvCache, layer: number, queries: Tensor, how: Antidiagonal, out: Tensor): void {
  const { library } = out.context;
  const { firstRow, firstHead, scale, stride, block } = how;
  library.check(
    library.native.kva_antidiagonal_scores(
      kv.pointer,
      layer,
      firstRow,
      firstHead,
      queries.pointer,
      scale,
      stride,
      block,
      out.pointer,
    ),
  );
}

export interface Cumulative {
  /** per group of rows */
  shares: Float64Array;
  flat?: boolean;
  inclusive: boolean;
  extra?: number;
  extraRows?: number;
  least?: number;
  most?: number;
  forced?: Tensor | null;
  gate?: { values: Tensor; below: number } | null;
}

/** How many columns of each row reach a share of it (counts, i32), and which (bits); at least one of both. */
export function cumulative(x: Tensor, how: Cumulative, out: { counts?: Tensor; bits?: Tensor }): void {
  const { library } = x.context;
  library.check(
    library.native.kva_cumulative(
      x.pointer,
      how.shares,
      how.shares.length,
      how.flat ? 1 : 0,
      how.inclusive ? 1 : 0,
      how.extra ?? 0,
      how.extraRows ?? 0,
      how.least ?? 0,
      how.most ?? 0,
      how.forced?.pointer ?? NONE,
      how.gate?.values.pointer ?? NONE,
      how.gate?.below ?? 0,
      out.counts?.pointer ?? NONE,
      out.bits?.pointer ?? NONE,
    ),
  );
}

/** adds the counts[r] best columns of row r, forced ones first */
export function topBits(x: Tensor, counts: Tensor, forced: Tensor | null, bits: Tensor): void {
  const { library } = x.context;
  library.check(library.native.kva_top_bits(x.pointer, counts.pointer, forced?.pointer ?? NONE, bits.pointer));
}

/** counts := (counts + offset) / divisor within [least, most], whole numbers */
export function countsDivide(counts: Tensor, offset: number, divisor: number, least: number, most: number): void {
  const { library } = counts.context;
  library.check(library.native.kva_counts_divide(counts.pointer, offset, divisor, least, most));
}

/** counts := value where gate < threshold */
export function countsWhere(gate: Tensor, threshold: number, value: number, counts: Tensor): void {
  const { library } = counts.context;
  library.check(library.native.kva_counts_where(gate.pointer, threshold, value, counts.pointer));
}

/** Jensen-Shannon distance of each row, natural logarithm */
export function jsDistance(p: Tensor, q: Tensor, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_js_distance(p.pointer, q.pointer, out.pointer));
}

/** adds the first `sinks` key blocks, and the last `recent` up to the diagonal */
export function blocksBand({ bits, heads, firstBlock }: BlockSet, sinks: number, recent: number): void {
  const { library } = bits.context;
  library.check(library.native.kva_blocks_band(bits.pointer, heads, firstBlock, sinks, recent));
}

/** adds the key blocks of vertical, and those at a distance in slash, or up to `before` less and `after` more; both bits `[heads, words]` */
export function blocksVerticalSlash(
  vertical: Tensor,
  slash: Tensor,
  before: number,
  after: number,
  { bits, firstBlock }: BlockSet,
): void {
  const { library } = bits.context;
  library.check(
    library.native.kva_blocks_vertical_slash(vertical.pointer, slash.pointer, before, after, firstBlock, bits.pointer),
  );
}

/** counts i32 `[1, heads]`: blocks of each head up to the diagonal */
export function blocksCount({ bits, heads, firstBlock }: BlockSet, counts: Tensor): void {
  const { library } = bits.context;
  library.check(library.native.kva_blocks_count(bits.pointer, heads, firstBlock, counts.pointer));
}

/** leaves `share` of the blocks up to the diagonal, where there are more */
export function blocksThin({ bits, heads, firstBlock }: BlockSet, share: number): void {
  const { library } = bits.context;
  library.check(library.native.kva_blocks_thin(bits.pointer, heads, firstBlock, share));
}

/** the set as lists: rowPtr i32 `[1, rows + 1]`, col i32 `[1, capacity]` */
export function blocksToCsr({ bits, heads, firstBlock }: BlockSet, rowPtr: Tensor, col: Tensor): void {
  const { library } = bits.context;
  library.check(library.native.kva_blocks_to_csr(bits.pointer, heads, firstBlock, rowPtr.pointer, col.pointer));
}

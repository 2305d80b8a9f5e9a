// Attention of one sequence and layer in prefill, dense or over the blocks that a select hook chose: at once, or in row ranges where a
// hook watches the queries.
import type { Decoder } from "../model/decoder.ts";
import { attentionBlocks, type ReadSet } from "../native/blocks.ts";
import { attentionPrefill } from "../native/ops.ts";
import { Scope } from "../native/scope.ts";
import type { Tensor } from "../native/tensor.ts";
import type { Sequence } from "./sequence.ts";

/** Query rows [first, first + rows) of a layer, as the chunk hook may read them. */
export interface ChunkState {
  first: number;
  /** `[rows, heads * headDim]`, rotated */
  queries: Tensor;
  /** fp32 `[heads, rows]`, or null where no method asked for it */
  lse: Tensor | null;
  /** what the attention read; null: everything */
  blocks: ReadSet | null;
}

/** q holds the rotated queries of the whole prompt, and the attention output afterwards. */
export async function attend(
  decoder: Decoder,
  sequence: Sequence,
  layer: number,
  q: Tensor,
  breathe: () => Promise<void>,
): Promise<void> {
  sequence.keepQueries(layer, q);
  using scope = new Scope(q.context);
  const window = decoder.window(layer);
  const hides = window > 0 && window < q.rows;
  const blocks = hides ? null : sequence.selectBlocks(layer, { queries: q, kept: scope });
  const cache = sequence.cache.of(layer);
  const run = (first: number, part: Tensor, lse: Tensor | null) => {
    if (blocks) attentionBlocks(cache, layer, first, part, decoder.scale, blocks, part, lse);
    else attentionPrefill(cache, layer, first, part, decoder.scale, window, part, lse);
  };
  if (!sequence.watchesChunks) {
    run(0, q, null);
    await breathe();
    return;
  }
  // Row ranges begin at blocks.
  const step = blocks ? Math.ceil(decoder.rowChunk / blocks.block) * blocks.block : decoder.rowChunk;
  const copy = scope.tensor(q.dtype, Math.min(step, q.rows), q.columns);
  const lse = sequence.needs.lse ? scope.tensor("float32", decoder.config.heads, copy.rows) : null;
  for (let first = 0; first < q.rows; first += step) {
    const rows = Math.min(step, q.rows - first);
    using inner = new Scope(q.context);
    const part = inner.view(q, first, rows);
    const queries = inner.view(copy, 0, rows);
    const sums = lse ? inner.view(lse, 0, lse.rows, 0, rows) : null;
    part.copyTo(queries);
    run(first, part, sums);
    sequence.chunkHooks(layer, { first, queries, lse: sums, blocks });
    await breathe();
  }
}

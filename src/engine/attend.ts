// Attention of one sequence and layer in prefill: dense at once, or in row ranges where a hook watches the queries.
import type { Decoder } from "../model/decoder.ts";
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
  if (!sequence.watchesChunks) {
    attentionPrefill(sequence.cache.of(layer), layer, 0, q, decoder.scale, decoder.window(layer), q);
    await breathe();
    return;
  }
  const { rowChunk } = decoder;
  using scope = new Scope(q.context);
  const copy = scope.tensor(q.dtype, Math.min(rowChunk, q.rows), q.columns);
  const lse = sequence.needs.lse ? scope.tensor("float32", decoder.config.heads, copy.rows) : null;
  for (let first = 0; first < q.rows; first += rowChunk) {
    const rows = Math.min(rowChunk, q.rows - first);
    using inner = new Scope(q.context);
    const part = inner.view(q, first, rows);
    const queries = inner.view(copy, 0, rows);
    const sums = lse ? inner.view(lse, 0, lse.rows, 0, rows) : null;
    part.copyTo(queries);
    attentionPrefill(sequence.cache.of(layer), layer, first, part, decoder.scale, decoder.window(layer), part, sums);
    sequence.chunkHooks(layer, { first, queries, lse: sums });
    await breathe();
  }
}

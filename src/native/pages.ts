// Pages that decode attention reads: their bounds, their scores, their choice. Formulas stand in cuda/include/kvaccel.h, since 1.11.
import type { Range } from "./evict.ts";
import type { Batch, KvCache } from "./kv.ts";
import { type Reduction, reductions } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

/** rows of a page */
export const pageSizes = [16, 32, 64, 128] as const;
export type PageSize = (typeof pageSizes)[number];

/** The layer keeps the bounds of its keys' pages from now on. */
export function boundPages(kv: KvCache, layer: number, pageRows: PageSize): void {
  const { library } = kv.context;
  library.check(library.native.kva_kv_bound_pages(kv.pointer, layer, pageRows));
}

/** scores fp32 `[sequences * kvHeads, pages]` := what the queries can score on a key of each page at most, reduced over the group */
export function pageScores(
  { batch, first, sequences, layer }: Range,
  queries: Tensor,
  reduce: Extract<Reduction, "mean" | "max">,
  scores: Tensor,
): void {
  const { library } = batch.context;
  const { native } = library;
  const reduction = reductions.indexOf(reduce);
  library.check(
    native.kva_page_scores(batch.pointer, first, sequences, layer, queries.pointer, reduction, scores.pointer),
  );
}

/** The pages that each head reads. */
export interface PageLists {
  /** i32 `[sequences * kvHeads, most]`, ascending */
  pages: Tensor;
  /** i32 `[1, sequences * kvHeads]`: how many; -1: the head reads everything */
  counts: Tensor;
}

/** A head of more than `rows` rows reads its last page and the best others, `rows` rows at most; other heads read everything. */
export function choosePages(
  { batch, first, sequences, layer }: Range,
  scores: Tensor,
  rows: number,
  { pages, counts }: PageLists,
): void {
  const { library } = batch.context;
  const { native } = library;
  library.check(
    native.kva_choose_pages(
      batch.pointer,
      first,
      sequences,
      layer,
      scores.pointer,
      rows,
      pages.pointer,
      counts.pointer,
    ),
  );
}

/** Decode attention over those pages; mostRows: the largest `rows` of their choice. */
export function attentionDecodePages(
  batch: Batch,
  layer: number,
  queries: Tensor,
  scale: number,
  mostRows: number,
  { pages, counts }: PageLists,
  out: Tensor,
): void {
  const { library } = batch.context;
  library.check(
    library.native.kva_attention_decode_pages(
      batch.pointer,
      layer,
      queries.pointer,
      scale,
      mostRows,
      pages.pointer,
      counts.pointer,
      out.pointer,
    ),
  );
}

// Eviction and merging while decoding, as kvaccel.h has them since 1.2.
import type { Batch } from "./kv.ts";
import type { Tensor } from "./tensor.ts";

/** When the oldest row merges into those after it, in the order of the library's numbers. */
export const mergeDecisions = ["bernoulli", "threshold", "expected", "always", "never"] as const;
export type MergeDecision = (typeof mergeDecisions)[number];

/** Sequences [first, first + sequences) of a batch, in one layer. */
export interface Range {
  batch: Batch;
  first: number;
  sequences: number;
  layer: number;
}

/** Where a head holds at least rows + interval rows, the lowest go until `rows` are left. */
export function dropLowestEvery(
  { batch, first, sequences, layer }: Range,
  rows: number,
  side: number,
  recent: number,
  interval: number,
): void {
  const { library } = batch.context;
  library.check(
    library.native.kva_kv_drop_lowest_every(batch.pointer, first, sequences, layer, rows, side, recent, interval),
  );
}

/** side value of each head's last row := factor * norm of its key */
export function noteNorms({ batch, first, sequences, layer }: Range, side: number, p: 1 | 2, factor: number): void {
  const { library } = batch.context;
  library.check(library.native.kva_kv_note_norms(batch.pointer, first, sequences, layer, side, p, factor));
}

/** Where a head holds more than `rows` rows, the one with the lowest pooled probability goes; row order stays. */
export function dropPooled(
  { batch, first, sequences, layer }: Range,
  probs: Tensor,
  rows: number,
  recent: number,
  width: number,
): void {
  const { library } = batch.context;
  library.check(
    library.native.kva_kv_drop_pooled(batch.pointer, first, sequences, layer, probs.pointer, rows, recent, width),
  );
}

/** Where a head holds more than `rows` rows, those with the highest probability pooled in order of side value stay; it becomes their side value. */
export function keepRanked(
  { batch, first, sequences, layer }: Range,
  probs: Tensor,
  side: number,
  rows: number,
  recent: number,
  width: number,
): void {
  const { library } = batch.context;
  library.check(
    library.native.kva_kv_keep_ranked(batch.pointer, first, sequences, layer, probs.pointer, side, rows, recent, width),
  );
}

/** How a row's value goes to the `targets` rows after it. */
interface MergeInto {
  side: number;
  rows: number;
  targets: number;
  decision: MergeDecision;
  seed: number;
}
export type Merge = MergeInto & { sinks: number };
export type RecentMerge = MergeInto & { recent: number };

/** Where a head holds more than `rows` rows, its oldest row past the sinks merges into the next ones and goes. */
export function mergeOldest({ batch, first, sequences, layer }: Range, merge: Merge): void {
  const { library } = batch.context;
  library.check(
    library.native.kva_kv_merge_oldest(
      batch.pointer,
      first,
      sequences,
      layer,
      merge.side,
      merge.rows,
      merge.sinks,
      merge.targets,
      mergeDecisions.indexOf(merge.decision),
      merge.seed,
    ),
  );
}

/** Where a head holds more than `rows` rows, the row `recent` positions before the newest merges into the next ones and stays. */
export function mergeRecent({ batch, first, sequences, layer }: Range, merge: RecentMerge): void {
  const { library } = batch.context;
  library.check(
    library.native.kva_kv_merge_recent(
      batch.pointer,
      first,
      sequences,
      layer,
      merge.side,
      merge.rows,
      merge.recent,
      merge.targets,
      mergeDecisions.indexOf(merge.decision),
      merge.seed,
    ),
  );
}

/** out[r, c] = x[r, c] / (start + step * c) */
export function divideRamp(x: Tensor, start: number, step: number, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_divide_ramp(x.pointer, start, step, out.pointer));
}

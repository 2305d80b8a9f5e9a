// Decode ops as hooks record them, and their replay over a batch: equal ops of all sequences are one launch.
import { KvaError } from "../native/error.ts";
import {
  dropLowestEvery,
  dropPooled,
  keepRanked,
  type Merge,
  mergeOldest,
  mergeRecent,
  noteNorms,
  type RecentMerge,
} from "../native/evict.ts";
import { accumulateShared, keepAtMostEach, noteSimilarity } from "../native/heads.ts";
import type { Batch, Rotation } from "../native/kv.ts";
import { flush } from "../native/segments.ts";
import type { Tensor } from "../native/tensor.ts";

/** One recorded op of one sequence and layer. Conditions on lengths are tested on the device. */
export type DecodeOp =
  | { kind: "keepAtMost"; rows: number; sinks: number }
  | { kind: "keepAtMostEach"; rows: readonly number[]; sinks: number }
  | { kind: "accumulateProbs"; side: number; factor: number; decay: number; shared: boolean }
  | { kind: "dropLowest"; side: number; rows: number; recent: number }
  | { kind: "rotateSinks"; sinks: number }
  | { kind: "dropLowestEvery"; side: number; rows: number; recent: number; interval: number }
  | { kind: "noteNorms"; side: number; p: 1 | 2; factor: number }
  | { kind: "noteSimilarity"; side: number; rows: number; factor: number }
  | { kind: "dropPooled"; rows: number; recent: number; width: number }
  | { kind: "keepRanked"; side: number; rows: number; recent: number; width: number }
  | ({ kind: "mergeOldest" } & Merge)
  | ({ kind: "mergeRecent" } & RecentMerge)
  | { kind: "rotateSlots" }
  | { kind: "flush" };

/** An op over sequences [first, first + sequences) of the batch. */
export interface Launch {
  first: number;
  sequences: number;
  op: DecodeOp;
}

/** lists[s]: what sequence s recorded for a layer. Op k of all sequences is one launch where their lists match. */
export function plan(lists: readonly (readonly DecodeOp[])[]): Launch[] {
  const first = lists[0];
  if (first === undefined) return [];
  const text = JSON.stringify(first);
  if (lists.every((list) => JSON.stringify(list) === text)) {
    return first.map((op) => ({ first: 0, sequences: lists.length, op }));
  }
  return lists.flatMap((list, s) => list.map((op) => ({ first: s, sequences: 1, op })));
}

/** What ops need besides the batch. */
export interface Surroundings {
  rope: Rotation;
  /** fp32 `[sequences * kvHeads, columns]`: the current query's probabilities; null where no method asked for them */
  probs: Tensor | null;
}

/** Queues the launches of a layer. */
export function replay(batch: Batch, layer: number, launches: readonly Launch[], around: Surroundings): void {
  for (const { first, sequences, op } of launches) {
    const range = { batch, first, sequences, layer };
    switch (op.kind) {
      case "keepAtMost":
        batch.keepAtMost(first, sequences, layer, op.rows, op.sinks);
        break;
      case "keepAtMostEach":
        keepAtMostEach(range, op.rows, op.sinks);
        break;
      case "accumulateProbs": {
        const probs = probsFor(op.kind, around);
        if (op.shared) accumulateShared(range, probs, op.side, op.factor, op.decay);
        else batch.accumulate(first, sequences, layer, probs, op.side, op.factor, op.decay);
        break;
      }
      case "dropLowest":
        batch.dropLowest(first, sequences, layer, op.rows, op.side, op.recent);
        break;
      case "rotateSinks":
        batch.rotateSinks(first, sequences, layer, op.sinks, around.rope);
        break;
      case "dropLowestEvery":
        dropLowestEvery(range, op.rows, op.side, op.recent, op.interval);
        break;
      case "noteNorms":
        noteNorms(range, op.side, op.p, op.factor);
        break;
      case "noteSimilarity":
        noteSimilarity(range, op.side, op.rows, op.factor);
        break;
      case "dropPooled":
        dropPooled(range, probsFor(op.kind, around), op.rows, op.recent, op.width);
        break;
      case "keepRanked":
        keepRanked(range, probsFor(op.kind, around), op.side, op.rows, op.recent, op.width);
        break;
      case "mergeOldest":
        mergeOldest(range, op);
        break;
      case "mergeRecent":
        mergeRecent(range, op);
        break;
      case "rotateSlots":
        batch.rotateSlots(first, sequences, layer, around.rope);
        break;
      case "flush":
        flush(batch, first, sequences, layer);
        break;
    }
  }
}

function probsFor(op: string, { probs }: Surroundings): Tensor {
  if (probs) return probs;
  throw new KvaError("plugin", `layer.${op} needs \`decodeProbs: true\` in needs`);
}

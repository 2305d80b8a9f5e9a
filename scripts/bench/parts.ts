// The parts of `make bench` by name, the most important first, as groups of jobs on a card.
import { type Card, engineGroup } from "./engine-jobs.ts";
import { layerGroup } from "./layer-jobs.ts";
import { cpuPart, designPart, limitPart, longPart, methodsPart, scalingPart } from "./plan.ts";
import type { Group } from "./schedule.ts";

export type Parts = Readonly<Record<string, (card: Card) => Group[]>>;

/** `lengths`: of the layer part; `quick`: with fewer samples. */
export function gpuParts(lengths: readonly number[], quick: boolean): Parts {
  return {
    end: (card) => [engineGroup(designPart(card.shape, quick), card)],
    layer: (card) => lengths.map((rows) => layerGroup(rows, card)),
    methods: (card) => [engineGroup(methodsPart(card.shape), card)],
    scaling: (card) => [engineGroup(scalingPart(card.shape), card)],
    limit: (card) => [engineGroup(limitPart(card.shape), card)],
    long: (card) => [engineGroup(longPart(card.shape), card)],
  };
}

export const cpuParts: Parts = { end: (card) => [engineGroup(cpuPart(card.shape), card)] };

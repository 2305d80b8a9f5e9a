// A model over one or several devices: each holds a run of layers, its stage. The first one embeds, the last one gives logits.
import { KvaError } from "../native/error.ts";
import { type Context, elementBytes } from "../native/tensor.ts";
import type { FloatDtype, ModelConfig } from "./config.ts";
import { planWeights, type Target } from "./plan.ts";

/** Layers [first, end) on the device of a context. */
export interface Stage {
  context: Context;
  first: number;
  end: number;
}

/** The whole model on one device. */
export const wholeOn = (context: Context, config: ModelConfig): Stage[] => [{ context, first: 0, end: config.layers }];

/** Bytes of weights by layer, and of what the first and the last stage hold besides. */
export function weightParts(config: ModelConfig, dtype: FloatDtype): { layers: number[]; first: number; last: number } {
  const plan = planWeights(config);
  const bytes = (targets: readonly Target[]) =>
    targets.reduce((sum, { rows, columns }) => sum + rows * columns * elementBytes[dtype], 0);
  return {
    layers: plan.layers.map((layer) => bytes(Object.values(layer))),
    first: bytes([plan.embed]),
    last: bytes([plan.finalNorm, plan.lmHead ?? plan.embed]),
  };
}

/**
 * Ends of the stages: contiguous layers in the devices' order, such that the largest share of a device's room that its weights
 * take is as small as it can be; of equal splits the one with the most even layers. room: free bytes of each device.
 */
export function splitLayers(config: ModelConfig, dtype: FloatDtype, room: readonly number[]): number[] {
  const stages = room.length;
  if (stages > config.layers) {
    throw new KvaError(
      "usage",
      `${stages} devices for one model: it has ${config.layers} layers, and each device needs one`,
    );
  }
  const { layers, first, last } = weightParts(config, dtype);
  const before = [0];
  for (const bytes of layers) before.push(before.at(-1)! + bytes);
  const share = (stage: number, from: number, to: number) => {
    const ends = (stage === 0 ? first : 0) + (stage === stages - 1 ? last : 0);
    return (before[to]! - before[from]! + ends) / Math.max(1, room[stage]!);
  };
  // best[end] after stage s: [largest share, sum of squared layer counts, ends of the stages]
  type Split = { share: number; squares: number; ends: number[] };
  let best = new Map<number, Split>([[0, { share: 0, squares: 0, ends: [] }]]);
  for (let stage = 0; stage < stages; stage++) {
    const next = new Map<number, Split>();
    for (const [from, split] of best) {
      const most = config.layers - (stages - 1 - stage);
      for (let to = stage === stages - 1 ? config.layers : from + 1; to <= most; to++) {
        const made = {
          share: Math.max(split.share, share(stage, from, to)),
          squares: split.squares + (to - from) ** 2,
          ends: [...split.ends, to],
        };
        const known = next.get(to);
        const better =
          !known || made.share < known.share || (made.share === known.share && made.squares < known.squares);
        if (better) next.set(to, made);
      }
    }
    best = next;
  }
  return best.get(config.layers)!.ends;
}

/** The stages of a model over these contexts. */
export function stagesOf(
  contexts: readonly Context[],
  config: ModelConfig,
  dtype: FloatDtype,
  room: readonly number[],
): Stage[] {
  const ends = splitLayers(config, dtype, room);
  return contexts.map((context, s) => ({ context, first: s === 0 ? 0 : ends[s - 1]!, end: ends[s]! }));
}

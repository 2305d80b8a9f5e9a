// The least time that work can take on a card: its operations over the GEMM ceiling, its bytes over the copy ceiling.
import type { ModelConfig } from "../../src/model/config.ts";
import type { Ceilings } from "./device.ts";

/** Operations of dense causal attention in one layer, half of the pairs visible. */
export function attentionFlops({ heads, headDim }: ModelConfig, rows: number): number {
  return 2 * rows ** 2 * headDim * heads;
}

/** Elements of the weights that every token passes through; the output layer apart. */
function layerElements(c: ModelConfig): number {
  const attention = (2 * c.heads + 2 * c.kvHeads) * c.headDim * c.hiddenSize;
  return c.layers * (attention + 3 * c.hiddenSize * c.intermediateSize);
}

/** Of prompts of `rows` tokens each; `density` of the attention is computed. */
export function prefillFloorMs(
  config: ModelConfig,
  { gemm }: Ceilings,
  rows: number,
  sequences: number,
  density: number,
): number {
  const attention = density * config.layers * attentionFlops(config, rows);
  return (1000 * sequences * (2 * layerElements(config) * rows + attention)) / gemm;
}

/** Of a decode step: the weights and the cache are read once. */
export function decodeFloorMs(config: ModelConfig, { copy }: Ceilings, cacheBytes: number): number {
  return (1000 * (2 * (layerElements(config) + config.vocabSize * config.hiddenSize) + cacheBytes)) / copy;
}

// The model as plugins know it.
import type { ModelConfig } from "../model/config.ts";
import { ropeDependsOnLength } from "../model/rope.ts";
import type { ModelInfo } from "../plugin/index.ts";

export function modelInfo(config: ModelConfig): ModelInfo {
  const { family, layers, heads, kvHeads, headDim, hiddenSize, slidingWindow, slidingLayers } = config;
  const slidingWindows = slidingLayers.map((slides) => (slides ? (slidingWindow ?? 0) : 0));
  return {
    family,
    layers,
    heads,
    kvHeads,
    headDim,
    hiddenSize,
    ...(slidingWindows.some((window) => window > 0) && { slidingWindows }),
    ...(ropeDependsOnLength(config) && { ropeDependsOnLength: true }),
  };
}

// From the model of an engine's options to its configuration and its weights.
import { type ModelConfig, readConfig } from "../model/config.ts";
import { shapeConfig } from "../model/shapes.ts";
import { apart, loadWeights, type Maker, type Place, randomWeights, type Weights } from "../model/weights.ts";
import type { EngineOptions, ModelSource } from "./protocol.ts";

export function configOf(model: ModelSource): ModelConfig {
  if ("dir" in model) return readConfig(model.dir);
  if ("config" in model) return model.config;
  const config = shapeConfig(model.shape);
  return model.layers === undefined ? config : { ...config, layers: Math.min(model.layers, config.layers) };
}

/**
 * Reads the checkpoint, or draws the numbers of a shape. `beat` is called before each tensor: a model may take minutes. maker: where
 * the tensors go; absent: an allocation for each.
 */
export function makeWeights(
  place: Place,
  config: ModelConfig,
  { model, dtype }: EngineOptions,
  beat: () => void,
  maker = apart,
): Weights {
  const beating: Maker = (...tensor) => {
    beat();
    return maker(...tensor);
  };
  if ("dir" in model) return loadWeights(place, config, model.dir, dtype, beating);
  return randomWeights(place, config, dtype, model.seed, "config" in model ? model.deviation : undefined, beating);
}

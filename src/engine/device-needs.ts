// What a batch of prompts needs of each device of a model copy, before it runs. engine/estimate.ts has one sequence on one device, to the buffer.
import type { FloatDtype, ModelConfig } from "../model/config.ts";
import { weightParts } from "../model/stages.ts";
import { elementBytes } from "../native/tensor.ts";
import type { ModelInfo } from "../plugin/index.ts";
import { bytesBeside, createHooks, expectedStorage, type LoadedMethod, sumNeeds } from "./method.ts";

export interface EstimateFor {
  config: ModelConfig;
  model: ModelInfo;
  dtype: FloatDtype;
  method: LoadedMethod;
  /** of each sequence of the batch */
  promptTokens: number;
  newTokens: number;
  batch: number;
  /** rows of a row chunk in prefill */
  prefillChunk: number;
  /** ends of the stages, one for each device of a model copy */
  ends: readonly number[];
  /** engines on each device */
  copies: number;
  /** they read one copy of the weights */
  sharedWeights: boolean;
}

/** Bytes on one device. */
export interface Estimate {
  /** of all copies there: one, or one for each engine */
  weights: number;
  /** rows held after the prompt, those of the layer being prefilled and of tokens to come included */
  cache: number;
  activations: number;
}

export const totalOf = ({ weights, cache, activations }: Estimate): number => weights + cache + activations;

/** Of each device. Samples in a pipeline hold their caches together: twice as many batches as stages. */
export function estimate(wanted: EstimateFor): Estimate[] {
  const { config, dtype, batch, ends, copies } = wanted;
  const weightCopies = wanted.sharedWeights ? 1 : copies;
  const unit = elementBytes[dtype];
  const weights = weightParts(config, dtype);
  const inFlight = ends.length > 1 ? 2 * ends.length : 1;
  const packed = batch * wanted.promptTokens;
  const chunk = Math.min(wanted.prefillChunk, packed);
  const wide = Math.max((config.heads + 2 * config.kvHeads) * config.headDim, 2 * config.intermediateSize);
  const activations =
    unit * packed * (config.hiddenSize + config.heads * config.headDim) +
    unit * chunk * (config.hiddenSize + wide + config.intermediateSize) +
    4 * batch * config.vocabSize;
  return ends.map((end, stage) => {
    const first = stage === 0 ? 0 : ends[stage - 1]!;
    const own = weights.layers.slice(first, end).reduce((sum, bytes) => sum + bytes, 0);
    const shared = (stage === 0 ? weights.first : 0) + (stage === ends.length - 1 ? weights.last : 0);
    const tied = ends.length === 1 && config.tieEmbeddings ? weights.first : 0;
    return {
      weights: weightCopies * (own + shared - tied),
      cache: copies * batch * cacheBytes(wanted, first, end, inFlight),
      activations: copies * activations,
    };
  });
}

/** of one sequence in layers [first, end): what is kept of each, `inFlight` times, and one layer whole */
function cacheBytes(wanted: EstimateFor, first: number, end: number, inFlight: number): number {
  const { method, model, promptTokens, newTokens } = wanted;
  const unit = elementBytes[wanted.dtype];
  const beside = bytesBeside(sumNeeds(createHooks(method, model)), model.headDim, unit);
  const rowBytes = 2 * model.headDim * unit + beside;
  let kept = 0;
  let most = 0;
  for (let layer = first; layer < end; layer++) {
    const head = expectedStorage(method, promptTokens, layer, model, unit);
    const held = head.keyBytes + head.valueBytes + beside * head.rows;
    kept += held + newTokens * rowBytes;
    most = Math.max(most, promptTokens * rowBytes - held);
  }
  return model.kvHeads * (inFlight * kept + most);
}

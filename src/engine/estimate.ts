// Peak memory of a run before it starts, from shapes alone: what the decoder and the engine allocate, and what a method's formulas keep.
import type { FloatDtype, ModelConfig } from "../model/config.ts";
import { weightBytes } from "../model/plan.ts";
import type { Backend } from "../native/library.ts";
import { elementBytes } from "../native/tensor.ts";
import { type AllNeeds, bytesBeside, createHooks, expectedStorage, type LoadedMethod, sumNeeds } from "./method.ts";
import { modelInfo } from "./model-info.ts";

export interface EstimateRequest {
  config: ModelConfig;
  dtype: FloatDtype;
  method: LoadedMethod;
  promptTokens: number;
  newTokens: number;
  /** rows of a row chunk in prefill */
  prefillChunk: number;
  backend: Backend;
}

/** Bytes on the device that runs all layers, one sequence. */
export interface MemoryEstimate {
  weightBytes: number;
  /** hidden states, queries, and what one row chunk needs */
  activationBytes: number;
  /** what the method keeps after the prompt, with room for the new tokens */
  cacheBytes: number;
  /** the largest sum at any time */
  peakBytes: number;
}

/** The workspace of cuBLASLt; other scratch is smaller by far. */
const scratchBytes: Record<Backend, number> = { cuda: 32 * 2 ** 20, cpu: 0 };

/** As engine/sequence.ts reserves them. */
const maxSpareRows = 1024;

export function estimateMemory(request: EstimateRequest): MemoryEstimate {
  const { config, dtype, method, promptTokens, newTokens } = request;
  const model = modelInfo(config);
  const hooks = createHooks(method, model);
  const needs = sumNeeds(hooks);
  const unit = elementBytes[dtype];
  const beside = bytesBeside(needs, config.headDim, unit);
  const rowBytes = 2 * config.headDim * unit + beside;
  const spare = Math.min(maxSpareRows, newTokens);
  const weights = weightBytes(config, dtype);
  const scratch = scratchBytes[request.backend];

  let kept = config.layers * config.kvHeads * Math.max(0, needs.unrotatedRows) * config.headDim * unit;
  let drops = false;
  for (let layer = 0; layer < config.layers; layer++) {
    const head = expectedStorage(method, promptTokens, layer, model, unit);
    drops ||= head.rows < promptTokens;
    kept += config.kvHeads * (head.keyBytes + head.valueBytes + head.rows * beside + spare * rowBytes);
  }
  // a layer that a hook has handled is whole until its new storage is filled; behind a cascade, an earlier layer, too, of up to twice the mean
  const stored = hooks.some(({ hooks }) => hooks.prefill);
  const whole = stored ? config.kvHeads * promptTokens * rowBytes : 0;
  const earlier = needs.cascade && drops ? (2 * kept) / config.layers : 0;
  const watched = hooks.some(({ hooks }) => hooks.chunk);
  const activations = prefillBytes(request, needs, watched, unit);
  const prefill = weights + activations + kept + whole + earlier;
  const decode = weights + kept + stepBytes(config, unit);
  return {
    weightBytes: weights,
    activationBytes: activations,
    cacheBytes: kept,
    peakBytes: Math.max(prefill, decode) + scratch,
  };
}

/** The buffers of a prefill pass (model/decoder.ts), and what hooks want beside it (engine/attend.ts, engine/sequence.ts). */
function prefillBytes(
  { config, promptTokens, prefillChunk }: EstimateRequest,
  needs: AllNeeds,
  watched: boolean,
  unit: number,
): number {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, layers } = config;
  const queries = heads * headDim;
  const rows = Math.min(prefillChunk, promptTokens);
  const wide = Math.max(queries + 2 * kvHeads * headDim, 2 * intermediateSize);
  const branch = config.sandwichNorm ? rows : 1;
  const chunk = rows * (hiddenSize + wide + intermediateSize) + branch * hiddenSize;
  const ring = Math.min(needs.queryRing, promptTokens) * queries * (needs.cascade ? layers : 1);
  const copy = watched ? rows * queries : 0;
  const lse = watched && needs.lse ? rows * heads * 4 : 0;
  return unit * (promptTokens * (hiddenSize + queries) + chunk + ring + copy) + lse;
}

/** The buffers of a decode step for one sequence, logits in fp32. */
function stepBytes(
  { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize }: ModelConfig,
  unit: number,
): number {
  const columns = 3 * hiddenSize + 2 * heads * headDim + 2 * kvHeads * headDim + 3 * intermediateSize;
  return unit * columns + 4 * vocabSize;
}

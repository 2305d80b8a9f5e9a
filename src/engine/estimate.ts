// Peak memory of a run before it starts, from shapes alone: what the decoder and the engine allocate, and what a method's formulas keep.
import type { FloatDtype, ModelConfig } from "../model/config.ts";
import { weightParts } from "../model/stages.ts";
import type { Backend } from "../native/library.ts";
import { elementBytes } from "../native/tensor.ts";
import {
  type AllNeeds,
  bytesBeside,
  createHooks,
  expectedStorage,
  type LoadedMethod,
  type NamedHooks,
  sumNeeds,
} from "./method.ts";
import { modelInfo } from "./model-info.ts";
import { selectScratch } from "./select-scratch.ts";

export interface EstimateRequest {
  config: ModelConfig;
  dtype: FloatDtype;
  method: LoadedMethod;
  /** of each sequence of the batch */
  promptTokens: number;
  newTokens: number;
  /** rows of a row chunk in prefill */
  prefillChunk: number;
  backend: Backend;
  /** sequences that are prefilled and decoded together; absent: one */
  batch?: number;
}

/** How the copies of a model lie on their devices. */
export interface Layout {
  /** ends of the stages, one for each device of a model copy */
  ends: readonly number[];
  /** engines on each device */
  copies: number;
  /** they read one copy of the weights */
  sharedWeights: boolean;
}

/** Bytes on one device when most of it is taken. */
export interface MemoryEstimate {
  /** of all copies there: one, or one for each engine */
  weights: number;
  /** what the method keeps after the prompt, with room for the new tokens */
  cache: number;
  /** all else at that time: hidden states, queries, a row chunk, scratch, and the layer that is still whole beside what is kept */
  activations: number;
}

export const totalOf = ({ weights, cache, activations }: MemoryEstimate): number => weights + cache + activations;

/** The workspace of cuBLASLt; other scratch is smaller, but for that of select hooks. */
const scratchBytes: Record<Backend, number> = { cuda: 32 * 2 ** 20, cpu: 0 };

/** As engine/sequence.ts reserves them. */
const maxSpareRows = 1024;

/** One engine that has a device to itself. */
export function estimateMemory(request: EstimateRequest): MemoryEstimate {
  return estimateDevices(request, { ends: [request.config.layers], copies: 1, sharedWeights: false })[0]!;
}

/** Of each device of a model copy. Samples in a pipeline hold their caches together: twice as many batches as stages. */
export function estimateDevices(request: EstimateRequest, { ends, copies, sharedWeights }: Layout): MemoryEstimate[] {
  const { config, dtype, method } = request;
  const hooks = createHooks(method, modelInfo(config));
  const weights = weightParts(config, dtype);
  const inFlight = ends.length > 1 ? 2 * ends.length : 1;
  return ends.map((end, stage) => {
    const first = stage === 0 ? 0 : ends[stage - 1]!;
    const layers = weights.layers.slice(first, end).reduce((sum, bytes) => sum + bytes, 0);
    const shared = (stage === 0 ? weights.first : 0) + (stage === ends.length - 1 ? weights.last : 0);
    const tied = ends.length === 1 && config.tieEmbeddings ? weights.first : 0;
    const { cache, activations } = stageBytes(request, hooks, first, end, inFlight);
    return {
      weights: (sharedWeights ? 1 : copies) * (layers + shared - tied),
      cache: copies * cache,
      activations: copies * activations,
    };
  });
}

/** Beside the weights of layers [first, end), in one engine. */
function stageBytes(
  request: EstimateRequest,
  hooks: readonly NamedHooks[],
  first: number,
  end: number,
  inFlight: number,
): { cache: number; activations: number } {
  const { config, dtype, method, promptTokens, newTokens, backend, batch = 1 } = request;
  const model = modelInfo(config);
  const needs = sumNeeds(hooks);
  const unit = elementBytes[dtype];
  const beside = bytesBeside(needs, config.headDim, unit);
  const rowBytes = 2 * config.headDim * unit + beside;
  const spare = Math.min(maxSpareRows, newTokens);

  let kept = (end - first) * config.kvHeads * Math.max(0, needs.unrotatedRows) * config.headDim * unit;
  let drops = false;
  for (let layer = first; layer < end; layer++) {
    const head = expectedStorage(method, promptTokens, layer, model, unit);
    drops ||= head.rows < promptTokens;
    kept += config.kvHeads * (head.keyBytes + head.valueBytes + head.rows * beside + spare * rowBytes);
  }
  // a layer that a hook has handled is whole until its new storage is filled; behind a cascade, an earlier layer, too, of up to twice the mean
  const stored = hooks.some(({ hooks }) => hooks.prefill);
  const whole = stored ? config.kvHeads * promptTokens * rowBytes : 0;
  const earlier = needs.cascade && drops ? (2 * kept) / (end - first) : 0;
  const select = selectScratch(hooks, model, promptTokens, backend);
  const held = inFlight * batch * kept;
  // past the spare rows, storage grows with the tokens
  const cache = held + inFlight * batch * (end - first) * config.kvHeads * (newTokens - spare) * rowBytes;
  const prefill = held + batch * whole + earlier + prefillBytes(request, hooks, needs, end - first) + select.held;
  const decode = cache + batch * stepBytes(config, unit);
  const scratch = Math.max(scratchBytes[backend], select.arena);
  return { cache, activations: Math.max(prefill, decode) + scratch - cache };
}

/** The buffers of a prefill pass (model/decoder.ts), and what hooks want beside it (engine/attend.ts, engine/sequence.ts). */
function prefillBytes(
  { config, dtype, promptTokens, prefillChunk, batch = 1 }: EstimateRequest,
  hooks: readonly NamedHooks[],
  needs: AllNeeds,
  layers: number,
): number {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim } = config;
  const unit = elementBytes[dtype];
  const watched = hooks.some(({ hooks }) => hooks.chunk);
  const queries = heads * headDim;
  const packed = batch * promptTokens;
  const rows = Math.min(prefillChunk, packed);
  const wide = Math.max(queries + 2 * kvHeads * headDim, 2 * intermediateSize);
  const branch = config.sandwichNorm ? rows : 1;
  const chunk = rows * (hiddenSize + wide + intermediateSize) + branch * hiddenSize;
  const moments = needs.queryMoments ? 4 * heads * (headDim + headDim ** 2) : 0;
  const ring = Math.min(needs.queryRing, promptTokens) * queries * (needs.cascade ? layers : 1);
  const watchedRows = watched ? Math.min(prefillChunk, promptTokens) : 0;
  const lse = needs.lse ? watchedRows * heads * 4 : 0;
  return (
    unit * (packed * (hiddenSize + queries) + chunk + batch * ring + watchedRows * queries) + lse + batch * moments
  );
}

/** The buffers of a decode step for one sequence, logits in fp32. */
function stepBytes(
  { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize }: ModelConfig,
  unit: number,
): number {
  const columns = 3 * hiddenSize + 2 * heads * headDim + 2 * kvHeads * headDim + 3 * intermediateSize;
  return unit * columns + 4 * vocabSize;
}

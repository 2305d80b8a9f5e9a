// Which tensors of a checkpoint fill which tensors of the decoder: names, shapes and places, from the config alone.
import { elementBytes } from "../native/tensor.ts";
import type { FloatDtype, ModelConfig } from "./config.ts";

/** A tensor of the checkpoint and where it goes: first row of a matrix, first column of a vector. */
export interface Part {
  name: string;
  shape: readonly number[];
  at: number;
  /** heads whose rows the checkpoint has as pairs; absent: none */
  pairedHeads?: number;
}

/** A tensor of the decoder, [rows, columns]; vectors have one row. */
export interface Target {
  rows: number;
  columns: number;
  kind: "matrix" | "norm" | "bias";
  parts: readonly Part[];
}

export interface LayerPlan {
  inputNorm: Target;
  qkv: Target;
  qkvBias?: Target;
  qNorm?: Target;
  kNorm?: Target;
  o: Target;
  oBias?: Target;
  postSelfAttnNorm?: Target;
  postAttentionNorm: Target;
  gateUp: Target;
  gateUpBias?: Target;
  down: Target;
  downBias?: Target;
  postMlpNorm?: Target;
}

export interface Plan {
  embed: Target;
  layers: readonly LayerPlan[];
  finalNorm: Target;
  /** absent where the embeddings are tied */
  lmHead?: Target;
}

function stack(
  names: readonly string[],
  rows: readonly number[],
  columns: number,
  pairedHeads: readonly number[] = [],
): Target {
  let at = 0;
  const parts = names.map((name, i) => {
    const paired = pairedHeads[i];
    const part = { name: `${name}.weight`, shape: [rows[i]!, columns], at, ...(paired && { pairedHeads: paired }) };
    at += rows[i]!;
    return part;
  });
  return { rows: at, columns, kind: "matrix", parts };
}

function vectors(kind: "norm" | "bias", names: readonly string[], widths: readonly number[]): Target {
  let at = 0;
  const end = kind === "norm" ? "weight" : "bias";
  const parts = names.map((name, i) => {
    const part = { name: `${name}.${end}`, shape: [widths[i]!], at };
    at += widths[i]!;
    return part;
  });
  return { rows: 1, columns: at, kind, parts };
}

const norm = (name: string, width: number) => vectors("norm", [name], [width]);

/** The rows of each stacked part: one fused tensor, or one for each width. */
const split = (names: readonly string[], widths: readonly number[]) =>
  names.length === 1 ? [widths.reduce((sum, width) => sum + width, 0)] : widths;

function layerPlan(config: ModelConfig, index: number): LayerPlan {
  const { hiddenSize: hidden, intermediateSize: inner, heads, kvHeads, headDim } = config;
  const names = config.names.layer;
  const full = (name: string) => `${config.names.layers}.${index}.${name}`;
  const qkv = names.qkv.map(full);
  const gateUp = names.gateUp.map(full);
  const qkvRows = split(qkv, [heads * headDim, kvHeads * headDim, kvHeads * headDim]);
  const gateUpRows = split(gateUp, [inner, inner]);
  return {
    inputNorm: norm(full(names.inputNorm), hidden),
    qkv: stack(qkv, qkvRows, hidden, config.pairedRows ? [heads, kvHeads] : []),
    ...(config.qkvBias && { qkvBias: vectors("bias", qkv, qkvRows) }),
    ...(names.qNorm && { qNorm: norm(full(names.qNorm), headDim) }),
    ...(names.kNorm && { kNorm: norm(full(names.kNorm), headDim) }),
    o: stack([full(names.o)], [hidden], heads * headDim),
    ...(config.outBias && { oBias: vectors("bias", [full(names.o)], [hidden]) }),
    ...(names.postSelfAttnNorm && { postSelfAttnNorm: norm(full(names.postSelfAttnNorm), hidden) }),
    postAttentionNorm: norm(full(names.postAttentionNorm), hidden),
    gateUp: stack(gateUp, gateUpRows, hidden),
    ...(config.mlpBias && { gateUpBias: vectors("bias", gateUp, gateUpRows) }),
    down: stack([full(names.down)], [hidden], inner),
    ...(config.mlpBias && { downBias: vectors("bias", [full(names.down)], [hidden]) }),
    ...(names.postMlpNorm && { postMlpNorm: norm(full(names.postMlpNorm), hidden) }),
  };
}

export function planWeights(config: ModelConfig): Plan {
  const { names, vocabSize, hiddenSize } = config;
  return {
    embed: stack([names.embed], [vocabSize], hiddenSize),
    layers: Array.from({ length: config.layers }, (_, index) => layerPlan(config, index)),
    finalNorm: norm(names.finalNorm, hiddenSize),
    ...(!config.tieEmbeddings && { lmHead: stack([names.lmHead], [vocabSize], hiddenSize) }),
  };
}

export function targets(plan: Plan): Target[] {
  const { layers, ...rest } = plan;
  return [...Object.values(rest), ...layers.flatMap((layer) => Object.values(layer) as Target[])];
}

/** Bytes of all weights in the run's type, before the allocator's rounding. */
export function weightBytes(config: ModelConfig, dtype: FloatDtype): number {
  return targets(planWeights(config)).reduce((sum, { rows, columns }) => sum + rows * columns * elementBytes[dtype], 0);
}

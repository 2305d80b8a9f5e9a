// The decoder's weights on the device: streamed from the mapped files of a checkpoint, or random for a model given as shape only.
import { KvaError } from "../native/error.ts";
import { Scope } from "../native/scope.ts";
import { Context, MappedFile, Tensor } from "../native/tensor.ts";
import type { FloatDtype, ModelConfig } from "./config.ts";
import { isGguf, readGguf } from "./gguf.ts";
import { type LayerPlan, type Part, planWeights, type Target, targets } from "./plan.ts";
import { readCheckpoint, type StoredTensor } from "./safetensors.ts";
import { type Stage, wholeOn } from "./stages.ts";

/** Weights of a layer, in the run's type; shapes as in LayerPlan. */
export type LayerWeights = { [K in keyof LayerPlan]: Tensor };

export interface Weights {
  /** [vocabSize, hiddenSize] */
  embed: Tensor;
  layers: readonly LayerWeights[];
  /** [1, hiddenSize] */
  finalNorm: Tensor;
  /** [vocabSize, hiddenSize]; where the embeddings are tied `embed` itself, or its copy on the last of several devices */
  lmHead: Tensor;
  dispose(): void;
}

const fileDtypes: Readonly<Record<string, FloatDtype>> = { BF16: "bfloat16", F16: "float16", F32: "float32" };

/** Where weights go: a context takes the whole model. */
export type Place = Context | readonly Stage[];

/** Makes a tensor of weights; called in the same order for every copy of a model. */
export type Maker = (context: Context, dtype: FloatDtype, rows: number, columns: number) => Tensor;

/** each tensor an allocation of its own */
export const apart: Maker = (context, dtype, rows, columns) => Tensor.create(context, dtype, rows, columns, "weights");

/** Makes and fills every tensor of the model, each on the device of its layer; frees them all where one fails. */
function build(
  place: Place,
  config: ModelConfig,
  dtype: FloatDtype,
  maker: Maker,
  fill: (tensor: Tensor, target: Target) => void,
): Weights {
  const stages = place instanceof Context ? wholeOn(place, config) : place;
  const plan = planWeights(config);
  const [first, last] = [stages[0]!.context, stages.at(-1)!.context];
  const scope = new Scope(first);
  const make = (context: Context, target: Target): Tensor => {
    const tensor = scope.own(maker(context, dtype, target.rows, target.columns));
    fill(tensor, target);
    return tensor;
  };
  const makeLayer = (context: Context, layer: LayerPlan): LayerWeights => {
    const made = Object.entries(layer).map(([key, target]) => [key, make(context, target as Target)]);
    return Object.fromEntries(made) as LayerWeights;
  };
  const copy = (tensor: Tensor): Tensor => {
    const there = scope.own(maker(last, dtype, tensor.rows, tensor.columns));
    tensor.copyToPeer(there);
    return there;
  };
  try {
    const embed = make(first, plan.embed);
    const layers = stages.flatMap(({ context, first, end }) =>
      plan.layers.slice(first, end).map((layer) => makeLayer(context, layer)),
    );
    const finalNorm = make(last, plan.finalNorm);
    const lmHead = plan.lmHead ? make(last, plan.lmHead) : last === first ? embed : copy(embed);
    return { embed, layers, finalNorm, lmHead, dispose: () => scope.dispose() };
  } catch (error) {
    scope.dispose();
    throw error;
  }
}

/** The checkpoint in `dir` or in a GGUF file, converted to `dtype`. Every name and shape is checked before anything is allocated. */
export function loadWeights(
  place: Place,
  config: ModelConfig,
  dir: string,
  dtype: FloatDtype,
  maker: Maker = apart,
): Weights {
  const stored = isGguf(dir) ? new Map(Object.entries(readGguf(dir).tensors)) : readCheckpoint(dir);
  checkTensors(stored, config, dir);
  const maps = new Map<string, MappedFile>();
  const open = (file: string): MappedFile => {
    const map = maps.get(file) ?? MappedFile.open(firstOf(place), file);
    maps.set(file, map);
    return map;
  };
  try {
    return build(place, config, dtype, maker, (tensor, target) => {
      for (const part of target.parts) {
        const { file, offset, dtype: fileDtype, ggml } = stored.get(part.name)!;
        using place = placeOf(tensor, target, part);
        const plain = fileDtypes[fileDtype];
        if (plain && part.pairedHeads === undefined) place.load(open(file), offset, plain);
        else place.loadGgml(open(file), offset, ggml!, part.pairedHeads ?? 0);
        if (!place.isFinite()) throw new KvaError("model", notFinite(part.name, file, fileDtype, dtype));
      }
    });
  } finally {
    for (const map of maps.values()) map.close();
  }
}

const firstOf = (place: Place): Context => (place instanceof Context ? place : place[0]!.context);

function placeOf(tensor: Tensor, target: Target, { at, shape }: Part): Tensor {
  return target.kind === "matrix" ? tensor.view(at, shape[0]!) : tensor.view(0, 1, at, shape[0]!);
}

function notFinite(name: string, file: string, fileDtype: string, dtype: FloatDtype): string {
  const reason =
    dtype === "float16" && fileDtype !== "F16"
      ? `; float16 ends at 65504 and the file holds ${fileDtype}: try bfloat16`
      : "; the file is damaged, or the training went wrong";
  return `tensor ${name} of ${file} has values that are not finite in ${dtype}${reason}`;
}

/** Tensors that a checkpoint may hold beside the decoder's own: tables computed anew, and a copy of tied embeddings. */
function mayBeIgnored(name: string, config: ModelConfig): boolean {
  if (/^rope_(freqs|factors_long|factors_short)\.weight$/.test(name)) return true;
  return name.endsWith(".rotary_emb.inv_freq") || (config.tieEmbeddings && name === `${config.names.lmHead}.weight`);
}

function checkTensors(stored: Map<string, StoredTensor>, config: ModelConfig, dir: string): void {
  const parts = targets(planWeights(config)).flatMap((target) => target.parts);
  const missing = parts.filter(({ name }) => !stored.has(name)).map(({ name }) => name);
  const known = new Set(parts.map(({ name }) => name));
  const unexpected = [...stored.keys()].filter((name) => !known.has(name) && !mayBeIgnored(name, config));
  if (missing.length > 0) {
    const instead = unexpected.length > 0 ? `; it has ${some(unexpected)}, which no ${config.architecture} has` : "";
    throw new KvaError("model", `${dir} lacks ${some(missing)}${instead}`);
  }
  if (unexpected.length > 0) {
    throw new KvaError(
      "model",
      `${dir} has ${some(unexpected)}, for which a ${config.architecture} with this config.json has no place`,
    );
  }
  for (const { name, shape } of parts) checkTensor(name, shape, stored.get(name)!);
}

function some(names: readonly string[]): string {
  const first = names.slice(0, 3).join(", ");
  return `${names.length === 1 ? "the tensor" : `${names.length} tensors,`} ${first}${names.length > 3 ? ", ..." : ""}`;
}

function checkTensor(name: string, expected: readonly number[], { file, dtype, ggml, shape }: StoredTensor): void {
  if (ggml === undefined && !Object.hasOwn(fileDtypes, dtype)) {
    const quantised = /^(F8|F6|F4|I8|U8)/.test(dtype) ? ": take the checkpoint in one of them, or a GGUF file" : "";
    throw new KvaError("model", `tensor ${name} of ${file} is ${dtype}; kvaccel reads BF16, F16 and F32${quantised}`);
  }
  if (shape.length !== expected.length || shape.some((n, i) => n !== expected[i])) {
    throw new KvaError(
      "model",
      `tensor ${name} of ${file} is [${shape.join(", ")}]; by config.json it must be [${expected.join(", ")}]`,
    );
  }
}

/** Weights where what they hold stands already. */
export function placeWeights(place: Place, config: ModelConfig, dtype: FloatDtype, maker: Maker): Weights {
  return build(place, config, dtype, maker, () => {});
}

/** as initializer_range: nothing overflows, whatever the size */
const smallDeviation = 0.02;

/** Normal weights from the seed, norms of 1: for speed runs of a shape, and for checks. */
export function randomWeights(
  place: Place,
  config: ModelConfig,
  dtype: FloatDtype,
  seed: number,
  deviation = smallDeviation,
  maker: Maker = apart,
): Weights {
  let key = seed >>> 0;
  return build(place, config, dtype, maker, (tensor, { kind }) => {
    if (kind === "norm") return tensor.fill(1);
    key = (key + 0x9e3779b9) >>> 0;
    tensor.randomize("normal", key, deviation);
  });
}

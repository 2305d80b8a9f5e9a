// config.json and generation_config.json of a Hugging Face directory to ModelConfig, with transformers' defaults and rules.
import { existsSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { type Family, type FamilyName, families, type TensorNames } from "./families.ts";
import { isGguf } from "./gguf.ts";
import { ggufConfig } from "./gguf-config.ts";
import { checked, count, jsonObject, positive, readJson, shown } from "./json.ts";
import type { RopeConfig } from "./rope.ts";
import { readRope } from "./rope-config.ts";

export type FloatDtype = "bfloat16" | "float16" | "float32";
const floatDtypes: readonly FloatDtype[] = ["bfloat16", "float16", "float32"];

export interface ModelConfig {
  family: FamilyName;
  architecture: string;
  names: TensorNames;
  /** the checkpoint keeps neighbouring rows of each query and key head as pairs (GGUF files of Llamas) */
  pairedRows: boolean;
  layers: number;
  hiddenSize: number;
  intermediateSize: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
  /** max_position_embeddings as it stands */
  maxPositions: number;
  /** tokens that a sequence may have: maxPositions, stretched by linear, dynamic and yarn RoPE */
  contextLength: number;
  normEps: number;
  tieEmbeddings: boolean;
  rope: RopeConfig;
  /** rotated values of a head: even, at most headDim */
  rotaryDim: number;
  ropeInterleaved: boolean;
  qkvBias: boolean;
  outBias: boolean;
  mlpBias: boolean;
  headNorm: boolean;
  sandwichNorm: boolean;
  /** tokens that a sliding layer sees, its own included; null: every layer sees all */
  slidingWindow: number | null;
  /** which layers slide */
  slidingLayers: readonly boolean[];
  /** type of the checkpoint's numbers */
  dtype: FloatDtype;
  bosId: number | null;
  /** every id that ends an answer */
  eosIds: readonly number[];
}

const id = count(2 ** 31 - 1, 0);
const ids = v.nullish(v.union([id, v.array(id)], "must be a token id or a list of token ids"));
const flag = v.nullish(v.boolean("must be true or false"));
const schema = v.looseObject({
  num_hidden_layers: count(1024),
  hidden_size: count(2 ** 20),
  intermediate_size: count(2 ** 22),
  num_attention_heads: count(4096),
  num_key_value_heads: v.nullish(count(4096)),
  head_dim: v.nullish(count(4096)),
  vocab_size: count(2 ** 24),
  max_position_embeddings: count(2 ** 31 - 1),
  rms_norm_eps: positive(),
  hidden_act: v.picklist(["silu", "swish"], "must be silu: no other activation is supported"),
  tie_word_embeddings: flag,
  attention_bias: flag,
  mlp_bias: flag,
  sliding_window: v.nullish(count(2 ** 31 - 1)),
  use_sliding_window: flag,
  max_window_layers: v.nullish(count(2 ** 31 - 1, 0)),
  layer_types: v.nullish(v.array(v.string("must be a string"), "must be a list")),
  dtype: v.nullish(v.string("must be a string")),
  torch_dtype: v.nullish(v.string("must be a string")),
  bos_token_id: v.nullish(id),
  eos_token_id: ids,
});
type Raw = v.InferOutput<typeof schema>;
const generationSchema = v.pipe(jsonObject(), v.looseObject({ bos_token_id: v.nullish(id), eos_token_id: ids }));

/** Reads config.json of a directory and, where there is one, generation_config.json, whose ids win; or the metadata of a GGUF file. */
export function readConfig(dir: string): ModelConfig {
  if (isGguf(dir)) return ggufConfig(dir);
  const file = join(dir, "config.json");
  const config = parseConfig(readJson(file), file);
  const generationFile = join(dir, "generation_config.json");
  if (!existsSync(generationFile)) return config;
  const generation = checked(generationSchema, readJson(generationFile), generationFile);
  return {
    ...config,
    bosId: generation.bos_token_id ?? config.bosId,
    eosIds: listed(generation.eos_token_id) ?? config.eosIds,
  };
}

/** A parsed config.json to ModelConfig; `file` stands in the errors. */
export function parseConfig(json: unknown, file: string): ModelConfig {
  const given = checked(jsonObject(), json, file);
  const family = findFamily(given, file);
  refuseQuantised(given, file);
  const filled = { ...family.defaults, ...given };
  const raw = checked(schema, filled, file);
  const heads = headCounts(raw, family, file);
  const maxPositions = raw.max_position_embeddings;
  const rope = readRope(filled, { family, headDim: heads.headDim, maxPositions, file });
  return {
    family: family.name,
    architecture: family.architecture,
    names: family.names,
    pairedRows: false,
    layers: raw.num_hidden_layers,
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    ...heads,
    vocabSize: raw.vocab_size,
    maxPositions,
    contextLength: contextLength(rope, maxPositions),
    normEps: raw.rms_norm_eps,
    tieEmbeddings: raw.tie_word_embeddings ?? false,
    rope,
    rotaryDim: 2 * Math.ceil(rope.dim / 2),
    ropeInterleaved: family.ropeInterleaved,
    ...biases(raw, family),
    headNorm: family.headNorm,
    sandwichNorm: family.sandwichNorm,
    ...sliding(raw, family, file),
    dtype: checkpointDtype(raw, file),
    bosId: raw.bos_token_id ?? null,
    eosIds: listed(raw.eos_token_id) ?? [],
  };
}

function listed(value: number | number[] | null | undefined): number[] | undefined {
  if (value === null || value === undefined) return undefined;
  return Array.isArray(value) ? value : [value];
}

function findFamily(given: Record<string, unknown>, file: string): Family {
  const type = given.model_type;
  const architectures = Array.isArray(given.architectures) ? given.architectures : [];
  const found =
    families.find((family) => architectures.includes(family.architecture)) ??
    (architectures.length === 0 ? families.find((family) => family.name === type) : undefined);
  if (found) return found;
  if (type === "chatglm" || architectures.some((name) => String(name).startsWith("ChatGLM"))) {
    throw new KvaError(
      "model",
      `${file}: this is a checkpoint in the old ChatGLM layout, which needs code of its own; ` +
        "take its transformers form, whose name ends in -hf (zai-org/glm-4-9b-chat-hf: architecture GlmForCausalLM)",
    );
  }
  const name = architectures.length > 0 ? `architectures is ${shown(architectures)}` : `model_type is ${shown(type)}`;
  throw new KvaError(
    "model",
    `${file}: ${name}; the supported architectures are ${families.map((family) => family.architecture).join(", ")}`,
  );
}

function refuseQuantised(given: Record<string, unknown>, file: string): void {
  const quantised = given.quantization_config;
  if (quantised === undefined || quantised === null) return;
  const method = (quantised as Record<string, unknown>).quant_method;
  throw new KvaError(
    "model",
    `${file}: quantization_config says that the weights are stored as ${shown(method)}; ` +
      "take the checkpoint in bfloat16, float16 or float32, or a GGUF file",
  );
}

function headCounts(raw: Raw, family: Family, file: string): Pick<ModelConfig, "heads" | "kvHeads" | "headDim"> {
  const heads = raw.num_attention_heads;
  const kvHeads = raw.num_key_value_heads ?? heads;
  if (family.wholeHeads && raw.hidden_size % heads !== 0) {
    throw new KvaError(
      "model",
      `${file}: hidden_size is ${raw.hidden_size}; it must be a multiple of num_attention_heads, ${heads}`,
    );
  }
  if (heads % kvHeads !== 0) {
    throw new KvaError(
      "model",
      `${file}: num_attention_heads is ${heads}; it must be a multiple of num_key_value_heads, ${kvHeads}`,
    );
  }
  const headDim = raw.head_dim ?? Math.floor(raw.hidden_size / heads);
  if (headDim < 1) {
    throw new KvaError("model", `${file}: hidden_size is ${raw.hidden_size}, less than num_attention_heads, ${heads}`);
  }
  return { heads, kvHeads, headDim };
}

function biases(raw: Raw, family: Family): Pick<ModelConfig, "qkvBias" | "outBias" | "mlpBias"> {
  const attention = raw.attention_bias ?? false;
  return {
    qkvBias: family.qkvBias === "attention_bias" ? attention : family.qkvBias,
    outBias: family.outBias && attention,
    mlpBias: family.name === "llama" && (raw.mlp_bias ?? false),
  };
}

function sliding(raw: Raw, family: Family, file: string): Pick<ModelConfig, "slidingWindow" | "slidingLayers"> {
  const layers = raw.num_hidden_layers;
  const every = (slides: boolean) => Array.from({ length: layers }, () => slides);
  const window = raw.sliding_window ?? null;
  if (family.sliding === "none" || (family.sliding === "all" && window === null)) {
    return { slidingWindow: null, slidingLayers: every(false) };
  }
  if (family.sliding === "all") return { slidingWindow: window, slidingLayers: every(true) };

  const used = raw.use_sliding_window ? window : null;
  const first = raw.max_window_layers ?? layers;
  const types =
    raw.layer_types ??
    every(true).map((_, i) => (used !== null && i >= first ? "sliding_attention" : "full_attention"));
  if (types.length !== layers) {
    throw new KvaError(
      "model",
      `${file}: layer_types has ${types.length} entries; it must have num_hidden_layers, ${layers}`,
    );
  }
  const slidingLayers = types.map((type, i) => {
    if (type === "full_attention") return false;
    if (type === "sliding_attention" && used !== null) return true;
    const rule =
      type === "sliding_attention"
        ? "needs use_sliding_window true and a sliding_window"
        : "must be full_attention or sliding_attention";
    throw new KvaError("model", `${file}: layer_types.${i} is ${shown(type)}; it ${rule}`);
  });
  return { slidingWindow: slidingLayers.includes(true) ? used : null, slidingLayers };
}

function contextLength(rope: RopeConfig, maxPositions: number): number {
  if (rope.type === "linear" || rope.type === "dynamic") return Math.floor(maxPositions * rope.factor);
  if (rope.type === "yarn") return Math.max(maxPositions, Math.floor(rope.originalMaxPositions * rope.factor));
  return maxPositions;
}

function checkpointDtype(raw: Raw, file: string): FloatDtype {
  const name = raw.dtype ?? raw.torch_dtype ?? "float32";
  const found = floatDtypes.find((dtype) => dtype === name.replace(/^torch\./, ""));
  if (found) return found;
  const key = raw.dtype ? "dtype" : "torch_dtype";
  throw new KvaError("model", `${file}: ${key} is ${shown(name)}; it must be ${floatDtypes.join(", ")}`);
}

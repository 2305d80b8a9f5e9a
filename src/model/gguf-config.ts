// The metadata of a GGUF file as the config.json that its checkpoint came from, and the names that its tensors have there.
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { type ModelConfig, parseConfig } from "./config.ts";
import type { LayerNames, TensorNames } from "./families.ts";
import { readGguf } from "./gguf.ts";
import type { GgufHeader } from "./gguf-header.ts";
import { checked, count, positive, shown } from "./json.ts";

interface Architecture {
  /** as in config.json */
  name: string;
  /** llama.cpp wants neighbouring rows of queries and keys as pairs, and its converter reorders them */
  pairedRows: boolean;
  layer?: Partial<LayerNames>;
}

const fusedGateUp = { gateUp: ["ffn_up"] };
const architectures: Readonly<Record<string, Architecture>> = {
  llama: { name: "LlamaForCausalLM", pairedRows: true },
  qwen2: { name: "Qwen2ForCausalLM", pairedRows: false },
  qwen3: { name: "Qwen3ForCausalLM", pairedRows: false, layer: { qNorm: "attn_q_norm", kNorm: "attn_k_norm" } },
  chatglm: { name: "GlmForCausalLM", pairedRows: false, layer: fusedGateUp },
  glm4: {
    name: "Glm4ForCausalLM",
    pairedRows: false,
    layer: { ...fusedGateUp, postSelfAttnNorm: "post_attention_norm", postMlpNorm: "post_ffw_norm" },
  },
  phi3: { name: "Phi3ForCausalLM", pairedRows: false, layer: fusedGateUp },
};

const layerNames: LayerNames = {
  inputNorm: "attn_norm",
  qkv: ["attn_q", "attn_k", "attn_v"],
  o: "attn_output",
  postAttentionNorm: "ffn_norm",
  gateUp: ["ffn_gate", "ffn_up"],
  down: "ffn_down",
};

function tensorNames(layer: Partial<LayerNames>, fusedQkv: boolean): TensorNames {
  const qkv = fusedQkv ? { qkv: ["attn_qkv"] } : {};
  return {
    embed: "token_embd",
    layers: "blk",
    layer: { ...layerNames, ...layer, ...qkv },
    finalNorm: "output_norm",
    lmHead: "output",
  };
}

const whole = count(2 ** 31 - 1);
const id = count(2 ** 31 - 1, 0);
const optionalId = v.nullish(id);
const text = v.nullish(v.string("must be a string"));

/** Keys of the architecture, without its name and a dot. */
const architectureKeys = v.object({
  block_count: whole,
  context_length: whole,
  embedding_length: whole,
  feed_forward_length: whole,
  "attention.head_count": whole,
  "attention.head_count_kv": v.nullish(v.union([whole, v.array(whole)], "must be a count, or a list of counts")),
  "attention.key_length": v.nullish(whole),
  "attention.value_length": v.nullish(whole),
  "attention.layer_norm_rms_epsilon": v.nullish(positive()),
  "attention.sliding_window": v.nullish(id),
  "rope.dimension_count": v.nullish(whole),
  "rope.freq_base": v.nullish(positive()),
  "rope.scaling.type": text,
  "rope.scaling.factor": v.nullish(positive()),
  "rope.scaling.attn_factor": v.nullish(positive()),
  "rope.scaling.original_context_length": v.nullish(whole),
  expert_count: v.nullish(id),
});
type Keys = v.InferOutput<typeof architectureKeys>;

const generalKeys = v.object({
  "general.architecture": v.string("must be a string"),
  "tokenizer.ggml.bos_token_id": optionalId,
  "tokenizer.ggml.eos_token_id": optionalId,
  "tokenizer.ggml.eot_token_id": optionalId,
  "tokenizer.ggml.eom_token_id": optionalId,
});

export const ggufConfig = (file: string): ModelConfig => configOf(readGguf(file), file);

/** `file` stands in the errors. */
export function configOf(header: GgufHeader, file: string): ModelConfig {
  const general = checked(generalKeys, header.metadata, file);
  const family = general["general.architecture"];
  const architecture = Object.hasOwn(architectures, family) ? architectures[family]! : undefined;
  if (!architecture) {
    const known = Object.keys(architectures).join(", ");
    throw new KvaError("model", `${file}: general.architecture is ${shown(family)}; the supported ones are ${known}`);
  }
  const prefix = `${family}.`;
  const own = Object.entries(header.metadata).flatMap(([key, value]) =>
    key.startsWith(prefix) ? [[key.slice(prefix.length), value]] : [],
  );
  const keys = checked(architectureKeys, Object.fromEntries(own), `${file}: ${family}`);
  const fusedQkv = "blk.0.attn_qkv.weight" in header.tensors;
  const config = parseConfig(configJson(header, keys, general, architecture, file), file);
  return { ...config, names: tensorNames(architecture.layer ?? {}, fusedQkv), pairedRows: architecture.pairedRows };
}

function configJson(
  header: GgufHeader,
  keys: Keys,
  general: v.InferOutput<typeof generalKeys>,
  architecture: Architecture,
  file: string,
): Record<string, unknown> {
  if (keys.expert_count)
    throw new KvaError("model", `${file}: it has ${keys.expert_count} experts; kvaccel runs dense models`);
  const embed = header.tensors["token_embd.weight"];
  if (!embed) throw new KvaError("model", `${file} lacks the tensor token_embd.weight`);
  const heads = keys["attention.head_count"];
  const headDim = keys["attention.key_length"] ?? Math.floor(keys.embedding_length / heads);
  const window = keys["attention.sliding_window"] || null;
  const ends = [
    general["tokenizer.ggml.eos_token_id"],
    general["tokenizer.ggml.eot_token_id"],
    general["tokenizer.ggml.eom_token_id"],
  ];
  const sliding = architecture.name === "LlamaForCausalLM" && window !== null;
  return {
    architectures: [sliding ? "MistralForCausalLM" : architecture.name],
    num_hidden_layers: keys.block_count,
    hidden_size: keys.embedding_length,
    intermediate_size: keys.feed_forward_length,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads(keys, heads, file),
    head_dim: headDim,
    vocab_size: embed.shape[0],
    max_position_embeddings: keys.context_length,
    ...(keys["attention.layer_norm_rms_epsilon"] && { rms_norm_eps: keys["attention.layer_norm_rms_epsilon"] }),
    ...(window !== null && { sliding_window: window }),
    tie_word_embeddings: !("output.weight" in header.tensors),
    attention_bias: "blk.0.attn_q.bias" in header.tensors || "blk.0.attn_qkv.bias" in header.tensors,
    ...rotation(header, keys, headDim, architecture),
    torch_dtype: embed.dtype === "F32" ? "float32" : embed.dtype === "F16" ? "float16" : "bfloat16",
    bos_token_id: general["tokenizer.ggml.bos_token_id"],
    eos_token_id: [...new Set(ends.filter((end) => end !== null && end !== undefined))],
  };
}

function kvHeads(keys: Keys, heads: number, file: string): number {
  const given = keys["attention.head_count_kv"] ?? heads;
  const all = Array.isArray(given) ? given : [given];
  if (all.length === 0 || all.some((each) => each !== all[0])) {
    throw new KvaError(
      "model",
      `${file}: attention.head_count_kv is ${shown(all)}; all layers must have the same count`,
    );
  }
  return all[0]!;
}

function rotation(header: GgufHeader, keys: Keys, headDim: number, { name }: Architecture): Record<string, unknown> {
  const theta = { rope_theta: keys["rope.freq_base"] ?? 10000 };
  const rotated = keys["rope.dimension_count"];
  const partial =
    rotated !== undefined && rotated !== null && rotated < headDim ? { partial_rotary_factor: rotated / headDim } : {};
  const original = keys["rope.scaling.original_context_length"] ?? keys.context_length;
  const common = {
    ...theta,
    ...partial,
    ...(name === "Phi3ForCausalLM" && { original_max_position_embeddings: original }),
  };
  // Llama 3.1 and later: the stretch of each frequency stands in a tensor, whatever the length
  const factors = header.factors["rope_freqs.weight"];
  const long = factors ?? header.factors["rope_factors_long.weight"];
  const short = factors ?? header.factors["rope_factors_short.weight"];
  if (long && short) {
    const attention = factors ? 1 : keys["rope.scaling.attn_factor"];
    return {
      ...common,
      rope_scaling: {
        rope_type: "longrope",
        long_factor: long,
        short_factor: short,
        original_max_position_embeddings: original,
        ...(attention && { attention_factor: attention }),
      },
    };
  }
  const type = keys["rope.scaling.type"] ?? "none";
  if (type === "none") return common;
  const factor = keys["rope.scaling.factor"];
  return { ...common, rope_scaling: { rope_type: type, factor, original_max_position_embeddings: original } };
}

// Models given as shape only (`--shape`): the config.json of well-known checkpoints, without their weights.
import { KvaError } from "../native/error.ts";
import { type ModelConfig, parseConfig } from "./config.ts";

const llama3Scaling = {
  rope_type: "llama3",
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};
const llama31 = {
  architectures: ["LlamaForCausalLM"],
  vocab_size: 128256,
  num_key_value_heads: 8,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  rope_scaling: { ...llama3Scaling, factor: 8 },
  bos_token_id: 128000,
  eos_token_id: [128001, 128008, 128009],
  torch_dtype: "bfloat16",
};

const shapes: Readonly<Record<string, Record<string, unknown>>> = {
  "llama-3.1-8b": {
    ...llama31,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
  },
  "llama-3.2-1b": {
    ...llama31,
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 16,
    num_attention_heads: 32,
    head_dim: 64,
    rope_scaling: { ...llama3Scaling, factor: 32 },
    tie_word_embeddings: true,
  },
  "llama-3.1-70b": {
    ...llama31,
    hidden_size: 8192,
    intermediate_size: 28672,
    num_hidden_layers: 80,
    num_attention_heads: 64,
  },
  "qwen2.5-7b": {
    architectures: ["Qwen2ForCausalLM"],
    vocab_size: 152064,
    hidden_size: 3584,
    intermediate_size: 18944,
    num_hidden_layers: 28,
    num_attention_heads: 28,
    num_key_value_heads: 4,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    eos_token_id: [151645, 151643],
    torch_dtype: "bfloat16",
  },
  "qwen2.5-14b": {
    architectures: ["Qwen2ForCausalLM"],
    vocab_size: 152064,
    hidden_size: 5120,
    intermediate_size: 13824,
    num_hidden_layers: 48,
    num_attention_heads: 40,
    num_key_value_heads: 8,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    eos_token_id: [151645, 151643],
    torch_dtype: "bfloat16",
  },
  "qwen3-8b": {
    architectures: ["Qwen3ForCausalLM"],
    vocab_size: 151936,
    hidden_size: 4096,
    intermediate_size: 12288,
    num_hidden_layers: 36,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 40960,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    eos_token_id: [151645, 151643],
    torch_dtype: "bfloat16",
  },
  "mistral-7b": {
    architectures: ["MistralForCausalLM"],
    vocab_size: 32768,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    max_position_embeddings: 32768,
    sliding_window: null,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    torch_dtype: "bfloat16",
  },
  "glm-4-9b": {
    architectures: ["GlmForCausalLM"],
    vocab_size: 151552,
    hidden_size: 4096,
    intermediate_size: 13696,
    num_hidden_layers: 40,
    num_attention_heads: 32,
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 131072,
    rms_norm_eps: 1.5625e-7,
    rope_theta: 10000,
    torch_dtype: "bfloat16",
  },
  "tiny-ruler": {
    architectures: ["LlamaForCausalLM"],
    vocab_size: 3392,
    hidden_size: 256,
    intermediate_size: 640,
    num_hidden_layers: 5,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 64,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 1,
    torch_dtype: "bfloat16",
  },
};

export const shapeNames: readonly string[] = Object.keys(shapes);

/** The config.json of a shape. */
export function shapeJson(name: string): Readonly<Record<string, unknown>> {
  const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined;
  if (!shape) throw new KvaError("usage", `there is no shape "${name}"; there is ${shapeNames.join(", ")}`);
  return shape;
}

/** The config of a shape, or of its first `layers` layers. */
export function shapeConfig(name: string, layers?: number): ModelConfig {
  const shape = shapeJson(name);
  const all = Number(shape.num_hidden_layers);
  if (layers !== undefined && !(Number.isInteger(layers) && layers >= 1 && layers <= all)) {
    throw new KvaError("usage", `the shape ${name} has ${all} layers; ${layers} of them cannot be run`);
  }
  return parseConfig({ ...shape, num_hidden_layers: layers ?? all }, `shape ${name}`);
}

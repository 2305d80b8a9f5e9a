// config.json of every family, in both spellings, and what is refused.
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig, readConfig } from "../../src/model/config.ts";
import { weightBytes } from "../../src/model/plan.ts";
import { shapeConfig, shapeNames } from "../../src/model/shapes.ts";
import { KvaError } from "../../src/native/error.ts";
import { tinyConfig, uniform } from "../support/tiny-model.ts";

const golden = join(import.meta.dir, "..", "golden", "models");
const scratch = mkdtempSync(join(tmpdir(), "kvaccel-config-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const parse = (changes: Record<string, unknown>) => parseConfig({ ...tinyConfig, ...changes }, "config.json");

function refusal(changes: Record<string, unknown>): string {
  try {
    parse(changes);
  } catch (error) {
    expect(error).toBeInstanceOf(KvaError);
    expect((error as KvaError).code).toBe("model");
    return (error as KvaError).message;
  }
  throw new Error(`${JSON.stringify(changes)} was accepted`);
}

test("every golden model has a config that is read", () => {
  const read = readdirSync(golden).map((name) => readConfig(join(golden, name)));
  expect(new Set(read.map(({ family }) => family))).toEqual(
    new Set(["llama", "mistral", "qwen2", "qwen3", "glm", "glm4", "phi3"] as const),
  );
});

test("families differ as their code does", () => {
  const qwen2 = readConfig(join(golden, "qwen2"));
  expect(qwen2).toMatchObject({ qkvBias: true, outBias: false, headDim: 8, slidingWindow: null });
  expect(readConfig(join(golden, "qwen3"))).toMatchObject({ headNorm: true, qkvBias: false, dtype: "bfloat16" });
  const glm = readConfig(join(golden, "glm"));
  expect(glm).toMatchObject({ ropeInterleaved: true, rotaryDim: 8, headDim: 16, qkvBias: true, outBias: false });
  expect(readConfig(join(golden, "glm4"))).toMatchObject({ sandwichNorm: true, qkvBias: false });
  expect(readConfig(join(golden, "llama-bias"))).toMatchObject({ qkvBias: true, outBias: true, mlpBias: true });
  expect(readConfig(join(golden, "phi3-longrope")).names.layer.qkv).toEqual(["self_attn.qkv_proj"]);
});

test("sliding layers are those that transformers makes slide", () => {
  expect(readConfig(join(golden, "mistral"))).toMatchObject({ slidingWindow: 64, slidingLayers: [true, true] });
  expect(readConfig(join(golden, "qwen2-sliding"))).toMatchObject({ slidingWindow: 48, slidingLayers: [false, true] });
  const mistral = { architectures: ["MistralForCausalLM"] };
  expect(parse({ ...mistral, sliding_window: null }).slidingWindow).toBeNull();
  expect(parse(mistral).slidingWindow).toBe(4096);
  expect(parse({ sliding_window: 64 }).slidingWindow).toBeNull();
  const qwen2 = { architectures: ["Qwen2ForCausalLM"], use_sliding_window: true, sliding_window: 64 };
  const types = { layer_types: ["sliding_attention", "full_attention"] };
  expect(parse({ ...qwen2, ...types }).slidingLayers).toEqual([true, false]);
  expect(parse({ ...qwen2, max_window_layers: 2 }).slidingWindow).toBeNull();
});

test("the context is as long as the RoPE stretches it", () => {
  expect(parse({}).contextLength).toBe(4096);
  expect(parse({ rope_scaling: { type: "linear", factor: 4 } }).contextLength).toBe(16384);
  expect(parse({ rope_scaling: { type: "dynamic", factor: 2 } }).contextLength).toBe(8192);
  const yarn = { type: "yarn", factor: 4, original_max_position_embeddings: 4096 };
  expect(parse({ rope_scaling: yarn }).contextLength).toBe(16384);
  expect(readConfig(join(golden, "llama-llama3")).contextLength).toBe(1024);
});

test("stop ids may be one or a list, and those of generation_config.json win", () => {
  const dir = mkdtempSync(join(scratch, "ids-"));
  const write = (file: string, json: unknown) => writeFileSync(join(dir, file), JSON.stringify(json));
  write("config.json", { ...tinyConfig, eos_token_id: [1, 2] });
  expect(readConfig(dir)).toMatchObject({ bosId: 0, eosIds: [1, 2] });
  write("generation_config.json", { eos_token_id: 7 });
  expect(readConfig(dir)).toMatchObject({ bosId: 0, eosIds: [7] });
  write("generation_config.json", { eos_token_id: [7, 9], bos_token_id: 5 });
  expect(readConfig(dir)).toMatchObject({ bosId: 5, eosIds: [7, 9] });
  write("generation_config.json", { eos_token_id: "<eos>" });
  expect(() => readConfig(dir)).toThrow(/generation_config\.json: eos_token_id is "<eos>"; it must be a token id/);
});

test("a missing model_type or architectures leaves the other to decide", () => {
  expect(parse({ architectures: undefined, model_type: "qwen2" }).family).toBe("qwen2");
  expect(parse({ model_type: undefined }).family).toBe("llama");
  expect(parse({ architectures: ["LlamaForCausalLM"], model_type: "aquila" }).family).toBe("llama");
});

test("absent keys take the family's defaults", () => {
  const given = { num_key_value_heads: undefined, rms_norm_eps: undefined, head_dim: undefined };
  const bare = (changes: Record<string, unknown>) =>
    parseConfig(JSON.parse(JSON.stringify({ ...tinyConfig, ...given, ...changes })), "config.json");
  expect(bare({})).toMatchObject({ kvHeads: 8, headDim: 8, normEps: 1e-6 });
  expect(bare({ architectures: ["MistralForCausalLM"] }).kvHeads).toBe(8);
  expect(bare({ architectures: ["Qwen3ForCausalLM"], num_key_value_heads: 4 }).headDim).toBe(128);
  expect(bare({ architectures: ["GlmForCausalLM"] })).toMatchObject({ kvHeads: 2, headDim: 128, rotaryDim: 64 });
});

test("an unsupported architecture names the supported ones", () => {
  expect(refusal({ architectures: ["GPT2LMHeadModel"] })).toMatch(
    /config\.json: architectures is \["GPT2LMHeadModel"\]; the supported architectures are LlamaForCausalLM, MistralForCausalLM/,
  );
  expect(refusal({ architectures: undefined, model_type: "mamba" })).toContain('model_type is "mamba"');
  expect(refusal({ architectures: ["ChatGLMModel"], model_type: "chatglm" })).toContain("zai-org/glm-4-9b-chat-hf");
});

test("a wrong value is named with its key and what would be right", () => {
  expect(refusal({ num_hidden_layers: "two" })).toBe(
    'config.json: num_hidden_layers is "two"; it must be a whole number from 1 to 1024',
  );
  expect(refusal({ num_hidden_layers: 10 ** 9 })).toContain("num_hidden_layers is 1000000000");
  expect(refusal({ hidden_size: undefined })).toContain("hidden_size is absent; it must be a whole number");
  expect(refusal({ vocab_size: -3 })).toContain("vocab_size is -3");
  expect(refusal({ hidden_act: "gelu" })).toContain('hidden_act is "gelu"; it must be silu');
  expect(refusal({ torch_dtype: "float8_e4m3fn" })).toContain("it must be bfloat16, float16, float32");
  expect(refusal({ quantization_config: { quant_method: "gptq" } })).toContain('stored as "gptq"');
  expect(() => parseConfig([], "config.json")).toThrow("config.json is []; it must be a JSON object");
});

test("contradictions between keys are refused", () => {
  expect(refusal({ num_attention_heads: 7, num_key_value_heads: 7 })).toBe(
    "config.json: hidden_size is 64; it must be a multiple of num_attention_heads, 7",
  );
  expect(refusal({ num_key_value_heads: 3 })).toContain("must be a multiple of num_key_value_heads, 3");
  expect(refusal({ head_dim: 15 })).toContain("head_dim is 15; RoPE rotates pairs");
  expect(refusal({ partial_rotary_factor: 0.5 })).toContain("the llama family rotates whole heads");
  const qwen2 = { architectures: ["Qwen2ForCausalLM"], use_sliding_window: false };
  expect(refusal({ ...qwen2, layer_types: ["sliding_attention", "full_attention"] })).toContain("use_sliding_window");
  expect(refusal({ ...qwen2, layer_types: ["full_attention"] })).toContain("layer_types has 1 entries");
});

test("a RoPE that cannot be computed is refused", () => {
  expect(refusal({ rope_scaling: { rope_type: "mrope" } })).toBe(
    'config.json: rope_scaling.rope_type is "mrope"; the supported types are default, linear, dynamic, llama3, yarn, longrope',
  );
  expect(refusal({ rope_parameters: { rope_type: "linear" } })).toContain("rope_parameters.factor is absent");
  expect(refusal({ rope_scaling: { type: "linear", factor: -1 } })).toContain("rope_scaling.factor is -1");
  expect(refusal({ rope_theta: 0 })).toContain("rope_theta is 0; it must be a number above 0");
  const equal = { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 4 };
  expect(refusal({ rope_scaling: equal })).toContain("high_freq_factor is 4; it must be above low_freq_factor, 4");
  const short = { rope_type: "longrope", short_factor: [1], long_factor: [1] };
  expect(refusal({ rope_scaling: short })).toContain("short_factor has 1 numbers; it must have 8");
  expect(refusal({ rope_parameters: { full_attention: { rope_type: "default" } } })).toContain(
    "one RoPE per layer type",
  );
});

test("broken or absent files are named", () => {
  const dir = mkdtempSync(join(scratch, "broken-"));
  expect(() => readConfig(dir)).toThrow(join(dir, "config.json"));
  writeFileSync(join(dir, "config.json"), '{"hidden_size": 64,');
  expect(() => readConfig(dir)).toThrow(/config\.json is not valid JSON/);
  writeFileSync(join(dir, "config.json"), "");
  expect(() => readConfig(dir)).toThrow(/config\.json is not valid JSON: the file is empty/);
});

test("the shapes have the sizes of their models", () => {
  const billions = Object.fromEntries(
    shapeNames.map((name) => [name, Number((weightBytes(shapeConfig(name), "bfloat16") / 2e9).toFixed(2))]),
  );
  expect(billions).toEqual({
    "llama-3.1-8b": 8.03,
    "llama-3.2-1b": 1.24,
    "llama-3.1-70b": 70.55,
    "qwen2.5-14b": 14.77,
    "qwen2.5-7b": 7.62,
    "qwen3-8b": 8.19,
    "mistral-7b": 7.25,
    "glm-4-9b": 9.4,
    "tiny-ruler": 0.01,
  });
  expect(shapeConfig("llama-3.1-8b", 4).layers).toBe(4);
  expect(() => shapeConfig("llama-3.1-8b", 33)).toThrow("has 32 layers; 33 of them cannot be run");
  expect(() => shapeConfig("llama-9b")).toThrow(/there is no shape "llama-9b"; there is llama-3\.1-8b/);
});

test("the shape of the bundled model is that of its directory", () => {
  const { eosIds, ...bundled } = readConfig(join(import.meta.dir, "..", "..", "models", "tiny-ruler"));
  expect(shapeConfig("tiny-ruler")).toEqual({ ...bundled, eosIds });
});

test("no mutation of a config does anything but give an error or a config", () => {
  const random = uniform(9);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const odd = [
    null,
    -1,
    0,
    1.5,
    1e300,
    "",
    "64",
    true,
    [],
    {},
    [1],
    { factor: 2 },
    { type: "yarn" },
    2 ** 53,
    "constructor",
  ];
  const sources = readdirSync(golden).map((name) =>
    JSON.parse(readFileSync(join(golden, name, "config.json"), "utf8")),
  );
  const outcomes = { read: 0, refused: 0 };
  for (let round = 0; round < 1000; round++) {
    const json = structuredClone(pick(sources));
    const place = pick([json, json.rope_scaling ?? json, json.rope_parameters ?? json]);
    place[pick([...Object.keys(place), "rope_type", "layer_types", "attention_bias", "__proto__"])] = pick(odd);
    try {
      expect(parseConfig(json, "config.json").slidingLayers.length).toBe(json.num_hidden_layers);
      outcomes.read++;
    } catch (error) {
      expect((error as Error).name).toBe("KvaError");
      expect((error as Error).message).toStartWith("config.json");
      outcomes.refused++;
    }
  }
  expect(outcomes.read).toBeGreaterThan(100);
  expect(outcomes.refused).toBeGreaterThan(100);
});

// Defaults that depend on the family and the size of a model, as they stand in the effective parameters of a run.
import { expect, test } from "bun:test";
import { modelInfo } from "../../src/cli/engine-setup.ts";
import { parseConfig } from "../../src/model/config.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";

const registry = await loadPlugins([ownPlugins]);

/** A Llama 2: every query head has its own keys and values. */
const llama2 = (layers: number, heads: number, hidden: number) =>
  parseConfig(
    {
      architectures: ["LlamaForCausalLM"],
      vocab_size: 32000,
      hidden_size: hidden,
      intermediate_size: 11008,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      max_position_embeddings: 4096,
    },
    "config.json",
  );
const configs = {
  "llama-2-7b": llama2(32, 32, 4096),
  "llama-2-13b": llama2(40, 40, 5120),
  ...Object.fromEntries(
    ["llama-3.1-8b", "llama-3.1-70b", "llama-3.2-1b", "mistral-7b", "qwen2.5-7b", "qwen3-8b", "glm-4-9b"].map(
      (name) => [name, shapeConfig(name)],
    ),
  ),
};

/** What a run of the method on the model writes into its manifest. */
function effective(model: string, method: string): Record<string, unknown> {
  const info = modelInfo(configs[model as keyof typeof configs]);
  return parseMethods([method], [], registry, info)[0]!.parts[0]!.params;
}

test.each([
  // model, KIVI's bits, CakeKV's temperatures, FlexPrefill's gamma, XAttention's shares
  ["llama-2-7b", 2, [1.9, 1.8], 0.95, 0.9],
  ["llama-2-13b", 2, [0.5, 0.4], 0.95, 0.9],
  ["llama-3.1-8b", 4, [1.6, 0.4], 0.95, "table"],
  ["llama-3.1-70b", 4, [1, 1], 0.95, 0.9],
  ["llama-3.2-1b", 4, [1, 1], 0.95, 0.9],
  ["mistral-7b", 4, [0.8, 0.5], 0.95, 0.9],
  ["qwen2.5-7b", 4, [1.5, 0.6], 0.9, 0.9],
  ["qwen3-8b", 4, [1, 1], 0.95, 0.9],
  ["glm-4-9b", 4, [1, 1], 0.95, 0.9],
] as const)("%s", (model, bits, [tau1, tau2], gamma, tau) => {
  expect(effective(model, "KIVI")).toMatchObject({ kBits: bits, vBits: bits });
  expect(effective(model, "CakeKV")).toMatchObject({ tau1, tau2 });
  expect(effective(model, "FlexPrefill")).toMatchObject({ gamma });
  expect(effective(model, "XAttention")).toMatchObject({ tau });
});

test("presets and the user's values win over them", () => {
  expect(effective("llama-3.1-8b", "XAttention@openvino")).toMatchObject({ tau: 0.8 });
  expect(effective("llama-3.1-8b", "KIVI[kBits=2]")).toMatchObject({ kBits: 2, vBits: 4 });
  expect(effective("qwen2.5-7b", "FlexPrefill[gamma=0.97]")).toMatchObject({ gamma: 0.97 });
});

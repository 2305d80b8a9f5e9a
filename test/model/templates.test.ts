// The prompt formats of the model families against transformers' rendering of the same templates (scripts/golden/templates.py).
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ChatTemplate, type Message } from "../../src/model/chat-template.ts";

interface Golden {
  family: string;
  template: string;
  tokens: Record<string, string>;
  cases: {
    messages: Message[];
    generation: boolean;
    variables: Record<string, unknown>;
    prompt?: string;
    error?: string;
  }[];
}

const goldens: Golden[] = JSON.parse(readFileSync(join(import.meta.dir, "..", "golden", "templates.json"), "utf8"));
const date = new Date(2024, 6, 26);

function render({ family, template, tokens }: Golden, one: Golden["cases"][number]): string {
  const { messages, generation, variables } = one;
  return new ChatTemplate(template, family).render(messages, tokens, {
    addGenerationPrompt: generation,
    variables,
    date,
  });
}

describe.each(goldens)("$family", (golden) => {
  test("every conversation is written as transformers writes it, or refused with the template's own words", () => {
    for (const one of golden.cases) {
      if (one.error === undefined) expect(render(golden, one)).toBe(one.prompt!);
      else expect(() => render(golden, one)).toThrow(`the ${golden.family} cannot be rendered: ${one.error}`);
    }
  });
});

test("the formats are those that the families document", () => {
  const of = (family: string) => goldens.find((golden) => golden.family === family)!;
  const short = (family: string, variables = {}, messages: Message[] = [{ role: "user", content: "Hi" }]) =>
    render(of(family), { messages, generation: true, variables });
  const system = [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hi" },
  ];
  expect(short("llama-3.1", {}, system)).toBe(
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n" +
      "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>" +
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
  );
  expect(short("mistral-v0.3", {}, system)).toBe("<s>[INST] Be brief.\n\nHi[/INST]");
  expect(short("qwen2.5")).toBe(
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n" +
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
  );
  const qwen3 = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  expect(short("qwen3")).toBe(qwen3);
  expect(short("qwen3", { enable_thinking: true })).toBe(qwen3);
  expect(short("qwen3", { enable_thinking: false })).toBe(`${qwen3}<think>\n\n</think>\n\n`);
  expect(short("glm-4", {}, system)).toBe("[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi<|assistant|>");
});

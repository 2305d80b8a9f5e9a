// Prompts: where templates, openings and examples go, where the question begins, what happens to prompts that are too long.
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import type { TemplateName } from "../../src/bench/named-templates.ts";
import { applyLimit, truncateMiddle } from "../../src/bench/overflow.ts";
import { rulerSample } from "../../src/bench/ruler.ts";
import { rulerTaskNames } from "../../src/bench/ruler-tasks.ts";
import { assemble, type Prompt, type Sample, tokenOffset } from "../../src/bench/sample.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { assistant, bundled, chunkCodec, request } from "./data-support.ts";

const official: Sample = {
  id: "vt/4096/0",
  task: "vt",
  length: 4096,
  source: "official-file",
  lead: "",
  context: "Some text.",
  question: "\nWhich one?",
  opening: " It is",
  refs: ["a"],
  maxNewTokens: 30,
  metric: "string_match_all",
  meta: {},
};
const builtin: Sample = { ...official, source: "builtin", lead: "Read this.\n", opening: "It is" };

function commonPrefix(a: number[], b: number[]): number {
  const end = a.findIndex((id, i) => id !== b[i]);
  return end < 0 ? a.length : end;
}

/** by its definition: the ids of all text before the question, and of the whole text */
function questionByDefinition(prompt: Prompt, sample: Sample): number {
  const before = prompt.text.slice(0, prompt.userStart! + sample.lead.length + sample.context.length);
  return commonPrefix(prompt.encode(before), prompt.ids);
}

describe("without a template", () => {
  const plain = (sample: Sample, more = {}) =>
    assemble(sample, chunkCodec(), { ...assistant, template: "none", ...more });

  test("a built-in opening follows on a line of its own, an official one as it stands", () => {
    expect(plain(builtin).text).toBe("Read this.\nSome text.\nWhich one?\nIt is");
    expect(plain(official).text).toBe("Some text.\nWhich one? It is");
    expect(plain(builtin).ids[0]).toBe(0);
  });

  test("prefix_mode none drops the opening", () => {
    expect(plain(builtin, { prefixMode: "none" }).text).toBe("Read this.\nSome text.\nWhich one?");
  });

  test("an example stands before the lead, with a blank line between", () => {
    const example = { user: "An earlier one?", assistant: "It is b." };
    expect(plain({ ...builtin, example }).text).toStartWith("An earlier one?\nIt is b.\n\nRead this.");
  });
});

describe("with a chat template", () => {
  const templated = (sample: Sample, more = {}) => assemble(sample, chunkCodec(), { ...assistant, ...more });

  test("the opening follows the header of the answer, with nothing between, and no special token is added twice", () => {
    const prompt = templated(builtin);
    expect(prompt.text).toBe("<user>Read this.\nSome text.\nWhich one?\n<model>It is");
    expect(prompt.ids[0]).not.toBe(0);
    expect(prompt.templated).toBe(true);
  });

  test("prefix_mode user puts it into the user turn", () => {
    expect(templated(builtin, { prefixMode: "user" }).text).toBe(
      "<user>Read this.\nSome text.\nWhich one?\nIt is\n<model>",
    );
  });

  test("an example is an earlier exchange, or plain text where asked", () => {
    const example = { user: "An earlier one?", assistant: "It is b." };
    expect(templated({ ...builtin, example }).text).toStartWith(
      "<user>An earlier one?\n<model>It is b.\n<user>Read this.",
    );
    expect(templated({ ...builtin, example }, { fewshot: "inline" }).text).toStartWith(
      "<user>An earlier one?\nIt is b.\n\nRead",
    );
  });

  test("a file's text that has a template inside gets no other, and its question is not known", () => {
    for (const context of ["<user>Some text.", "[INST] Some text."]) {
      const prompt = templated({ ...official, context });
      expect(prompt.text).toBe(`${context}\nWhich one? It is`);
      expect(prompt).toMatchObject({ hadTemplate: true, templated: false, questionStart: null });
    }
  });

  test("an opening inside a file's text makes the run one of prefix_mode user", () => {
    const sample = { ...official, opening: "", meta: { openingInInput: true } };
    expect(templated(sample).prefixMode).toBe("user");
    expect(templated(official).prefixMode).toBe("assistant");
  });
});

describe("the question's first token", () => {
  test.each([
    ["none", 2048],
    ["auto", 2048],
    ["auto", 9000],
  ] as const)("is the one of the definition with template %s at %d tokens", (template, length) => {
    const codec = chunkCodec();
    for (const task of rulerTaskNames) {
      const made = rulerSample(request(task, length, { codec, prompt: { ...assistant, template } }), 0);
      const wanted = questionByDefinition(made.prompt, made.sample);
      expect(made.prompt.questionStart).toBe(wanted);
      expect(made.prompt.ids.length + made.sample.maxNewTokens).toBeLessThanOrEqual(length);
    }
  });

  const golden = new URL("../golden/tokenizers", import.meta.url).pathname;
  test.each(["llama2", "llama3", "mistral", "qwen2"].filter((name) => existsSync(`${golden}/${name}`)))(
    "is the one of the definition with the tokenizer and template of %s",
    (name) => {
      const codec = loadTokenizer(`${golden}/${name}`);
      for (const task of ["niah_single_1", "niah_multikey_3", "vt", "fwe", "qa_1"]) {
        const { prompt, sample } = rulerSample(request(task, 4096, { codec }), 0);
        expect(prompt.questionStart).toBe(questionByDefinition(prompt, sample));
        const used = prompt.ids.length + sample.maxNewTokens;
        expect(used).toBeLessThanOrEqual(4096);
        expect(used).toBeGreaterThanOrEqual((task === "qa_1" ? 0.9 : 0.95) * 4096);
      }
    },
  );

  test("is found by tokenizing the neighbourhood only", () => {
    const codec = chunkCodec();
    rulerSample(request("niah_single_1", 8192, { codec }), 0);
    codec.calls.length = 0;
    rulerSample(request("niah_single_1", 8192, { codec }), 0);
    expect(codec.calls.filter((text) => text.length > 1000)).toHaveLength(1);
  });

  test("falls back on the whole prefix where the neighbourhood stands in the text twice", () => {
    const text = "the same words again and again. ".repeat(200);
    const ids = bundled.encode(text);
    const wanted = commonPrefix(bundled.encode(text.slice(0, 3200)), ids);
    expect(tokenOffset(text, ids, 3200, (piece) => bundled.encode(piece))).toBe(wanted);
  });
});

describe("prompts over the cap", () => {
  const ids = Array.from({ length: 10 }, (_, i) => i);

  test("keep their first and last half when cut", () => {
    expect(truncateMiddle(ids, 4)).toEqual([0, 1, 8, 9]);
    expect(truncateMiddle(ids, 5)).toEqual([0, 1, 8, 9]);
    expect(truncateMiddle(ids, 10)).toEqual(ids);
  });

  test("are refused, cut or left out as the policy says", () => {
    expect(() => applyLimit("vt/4096/7", ids, 4, "error")).toThrow(
      "vt/4096/7: the prompt has 10 tokens, at most 4 are allowed; raise max_length, or set on_overflow to truncate_middle or skip",
    );
    expect(applyLimit("x", ids, 4, "truncate_middle")).toEqual({ ids: [0, 1, 8, 9], truncated: true });
    expect(applyLimit("x", ids, 4, "skip")).toBeNull();
    expect(applyLimit("x", ids, 10, "error")).toEqual({ ids, truncated: false });
  });
});

test("a template by name wraps the turns, whatever the model's own is", () => {
  const sample = { ...rulerSample(request("niah_single_1", 512), 0).sample, context: " A text." };
  const text = (template: TemplateName) => assemble(sample, chunkCodec(), { ...assistant, template }).text;
  const user = `${sample.lead}${sample.context}${sample.question}`;
  expect(text("llama3")).toBe(
    `<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n${user}<|eot_id|>` +
      `<|start_header_id|>assistant<|end_header_id|>\n\n${sample.opening}`,
  );
  expect(text("mistral")).toBe(`<s>[INST] ${user} [/INST]${sample.opening}`);
  expect(text("qwen")).toBe(`<|im_start|>user\n${user}<|im_end|>\n<|im_start|>assistant\n${sample.opening}`);
  expect(text("glm4")).toBe(`[gMASK]<sop><|user|>\n${user}<|assistant|>\n${sample.opening}`);
});

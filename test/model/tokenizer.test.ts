// Tokenizers and chat templates against the Python library (test/golden/tokenizers, made by scripts/golden/texts.py).
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Message } from "../../src/model/chat-template.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { KvaError } from "../../src/native/error.ts";
import { uniform, writeTinyModel } from "../support/tiny-model.ts";

const golden = join(import.meta.dir, "..", "golden", "tokenizers");
const bundled = join(import.meta.dir, "..", "..", "models", "tiny-ruler");
const scratch = mkdtempSync(join(tmpdir(), "kvaccel-tokenizer-"));
afterAll(() => rmSync(scratch, { recursive: true }));

interface Golden {
  broken: { ids: number[]; decoded: string }[];
  texts: { text: string; ids: number[]; plain: number[]; decoded: string }[];
  chats: {
    messages: Message[];
    generation: boolean;
    variables: Record<string, unknown>;
    prompt?: string;
    error?: string;
  }[];
}

describe.each(["llama3", "qwen2", "llama2", "mistral", "glm4"])("%s", (kind) => {
  const tokenizer = loadTokenizer(join(golden, kind));
  const { texts, broken, chats }: Golden = JSON.parse(readFileSync(join(golden, `${kind}.json`), "utf8"));
  const withoutDouble = (ids: number[]) =>
    tokenizer.bosId !== undefined && ids[0] === tokenizer.bosId && ids[1] === tokenizer.bosId ? ids.slice(1) : ids;

  test("texts become the ids of the Python library, with one beginning of text at most", () => {
    for (const { text, ids, plain } of texts) {
      expect(tokenizer.encode(text)).toEqual(withoutDouble(ids));
      expect(tokenizer.encode(text, { special: false })).toEqual(plain);
    }
  });

  test("ids become the texts of the Python library", () => {
    for (const { ids, decoded } of [...texts, ...broken]) expect(tokenizer.decode(ids)).toBe(decoded);
  });

  test("a stream gives the same text piece by piece, and never half a character", () => {
    for (const { ids, decoded } of texts) {
      const stream = tokenizer.decodeStream();
      const pieces = ids.map((id) => stream.push(id));
      if (!decoded.includes("\uFFFD")) expect(pieces.join("")).not.toContain("\uFFFD");
      expect(pieces.join("") + stream.end()).toBe(decoded);
    }
  });

  test("conversations are written as transformers writes them", () => {
    const date = new Date(2024, 6, 26);
    for (const { messages, generation, variables, prompt, error } of chats) {
      const render = () => tokenizer.applyChatTemplate(messages, { addGenerationPrompt: generation, date, variables });
      if (error === undefined) expect(render()).toBe(prompt!);
      else expect(render).toThrow(`cannot be rendered: ${error}`);
    }
  });
});

test("the bundled model's samples have as many tokens as they say", () => {
  const tokenizer = loadTokenizer(bundled);
  const lines = readFileSync(join(bundled, "samples.jsonl"), "utf8").trim().split("\n");
  for (const line of lines.slice(0, 40)) {
    const sample: { prompt: string; prompt_tokens: number } = JSON.parse(line);
    expect(tokenizer.encode(sample.prompt).length).toBe(sample.prompt_tokens);
  }
});

test("nothing, unknown ids and special tokens decode to nothing", () => {
  const tokenizer = loadTokenizer(bundled);
  expect(tokenizer.decode([])).toBe("");
  expect(tokenizer.decode([0, 1, 2, 10 ** 6, -1])).toBe("");
  expect(tokenizer.encode("", { special: false })).toEqual([]);
  expect(tokenizer.encode("")).toEqual([0]);
  expect(tokenizer.specialTokens).toContain("<|end_of_text|>");
  expect(tokenizer).toMatchObject({ bosId: 0, eosId: 1, vocabSize: 3392, hasChatTemplate: false });
});

test("bytes that never become characters are given out in the end", () => {
  const tokenizer = loadTokenizer(writeTinyModel(join(scratch, "bytes")));
  const stream = tokenizer.decodeStream();
  const pieces = Array.from({ length: 100 }, () => stream.push(3 + 0xff));
  expect(pieces.join("").length).toBeGreaterThan(60);
  expect(pieces.join("") + stream.end()).toBe("\uFFFD".repeat(100));
});

test("a chat template may stand in its own file or in a list, and a broken one is named", () => {
  const dir = writeTinyModel(join(scratch, "chat"));
  const config = join(dir, "tokenizer_config.json");
  const messages = [{ role: "user", content: "hi" }];
  const render = () => loadTokenizer(dir).applyChatTemplate(messages);
  expect(render).toThrow(/has no chat template; leave out --chat/);
  const list = [
    { name: "tool_use", template: "tools" },
    { name: "default", template: "{{ messages[0].content }}!" },
  ];
  writeFileSync(config, JSON.stringify({ chat_template: list }));
  expect(render()).toBe("hi!");
  writeFileSync(join(dir, "chat_template.jinja"), "{{ messages[0].role }}?");
  expect(render()).toBe("user?");
  writeFileSync(join(dir, "chat_template.jinja"), "{% if %}");
  expect(render).toThrow(/chat_template\.jinja cannot be rendered/);
  writeFileSync(join(dir, "chat_template.jinja"), "{{ strftime_now('%Q') }}");
  expect(render).toThrow("strftime_now does not know %Q");
});

test("a bad tokenizer is an error that names the file", () => {
  const dir = writeTinyModel(join(scratch, "bad"));
  const file = join(dir, "tokenizer.json");
  const right = JSON.parse(readFileSync(file, "utf8"));
  const failure = (text: string): string => {
    writeFileSync(file, text);
    try {
      loadTokenizer(dir);
    } catch (error) {
      expect(error).toBeInstanceOf(KvaError);
      expect((error as Error).message).toContain(file);
      return (error as Error).message;
    }
    throw new Error(`accepted ${text.slice(0, 80)}`);
  };
  expect(failure('{"model": ')).toContain("is not valid JSON");
  expect(failure("[]")).toContain("must be a JSON object");
  expect(failure("{}")).toContain("model is absent");
  expect(failure(JSON.stringify({ ...right, model: { type: "BPE", vocab: { a: -1 }, merges: [] } }))).toContain(
    "model.vocab",
  );
  expect(failure(JSON.stringify({ ...right, model: { type: "BPE", vocab: { a: 2 ** 40 }, merges: [] } }))).toContain(
    "vocab",
  );
  expect(failure(JSON.stringify({ ...right, model: { ...right.model, type: "Runes" } }))).toContain(
    'model.type is "Runes"; it must be one of BPE',
  );
  expect(failure(JSON.stringify({ ...right, pre_tokenizer: { type: "Runes" } }))).toContain(
    "no tokenizer that can be used",
  );
  expect(failure(JSON.stringify({ ...right, added_tokens: [{ content: "<bos>" }] }))).toContain("added_tokens.0.id");
  rmSync(file);
  writeFileSync(join(dir, "tokenizer.model"), "");
  expect(() => loadTokenizer(dir)).toThrow(/has no tokenizer\.json; it has tokenizer\.model only/);
});

test("no mutation of a tokenizer does anything but give an error or a tokenizer that works", () => {
  const random = uniform(13);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const odd = [null, -1, 0, 1.5, 2 ** 31, "", "(", "a", true, [], {}, [1], [["a", "b"]], { type: "Split" }, "Sequence"];
  const dir = writeTinyModel(join(scratch, "mutated"));
  const sources = ["llama3", "llama2"].map((kind) => readFileSync(join(golden, kind, "tokenizer.json"), "utf8"));
  const outcomes = { read: 0, refused: 0 };
  for (let round = 0; round < 1000; round++) {
    const json = JSON.parse(pick(sources));
    let place = json;
    for (let depth = 0; depth < 4; depth++) {
      const inner = Object.values(place).filter((value) => typeof value === "object" && value !== null);
      if (inner.length === 0 || random() < 0.3) break;
      place = pick(inner);
    }
    place[pick([...Object.keys(place), "type"])] = pick(odd);
    writeFileSync(join(dir, "tokenizer.json"), JSON.stringify(json));
    try {
      const tokenizer = loadTokenizer(dir);
      expect(typeof tokenizer.decode(tokenizer.encode("The lamp, 12 ▁ 你好"))).toBe("string");
      outcomes.read++;
    } catch (error) {
      expect(`${(error as Error).name}: ${(error as Error).stack}`).toStartWith("KvaError");
      expect((error as Error).message).toContain("tokenizer.json");
      outcomes.refused++;
    }
  }
  expect(outcomes.read).toBeGreaterThan(100);
  expect(outcomes.refused).toBeGreaterThan(100);
}, 30_000);

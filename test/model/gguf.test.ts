// GGUF: every block format as the Python package reads it, whole models as transformers runs them, tokenizers, and what is refused.
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConfig } from "../../src/model/config.ts";
import { parseGguf } from "../../src/model/gguf-header.ts";
import { locateModel } from "../../src/model/locate.ts";
import { ropeTable } from "../../src/model/rope.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { KvaError } from "../../src/native/error.ts";
import { MappedFile, Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, methodOf, openEngine, request } from "../support/engine.ts";
import { distance, type FamilyCase, type RopeCase, ropeCases, writeCase } from "../support/family-cases.ts";
import {
  convertedMetadata,
  convertedTensors,
  type GgufTensor,
  ggufBytes,
  type Metadata,
  writeGguf,
} from "../support/gguf.ts";
import { sayAll } from "../support/logits.ts";
import { uniform } from "../support/tiny-model.ts";
import { rounding } from "../support/tolerance.ts";

const golden = join(import.meta.dir, "..", "golden");
const scratch = mkdtempSync(join(tmpdir(), "kvaccel-gguf-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const read = (name: string) => JSON.parse(readFileSync(join(golden, name), "utf8"));

interface Blocks {
  format: string;
  number: number;
  rows: number;
  columns: number;
  bytes: string;
  values: string;
}
const blocks: Blocks[] = read("gguf/blocks.json");
const floats = (base64: string) => new Float32Array(new Uint8Array(Buffer.from(base64, "base64")).buffer);

eachBackend("GGUF blocks", (backend) => {
  test.each(blocks)("$format: the values of the Python package, bit for bit, in any type and row order", (given) => {
    const { format, number, rows, columns } = given;
    const expected = floats(given.values);
    // an odd offset: nothing in a file is aligned for sure
    const file = join(scratch, `${format}.bin`);
    writeFileSync(file, Buffer.concat([Buffer.alloc(3), Buffer.from(given.bytes, "base64")]));
    const map = MappedFile.open(backend.context, file);
    try {
      for (const dtype of ["float32", "bfloat16", "float16"] as const) {
        using tensor = Tensor.create(backend.context, dtype, rows, columns);
        tensor.loadGgml(map, 3, number, 0);
        expect(tensor.toFloats()).toEqual(expected.map(rounding[dtype]));
      }
      // one head of four rows: the file's 0 1 2 3 are rows 0 2 1 3
      using tensor = Tensor.create(backend.context, "float32", rows + 2, columns + 8);
      tensor.fill(7);
      using inside = tensor.view(1, rows, 4, columns);
      inside.loadGgml(map, 3, number, 1);
      const row = (r: number) => expected.subarray(r * columns, (r + 1) * columns);
      const found = tensor.toFloats();
      [0, 2, 1, 3].forEach((from, r) => {
        const start = (r + 1) * (columns + 8);
        expect(found.subarray(start + 4, start + 4 + columns)).toEqual(row(from));
        expect([
          ...found.subarray(start, start + 4),
          ...found.subarray(start + 4 + columns, start + columns + 8),
        ]).toEqual(new Array(8).fill(7));
      });
    } finally {
      map.close();
    }
  });

  test("wrong formats, shapes and ranges are refused", () => {
    const file = join(scratch, "short.bin");
    writeFileSync(file, new Uint8Array(34));
    const map = MappedFile.open(backend.context, file);
    using tensor = Tensor.create(backend.context, "float32", 1, 32);
    using odd = Tensor.create(backend.context, "float32", 3, 32);
    using narrow = Tensor.create(backend.context, "float32", 1, 16);
    try {
      tensor.loadGgml(map, 0, 8, 0);
      expect(() => tensor.loadGgml(map, 0, 10, 0)).toThrow(/format 10 is not one that is read/);
      expect(() => tensor.loadGgml(map, 1, 8, 0)).toThrow(/lie outside of the file/);
      expect(() => tensor.loadGgml(map, -1, 8, 0)).toThrow(/lie outside of the file/);
      expect(() => narrow.loadGgml(map, 0, 8, 0)).toThrow(/16 columns, not a multiple of the 32 elements/);
      expect(() => odd.loadGgml(map, 0, 8, 1)).toThrow(/3 rows do not make 1 heads of an even number of rows/);
      expect(() => odd.loadGgml(map, 0, 8, -1)).toThrow(/-1 heads/);
    } finally {
      map.close();
    }
  });
});

/** A golden case as a GGUF file; a linear or yarn scaling as llama.cpp writes it, Llama 3's as its tensor of factors. */
function converted(given: RopeCase, architecture: string): string {
  const dir = writeCase(mkdtempSync(join(scratch, "case-")), given);
  const config = readConfig(dir);
  const { rope } = config;
  const scaling: Metadata = {};
  const factors: Record<string, GgufTensor> = {};
  const tensor = (values: readonly number[]): GgufTensor => ({
    shape: [values.length],
    format: 0,
    data: new Uint8Array(Float32Array.from(values).buffer),
  });
  if (rope.type === "linear" || rope.type === "yarn") {
    scaling["rope.scaling.type"] = rope.type;
    scaling["rope.scaling.factor"] = rope.factor;
  }
  if (rope.type === "yarn") scaling["rope.scaling.original_context_length"] = rope.originalMaxPositions;
  if (rope.type === "llama3") {
    const { invFreq } = ropeTable(config, 1);
    factors["rope_freqs.weight"] = tensor(Array.from(invFreq, (x, i) => rope.theta ** ((-2 * i) / rope.dim) / x));
  }
  if (rope.type === "longrope") {
    scaling["rope.scaling.original_context_length"] = rope.originalMaxPositions;
    scaling["rope.scaling.attn_factor"] = rope.attentionFactor;
    factors["rope_factors_long.weight"] = tensor(rope.longFactor);
    factors["rope_factors_short.weight"] = tensor(rope.shortFactor);
  }
  const tensors = convertedTensors(join(dir, "model.safetensors"), architecture, config);
  return writeGguf(join(dir, "model.gguf"), convertedMetadata(architecture, config, scaling), {
    ...tensors,
    ...factors,
  });
}

const architectureOf: Record<string, string> = { mistral: "llama", "mistral-sliding": "llama", glm: "chatglm" };
const convertible = ropeCases.filter(({ rope }) => rope !== "dynamic");
const full = await methodOf("Full");

eachBackend("GGUF models", (backend) => {
  const tolerance = backend.name === "cpu" ? 1e-4 : 1e-3;

  async function expectExact(given: Pick<FamilyCase, "ids" | "logprobs" | "greedy">, path: string) {
    const engine = openEngine(backend, { dir: path });
    try {
      const { max } = distance(
        { ...given, argmax: [], gaps: [], bf16: { meanAbs: 0, agreement: 0 } },
        await sayAll(engine, given.ids),
      );
      expect(max).toBeLessThan(tolerance);
      const { prompt, ids } = given.greedy;
      const [done] = await generate(engine, full, [request(given.ids.slice(0, prompt), { maxNewTokens: ids.length })]);
      expect(done!.ids).toEqual(ids);
    } finally {
      engine.dispose();
    }
  }

  test("a Llama with a tensor of every format gives transformers' log-probabilities and greedy tokens", () =>
    expectExact(read("gguf/llama.json"), join(golden, "gguf", "llama.gguf")));

  // three RoPE spellings of a Llama, one of each other architecture: reading a header costs a process
  const some = convertible.filter(
    ({ family, rope }) => family === "llama" || rope === (family === "phi3" ? "longrope" : "default"),
  );
  test.each(some)("$family with $rope RoPE, converted: the numbers of the checkpoint it came from", (given) =>
    expectExact(given, converted(given, architectureOf[given.family] ?? given.family)),
  );

  test("a model in two files is one model", async () => {
    const given = convertible.find(({ family, rope }) => family === "qwen3" && rope === "default")!;
    const whole = converted(given, "qwen3");
    const { metadata, tensors } = await parseGguf(whole);
    const content = readFileSync(whole);
    const names = Object.keys(tensors);
    const part = (some: string[]) =>
      Object.fromEntries(
        some.map((name) => {
          const { shape, ggml, offset, bytes } = tensors[name]!;
          return [name, { shape, format: ggml!, data: content.subarray(offset, offset + bytes) }];
        }),
      );
    const { version: _, tensor_count: __, kv_count: ___, ...keys } = metadata as Metadata;
    const dir = mkdtempSync(join(scratch, "split-"));
    const first = writeGguf(join(dir, "m-00001-of-00002.gguf"), keys, part(names.slice(0, 9)));
    expect(() => readConfig(first)).toThrow("is the first of 2 parts, but");
    const second = writeGguf(join(dir, "m-00002-of-00002.gguf"), {}, part(names.slice(9)));
    expect(locateModel(dir)).toBe(first);
    expect(() => readConfig(second)).toThrow("is part 2 of 2; give part 1");
    await expectExact(given, first);
  });
});

describe("the tokenizer of a GGUF file", () => {
  test("SentencePiece: the ids that `tokenizers` gives with transformers' merges", () => {
    const tokenizer = loadTokenizer(join(golden, "gguf", "llama.gguf"));
    for (const { text, ids } of read("gguf/llama.json").texts) {
      expect([text, tokenizer.encode(text, { special: false })]).toEqual([text, ids]);
    }
    expect(tokenizer.encode("a b")[0]).toBe(tokenizer.bosId!);
    expect(tokenizer.encode("<s>a b")).toEqual(tokenizer.encode("a b"));
    expect(tokenizer.decode(tokenizer.encode("Zoë 你好"))).toBe("Zoë 你好");
    expect(tokenizer.applyChatTemplate([{ role: "user", content: "hi" }])).toBe("<s>[INST] hi [/INST]");
  });

  /** A byte-level tokenizer.json as GGUF metadata. */
  function byteLevel(kind: string, pre: string): string {
    const { model, added_tokens } = read(`tokenizers/${kind}/tokenizer.json`);
    const tokens: string[] = [];
    for (const [token, id] of Object.entries(model.vocab as Record<string, number>)) tokens[id] = token;
    for (const { id, content } of added_tokens) tokens[id] = content;
    const special = new Set(added_tokens.map(({ id }: { id: number }) => id));
    const { bos_token: bos, eos_token: eos, chat_template } = read(`tokenizers/${kind}/tokenizer_config.json`);
    return writeGguf(join(scratch, `${kind}.gguf`), {
      "general.architecture": "llama",
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": pre,
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": tokens.map((_, id) => (special.has(id) ? 3 : 1)),
      "tokenizer.ggml.merges": model.merges.map((pair: string | string[]) =>
        Array.isArray(pair) ? pair.join(" ") : pair,
      ),
      ...(bos && { "tokenizer.ggml.bos_token_id": tokens.indexOf(bos) }),
      "tokenizer.ggml.eos_token_id": tokens.indexOf(eos),
      "tokenizer.chat_template": chat_template,
    });
  }

  test.each([
    ["llama3", "llama-bpe"],
    ["qwen2", "qwen2"],
  ])("byte-level %s: the ids of the tokenizer.json it came from", (kind, pre) => {
    const tokenizer = loadTokenizer(byteLevel(kind, pre));
    const { texts, chats } = read(`tokenizers/${kind}.json`);
    for (const { text, ids, plain, decoded } of texts) {
      expect([text, tokenizer.encode(text, { special: false })]).toEqual([text, plain]);
      const once = ids[0] === ids[1] && ids[0] === tokenizer.bosId ? ids.slice(1) : ids;
      expect([text, tokenizer.encode(text)]).toEqual([text, once]);
      expect([text, tokenizer.decode(ids)]).toEqual([text, decoded]);
    }
    const date = new Date(2024, 6, 26);
    for (const { messages, generation, variables, prompt } of chats) {
      if (prompt === undefined) continue;
      expect(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: generation, variables, date })).toBe(prompt);
    }
  });

  test("GLM puts [gMASK]<sop> before every text", () => {
    const tokens = ["a", "b", "[gMASK]", "<sop>"];
    const metadata = {
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "chatglm-bpe",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": [1, 1, 3, 3],
      "tokenizer.ggml.merges": ["a b"],
    };
    const tokenizer = loadTokenizer(writeGguf(join(scratch, "glm-tokenizer.gguf"), metadata));
    expect(tokenizer.encode("ba")).toEqual([2, 3, 1, 0]);
    expect(tokenizer.encode("ba", { special: false })).toEqual([1, 0]);
  });

  test("one that is not known, or lacks a part, says so", () => {
    const refusal = (name: string, metadata: Metadata) => {
      const file = writeGguf(join(scratch, `${name}.gguf`), { "tokenizer.ggml.tokens": ["a"], ...metadata });
      return message(() => loadTokenizer(file));
    };
    const known = { "tokenizer.ggml.model": "gpt2" };
    expect(refusal("t1", { "tokenizer.ggml.model": "bert" })).toContain(
      'tokenizer.ggml.model is "bert"; the supported',
    );
    expect(refusal("t2", { ...known, "tokenizer.ggml.pre": "tekken" })).toContain('tokenizer.ggml.pre is "tekken"');
    expect(refusal("t3", { ...known, "tokenizer.ggml.pre": "qwen2" })).toContain("has no tokenizer.ggml.merges");
    expect(refusal("t4", { "tokenizer.ggml.model": "llama" })).toContain("tokenizer.ggml.scores must have one number");
    expect(refusal("t5", {})).toContain("tokenizer.ggml.model is absent");
  });
});

function message(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(KvaError);
    expect((error as KvaError).code).toBe("model");
    return (error as Error).message;
  }
  throw new Error("was accepted");
}

describe("a GGUF file as a model path", () => {
  const llama = join(golden, "gguf", "llama.gguf");

  test("the file, or a directory that holds one", () => {
    expect(locateModel(llama)).toBe(llama);
    const dir = mkdtempSync(join(scratch, "dir-"));
    symlinkSync(llama, join(dir, "a.gguf"));
    expect(locateModel(dir)).toBe(join(dir, "a.gguf"));
    symlinkSync(llama, join(dir, "b.gguf"));
    expect(message(() => locateModel(dir))).toBe(`${dir} holds 2 GGUF models; name one: a.gguf, b.gguf`);
    mkdirSync(join(dir, "c"));
    writeFileSync(join(dir, "config.json"), "{}");
    expect(locateModel(dir)).toBe(dir);
  });

  test("the config that its metadata stands for", () => {
    expect(readConfig(llama)).toMatchObject({
      architecture: "LlamaForCausalLM",
      pairedRows: true,
      layers: 2,
      hiddenSize: 256,
      heads: 4,
      kvHeads: 2,
      headDim: 32,
      vocabSize: 600,
      bosId: 1,
      eosIds: [2],
      contextLength: 2048,
      tieEmbeddings: false,
    });
  });
});

describe("what a GGUF header may not say", () => {
  const metadata = { "general.architecture": "llama" };
  const f32 = (shape: number[], floats: number): GgufTensor => ({ shape, format: 0, data: new Uint8Array(4 * floats) });
  const refusal = async (bytes: Uint8Array): Promise<string> => {
    const file = join(scratch, "wrong.gguf");
    writeFileSync(file, bytes);
    const error = await parseGguf(file).then(
      () => undefined,
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(KvaError);
    expect(error.message).toStartWith(`${file}: `);
    return error.message;
  };

  test("sizes, formats and offsets that the file does not hold", async () => {
    const right = ggufBytes(metadata, { a: f32([2, 4], 8) });
    expect(await refusal(right.subarray(0, right.length - 4))).toMatch(
      /tensor a ends at byte \d+, but the file has \d+/,
    );
    expect(await refusal(right.subarray(0, 100))).toContain("it was cut");
    expect(await refusal(Buffer.from("not a model at all, just text of some length"))).toContain("GGUF magic number");
    expect(await refusal(new Uint8Array(0))).toContain("cannot be read as GGUF");
    expect(await refusal(ggufBytes(metadata, { a: { ...f32([2, 4], 8), format: 10 } }))).toContain(
      "tensor a is Q2_K; kvaccel reads F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16",
    );
    expect(await refusal(ggufBytes(metadata, { a: { ...f32([2, 4], 8), format: 8 } }))).toContain(
      "Q8_0 stores 32 at a time",
    );
    expect(await refusal(ggufBytes(metadata, { a: { ...f32([2, 4], 8), format: 77 } }))).toContain(
      "the unknown type 77",
    );
    expect(await refusal(ggufBytes(metadata, { a: f32([2, 0], 0) }))).toContain("none of them 0");
    expect(await refusal(ggufBytes(metadata, { a: f32([2 ** 31, 2 ** 31], 8) }))).toContain(
      "is [2147483648, 2147483648]",
    );
  });

  test("a model of another architecture, of experts, or of uneven layers", () => {
    const config = (name: string, more: Metadata) => {
      const given = ropeCases.find(({ family, rope }) => family === "llama" && rope === "default")!;
      const dir = writeCase(mkdtempSync(join(scratch, "case-")), given);
      const converted = convertedMetadata("llama", readConfig(dir), more);
      return message(() =>
        readConfig(writeGguf(join(scratch, name), { ...converted, ...more }, { "token_embd.weight": f32([4, 4], 16) })),
      );
    };
    expect(config("m1.gguf", { "general.architecture": "mamba" })).toContain(
      'general.architecture is "mamba"; the supported ones are llama',
    );
    expect(config("m2.gguf", { expert_count: 8 })).toContain("it has 8 experts");
    expect(config("m3.gguf", { "attention.head_count_kv": [2, 1] })).toContain("all layers must have the same count");
    expect(config("m4.gguf", { block_count: "two" })).toContain(
      'llama: block_count is "two"; it must be a whole number',
    );
  });
});

test("no mutation of a header does anything but give an error with the file's name, or a right result", async () => {
  const random = uniform(17);
  const below = (n: number) => Math.floor(random() * n);
  const f32 = (rows: number): GgufTensor => ({ shape: [rows, 4], format: 0, data: new Uint8Array(16 * rows) });
  const metadata: Metadata = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.5,
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.scores": [0, -1, -2],
    "tokenizer.ggml.add_bos_token": true,
  };
  const right = ggufBytes(metadata, { a: f32(2), bb: f32(3) });
  const headerEnd = right.length - 16 * 5 - 16; // of padding
  const file = join(scratch, "mutated.gguf");
  let refused = 0;
  for (let round = 0; round < 1000; round++) {
    const bytes = Buffer.from(right);
    for (let change = 1 + below(3); change > 0; change--) bytes[below(headerEnd)] = random() < 0.3 ? 0xff : below(256);
    writeFileSync(file, random() < 0.1 ? bytes.subarray(0, below(bytes.length)) : bytes);
    try {
      const { size } = statSync(file);
      const { tensors } = await parseGguf(file);
      for (const { offset, bytes } of Object.values(tensors)) expect(offset + bytes).toBeLessThanOrEqual(size);
    } catch (error) {
      expect(`${(error as Error).name}: ${(error as Error).message}`).toStartWith(`KvaError: ${file}: `);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(300);
  expect(refused).toBeLessThan(1000);
}, 30_000);

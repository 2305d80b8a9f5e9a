// The tokenizer of a GGUF file as the tokenizer.json and tokenizer_config.json that it came from.
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { readGguf } from "./gguf.ts";
import { checked, count, shown } from "./json.ts";

const id = v.nullish(count(2 ** 24, 0));
const flag = v.nullish(v.boolean("must be true or false"));
const text = v.nullish(v.string("must be a string"));
const texts = v.array(v.string("must be a string"), "must be a list of strings");
const schema = v.object({
  "tokenizer.ggml.model": v.string("must be a string"),
  "tokenizer.ggml.pre": text,
  "tokenizer.ggml.tokens": texts,
  "tokenizer.ggml.scores": v.nullish(v.array(v.number(), "must be a list of numbers")),
  "tokenizer.ggml.token_type": v.nullish(v.array(v.number(), "must be a list of numbers")),
  "tokenizer.ggml.merges": v.nullish(texts),
  "tokenizer.ggml.bos_token_id": id,
  "tokenizer.ggml.eos_token_id": id,
  "tokenizer.ggml.unknown_token_id": id,
  "tokenizer.ggml.add_bos_token": flag,
  "tokenizer.ggml.add_eos_token": flag,
  "tokenizer.ggml.add_space_prefix": flag,
  "tokenizer.chat_template": text,
});
type Metadata = v.InferOutput<typeof schema>;

// token_type of ggml
const CONTROL = 3;
const USER_DEFINED = 4;

export interface TokenizerJson {
  tokenizer: Record<string, unknown>;
  config: Record<string, unknown>;
}

/** How the byte-level tokenizers cut a text before merging, by llama.cpp's name of it. */
interface Cut {
  split: string | null;
  nfc?: boolean;
  /** a whole piece that is a token is one, whatever the merges say */
  ignoreMerges: boolean;
  addBos: boolean;
  /** special tokens before every text, where the vocabulary has them */
  prefix?: readonly string[];
}

const words = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|";
const rest = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const threeDigits = `${words}\\p{N}{1,3}${rest}`;
const oneDigit = `${words}\\p{N}${rest}`;
const llama3: Cut = { split: threeDigits, ignoreMerges: true, addBos: true };
const qwen2: Cut = { split: oneDigit, nfc: true, ignoreMerges: false, addBos: false };
const glm: Cut = { split: threeDigits, ignoreMerges: true, addBos: false, prefix: ["[gMASK]", "<sop>"] };
const cuts: Readonly<Record<string, Cut>> = {
  "llama-bpe": llama3,
  llama3,
  qwen2,
  "deepseek-r1-qwen": qwen2,
  "chatglm-bpe": glm,
  glm4: glm,
  "gpt-2": { split: null, ignoreMerges: false, addBos: false },
};

export function ggufTokenizer(file: string): TokenizerJson {
  const metadata = checked(schema, readGguf(file).metadata, file);
  const tokens = metadata["tokenizer.ggml.tokens"];
  const types = metadata["tokenizer.ggml.token_type"] ?? [];
  const vocab: Record<string, number> = Object.create(null);
  tokens.forEach((token, number) => {
    vocab[token] ??= number;
  });
  const parts = partsOf(metadata, vocab, file);
  const content = (number: number | null | undefined) => (typeof number === "number" ? tokens[number] : undefined);
  const bos = content(metadata["tokenizer.ggml.bos_token_id"]);
  const eos = content(metadata["tokenizer.ggml.eos_token_id"]);
  const isSpecial = (number: number) =>
    types[number] === CONTROL || number === metadata["tokenizer.ggml.unknown_token_id"];
  const added = tokens.flatMap((token, number) =>
    isSpecial(number) || types[number] === USER_DEFINED
      ? [{ id: number, content: token, special: isSpecial(number), ...plainToken }]
      : [],
  );
  const addBos = metadata["tokenizer.ggml.add_bos_token"] ?? parts.addBos;
  const before = [...(parts.prefix ?? []), ...(addBos && bos !== undefined ? [bos] : [])];
  const after = metadata["tokenizer.ggml.add_eos_token"] && eos !== undefined ? [eos] : [];
  return {
    tokenizer: {
      version: "1.0",
      added_tokens: added,
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: around(before, after, vocab),
      decoder: parts.decoder,
      model: parts.model,
    },
    config: { bos_token: bos, eos_token: eos, chat_template: metadata["tokenizer.chat_template"] },
  };
}

const plainToken = { single_word: false, lstrip: false, rstrip: false, normalized: false };

interface Parts {
  normalizer: unknown;
  preTokenizer: unknown;
  decoder: unknown;
  model: Record<string, unknown>;
  addBos: boolean;
  prefix?: readonly string[];
}

function partsOf(metadata: Metadata, vocab: Record<string, number>, file: string): Parts {
  const model = metadata["tokenizer.ggml.model"];
  if (model === "llama") return sentencePiece(metadata, vocab, file);
  if (model === "gpt2") return byteLevel(metadata, vocab, file);
  throw new KvaError(
    "model",
    `${file}: tokenizer.ggml.model is ${shown(model)}; the supported ones are llama and gpt2`,
  );
}

const mark = "▁";

function sentencePiece(metadata: Metadata, vocab: Record<string, number>, file: string): Parts {
  const scores = metadata["tokenizer.ggml.scores"];
  const unknown = metadata["tokenizer.ggml.unknown_token_id"] ?? 0;
  if (!scores || scores.length !== metadata["tokenizer.ggml.tokens"].length) {
    throw new KvaError("model", `${file}: tokenizer.ggml.scores must have one number for each token`);
  }
  const prefixed = metadata["tokenizer.ggml.add_space_prefix"] ?? true;
  const spaces = { type: "Replace", pattern: { String: " " }, content: mark };
  const decoders = [
    { type: "Replace", pattern: { String: mark }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  return {
    normalizer: prefixed ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: mark }, spaces] } : spaces,
    preTokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [...decoders, ...(prefixed ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [])],
    },
    model: {
      type: "BPE",
      unk_token: metadata["tokenizer.ggml.tokens"][unknown],
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges: mergesOf(vocab, scores),
    },
    addBos: true,
  };
}

/** SentencePiece joins the pair whose token has the best score: every way to cut a token in two known ones, best score first. */
function mergesOf(vocab: Record<string, number>, scores: readonly number[]): [string, string][] {
  const found: { left: string; right: string; score: number; lengths: [number, number] }[] = [];
  for (const [token, number] of Object.entries(vocab)) {
    const letters = Array.from(token);
    const cutsHere: typeof found = [];
    let left = "";
    for (let at = 1; at < letters.length; at++) {
      left += letters[at - 1];
      const right = token.slice(left.length);
      if (!(left in vocab && right in vocab)) continue;
      cutsHere.push({ left, right, score: scores[number]!, lengths: [at, letters.length - at] });
    }
    cutsHere.sort((a, b) => vocab[a.left]! - vocab[b.left]! || vocab[a.right]! - vocab[b.right]!);
    found.push(...cutsHere);
  }
  found.sort((a, b) => b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]);
  return found.map(({ left, right }) => [left, right]);
}

function byteLevel(metadata: Metadata, vocab: Record<string, number>, file: string): Parts {
  const name = metadata["tokenizer.ggml.pre"] ?? "gpt-2";
  const cut = Object.hasOwn(cuts, name) ? cuts[name]! : undefined;
  if (!cut) {
    const known = Object.keys(cuts).join(", ");
    throw new KvaError("model", `${file}: tokenizer.ggml.pre is ${shown(name)}; the supported ones are ${known}`);
  }
  const merges = metadata["tokenizer.ggml.merges"];
  if (!merges) throw new KvaError("model", `${file} has no tokenizer.ggml.merges, which a byte-level tokenizer needs`);
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: cut.split === null };
  const split = { type: "Split", pattern: { Regex: cut.split }, behavior: "Isolated", invert: false };
  return {
    normalizer: cut.nfc ? { type: "NFC" } : null,
    preTokenizer: cut.split === null ? bytes : { type: "Sequence", pretokenizers: [split, bytes] },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", unk_token: null, vocab, merges, ignore_merges: cut.ignoreMerges },
    addBos: cut.addBos,
    ...(cut.prefix?.every((token) => token in vocab) && { prefix: cut.prefix }),
  };
}

/** The special tokens around every text. */
function around(before: readonly string[], after: readonly string[], vocab: Record<string, number>): unknown {
  if (before.length + after.length === 0) return null;
  const special = (token: string) => ({ SpecialToken: { id: token, type_id: 0 } });
  const sequence = { Sequence: { id: "A", type_id: 0 } };
  const single = [...before.map(special), sequence, ...after.map(special)];
  const tokens = Object.fromEntries(
    [...before, ...after].map((token) => [token, { id: token, ids: [vocab[token]!], tokens: [token] }]),
  );
  return { type: "TemplateProcessing", single, pair: single, special_tokens: tokens };
}

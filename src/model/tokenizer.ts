// Text to token ids and back, from tokenizer.json and tokenizer_config.json of a model directory.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as Library } from "@huggingface/tokenizers";
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { type ChatTemplate, type Message, readTemplate, type TemplateOptions, templateOf } from "./chat-template.ts";
import { isGguf } from "./gguf.ts";
import { ggufTokenizer } from "./gguf-tokenizer.ts";
import { checked, count, jsonObject, readJson } from "./json.ts";
import { rememberPieces } from "./tokenizer-pieces.ts";

const modelTypes = ["BPE", "Unigram", "WordPiece", "WordLevel"] as const;
const maxId = 2 ** 24;
const id = count(maxId, 0);
const fileSchema = v.pipe(
  jsonObject(),
  v.looseObject({
    model: v.looseObject(
      {
        type: v.nullish(v.picklist(modelTypes, `must be one of ${modelTypes.join(", ")}`)),
        vocab: v.union(
          [v.record(v.string(), id), v.array(v.unknown())],
          `must map each token to an id from 0 to ${maxId}`,
        ),
      },
      "must be an object with type and vocab",
    ),
    added_tokens: v.array(v.looseObject({ id, content: v.string("must be a string") }), "must be a list of tokens"),
    pre_tokenizer: v.nullish(v.looseObject({ type: v.string("must be a string") }, "must be an object")),
  }),
);
type TokenizerFile = v.InferOutput<typeof fileSchema>;

const tokenName = v.nullish(v.union([v.string(), v.looseObject({ content: v.string() })], "must be a token"));
const configSchema = v.pipe(jsonObject(), v.looseObject({ bos_token: tokenName, eos_token: tokenName }));

export interface EncodeOptions {
  /** add the tokens that the tokenizer puts around every text (default); false for text from a chat template */
  special?: boolean;
}

/** Reads the tokenizer of a model directory or of a GGUF file. */
export function loadTokenizer(dir: string): Tokenizer {
  if (isGguf(dir)) {
    const { tokenizer, config } = ggufTokenizer(dir);
    const template = templateOf(config.chat_template, dir);
    return makeTokenizer(dir, checked(fileSchema, tokenizer, dir), checked(configSchema, config, dir), template);
  }
  const file = join(dir, "tokenizer.json");
  if (!existsSync(file)) {
    const instead = existsSync(join(dir, "tokenizer.model"))
      ? "; it has tokenizer.model only: save it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
      : "";
    throw new KvaError("model", `${dir} has no tokenizer.json${instead}`);
  }
  const json = checked(fileSchema, readJson(file), file);
  const configFile = join(dir, "tokenizer_config.json");
  const config = existsSync(configFile) ? checked(configSchema, readJson(configFile), configFile) : {};
  return makeTokenizer(file, json, config, readTemplate(dir, config.chat_template));
}

function makeTokenizer(
  file: string,
  json: TokenizerFile,
  config: v.InferOutput<typeof configSchema>,
  template: ChatTemplate | undefined,
): Tokenizer {
  let library: Library;
  try {
    library = new Library(withPreSplit(json), config);
    decodeBytesAsPython(library.decoder);
    rememberPieces(library);
    library.decode(library.encode("a b").ids); // parts of a broken file fail at their first use
  } catch (error) {
    throw new KvaError("model", `${file} is no tokenizer that can be used: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return new Tokenizer(library, file, {
    bosToken: tokenText(config.bos_token),
    eosToken: tokenText(config.eos_token),
    template,
  });
}

function tokenText(token: string | { content: string } | null | undefined): string | undefined {
  return typeof token === "object" ? token?.content : token;
}

/**
 * SentencePiece-style BPE merges a whole text as one piece. Cut before every run of space marks it is four times as fast,
 * and exact where no token of the vocabulary has a space mark after another character.
 */
function withPreSplit(json: TokenizerFile): TokenizerFile {
  const before = json.pre_tokenizer;
  const { type, vocab } = json.model;
  if (type !== "BPE" || Array.isArray(vocab) || (before && before.type !== "Metaspace")) return json;
  const tokens = Object.keys(vocab);
  if (!tokens.some((token) => token.startsWith("▁")) || tokens.some((token) => /[^▁]▁/u.test(token))) return json;
  const split = { type: "Split", pattern: { Regex: "▁*[^▁]+|▁+" }, behavior: "Isolated", invert: false };
  return { ...json, pre_tokenizer: before ? { type: "Sequence", pretokenizers: [before, split] } : split };
}

type LibraryDecoder = NonNullable<Library["decoder"]> & {
  /** of a Sequence */
  decoders?: LibraryDecoder[];
  text_decoder?: { decode(bytes: Uint8Array): string };
};

/**
 * A run of byte tokens (<0xE4>) is one text, or, where it is not UTF-8, one U+FFFD for each byte. The library's own decoder
 * drops byte order marks, and repairs a broken run in another way.
 */
function decodeBytesAsPython(decoder: LibraryDecoder | null): void {
  decoder?.decoders?.forEach(decodeBytesAsPython);
  if (decoder?.config.type !== "ByteFallback") return;
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const decode = (bytes: Uint8Array): string => {
    try {
      return strict.decode(bytes);
    } catch {
      return "\uFFFD".repeat(bytes.length);
    }
  };
  decoder.text_decoder = { decode };
}

interface Parts {
  bosToken: string | undefined;
  eosToken: string | undefined;
  template: ChatTemplate | undefined;
}

export class Tokenizer {
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  private readonly template: ChatTemplate | undefined;
  private readonly specialIds: ReadonlySet<number>;

  constructor(
    private readonly library: Library,
    readonly file: string,
    { bosToken, eosToken, template }: Parts,
  ) {
    const idOf = (token: string | undefined) => (token === undefined ? undefined : library.token_to_id(token));
    this.bosToken = bosToken;
    this.eosToken = eosToken;
    this.bosId = idOf(bosToken);
    this.eosId = idOf(eosToken);
    this.template = template;
    const added = [...library.get_added_tokens_decoder()];
    this.specialIds = new Set(added.filter(([, token]) => token.special).map(([special]) => special));
  }

  /** One past the highest id. */
  get vocabSize(): number {
    let highest = -1;
    for (const token of this.library.get_vocab().values()) highest = Math.max(highest, token);
    return highest + 1;
  }

  /** Texts of the special tokens. */
  get specialTokens(): string[] {
    return [...this.specialIds].map((special) => this.library.id_to_token(special)!);
  }

  /** Ids of a text. A text that begins with the beginning-of-text token gets no second one. */
  encode(text: string, { special = true }: EncodeOptions = {}): number[] {
    if (text === "" && !special) return [];
    const ids = this.library.encode(text, { add_special_tokens: special }).ids.filter((token) => token !== undefined);
    const doubled = special && this.bosId !== undefined && ids[0] === this.bosId && ids[1] === this.bosId;
    return doubled ? ids.slice(1) : ids;
  }

  /** Text of ids, special tokens and ids outside of the vocabulary left out. */
  decode(ids: readonly number[]): string {
    const known = ids.filter((token) => !this.specialIds.has(token) && this.library.id_to_token(token) !== undefined);
    return known.length === 0 ? "" : this.library.decode(known, { clean_up_tokenization_spaces: false });
  }

  /** The token's own text, special or not; undefined outside of the vocabulary. */
  tokenText(token: number): string | undefined {
    return this.library.id_to_token(token);
  }

  decodeStream(): DecodeStream {
    return new DecodeStream(this);
  }

  get hasChatTemplate(): boolean {
    return this.template !== undefined;
  }

  /** The conversation as the model's own template writes it; encode it with `special: false`. */
  applyChatTemplate(messages: readonly Message[], options: TemplateOptions = {}): string {
    if (!this.template) {
      throw new KvaError(
        "model",
        `the model of ${this.file} has no chat template; leave out --chat, or add chat_template.jinja`,
      );
    }
    return this.template.render(messages, { bos_token: this.bosToken ?? "", eos_token: this.eosToken ?? "" }, options);
  }
}

const maxHeld = 32; // tokens held back before text that stays undecodable is given out as it is

/** Text of a growing list of ids, piece by piece; a character that is not complete yet is held back. */
export class DecodeStream {
  /** ids whose text is out, but which the text of the next ones depends on (a leading space) */
  private context: number[] = [];
  private held: number[] = [];

  constructor(private readonly tokenizer: Tokenizer) {}

  /** The text that this id completes, often its own, sometimes "". */
  push(id: number): string {
    this.held.push(id);
    const text = this.heldText();
    if (text === "" || (text.endsWith("\uFFFD") && this.held.length < maxHeld)) return "";
    return this.release(text);
  }

  /** What was held back. */
  end(): string {
    return this.release(this.heldText());
  }

  private heldText(): string {
    const before = this.tokenizer.decode(this.context);
    return this.tokenizer.decode([...this.context, ...this.held]).slice(before.length);
  }

  private release(text: string): string {
    this.context = this.held;
    this.held = [];
    return text;
  }
}

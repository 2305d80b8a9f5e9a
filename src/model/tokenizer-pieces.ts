// What makes the tokenizer library fast on long texts: pieces of text that came before keep their tokens. Measured with Llama 3's vocabulary
// on 560 KB of prose; the library alone cuts and maps every piece anew, which takes most of its time.
import type { Tokenizer as Library } from "@huggingface/tokenizers";

/** Pieces that are kept; past it, the memory starts afresh. */
const mostPieces = 100_000;
const longestKept = 256;

interface BpeModel {
  cache?: Pick<PieceCache, "get" | "put" | "clear">;
  encode(pieces: string[]): string[];
}

interface PreTokenizer {
  config?: { type?: string; behavior?: string; invert?: boolean; add_prefix_space?: boolean; use_regex?: boolean };
  /** of a Split */
  pattern?: RegExp | null;
  /** of a Sequence */
  tokenizers?: PreTokenizer[];
  pre_tokenize(text: string | string[], options?: object): string[];
}

interface Inside {
  model?: BpeModel;
  /** callable */
  pre_tokenizer: PreTokenizer | ((text: string) => string[]) | null;
}

/** What BPE made of the pieces of text seen so far, as many as fit, then from the start. */
class PieceCache {
  private readonly pieces = new Map<string, string[]>();

  get(piece: string): string[] | undefined {
    return this.pieces.get(piece);
  }

  put(piece: string, tokens: string[]): void {
    if (this.pieces.size >= mostPieces) this.pieces.clear();
    this.pieces.set(piece, tokens);
  }

  clear(): void {
    this.pieces.clear();
  }
}

/** A cut by a pattern that keeps everything, then at most the bytes of each piece as letters: no piece depends on its neighbours. */
function cutOf(pre: PreTokenizer | null): { pattern: RegExp; rest: PreTokenizer[] } | undefined {
  const [first, ...rest] = pre?.tokenizers ?? (pre ? [pre] : []);
  const { type, behavior, invert } = first?.config ?? {};
  if (type !== "Split" || behavior?.toLowerCase() !== "isolated" || invert || !(first?.pattern instanceof RegExp))
    return undefined;
  if (!first.pattern.global) return undefined;
  const free = rest.every(
    ({ config }) => config?.type === "ByteLevel" && !config.add_prefix_space && config.use_regex === false,
  );
  return free ? { pattern: first.pattern, rest } : undefined;
}

/** Changes a library's BPE model in place; its results stay the same. */
export function rememberPieces(library: Library): void {
  const inside = library as unknown as Inside;
  const { model } = inside;
  // the library's own cache moves an entry at every hit, which is slow once it is full
  if (model?.cache) model.cache = new PieceCache();
  const cut = cutOf(inside.pre_tokenizer as PreTokenizer | null);
  if (!model?.cache || !cut) return;
  const encode = model.encode.bind(model);
  const seen = new PieceCache();
  const tokensOf = (piece: string): string[] => {
    const known = seen.get(piece);
    if (known) return known;
    const tokens = encode(cut.rest.reduce((pieces, step) => step.pre_tokenize(pieces), [piece]));
    if (piece.length <= longestKept) seen.put(piece, tokens);
    return tokens;
  };
  model.encode = (texts) => {
    const tokens: string[] = [];
    for (const text of texts) {
      for (const piece of pieces(text, cut.pattern)) {
        for (const token of tokensOf(piece)) tokens.push(token);
      }
    }
    return tokens;
  };
  inside.pre_tokenizer = (text: string) => [text];
}

/** The matches and what lies between them, in order. */
function pieces(text: string, pattern: RegExp): readonly string[] {
  const matches: readonly string[] = text.match(pattern) ?? [];
  let length = 0;
  for (const match of matches) length += match.length;
  if (length === text.length) return matches.includes("") ? matches.filter((match) => match !== "") : matches;
  const result: string[] = [];
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > at) result.push(text.slice(at, match.index));
    if (match[0] !== "") result.push(match[0]);
    at = match.index + match[0].length;
  }
  if (at < text.length) result.push(text.slice(at));
  return result;
}

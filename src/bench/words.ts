// The word lists of the built-in samples, and the values made from them: keys, numbers, codes, spelled words.
import lists from "../../models/tiny-ruler/words.json" with { type: "json" };
import type { Prng } from "./prng.ts";

export const { adjectives, nouns, people, places, names, transitive, intransitive, adverbs, prepositions, times } =
  lists;
export const { filler, frames } = lists;

/** plain words of the common-words task */
export const plainWords: readonly string[] = [...new Set([...adjectives, ...nouns])].sort();

/** code words of the frequent-words task: two syllables in capitals, sometimes a last consonant */
export const codeWords: readonly string[] = lists.codes;

export type ValueKind = "numbers" | "words" | "uuids";

/** how the prompt calls a value of each kind */
export const kindNames: Record<ValueKind, string> = { numbers: "number", words: "word", uuids: "code" };

/** an invented word of two or three syllables: one alone would stand in many an English word */
export function spelledWord(rng: Prng): string {
  let word = "";
  for (let syllables = rng.between(2, 3); syllables > 0; syllables--) {
    word += rng.pick([..."bcdfghjklmnpqrstvwxz"]) + rng.pick([..."aeiouy"]);
  }
  return word + rng.pick(["", "n", "r", "st", "l", "m"]);
}

function inventedCode(rng: Prng): string {
  const syllable = () => rng.pick([..."BDFGHKLMNPRSTVWZ"]) + rng.pick([..."AEIOU"]);
  return syllable() + syllable() + rng.pick(["", "N", "X", "L", "S"]);
}

function uuid(rng: Prng): string {
  const hex = (rng.word().toString(16).padStart(16, "0") + rng.word().toString(16).padStart(16, "0")).split("");
  hex[12] = "4";
  hex[16] = "89ab"[Number.parseInt(hex[16]!, 16) & 3]!;
  const text = hex.join("");
  return [0, 8, 12, 16, 20].map((start, i, starts) => text.slice(start, starts[i + 1])).join("-");
}

/** The words that keys and word lists are made of: the built-in ones, or a user's. */
export interface Vocabulary {
  adjectives: readonly string[];
  nouns: readonly string[];
  /** of the common-words task, sorted, without repeats */
  plain: readonly string[];
  /** all words of a common-words sample come from here when `plain` is too short; absent: spelled words join it */
  large?: readonly string[];
}

export const builtinVocabulary: Vocabulary = { adjectives, nouns, plain: plainWords };

function drawValue(kind: ValueKind, rng: Prng, words: Vocabulary, spell: boolean): string {
  if (kind === "numbers") return String(rng.between(1000000, 9999999));
  if (kind === "uuids") return uuid(rng);
  return spell ? `${spelledWord(rng)}-${spelledWord(rng)}` : `${rng.pick(words.adjectives)}-${rng.pick(words.nouns)}`;
}

/** Draws keys and values that are all different; past half of the adjective-noun pairs, words are spelled. */
export class ValuePool {
  private readonly taken = new Set<string>();

  constructor(
    private readonly rng: Prng,
    private readonly words: Vocabulary,
  ) {}

  draw(kind: ValueKind): string {
    const pairs = this.words.adjectives.length * this.words.nouns.length;
    for (;;) {
      const value = drawValue(kind, this.rng, this.words, this.taken.size > pairs / 2);
      if (this.taken.has(value)) continue;
      this.taken.add(value);
      return value;
    }
  }
}

function extended(list: readonly string[], count: number, rng: Prng, invent: (rng: Prng) => string): string[] {
  if (count <= list.length) return rng.sample(list, count);
  const words = new Set(list);
  while (words.size < count) words.add(invent(rng));
  return rng.shuffle([...words]);
}

/** `count` distinct plain words in random order; when the list runs out, all are of the large one, or spelled ones join */
export function drawPlainWords(count: number, rng: Prng, { plain, large }: Vocabulary): string[] {
  const list = count > plain.length && large !== undefined ? large : plain;
  return extended(list, count, rng, spelledWord);
}

/** `count` distinct code words in random order; further ones of the same form join when the list runs out */
export function drawCodeWords(count: number, rng: Prng): string[] {
  return extended(codeWords, count, rng, inventedCode);
}

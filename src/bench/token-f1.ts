// Answers compared word by word: normalization and F1 of SQuAD, as LongBench computes them for English and Chinese.
import { segmentChinese } from "./segment-zh.ts";

// biome-ignore lint/suspicious/noControlCharactersInRegex: Python's str.split() takes the four separators before the blank, too
const pythonSpace = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
const asciiPunctuation = /[!-/:-@[-`{-~]/g;
const article = /(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu;
/** the reference's set, with its gaps: an opening double angle bracket and a full-width full stop stay */
const cjkPunctuation =
  /[\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64\u3001-\u3003\u300b-\u3011\u3014-\u301f\u3030\u303e\u303f\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\ufe4f]/g;

/** the pieces of a text between white space, none of them empty */
export function splitWords(text: string): string[] {
  return text.split(pythonSpace).filter((word) => word !== "");
}

/** Lower case, ASCII punctuation deleted, the words a, an and the left out. */
export function normalizedWords(text: string): string[] {
  return splitWords(text.toLowerCase().replace(asciiPunctuation, "").replace(article, " "));
}

function normalizedChinese(text: string): string[] {
  return segmentChinese(text)
    .map((word) => splitWords(word.toLowerCase().replace(asciiPunctuation, "").replace(cjkPunctuation, "")).join(""))
    .filter((word) => word !== "");
}

/** harmonic mean of precision and recall over two bags of words; 0 where they share none */
export function wordF1(prediction: readonly string[], ref: readonly string[]): number {
  const left = new Map<string, number>();
  for (const word of ref) left.set(word, (left.get(word) ?? 0) + 1);
  let common = 0;
  for (const word of prediction) {
    const count = left.get(word) ?? 0;
    if (count === 0) continue;
    left.set(word, count - 1);
    common++;
  }
  if (common === 0) return 0;
  const [precision, recall] = [common / prediction.length, common / ref.length];
  return (2 * precision * recall) / (precision + recall);
}

export const qaF1 = (prediction: string, ref: string) => wordF1(normalizedWords(prediction), normalizedWords(ref));

export const qaF1Chinese = (prediction: string, ref: string) =>
  wordF1(normalizedChinese(prediction), normalizedChinese(ref));

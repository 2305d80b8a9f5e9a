// ROUGE-L as LongBench's package computes it: one growing set of common words over all pairs of sentences.
import { segmentChinese } from "./segment-zh.ts";
import { splitWords } from "./token-f1.ts";

/** Pieces between full stops; a piece of white space alone counts as a sentence of one empty word. */
function sentences(text: string): string[][] {
  return text
    .split(".")
    .filter((piece) => piece !== "")
    .map((piece) => splitWords(piece).join(" ").split(" "));
}

/**
 * The words of one longest common subsequence. Where several are as long, the walk back from the ends decides: it leaves out a
 * word of `x` only where that is strictly better than leaving out one of `y`.
 */
function commonSubsequence(x: readonly string[], y: readonly string[]): string[] {
  const width = y.length + 1;
  const table = new Uint16Array((x.length + 1) * width);
  for (let i = 1; i <= x.length; i++) {
    for (let j = 1; j <= y.length; j++) {
      const same = x[i - 1] === y[j - 1];
      const above = table[(i - 1) * width + j]!;
      const left = table[i * width + j - 1]!;
      table[i * width + j] = same ? table[(i - 1) * width + j - 1]! + 1 : Math.max(above, left);
    }
  }
  const words: string[] = [];
  for (let i = x.length, j = y.length; i > 0 && j > 0; ) {
    if (x[i - 1] === y[j - 1]) {
      words.push(x[i - 1]!);
      i--;
      j--;
    } else if (table[(i - 1) * width + j]! > table[i * width + j - 1]!) i--;
    else j--;
  }
  return words;
}

/** F of recall and precision over distinct words; 0 where a side has no sentence. */
export function rougeL(prediction: string, ref: string): number {
  const [ours, theirs] = [sentences(prediction), sentences(ref)];
  if (ours.length === 0 || theirs.length === 0) return 0;
  const union = new Set<string>();
  for (const right of theirs) {
    for (const left of ours) for (const word of commonSubsequence(right, left)) union.add(word);
  }
  const recall = union.size / new Set(theirs.flat()).size;
  const precision = union.size / new Set(ours.flat()).size;
  return (2 * precision * recall) / (precision + recall + 1e-8);
}

export const rougeLChinese = (prediction: string, ref: string) =>
  rougeL(segmentChinese(prediction).join(" "), segmentChinese(ref).join(" "));

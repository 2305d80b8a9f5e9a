// Scores of predictions: RULER's string match, task scores, and the averages over lengths.
import { longbenchScore, type ScoreFacts } from "./longbench-score.ts";
import type { Metric } from "./sample.ts";

/** stripped; each of U+0000 to U+001F becomes a newline; stripped again */
export function postProcess(prediction: string): string {
  return Array.from(prediction.trim(), (char) => (char < " " ? "\n" : char))
    .join("")
    .trim();
}

function found(prediction: string, refs: readonly string[]): number {
  const text = postProcess(prediction).toLowerCase();
  return refs.filter((ref) => text.includes(ref.toLowerCase())).length;
}

/** the share of the references that the prediction contains, ignoring case */
export function stringMatchAll(prediction: string, refs: readonly string[]): number {
  return found(prediction, refs) / refs.length;
}

/** 1 if the prediction contains any reference, ignoring case */
export function stringMatchPart(prediction: string, refs: readonly string[]): number {
  return found(prediction, refs) > 0 ? 1 : 0;
}

/** the score of one sample, 0 to 1 */
export function scoreSample(
  metric: Metric,
  prediction: string,
  refs: readonly string[],
  facts: ScoreFacts = {},
): number {
  if (metric === "string_match_all") return stringMatchAll(prediction, refs);
  if (metric === "string_match_part") return stringMatchPart(prediction, refs);
  return longbenchScore(metric, prediction, refs, facts);
}

export function isNull(prediction: string): boolean {
  return postProcess(prediction) === "";
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** 100 x the mean of sample scores, rounded to two decimals */
export function taskScore(scores: readonly number[]): number {
  return Math.round(10000 * mean(scores)) / 100;
}

/** named sets of tasks that a length score may average */
export const taskSubsets: Record<string, (task: string) => boolean> = {
  ruler13: () => true,
  loom12: (task) => task !== "fwe",
};

/** the weighted mean of scores in ascending order of length: the longest counts most (inc) or the shortest (dec) */
export function weightedAverage(scores: readonly number[], direction: "inc" | "dec"): number {
  const weights = scores.map((_, i) => (direction === "inc" ? i + 1 : scores.length - i));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return scores.reduce((sum, score, i) => sum + score * weights[i]!, 0) / total;
}

/** the 4K score of Llama-2-7B-chat, which RULER asks for */
export const effectiveThreshold = 85.6;

/** the largest length whose score, and that of every shorter one, reaches the threshold; null where none does */
export function effectiveLength(scores: ReadonlyMap<number, number>, threshold = effectiveThreshold): number | null {
  let effective: number | null = null;
  for (const [length, score] of [...scores].sort(([a], [b]) => a - b)) {
    if (score < threshold) break;
    effective = length;
  }
  return effective;
}

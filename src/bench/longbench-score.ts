// LongBench's scorers by metric, with the reference's quirks: the best of all reference answers, 0 to 1.
import { codeSimilarity, editRatio, matchRatio } from "./code-similarity.ts";
import { rougeL, rougeLChinese } from "./rouge-l.ts";
import { qaF1, qaF1Chinese } from "./token-f1.ts";

export const longbenchMetrics = [
  "qa_f1",
  "qa_f1_zh",
  "rouge",
  "rouge_zh",
  "classification",
  "count",
  "retrieval",
  "retrieval_zh",
  "code_sim",
  "code_sim_levenshtein",
] as const;
export type LongbenchMetric = (typeof longbenchMetrics)[number];

/** what a metric needs beside prediction and references */
export interface ScoreFacts {
  /** classification: all class names, in order */
  classes?: readonly string[];
  /** only the first line of the prediction counts */
  firstLine?: boolean;
}

/**
 * One over the number of class names in the prediction, if the reference is among them. A name that is a part of the reference is
 * taken off the list, but the one right behind it is then not looked at.
 */
export function classification(prediction: string, ref: string, classes: readonly string[]): number {
  const found = classes.filter((name) => prediction.includes(name));
  for (let i = 0; i < found.length; i++) {
    const name = found[i]!;
    if (ref.includes(name) && name !== ref) found.splice(found.indexOf(name), 1);
  }
  return found.includes(ref) ? 1 / found.length : 0;
}

/** the share of the prediction's numbers that are the wanted one */
function numberShare(prediction: string, wanted: string | undefined): number {
  const numbers = prediction.match(/\p{Nd}+/gu) ?? [];
  return numbers.length === 0 ? 0 : numbers.filter((number) => number === wanted).length / numbers.length;
}

export const retrievalForms = { retrieval: /Paragraph (\p{Nd}+)/u, retrieval_zh: /段落(\p{Nd}+)/u } as const;

function scoreOne(metric: LongbenchMetric, prediction: string, ref: string, facts: ScoreFacts): number {
  switch (metric) {
    case "qa_f1":
      return qaF1(prediction, ref);
    case "qa_f1_zh":
      return qaF1Chinese(prediction, ref);
    case "rouge":
      return rougeL(prediction, ref);
    case "rouge_zh":
      return rougeLChinese(prediction, ref);
    case "classification":
      return classification(prediction, ref, facts.classes ?? []);
    case "count":
      return numberShare(prediction, ref);
    case "retrieval":
    case "retrieval_zh":
      return numberShare(prediction, retrievalForms[metric].exec(ref)?.[1]);
    case "code_sim":
      return codeSimilarity(prediction, ref, matchRatio);
    case "code_sim_levenshtein":
      return codeSimilarity(prediction, ref, editRatio);
  }
}

export function longbenchScore(
  metric: LongbenchMetric,
  prediction: string,
  refs: readonly string[],
  facts: ScoreFacts = {},
): number {
  const text = facts.firstLine ? prediction.replace(/^\n+/, "").split("\n")[0]! : prediction;
  return Math.max(0, ...refs.map((ref) => scoreOne(metric, text, ref, facts)));
}

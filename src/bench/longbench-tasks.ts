// The table of LongBench's data sets: kind, language, metric, generation cap, and how the prompt is built and read.
import { KvaError } from "../native/error.ts";
import { match, suggestion } from "../plugin/nearest.ts";
import type { LongbenchMetric } from "./longbench-score.ts";

export const longbenchKinds = ["single-doc", "multi-doc", "summarization", "few-shot", "synthetic", "code"] as const;
export type LongbenchKind = (typeof longbenchKinds)[number];

export interface LongbenchTask {
  /** `qasper`, or `qasper_e` of LongBench-E */
  name: string;
  /** without `_e` */
  dataset: string;
  /** of LongBench-E: scores by three ranges of the record's length */
  extended: boolean;
  kind: LongbenchKind;
  language: "en" | "zh" | "code";
  metric: LongbenchMetric;
  /** tokens to generate */
  cap: number;
  /** put into the model's chat template */
  chat: boolean;
  /** only the first line of the answer counts */
  firstLine: boolean;
  /** an end of line ends the answer, but for its first token */
  stopsAtNewline: boolean;
}

type Entry = [
  name: string,
  kind: LongbenchKind,
  language: LongbenchTask["language"],
  metric: LongbenchMetric,
  cap: number,
];

const entries: readonly Entry[] = [
  ["narrativeqa", "single-doc", "en", "qa_f1", 128],
  ["qasper", "single-doc", "en", "qa_f1", 128],
  ["multifieldqa_en", "single-doc", "en", "qa_f1", 64],
  ["multifieldqa_zh", "single-doc", "zh", "qa_f1_zh", 64],
  ["hotpotqa", "multi-doc", "en", "qa_f1", 32],
  ["2wikimqa", "multi-doc", "en", "qa_f1", 32],
  ["musique", "multi-doc", "en", "qa_f1", 32],
  ["dureader", "multi-doc", "zh", "rouge_zh", 128],
  ["gov_report", "summarization", "en", "rouge", 512],
  ["qmsum", "summarization", "en", "rouge", 512],
  ["multi_news", "summarization", "en", "rouge", 512],
  ["vcsum", "summarization", "zh", "rouge_zh", 512],
  ["trec", "few-shot", "en", "classification", 64],
  ["triviaqa", "few-shot", "en", "qa_f1", 32],
  ["samsum", "few-shot", "en", "rouge", 128],
  ["lsht", "few-shot", "zh", "classification", 64],
  ["passage_count", "synthetic", "en", "count", 32],
  ["passage_retrieval_en", "synthetic", "en", "retrieval", 32],
  ["passage_retrieval_zh", "synthetic", "zh", "retrieval_zh", 32],
  ["lcc", "code", "code", "code_sim", 64],
  ["repobench-p", "code", "code", "code_sim", 64],
];

const inExtended = new Set([
  "qasper",
  "multifieldqa_en",
  "hotpotqa",
  "2wikimqa",
  "gov_report",
  "multi_news",
  "trec",
  "triviaqa",
  "samsum",
  "passage_count",
  "passage_retrieval_en",
  "lcc",
  "repobench-p",
]);

function makeTask([dataset, kind, language, metric, cap]: Entry, extended: boolean): LongbenchTask {
  return {
    name: extended ? `${dataset}_e` : dataset,
    dataset,
    extended,
    kind,
    language,
    metric,
    cap,
    chat: kind !== "few-shot" && kind !== "code",
    firstLine: kind === "few-shot",
    stopsAtNewline: dataset === "samsum",
  };
}

/** the twenty-one data sets, then the thirteen of LongBench-E */
export const longbenchTasks: readonly LongbenchTask[] = [
  ...entries.map((entry) => makeTask(entry, false)),
  ...entries.filter(([name]) => inExtended.has(name)).map((entry) => makeTask(entry, true)),
];

export const longbenchNames: readonly string[] = longbenchTasks.map(({ name }) => name);
/** what a benchmark file without task_names means */
export const longbenchDefaults: readonly string[] = entries.map(([name]) => name);

/** the data set of that name, whatever its case, `-` and `_` */
export function longbenchTask(name: string): LongbenchTask {
  const found = match(name, longbenchNames);
  if (found === undefined) {
    throw new KvaError("usage", `${name} is no data set of LongBench; ${suggestion(name, longbenchNames)}`);
  }
  return longbenchTasks.find((task) => task.name === found)!;
}

/** LongBench-E's ranges of the record's length: words, or characters in Chinese */
export function lengthRange(length: number): "0-4k" | "4-8k" | "8k+" {
  if (length < 4000) return "0-4k";
  return length < 8000 ? "4-8k" : "8k+";
}

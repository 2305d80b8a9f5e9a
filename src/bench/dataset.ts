// The samples of a benchmark file, ready for the engine: generated or loaded, assembled, within the cap on prompt tokens.
import { KvaError } from "../native/error.ts";
import type { BenchmarkConfig } from "./config-schema.ts";
import type { Calibration } from "./fit.ts";
import { findRulerFile, readRulerFile } from "./jsonl.ts";
import { longbenchSamples } from "./longbench.ts";
import { longbenchTask } from "./longbench-tasks.ts";
import { cutSample } from "./longbench-truncate.ts";
import { applyLimit } from "./overflow.ts";
import { type RulerSample, rulerSample } from "./ruler.ts";
import { assemble, type Prompt, type PromptOptions, type Sample, type TextCodec } from "./sample.ts";

export interface Cell {
  task: string;
  /** null: LongBench, whose texts have their own */
  length: number | null;
}

export interface ReadySample {
  sample: Sample;
  prompt: Prompt;
  /** what the engine gets: the prompt's ids, cut where the policy says so */
  ids: number[];
  /** first token of the question in `ids`; null where it is unknown */
  questionStart: number | null;
  truncated: boolean;
}

/** task by task and length by length, in the order of the file */
export function benchmarkCells(config: BenchmarkConfig): Cell[] {
  const lengths = config.benchmark_name === "LongBench" ? [null] : config.length;
  return config.task_names.flatMap((task) => lengths.map((length) => ({ task, length })));
}

export function promptOptions(config: BenchmarkConfig, task: string): PromptOptions {
  const wantsChat = config.benchmark_name !== "LongBench" || longbenchTask(task).chat;
  const listed = (config.no_template_tasks ?? []).some((name) => name === "all" || task.includes(name));
  return {
    template: listed || !wantsChat ? "none" : config.template,
    prefixMode: config.prefix_mode,
    ...(config.fewshot && { fewshot: config.fewshot }),
  };
}

/** Samples of each task and length; Infinity: all that a file holds. */
export function sampleCount({ num_samples, limit }: BenchmarkConfig): number {
  return Math.min(num_samples ?? Infinity, limit ?? Infinity);
}

export interface Range {
  /** ordinals from .. to - 1; default: all */
  from?: number;
  to?: number;
  /** tokens the model can take */
  maxPrompt?: number;
  /** the size of the cell's samples: taken from here where it is known, put here where it is not */
  found?: { calibration?: Calibration };
}

type Wanted = Required<Pick<Range, "from" | "to" | "found">>;

interface RulerCell {
  task: string;
  length: number;
}

function* loaded(config: BenchmarkConfig, { task, length }: RulerCell, { from, to }: Wanted, codec: TextCodec) {
  const path = findRulerFile(config.data_dir!, task, length);
  for (const read of readRulerFile(path, { task, length, limit: to }).slice(from)) {
    const sample = { ...read, maxNewTokens: config.max_new_tokens[task] ?? read.maxNewTokens };
    const prompt = assemble(sample, codec, promptOptions(config, task));
    if (config.view === "context_only" && prompt.questionStart === null) {
      throw new KvaError(
        "data",
        `${path}: it is not known where the question of ${sample.id} begins, which view context_only needs; use question_aware`,
      );
    }
    yield { sample, prompt };
  }
}

function* generated(
  config: BenchmarkConfig,
  { task, length }: RulerCell,
  { from, to, found }: Wanted,
  codec: TextCodec,
) {
  const params = { ...config.params[task] };
  if (task.startsWith("qa") && config.shuffle_questions) params.shuffleQuestions ??= true;
  if (config.questions > 1) params.questions ??= config.questions;
  const maxNewTokens = config.max_new_tokens[task];
  const request = {
    task,
    length,
    seed: config.seed,
    params,
    codec,
    prompt: promptOptions(config, task),
    ...(config.data_dir !== null && { dataDir: config.data_dir }),
    ...(maxNewTokens !== undefined && { maxNewTokens }),
  };
  for (let ordinal = from; ordinal < to; ordinal++) {
    const made = rulerSample({ ...request, ...found }, ordinal);
    found.calibration = made.calibration;
    yield made;
  }
}

function withinLimit(
  { sample, prompt }: Pick<RulerSample, "sample" | "prompt">,
  limit: number,
  config: BenchmarkConfig,
): ReadySample | null {
  const fitted = applyLimit(sample.id, prompt.ids, limit, config.on_overflow);
  if (fitted === null) return null;
  const removed = prompt.ids.length - fitted.ids.length;
  const kept = removed === 0 || (prompt.questionStart ?? 0) >= prompt.ids.length - Math.floor(limit / 2);
  const questionStart = prompt.questionStart !== null && kept ? prompt.questionStart - removed : null;
  return { sample, prompt, ids: fitted.ids, questionStart, truncated: fitted.truncated };
}

function* ofLongbench(
  config: BenchmarkConfig,
  task: string,
  { from, to }: Wanted,
  codec: TextCodec,
  maxPrompt: number,
) {
  const request = {
    task,
    dataDir: config.data_dir,
    promptFile: config.prompt_file,
    seed: config.seed,
    levenshtein: config.code_sim === "levenshtein",
    ...(config.max_new_tokens[task] !== undefined && { maxNewTokens: config.max_new_tokens[task] }),
  };
  const limit = { text: config.max_length ?? Infinity, prompt: maxPrompt, how: config.truncate };
  for (const sample of longbenchSamples(request, from, to)) {
    const ready = cutSample(sample, codec, promptOptions(config, task), limit);
    if (ready.truncated && config.on_overflow === "skip") continue;
    if (ready.truncated && config.on_overflow === "error") {
      throw new KvaError(
        "data",
        `${sample.id}: the prompt has ${ready.prompt.ids.length} tokens, which is over the limit; raise max_length, or set ` +
          "on_overflow to truncate_middle or skip",
      );
    }
    yield ready;
  }
}

/** The samples of a cell, one at a time. */
export function* cellSamples(
  config: BenchmarkConfig,
  { task, length }: Cell,
  codec: TextCodec,
  { from = 0, to = sampleCount(config), maxPrompt = Infinity, found = {} }: Range = {},
): Generator<ReadySample> {
  if (length === null) return yield* ofLongbench(config, task, { from, to, found }, codec, maxPrompt);
  const make = config.build_data ? generated : loaded;
  for (const made of make(config, { task, length }, { from, to, found }, codec)) {
    const ready = withinLimit(made, Math.min(maxPrompt, config.max_length ?? Infinity), config);
    if (ready !== null) yield ready;
  }
}

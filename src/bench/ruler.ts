// RULER's thirteen tasks with built-in sources: parameters, and samples that fill a token budget.
import { KvaError } from "../native/error.ts";
import { type CweParams, cweCounts, cweGenerator } from "./cwe.ts";
import type { Generator } from "./draft.ts";
import { type Calibration, calibrate, type FitRequest, fit } from "./fit.ts";
import { type FweParams, fweGenerator } from "./fwe.ts";
import { type NiahParams, niahGenerator } from "./niah.ts";
import { stream } from "./prng.ts";
import { type QaParams, qaGenerator } from "./qa.ts";
import { builtinQa } from "./qa-source.ts";
import { checkParams, type RulerTask, rulerTask, shortestLength, type TaskParams } from "./ruler-tasks.ts";
import type { Prompt, PromptOptions, Sample, TextCodec } from "./sample.ts";
import { tokenOffset } from "./sample.ts";
import { userEssay, userQa, userWords } from "./sources.ts";
import { type VtParams, vtGenerator } from "./vt.ts";
import { builtinVocabulary } from "./words.ts";

export interface RulerRequest {
  task: string;
  /** total tokens: prompt and generation cap */
  length: number;
  seed: number;
  /** overrides of the task's parameters */
  params?: TaskParams;
  codec: TextCodec;
  prompt: PromptOptions;
  /** replaces the generation cap */
  maxNewTokens?: number;
  /** a user's directory with corpora to use instead of the built-in ones */
  dataDir?: string;
  /** of an earlier sample of the same request; absent: found, once for each tokenizer */
  calibration?: Calibration;
}

export interface RulerSample {
  sample: Sample;
  prompt: Prompt;
  calibration: Calibration;
}

const officialFrom = 4096; // shorter samples have a cap made for their own answer
const answerSlack = 8;

const essays = new Map<string, string[] | undefined>();

/** the words of a user's essays */
function essayWords(dir: string): string[] | undefined {
  if (!essays.has(dir))
    essays.set(
      dir,
      userEssay(dir)
        ?.split(/\s+/)
        .filter((word) => word !== ""),
    );
  return essays.get(dir);
}

function makeGenerator(task: RulerTask, params: TaskParams, request: RulerRequest, ordinal: number): Generator {
  const { dataDir, seed } = request;
  const essay = dataDir === undefined ? undefined : essayWords(dataDir);
  const words = dataDir === undefined ? builtinVocabulary : userWords(dataDir);
  switch (task.generator) {
    case "niah":
      return niahGenerator(params as unknown as NiahParams, words, essay);
    case "vt":
      return vtGenerator(params as unknown as VtParams, essay);
    case "cwe":
      return cweGenerator({ ...cweCounts(request.length), ...params } as unknown as CweParams, request.length, words);
    case "fwe":
      return fweGenerator(params as unknown as FweParams, request.length - (request.maxNewTokens ?? task.cap));
    case "qa": {
      const qa = params as unknown as QaParams;
      const own = dataDir === undefined ? undefined : userQa(dataDir, qa.dataset);
      return qaGenerator(qa, own ?? builtinQa(qa.dataset, seed), seed, ordinal);
    }
  }
}

const calibrations = new WeakMap<TextCodec, Map<string, Calibration>>();

/** Cached for each tokenizer, task, length, parameters and form of the prompt; never dependent on the first sample made. */
function calibration(request: RulerRequest, task: RulerTask, params: TaskParams, fitting: FitRequest) {
  const cache = calibrations.get(request.codec) ?? new Map<string, Calibration>();
  calibrations.set(request.codec, cache);
  const { length, prompt, maxNewTokens, dataDir } = request;
  const world = task.generator === "qa" ? request.seed : null; // its documents are drawn from the seed
  const key = JSON.stringify([task.name, length, params, prompt, maxNewTokens, dataDir, world]);
  const known = cache.get(key);
  if (known !== undefined) return known;
  const generator = makeGenerator(task, params, request, 0);
  const made = calibrate({ ...fitting, generator }, () => stream("calibration", task.name, length));
  cache.set(key, made);
  return made;
}

/** a reference answer that the question already says would be found in any answer that repeats it */
function givesAway(question: string, refs: string[]): boolean {
  const asked = question.toLowerCase();
  return refs.some((ref) => asked.includes(ref.toLowerCase()));
}

/** Sample number `ordinal`, the same whatever others are made, in whatever order. */
export function rulerSample(request: RulerRequest, ordinal: number): RulerSample {
  const { length, seed, codec } = request;
  if (!Number.isInteger(length) || length < shortestLength) {
    throw new KvaError(
      "data",
      `${request.task}: length is ${length}; it must be a whole number of at least ${shortestLength}`,
    );
  }
  const task = rulerTask(request.task);
  const params = { ...task.params, ...checkParams(task, request.params ?? {}) };
  const officialCap = length >= officialFrom ? task.cap : 0;
  const fitting: FitRequest = {
    task: task.name,
    generator: makeGenerator(task, params, request, ordinal),
    length,
    codec,
    options: request.prompt,
    cap: (answerTokens) => request.maxNewTokens ?? Math.max(answerTokens + answerSlack, officialCap),
  };
  const size = request.calibration ?? calibration(request, task, params, fitting);
  for (let draw = 0; ; draw++) {
    const { draft, prompt, units, cap } = fit(fitting, size, () => stream(seed, task.name, length, ordinal, draw));
    const { needles, answer, ...parts } = draft;
    const asked = [parts, ...(parts.followUps ?? [])];
    if (task.generator !== "qa" && asked.some((one) => givesAway(one.question + one.opening, one.refs))) continue;
    const contextStart = prompt.userStart === null ? null : prompt.userStart + parts.lead.length;
    const depths =
      contextStart === null
        ? []
        : needles.map((at) => tokenOffset(prompt.text, prompt.ids, contextStart + at, prompt.encode));
    const sample: Sample = {
      id: `${task.name}/${length}/${ordinal}`,
      task: task.name,
      length,
      source: "builtin",
      ...parts,
      maxNewTokens: cap,
      metric: task.metric,
      meta: { seed, params, units, answer, depths, promptTokens: prompt.ids.length },
    };
    return { sample, prompt, calibration: size };
  }
}

/** Samples 0 .. samples - 1 of a task at a length. */
export function generateRuler(request: RulerRequest & { samples: number }): Sample[] {
  return Array.from({ length: request.samples }, (_, ordinal) => rulerSample(request, ordinal).sample);
}

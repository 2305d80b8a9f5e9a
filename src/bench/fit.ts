// Makes a sample as large as its token budget allows: a calibrated size for the task, then one check for each sample.
import { KvaError } from "../native/error.ts";
import type { Draft, DraftContext, Generator } from "./draft.ts";
import type { Prng } from "./prng.ts";
import { assemble, type Prompt, type PromptOptions, type TextCodec } from "./sample.ts";

export interface FitRequest {
  task: string;
  generator: Generator;
  /** the total budget: prompt and generation cap */
  length: number;
  codec: TextCodec;
  options: PromptOptions;
  /** the generation cap of a draft whose answer has so many tokens */
  cap(answerTokens: number): number;
}

export interface Fitted {
  draft: Draft;
  prompt: Prompt;
  units: number;
  cap: number;
}

/** A task's size at a length, found on a sample of its own. */
export interface Calibration {
  units: number;
  tokensPerUnit: number;
}

/** tokens a piece of text adds inside a prompt */
function countTokens(codec: TextCodec, text: string): number {
  return codec.encode(text, { special: false }).length;
}

function measure(request: FitRequest, units: number, rng: Prng): Fitted & { excess: number } {
  const { generator, length, codec, options } = request;
  const context: DraftContext = { length, countTokens: (text) => countTokens(codec, text) };
  const draft = generator.draft(units, rng, context);
  const prompt = assemble({ ...draft, source: "builtin", meta: {} }, codec, options);
  const answerTokens = countTokens(codec, draft.opening + draft.answer) - countTokens(codec, draft.opening);
  const cap = request.cap(answerTokens);
  const later = (draft.followUps ?? []).map(
    ({ question, opening }) => answerTokens + countTokens(codec, `${question}\n${opening}`),
  );
  return { draft, prompt, units, cap, excess: prompt.ids.length + Math.max(0, ...later) + cap - length };
}

function tooShort({ task, generator, length }: FitRequest, excess: number): KvaError {
  const { unit, minUnits } = generator;
  return new KvaError(
    "data",
    `${task} at length ${length}: the smallest sample (${minUnits} ${unit}) needs a length of ${length + excess} tokens`,
  );
}

const slack = 0.003; // of the budget left free in calibration, so that few samples must be made a second time
const firstStep = 32; // units; further steps at most quadruple the size, for a guess from two small samples may be far off

type Measured = Pick<Fitted, "units"> & { excess: number };

/** tokens per unit between two sizes; undefined where they are so close that a single sentence decides */
function slope(a: Measured, b: Measured): number | undefined {
  const distance = Math.abs(a.units - b.units);
  if (distance < Math.max(8, 0.02 * a.units)) return undefined;
  return Math.max(0.01, (a.excess - b.excess) / (a.units - b.units));
}

/** The largest size that fits a calibration sample: interpolation inside a bracket, every third step its middle. */
export function calibrate(request: FitRequest, fresh: () => Prng): Calibration {
  const { generator, length } = request;
  const goal = Math.floor(slack * length);
  const most = generator.maxUnits ?? Number.MAX_SAFE_INTEGER;
  let fits: Measured = measure(request, generator.minUnits, fresh());
  if (fits.excess > 0) throw tooShort(request, fits.excess);
  let over: Measured | undefined;
  let rate = 1;
  let next = Math.min(most, fits.units + firstStep);
  for (let tries = 1; next > fits.units; tries++) {
    const tried = measure(request, next, fresh());
    rate = slope(tried, fits) ?? (over && slope(tried, over)) ?? rate;
    if (tried.excess > 0) over = tried;
    else fits = tried;
    if (fits.units >= most || -fits.excess <= goal + rate) break;
    const inside = over ? (over.excess - fits.excess) / (over.units - fits.units) : rate;
    const step = Math.min(Math.floor((-fits.excess - goal / 2) / inside), 3 * fits.units + firstStep);
    const guess = fits.units + Math.max(1, step);
    const middle = over && tries % 3 === 0 ? Math.floor((fits.units + over.units) / 2) : guess;
    next = Math.min(over ? over.units - 1 : most, middle);
  }
  const units = -fits.excess >= goal ? fits.units : Math.floor(fits.units - (goal + fits.excess) / rate);
  return { units: Math.max(generator.minUnits, units), tokensPerUnit: rate };
}

const enough = 0.97; // of the budget; a sample below it is made larger once

/** The sample whose random numbers `fresh` gives, within budget. */
export function fit(request: FitRequest, calibration: Calibration, fresh: () => Prng): Fitted {
  const { generator, length } = request;
  const { tokensPerUnit } = calibration;
  const most = generator.maxUnits ?? Number.MAX_SAFE_INTEGER;
  let { units } = calibration;
  let grown: Fitted | undefined;
  for (;;) {
    const made = measure(request, units, fresh());
    if (made.excess > 0) {
      if (grown) return grown;
      if (units <= generator.minUnits) throw tooShort(request, made.excess);
      units = Math.max(generator.minUnits, units - Math.max(1, Math.ceil(made.excess / tokensPerUnit)));
      continue;
    }
    const room = Math.floor((-made.excess - slack * length) / tokensPerUnit);
    if (grown || length + made.excess >= enough * length || room < 1 || units >= most) return made;
    grown = made;
    units = Math.min(most, units + room);
  }
}

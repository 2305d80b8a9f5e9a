// The table of RULER's tasks: generator, parameters with their checks, generation cap, metric.
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { match, suggestion } from "../plugin/nearest.ts";
import type { Metric } from "./sample.ts";

export type TaskParams = Record<string, unknown>;

const whole = (min: number, max: number) => {
  const text = `must be a whole number from ${min} to ${max}`;
  return v.pipe(v.number(text), v.integer(text), v.minValue(min, text), v.maxValue(max, text));
};
const choice = <const T extends readonly string[]>(options: T) =>
  v.picklist(options, `must be one of ${options.join(", ")}`);

const valueKinds = ["words", "numbers", "uuids"] as const;
const repeat = v.pipe(
  choice(["repeat", "noise", "essay", "needle"]),
  v.transform((name) => (name === "noise" ? "repeat" : name)),
);

/** every parameter of a generator */
const schemas = {
  niah: {
    typeHaystack: repeat,
    typeNeedleK: choice(valueKinds),
    typeNeedleV: choice(valueKinds),
    numNeedleK: whole(1, 1000),
    numNeedleV: whole(1, 1000),
    numNeedleQ: whole(1, 1000),
    questions: whole(1, 100),
  },
  vt: {
    typeHaystack: v.pipe(
      choice(["repeat", "noise", "essay"]),
      v.transform((name) => (name === "noise" ? "repeat" : name)),
    ),
    numChains: whole(1, 1000),
    numHops: whole(1, 100),
    questions: whole(1, 100),
  },
  cwe: { freqCw: whole(1, 10000), freqUcw: whole(1, 10000), numCw: whole(1, 1000) },
  fwe: {
    alpha: v.pipe(
      v.number("must be a number above 1"),
      v.gtValue(1, "must be a number above 1"),
      v.maxValue(10, "must be at most 10"),
    ),
  },
  qa: { dataset: choice(["squad", "hotpotqa"]), shuffleQuestions: v.boolean("must be true or false") },
} as const;

export interface RulerTask {
  name: string;
  generator: keyof typeof schemas;
  /** the official values; cwe's counts depend on the length */
  params: TaskParams;
  /** tokens to generate */
  cap: number;
  metric: Metric;
}

function niah(
  name: string,
  typeHaystack: string,
  kinds: [string, string],
  counts: [number, number, number],
): RulerTask {
  const [typeNeedleK, typeNeedleV] = kinds;
  const [numNeedleK, numNeedleV, numNeedleQ] = counts;
  const params = { typeHaystack, typeNeedleK, typeNeedleV, numNeedleK, numNeedleV, numNeedleQ, questions: 1 };
  return { name, generator: "niah", params, cap: 128, metric: "string_match_all" };
}

export const rulerTasks: readonly RulerTask[] = [
  niah("niah_single_1", "repeat", ["words", "numbers"], [1, 1, 1]),
  niah("niah_single_2", "essay", ["words", "numbers"], [1, 1, 1]),
  niah("niah_single_3", "essay", ["words", "uuids"], [1, 1, 1]),
  niah("niah_multikey_1", "essay", ["words", "numbers"], [4, 1, 1]),
  niah("niah_multikey_2", "needle", ["words", "numbers"], [1, 1, 1]),
  niah("niah_multikey_3", "needle", ["uuids", "uuids"], [1, 1, 1]),
  niah("niah_multivalue", "essay", ["words", "numbers"], [1, 4, 1]),
  niah("niah_multiquery", "essay", ["words", "numbers"], [4, 1, 4]),
  {
    name: "vt",
    generator: "vt",
    params: { typeHaystack: "repeat", numChains: 1, numHops: 4, questions: 1 },
    cap: 30,
    metric: "string_match_all",
  },
  { name: "cwe", generator: "cwe", params: { numCw: 10 }, cap: 120, metric: "string_match_all" },
  { name: "fwe", generator: "fwe", params: { alpha: 2 }, cap: 50, metric: "string_match_all" },
  {
    name: "qa_1",
    generator: "qa",
    params: { dataset: "squad", shuffleQuestions: false },
    cap: 32,
    metric: "string_match_part",
  },
  {
    name: "qa_2",
    generator: "qa",
    params: { dataset: "hotpotqa", shuffleQuestions: false },
    cap: 32,
    metric: "string_match_part",
  },
];

export const rulerTaskNames: readonly string[] = rulerTasks.map(({ name }) => name);
export const shortestLength = 512;
export const standardLengths: readonly number[] = [4096, 8192, 16384, 32768, 65536, 131072];

/** the task of that name, whatever its case, `-` and `_` */
export function rulerTask(name: string): RulerTask {
  const found = match(name, rulerTaskNames);
  if (found === undefined) {
    throw new KvaError("usage", `${name} is no RULER task; ${suggestion(name, rulerTaskNames)}`);
  }
  return rulerTasks.find((task) => task.name === found)!;
}

export interface ParamIssue {
  /** as it was written */
  key: string;
  message: string;
}

/** `given` with its keys as we spell them, or what is wrong with the first bad one */
export function readParams(task: RulerTask, given: TaskParams): { params: TaskParams } | { issue: ParamIssue } {
  const schema: Record<string, v.GenericSchema> = schemas[task.generator];
  const params: TaskParams = {};
  for (const [key, value] of Object.entries(given)) {
    const known = match(key, Object.keys(schema));
    if (known === undefined) {
      return { issue: { key, message: `${task.name} has no such parameter; ${suggestion(key, Object.keys(schema))}` } };
    }
    const result = v.safeParse(schema[known]!, value);
    if (!result.success) return { issue: { key, message: result.issues[0].message } };
    params[known] = result.output;
  }
  return { params };
}

/** `given` checked; the error names task and key */
export function checkParams(task: RulerTask, given: TaskParams): TaskParams {
  const read = readParams(task, given);
  if ("params" in read) return read.params;
  throw new KvaError("usage", `${task.name}: ${read.issue.key}: ${read.issue.message}`);
}

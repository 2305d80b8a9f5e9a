// The wizard's questions about model, devices, precision, compositions, benchmark, lengths and samples.
import { shortestLength } from "../bench/ruler-tasks.ts";
import { KvaError } from "../native/error.ts";
import { whyNot } from "../plugin/compose.ts";
import type { LoadedPlugin } from "../plugin/loader.ts";
import type { Answer, BenchmarkChoice, Check, ModelFacts, Question, WizardFacts } from "./wizard-types.ts";

export type Answers = Readonly<Record<string, Answer>>;

/** The message of a KvaError, as a prompt shows it; undefined where `work` succeeds. */
export function sentence(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof KvaError) return error.message;
    throw error;
  }
}

export function modelPath(given: Answers): string {
  return String(given.model === "other" ? given.model_path : given.model);
}

export function modelOf(facts: WizardFacts, given: Answers): ModelFacts {
  return facts.readModel(modelPath(given));
}

const lastRun = "last";
const newRun = "new";

/** Where there are earlier answers or named setups: what to start from. */
export function fromQuestion(facts: WizardFacts, before: Answers): Question | undefined {
  const remembered = [before.methods ?? []].flat();
  const known = before.model !== undefined;
  if (!known && facts.setups.length === 0) return undefined;
  const methods = remembered.length > 0 ? remembered.join(", ") : "Full";
  const last = {
    value: lastRun,
    label: "as last time",
    hint: `${methods} · ${before.benchmark} · ${modelPath(before)}`,
  };
  const choices = [
    ...(known ? [last] : []),
    {
      value: newRun,
      label: "question by question",
      hint: known ? "starting from the last answers" : "from the beginning",
    },
    ...facts.setups,
  ];
  return { kind: "one", id: "from", message: "Start", choices, initial: choices[0]!.value };
}

/** The answers that a choice of `fromQuestion` gives to the questions after it; undefined: they are asked. */
export function answersFrom(facts: WizardFacts, choice: Answer, before: Answers): Answers | undefined {
  if (choice === newRun) return undefined;
  return choice === lastRun ? before : facts.readSetup?.(String(choice));
}

export function* setupQuestions(facts: WizardFacts, given: Answers, before: Answers): Generator<Question> {
  yield {
    kind: "one",
    id: "model",
    message: "Model",
    choices: [
      ...facts.models,
      { value: "other", label: "another", hint: "a directory with config.json and weights, or a GGUF file" },
    ],
    initial: initial(before.model, facts.models[0]?.value),
  };
  if (given.model === "other") {
    const check: Check<string> = (path) => sentence(() => facts.readModel(path));
    const start = String(before.model_path ?? `${process.cwd()}/`);
    yield {
      kind: "path",
      id: "model_path",
      message: "Model directory or GGUF file",
      directory: false,
      initial: start,
      check,
    };
  }
  yield deviceQuestion(facts, before);
  const devices = [given.device ?? []].flat();
  const gpus = facts.devices.filter((device) => device.gpu && devices.includes(device.value));
  if (gpus.length > 0) yield copiesQuestion(before, gpus.length);
  if (given.device !== undefined) yield dtypeQuestion(facts, given, before);
}

function initial(answer: Answer | undefined, fallback: string | undefined): string | undefined {
  return typeof answer === "string" ? answer : fallback;
}

function deviceQuestion(facts: WizardFacts, before: Answers): Question {
  const values = facts.devices.map((device) => device.value);
  const gpus = facts.devices.filter((device) => device.gpu).map((device) => device.value);
  const last = [before.device ?? []].flat().filter((value) => values.includes(value));
  const preset = last.length > 0 ? last : gpus.length > 0 ? gpus : values.slice(0, 1);
  const common = { id: "device", message: "Device", choices: facts.devices };
  if (values.length === 1) return { ...common, kind: "one", initial: preset[0] };
  const check: Check<string[]> = (chosen) =>
    chosen.some((value) => gpus.includes(value)) && !chosen.every((value) => gpus.includes(value))
      ? "GPUs and the CPU do not run together: choose the one or the other"
      : undefined;
  return { ...common, message: "Devices", kind: "many", initial: preset, required: true, check };
}

function copiesQuestion(before: Answers, gpus: number): Question {
  const shared = [2, 4, 8].filter((size) => size <= gpus && gpus % size === 0);
  const choices = [
    { value: "1", label: "1", hint: "one copy of the model on each GPU" },
    ...shared.map((size) => ({
      value: `${size}`,
      label: `${size}`,
      hint: `the layers of a copy split over ${size} GPUs`,
    })),
    { value: "1/2", label: "1/2", hint: "two workers on each GPU, which share its weights" },
  ];
  return {
    kind: "one",
    id: "gp_num",
    message: "GPUs per model (gp_num)",
    choices,
    initial: initial(before.gp_num, "1"),
  };
}

function dtypeQuestion(facts: WizardFacts, given: Answers, before: Answers): Question {
  const own = modelOf(facts, given).dtype;
  const choices = ["bfloat16", "float16", "float32"].map((value) => ({
    value,
    label: value,
    ...(value === own ? { hint: "as the checkpoint" } : {}),
  }));
  return { kind: "one", id: "torch_dtype", message: "Precision", choices, initial: initial(before.torch_dtype, own) };
}

/** Compositions that are allowed among the chosen methods, shortest first. */
export function compositions(chosen: readonly LoadedPlugin[]): string[] {
  let all: LoadedPlugin[][] = [[]];
  for (const loaded of chosen) {
    const longer = all.filter((set) => set.every((other) => whyNot(other, loaded) === undefined));
    all = [...all, ...longer.map((set) => [...set, loaded])];
  }
  return all
    .filter((set) => set.length > 1)
    .sort((a, b) => a.length - b.length)
    .map((set) => set.map((loaded) => loaded.plugin.name).join("+"));
}

export function compositionQuestion(chosen: readonly LoadedPlugin[], before: Answers): Question | undefined {
  const choices = compositions(chosen);
  if (choices.length === 0) return undefined;
  const last = [before.compositions ?? []].flat().filter((text) => choices.includes(text));
  return {
    kind: "many",
    id: "compositions",
    message: "Also together",
    choices: choices.map((value) => ({ value, label: value })),
    initial: last,
    required: false,
  };
}

/** The benchmark that was chosen; the first one before that. */
export function benchmarkOf(facts: WizardFacts, given: Answers): BenchmarkChoice {
  if (given.benchmark === "own") return facts.readBenchmark(String(given.cfg_path));
  return facts.benchmarks.find((one) => one.value === given.benchmark) ?? facts.benchmarks[0]!;
}

/** Lengths and samples are remembered for each benchmark. */
export function stepOf(benchmark: Pick<BenchmarkChoice, "value">, key: "length" | "num_samples"): string {
  return `${benchmark.value}.${key}`;
}

export function* runQuestions(facts: WizardFacts, given: Answers, before: Answers): Generator<Question> {
  yield {
    kind: "one",
    id: "benchmark",
    message: "Benchmark",
    choices: [...facts.benchmarks, { value: "own", label: "my own", hint: "a YAML file" }],
    initial: initial(before.benchmark, facts.benchmarks[0]?.value),
  };
  if (given.benchmark === "own") {
    const check: Check<string> = (path) => sentence(() => facts.readBenchmark(path));
    const start = String(before.cfg_path ?? `${process.cwd()}/`);
    yield { kind: "path", id: "cfg_path", message: "Benchmark file", directory: false, initial: start, check };
  }
  if (given.benchmark === undefined) return;
  const benchmark = benchmarkOf(facts, given);
  if (benchmark.lengths.length > 0) {
    const { contextLength } = modelOf(facts, given);
    const fitting = benchmark.lengths.filter((length) => length <= contextLength);
    const own = (fitting.length > 0 ? fitting : [contextLength]).join(",");
    const check: Check<string> = (text) => lengthsProblem(text, contextLength);
    const id = stepOf(benchmark, "length");
    yield { kind: "text", id, message: "Lengths in tokens", initial: initial(before[id], own) ?? own, check };
  }
  const id = stepOf(benchmark, "num_samples");
  const start = initial(before[id], undefined) ?? String(benchmark.samples);
  const check: Check<string> = (text) =>
    /^\s*[1-9]\d*\s*$/.test(text) ? undefined : "must be a whole number of at least 1";
  yield { kind: "text", id, message: "Samples per task and length", initial: start, check };
}

function lengthsProblem(text: string, contextLength: number): string | undefined {
  for (const word of text.trim().split(/[\s,]+/)) {
    const length = Number(word);
    if (!Number.isSafeInteger(length) || length < shortestLength || word === "") {
      return `each length must be a whole number of at least ${shortestLength}, not ${JSON.stringify(word)}`;
    }
    if (length > contextLength) return `${length} is more than the ${contextLength} tokens that the model takes`;
  }
  return undefined;
}

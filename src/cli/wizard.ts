// The wizard's conversation as a pure state machine: facts and answers so far to the next question, and to flags of `accel run`.
import { dirname } from "node:path";
import { ownPlugins } from "../plugin/loader.ts";
import { methodsRun, methodTexts, paramQuestions, setTexts } from "./wizard-params.ts";
import {
  answersFrom,
  benchmarkOf,
  compositionQuestion,
  fromQuestion,
  modelOf,
  modelPath,
  runQuestions,
  sentence,
  setupQuestions,
  stepOf,
} from "./wizard-questions.ts";
import { summaryLines } from "./wizard-summary.ts";
import type { Answer, Question, WizardFacts, WizardFlags } from "./wizard-types.ts";

export interface WizardState {
  facts: WizardFacts;
  /** every answer given so far, also those of steps that were gone back over: they are the initial values */
  answers: Readonly<Record<string, Answer>>;
  /** steps answered, in order */
  trail: readonly string[];
  /** the answers of an earlier conversation */
  remembered: Readonly<Record<string, Answer>>;
}

/** A conversation from its start; `remembered` are the answers of an earlier one. */
export function begin(facts: WizardFacts, remembered: Readonly<Record<string, Answer>> = {}): WizardState {
  return { facts, answers: remembered, trail: [], remembered };
}

/** Questions in their order, made when they are reached: what follows depends on the answers before. */
function* questions({ facts, answers, trail, remembered }: WizardState): Generator<Question> {
  // answers beyond the trail are only initial values: they must not decide which questions come
  const given = Object.fromEntries(trail.map((id) => [id, answers[id]!]));
  const from = fromQuestion(facts, remembered);
  if (from !== undefined) yield from;
  yield* setupQuestions(facts, given, answers);
  const { family } = modelOf(facts, given).info;
  yield { kind: "methods", id: "methods", message: "Methods, beside Full", family, initial: list(answers.methods) };
  const composition = compositionQuestion(methodsRun(facts, given), answers);
  if (composition !== undefined) yield composition;
  yield* paramQuestions(facts, given, answers);
  yield* runQuestions(facts, given, answers);
  yield summaryQuestion({ facts, answers, trail, remembered });
}

const list = (answer: Answer | undefined): string[] => (Array.isArray(answer) ? answer : []);

function summaryQuestion(state: WizardState): Question {
  let lines: string[] = [];
  const wrong = sentence(() => {
    lines = summaryLines(state.facts, flagsOf(state));
  });
  const choices = [
    { value: "yes", label: "Start the run" },
    ...(state.facts.saveSetup ? [{ value: "save", label: "Save as a named setup", hint: "and come back here" }] : []),
    { value: "back", label: "Go back", hint: "Esc does the same at every question" },
    { value: "no", label: "End without a run" },
  ];
  return {
    kind: "one",
    id: "start",
    message: wrong === undefined ? "Start?" : "This cannot run:",
    note: { title: "Summary", lines: wrong === undefined ? lines : [wrong] },
    choices: wrong === undefined ? choices : choices.filter(({ value }) => value === "back" || value === "no"),
  };
}

/** The next question; undefined when all are answered. */
export function nextQuestion(state: WizardState): Question | undefined {
  let at = 0;
  for (const question of questions(state)) {
    if (question.id !== state.trail[at]) return question;
    at += 1;
  }
  return undefined;
}

/** Why an answer is not accepted; undefined where it is. */
export function problem(question: Question, answer: Answer): string | undefined {
  if (question.kind === "text" || question.kind === "path") return question.check(String(answer));
  if (question.kind === "many") {
    if (question.required && answer.length === 0) return "choose at least one";
    return question.check?.(list(answer));
  }
  return undefined;
}

/** The state after an answer to `nextQuestion(state)`. */
export function answered(state: WizardState, question: Question, answer: Answer): WizardState {
  const next = {
    ...state,
    answers: { ...state.answers, [question.id]: answer },
    trail: [...state.trail, question.id],
  };
  if (question.id !== "from") return next;
  const known = answersFrom(state.facts, answer, state.remembered);
  return known === undefined ? next : replayed({ ...next, answers: { ...next.answers, ...known } }, known);
}

/** Takes known answers for the questions to come, up to the summary or to the first that has none or a wrong one. */
function replayed(state: WizardState, known: Readonly<Record<string, Answer>>): WizardState {
  for (let now = state; ; ) {
    const question = nextQuestion(now);
    const answer = question && known[question.id];
    if (question === undefined || question.id === "start" || answer === undefined) return now;
    if (problem(question, answer) !== undefined || !offered(question, answer)) return now;
    now = answered(now, question, answer);
  }
}

/** Whether an earlier answer is still among the choices. */
function offered(question: Question, answer: Answer): boolean {
  if (question.kind !== "one" && question.kind !== "many") return true;
  const values = question.choices.map((choice) => choice.value);
  return (
    [answer].flat().every((value) => values.includes(value)) && (question.kind === "one") === !Array.isArray(answer)
  );
}

/** One question back; undefined at the first. */
export function back(state: WizardState): WizardState | undefined {
  return state.trail.length === 0 ? undefined : { ...state, trail: state.trail.slice(0, -1) };
}

/** The answers given as flags of `accel run`. */
export function flagsOf({ facts, answers, trail }: WizardState): WizardFlags {
  const given = Object.fromEntries(trail.map((id) => [id, answers[id]!]));
  const sets = setTexts(facts, given);
  const benchmark = benchmarkOf(facts, given);
  const lengths = given[stepOf(benchmark, "length")];
  const folders = [...new Set(methodsRun(facts, given).map((loaded) => dirname(loaded.file)))].filter(
    (folder) => folder !== ownPlugins,
  );
  return {
    model_path: modelPath(given),
    device: Array.isArray(given.device) ? given.device : [String(given.device)],
    ...(given.gp_num === undefined ? {} : { gp_num: String(given.gp_num) }),
    torch_dtype: String(given.torch_dtype),
    acceleration: methodTexts(facts, given),
    ...(sets.length > 0 ? { set: sets } : {}),
    cfg_path: benchmark.value,
    ...(lengths === undefined
      ? {}
      : {
          length: String(lengths)
            .trim()
            .split(/[\s,]+/),
        }),
    num_samples: Number(given[stepOf(benchmark, "num_samples")] ?? benchmark.samples),
    ...(folders.length > 0 ? { plugin_dir: folders } : {}),
  };
}

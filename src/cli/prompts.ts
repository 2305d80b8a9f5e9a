// Draws the wizard's questions with @clack/prompts on any terminal and reads the answers: one conversation, from start to flags.
import { styleText } from "node:util";
import {
  autocompleteMultiselect,
  intro,
  isCancel,
  multiselect,
  note,
  outro,
  path,
  S_BAR,
  select,
  text,
} from "@clack/prompts";
import { askMethods } from "./method-prompt.ts";
import { wrap } from "./methods-text.ts";
import { Screen, type Terminal, watchEscape } from "./screen.ts";
import { answered, back, begin, flagsOf, nextQuestion, problem, type WizardState } from "./wizard.ts";
import type { Answer, Question, WizardFacts, WizardFlags } from "./wizard-types.ts";

export type WizardOutcome =
  /** `answers` are to be remembered for the next time */
  | { end: "start"; flags: WizardFlags; answers: Readonly<Record<string, Answer>> }
  /** Ctrl-C, or Esc at the first question: exit code 130 */
  | { end: "cancelled" }
  /** "End without a run" */
  | { end: "declined"; answers: Readonly<Record<string, Answer>> };

/** One question; a symbol where it was left. */
async function ask(
  question: Question,
  facts: WizardFacts,
  screen: Screen,
  input: Terminal["input"],
): Promise<Answer | symbol> {
  const common = { message: question.message, input, output: screen };
  const check = (answer: string | undefined): string | undefined => problem(question, answer ?? "");
  switch (question.kind) {
    case "one":
      if (question.note) showNote(question.note, screen);
      return select({ ...common, options: question.choices, initialValue: question.initial, showInstructions: false });
    case "many":
      return askMany(question, screen, input);
    case "methods":
      return askMethods(question, facts.registry, screen, input);
    case "text":
      return text({
        ...common,
        message: wrapped(question.message, screen),
        initialValue: question.initial,
        validate: check,
      });
    case "path":
      return path({ ...common, directory: question.directory, initialValue: question.initial, validate: check });
  }
}

/** Lists longer than this can be searched by typing. */
const searchFrom = 15;

/** A list of which the answer is asked again until it does. */
async function askMany(
  question: Extract<Question, { kind: "many" }>,
  screen: Screen,
  input: Terminal["input"],
): Promise<string[] | symbol> {
  const start = screen.row;
  let initialValues = question.initial;
  let message = question.message;
  for (;;) {
    const options = question.choices;
    const asked = { message, options, initialValues, required: question.required, input, output: screen };
    const answer = await (options.length > searchFrom ? autocompleteMultiselect(asked) : multiselect(asked));
    if (isCancel(answer)) return answer;
    const wrong = problem(question, answer);
    if (wrong === undefined) return answer;
    screen.rewind(start);
    initialValues = answer;
    message = `${question.message}: ${wrong}`;
  }
}

/** text() does not wrap its message itself, as select() does. */
function wrapped(message: string, screen: Screen): string {
  return wrap(message, screen.columns - 4).join(`\n${styleText("gray", S_BAR)}  `);
}

function showNote({ title, lines }: { title: string; lines: string[] }, screen: Screen): void {
  // the command to copy stays one line of the shell, whatever the width of the box
  const command = lines.at(-1)!.startsWith("bun run") ? lines.at(-1)! : undefined;
  const inside = command === undefined ? lines : lines.slice(0, -2);
  const width = screen.columns - 7;
  const body = inside.flatMap((line) => wrapIndented(line, width)).join("\n");
  note(body.trimEnd(), title, { output: screen, format: (line) => line });
  if (command === undefined) return;
  screen.write(`${lines.at(-2)}\n${command}\n`);
  screen.row += Math.floor((command.length - 1) / screen.columns); // the terminal itself wraps it
}

/** Continues a `name     text` line under its text. */
function wrapIndented(line: string, width: number): string[] {
  if (line.length <= width) return [line];
  const indent = /^\S+\s{2,}/.exec(line)?.[0].length ?? 0;
  return wrap(line.slice(indent), width - indent).map(
    (part, i) => (i === 0 ? line.slice(0, indent) : " ".repeat(indent)) + part,
  );
}

/** The whole conversation. Esc goes one question back, Ctrl-C ends it. */
export async function runWizard(
  facts: WizardFacts,
  terminal: Terminal,
  remembered: Readonly<Record<string, Answer>> = {},
): Promise<WizardOutcome> {
  const screen = new Screen(terminal.output);
  intro("kvaccel  (enter: on, esc: back, ctrl-c: end)", { output: screen });
  let state: WizardState = begin(facts, remembered);
  const starts: number[] = [];
  let saved: string | undefined;
  try {
    for (;;) {
      const question = nextQuestion(state);
      if (question === undefined) throw new Error("the summary is the last question");
      starts[state.trail.length] = screen.row;
      if (saved !== undefined && question.kind === "one") question.note?.lines.unshift(saved, "");
      const keys = watchEscape(terminal.input);
      const answer = await ask(question, facts, screen, terminal.input).finally(() => keys.close());
      if (isCancel(answer) ? keys.escaped() : question.id === "start" && answer === "back") {
        const before = back(state);
        if (before === undefined) return cancelled(screen);
        state = before;
        screen.rewind(starts[state.trail.length]!);
        continue;
      }
      if (typeof answer === "symbol") return cancelled(screen);
      if (question.id === "start") {
        if (answer !== "save") return finished(state, answer, screen);
        const name = await askName(state, screen, terminal.input);
        screen.rewind(starts[state.trail.length]!);
        if (typeof name === "string") saved = saveText(name, facts.saveSetup!(name, flagsOf(state)));
        continue;
      }
      await facts.ready;
      saved = undefined;
      state = answered(state, question, answer);
    }
  } finally {
    screen.close();
  }
}

/** The name of a setup; a symbol where it was left. */
async function askName({ facts }: WizardState, screen: Screen, input: Terminal["input"]): Promise<string | symbol> {
  const validate = (name: string | undefined): string | undefined => facts.setupNameProblem?.(name ?? "");
  return text({ message: "Name of the setup", placeholder: "my-setup", validate, input, output: screen });
}

const saveText = (name: string, file: string): string =>
  `saved as ${name} (${file}); accel run --cfg_path ${name} runs it`;

function cancelled(screen: Screen): WizardOutcome {
  outro("ended, nothing was run", { output: screen });
  return { end: "cancelled" };
}

function finished(state: WizardState, answer: Answer, screen: Screen): WizardOutcome {
  const { from: _from, ...answers } = state.answers;
  if (answer === "no") {
    outro("ended, nothing was run; the answers are kept for the next time", { output: screen });
    return { end: "declined", answers };
  }
  outro("starting", { output: screen });
  return { end: "start", flags: flagsOf(state), answers };
}

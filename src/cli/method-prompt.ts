// The question about methods: a list by kind with one line on each, which follows the plugin folders while it waits.

import type { Readable } from "node:stream";
import { styleText } from "node:util";
import { MultiSelectPrompt } from "@clack/core";
import {
  limitOptions,
  S_BAR,
  S_BAR_END,
  S_CHECKBOX_ACTIVE,
  S_CHECKBOX_INACTIVE,
  S_CHECKBOX_SELECTED,
  symbol,
} from "@clack/prompts";
import { describeError, type LoadedPlugin, type Registry } from "../plugin/loader.ts";
import { wrap } from "./methods-text.ts";
import type { Screen } from "./screen.ts";
import { methodsOffered } from "./wizard-params.ts";
import type { Question } from "./wizard-types.ts";

interface Option {
  value: string;
  about: string;
  /** stands above the first method of a kind */
  heading?: string;
}

const headings: Record<string, string> = {
  "sparse-prefill": "sparse prefill: reads fewer blocks",
  eviction: "eviction: keeps fewer rows",
  "sparse-decode": "sparse decode: each token reads fewer rows",
  channels: "channels: drops parts of keys",
  quantization: "quantization: fewer bits",
};

export function methodOptions(registry: Registry, family: string): Option[] {
  const offered = methodsOffered(registry, family);
  const kind = (loaded: LoadedPlugin | undefined): string | undefined => loaded?.plugin.category;
  return offered.map((loaded, i) => ({
    value: loaded.plugin.name,
    about: loaded.plugin.about,
    ...(kind(loaded) === kind(offered[i - 1])
      ? {}
      : { heading: headings[loaded.plugin.category] ?? loaded.plugin.category }),
  }));
}

/** Texts of broken files, one line for each file: its first error. */
function brokenLines(registry: Registry, columns: number): string[] {
  const first = new Map(registry.errors.toReversed().map((error) => [error.file, error]));
  return [...first.values()].flatMap((error) => wrap(`! ${describeError(error)}`, columns));
}

function cut(text: string, columns: number): string {
  return text.length <= columns ? text : `${text.slice(0, Math.max(0, columns - 1))}…`;
}

function optionLine(option: Option, widest: number, active: boolean, chosen: boolean, columns: number): string {
  const box = chosen
    ? styleText("green", S_CHECKBOX_SELECTED)
    : active
      ? styleText("cyan", S_CHECKBOX_ACTIVE)
      : S_CHECKBOX_INACTIVE;
  const name = option.value.padEnd(widest);
  const about = styleText("dim", cut(option.about, columns - widest - 5));
  const line = `${box} ${active ? styleText("bold", name) : name}  ${about}`;
  return option.heading === undefined ? line : `${styleText("dim", cut(option.heading, columns))}\n${line}`;
}

type MethodsQuestion = Extract<Question, { kind: "methods" }>;

function frame(
  prompt: MultiSelectPrompt<Option>,
  question: MethodsQuestion,
  registry: Registry,
  screen: Screen,
): string {
  const bar = styleText(prompt.state === "submit" || prompt.state === "cancel" ? "gray" : "cyan", S_BAR);
  const value = (prompt.value ?? []) as string[];
  const head = `${styleText("gray", S_BAR)}\n${symbol(prompt.state)}  ${question.message}\n`;
  const columns = screen.columns - 4;
  if (prompt.state === "submit" || prompt.state === "cancel") {
    const names = wrap(value.length > 0 ? value.join(", ") : "none, Full alone", columns);
    return head + names.map((line) => `${bar}  ${styleText("dim", line)}`).join("\n");
  }
  const broken = brokenLines(registry, columns);
  const widest = Math.max(0, ...prompt.options.map((option) => option.value.length));
  const lines = limitOptions({
    cursor: prompt.cursor,
    options: [...prompt.options],
    output: screen,
    rowPadding: 6 + broken.length,
    style: (option, active) => optionLine(option, widest, active, value.includes(option.value), columns),
  });
  const keys = styleText("dim", "space: choose · a: all · enter: on · new plugin files appear by themselves");
  return [
    head + lines.map((line) => `${bar}  ${line}`).join("\n"),
    ...broken.map((line) => `${bar}  ${styleText("yellow", line)}`),
    `${styleText("cyan", S_BAR_END)}  ${keys}`,
    "",
  ].join("\n");
}

/** Chosen names; a symbol when it was left. */
export async function askMethods(
  question: MethodsQuestion,
  registry: Registry,
  screen: Screen,
  input: Readable,
): Promise<string[] | symbol> {
  const options = methodOptions(registry, question.family);
  const prompt = new MultiSelectPrompt<Option>({
    options,
    initialValues: question.initial.filter((name) => options.some((option) => option.value === name)),
    required: false,
    input,
    output: screen,
    render() {
      return frame(this as MultiSelectPrompt<Option>, question, registry, screen);
    },
  });
  const watcher = registry.watch(() => {
    const at = prompt.options[prompt.cursor]?.value;
    prompt.options = methodOptions(registry, question.family);
    prompt.cursor = Math.max(
      0,
      prompt.options.findIndex((option) => option.value === at),
    );
    prompt.value = (prompt.value ?? []).filter((name) => prompt.options.some((option) => option.value === name));
    screen.emit("resize"); // draws the list again
  });
  try {
    return (await prompt.prompt()) ?? [];
  } finally {
    watcher.close();
  }
}

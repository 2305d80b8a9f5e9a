// The wizard's questions about parameters: none, one budget for all, or preset and values method by method.
import { categories } from "../plugin/index.ts";
import type { LoadedPlugin, Registry } from "../plugin/loader.ts";
import { checkField, type Field, fields, presetNames, readValue, resolveParams } from "../plugin/params.ts";
import { severalValues } from "../plugin/sets.ts";
import { rangeText, valueText } from "./methods-text.ts";
import { type Answers, sentence } from "./wizard-questions.ts";
import type { Check, Question, WizardFacts } from "./wizard-types.ts";

const order = (a: LoadedPlugin, b: LoadedPlugin): number =>
  categories.indexOf(a.plugin.category) - categories.indexOf(b.plugin.category);

/** The chosen methods as plugins, in the order of their kinds; one whose file went meanwhile is left out. */
export function methodsRun(facts: WizardFacts, given: Answers): LoadedPlugin[] {
  const names = [given.methods ?? []].flat();
  return facts.registry.plugins.filter((loaded) => names.includes(loaded.plugin.name)).sort(order);
}

/** Methods that can be chosen for the model, in the order of their kinds. */
export function methodsOffered(registry: Registry, family: string): LoadedPlugin[] {
  return registry.plugins
    .filter(({ plugin }) => plugin.category !== "full" && (plugin.families?.includes(family) ?? true))
    .sort(order);
}

const stepOf = (loaded: LoadedPlugin, key: string): string => `${loaded.plugin.name}.${key}`;
const budgeted = (loaded: LoadedPlugin): boolean => fields(loaded.plugin).some((field) => field.key === "capacity");

function valuesOf(field: Field, text: string): unknown[] {
  return severalValues(field.type, text).map((value) => readValue(field, value));
}

export function* paramQuestions(facts: WizardFacts, given: Answers, before: Answers): Generator<Question> {
  const chosen = methodsRun(facts, given).filter((loaded) => fields(loaded.plugin).length > 0);
  if (chosen.length === 0) return;
  const choices = [
    { value: "defaults", label: "defaults", hint: "as published, or as the benchmark file sets them" },
    { value: "budget", label: "one budget for all", hint: "rows kept per KV head" },
    { value: "each", label: "method by method", hint: "presets and values" },
  ].filter((choice) => choice.value !== "budget" || chosen.some(budgeted));
  const start = typeof before.tuning === "string" ? before.tuning : "defaults";
  yield { kind: "one", id: "tuning", message: "Parameters", choices, initial: start };
  if (given.tuning === "budget") yield budgetQuestion(chosen.filter(budgeted), before);
  if (given.tuning === "each") for (const loaded of chosen) yield* methodQuestions(loaded, given, before);
}

function budgetQuestion(chosen: readonly LoadedPlugin[], before: Answers): Question {
  const check: Check<string> = (text) =>
    sentence(() => {
      for (const { plugin } of chosen) {
        const field = fields(plugin).find((one) => one.key === "capacity")!;
        if (text.trim() === "") checkField(plugin, field, text);
        for (const capacity of valuesOf(field, text)) resolveParams(plugin, "paper", { capacity });
      }
    });
  const start = typeof before.capacity === "string" ? before.capacity : "1024";
  const message = "Rows kept per KV head (several with commas: a column each)";
  return { kind: "text", id: "capacity", message, initial: start, check };
}

function* methodQuestions(loaded: LoadedPlugin, given: Answers, before: Answers): Generator<Question> {
  const { plugin } = loaded;
  const id = stepOf(loaded, "preset");
  const presets = presetNames(plugin).map((name) => ({
    value: name,
    label: name,
    hint: name === "paper" ? "the defaults" : valueText(plugin.presets?.[name] ?? {}),
  }));
  const choices = [...presets, { value: "values", label: "set values", hint: "one by one" }];
  const start = typeof before[id] === "string" ? (before[id] as string) : "paper";
  yield { kind: "one", id, message: plugin.name, choices, initial: start };
  if (given[id] !== "values") return;
  const asked = fields(plugin);
  for (const [i, field] of asked.entries()) {
    if (field.key === "keepRatio") continue; // capacity's question takes a share as well
    const step = stepOf(loaded, field.key);
    const last = i === asked.findLastIndex((one) => one.key !== "keepRatio");
    yield {
      kind: "text",
      id: step,
      message: `${plugin.name} ${field.key === "capacity" ? "capacity, or a share such as 0.25" : field.key}: ${field.about} (${rangeText(field)})`,
      initial: typeof before[step] === "string" ? (before[step] as string) : valueText(field.default),
      check: (text) => sentence(() => checkStep(loaded, field, text, last ? given : undefined)),
    };
  }
}

/** `0.25` for a capacity is a keepRatio. */
function fieldFor(loaded: LoadedPlugin, field: Field, text: string): Field {
  const share = Number(text) > 0 && Number(text) < 1;
  const ratio = fields(loaded.plugin).find((one) => one.key === "keepRatio");
  return field.key === "capacity" && share && ratio !== undefined ? ratio : field;
}

/** One value by itself; at a method's last question all of them together. */
function checkStep(loaded: LoadedPlugin, field: Field, text: string, given: Answers | undefined): void {
  const target = fieldFor(loaded, field, text);
  const values = valuesOf(target, text);
  if (values.length === 0) checkField(loaded.plugin, target, text);
  for (const value of values) checkField(loaded.plugin, target, value);
  if (given === undefined) return;
  const settings = settingsOf(loaded, { ...given, [stepOf(loaded, field.key)]: text });
  let all: Record<string, unknown>[] = [{}];
  for (const [key, several] of settings) all = all.flatMap((one) => several.map((value) => ({ ...one, [key]: value })));
  for (const overrides of all) resolveParams(loaded.plugin, "paper", overrides);
}

/** Values that differ from the defaults, by key. */
function settingsOf(loaded: LoadedPlugin, given: Answers): [key: string, values: unknown[]][] {
  return fields(loaded.plugin).flatMap((field) => {
    const text = given[stepOf(loaded, field.key)];
    if (typeof text !== "string" || text.trim() === valueText(field.default)) return [];
    const target = fieldFor(loaded, field, text);
    return [[target.key, valuesOf(target, text)]];
  });
}

/** What --acceleration takes. */
export function methodTexts(facts: WizardFacts, given: Answers): string[] {
  const preset = (name: string): string => {
    const chosen = given.tuning === "each" ? given[`${name}.preset`] : undefined;
    return chosen === undefined || chosen === "paper" || chosen === "values" ? name : `${name}@${chosen}`;
  };
  const singles = methodsRun(facts, given).map((loaded) => preset(loaded.plugin.name));
  const together = [given.compositions ?? []].flat().map((text) => text.split("+").map(preset).join("+"));
  return singles.length + together.length > 0 ? [...singles, ...together] : ["Full"];
}

/** What --set takes. */
export function setTexts(facts: WizardFacts, given: Answers): string[] {
  const chosen = methodsRun(facts, given);
  const name = (loaded: LoadedPlugin): string => loaded.plugin.name.toLowerCase();
  if (given.tuning === "budget" && given.capacity !== undefined) {
    const rows = String(given.capacity).replace(/\s+/g, "");
    return chosen.filter(budgeted).map((loaded) => `${name(loaded)}.capacity=${rows}`);
  }
  if (given.tuning !== "each") return [];
  return chosen
    .filter((loaded) => given[stepOf(loaded, "preset")] === "values")
    .flatMap((loaded) =>
      settingsOf(loaded, given).map(([key, values]) => `${name(loaded)}.${key}=${values.map(valueText).join(",")}`),
    );
}

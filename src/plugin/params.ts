// Parameter values of a method: defaults, then the model's, then the preset's, then the user's; checked, with the nearest key.
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import type { ModelInfo, Plugin } from "./index.ts";
import { match, suggestion } from "./nearest.ts";
import type { Param } from "./param.ts";

/** One key as a user writes it. A budget has two: `capacity` and `keepRatio`. */
export interface Field {
  key: string;
  /** the key in the plugin's `params` */
  param: string;
  type: "int" | "number" | "flag" | "choice" | "ints" | "shares";
  /** null: unset */
  default: unknown;
  min: number | null;
  max: number | null;
  choices: readonly string[] | null;
  odd: boolean;
  about: string;
}

export interface Resolved {
  /** every parameter as in YAML; a budget is `{capacity}` or `{keepRatio}` */
  params: Record<string, unknown>;
  /** what the plugin's `create` takes */
  values: Record<string, unknown>;
}

function fieldsOf(param: string, p: Param<unknown>): Field[] {
  const common = { param, choices: p.choices ?? null, odd: p.odd ?? false, about: p.about };
  if (p.type !== "budget") {
    return [{ ...common, key: param, type: p.type, default: p.default, min: p.min ?? null, max: p.max ?? null }];
  }
  const ratio = "share of the prompt's rows that are kept, in place of capacity";
  return [
    { ...common, key: "capacity", type: "int", default: p.default, min: p.min ?? 1, max: null },
    { ...common, key: "keepRatio", type: "number", default: null, min: 0, max: 1, about: ratio },
  ];
}

/** The keys that `--set`, YAML and the wizard know for a plugin. */
export function fields(plugin: Plugin): Field[] {
  return Object.entries(plugin.params).flatMap(([key, p]) => fieldsOf(key, p));
}

/** `paper` (the defaults) and the plugin's own presets. */
export function presetNames(plugin: Plugin): string[] {
  return [...new Set(["paper", ...Object.keys(plugin.presets ?? {})])];
}

/** The field of that name; an unknown one is refused with the nearest. */
export function findField(plugin: Plugin, key: string): Field {
  const all = fields(plugin);
  const known = match(
    key,
    all.map((field) => field.key),
  );
  if (known !== undefined) return all.find((field) => field.key === known)!;
  const keys = all.map((field) => field.key);
  const hint = keys.length > 0 ? suggestion(key, keys) : "it has no parameters";
  throw new KvaError("usage", `${plugin.name.toLowerCase()}: unknown parameter ${key}; ${hint}`);
}

/** Text from a command line or a prompt as the field's type; text that is not of it stays text, for the check to name. */
export function readValue(field: Field, value: unknown): unknown {
  if (typeof value !== "string") return value;
  const text = value.trim();
  if (field.type === "flag") return text === "true" ? true : text === "false" ? false : value;
  if (field.type === "choice") return match(text, field.choices ?? []) ?? value;
  if (field.type !== "ints") return text !== "" && Number.isFinite(Number(text)) ? Number(text) : value;
  const inner = text.replace(/^\[(.*)\]$/, "$1").trim();
  return inner === "" ? [] : inner.split(/[\s,]+/).map(Number);
}

function checkParam(plugin: Plugin, param: string, value: unknown): unknown {
  const p = plugin.params[param]!;
  const result = v.safeParse(p.schema, value);
  if (result.success) return result.output;
  const issue = result.issues[0];
  const nested = p.type === "budget" ? (issue.path?.[0]?.key as string | undefined) : undefined;
  const shown = nested === undefined ? value : (value as Record<string, unknown>)[nested];
  const key = nested ?? (p.type === "budget" ? "capacity" : param);
  const text = JSON.stringify(shown) ?? String(shown);
  throw new KvaError("usage", `${plugin.name.toLowerCase()}.${key}: ${issue.message}, not ${text}`);
}

/** Checks one value by itself, as a prompt does while one types. */
export function checkField(plugin: Plugin, field: Field, value: unknown): void {
  checkParam(plugin, field.param, plugin.params[field.param]!.type === "budget" ? { [field.key]: value } : value);
}

/** Puts `overrides` over `params`; a budget's two keys replace each other. */
function overlay(plugin: Plugin, params: Record<string, unknown>, overrides: Record<string, unknown>): void {
  const given = new Set<string>();
  for (const [key, value] of Object.entries(overrides)) {
    const whole = match(key, Object.keys(plugin.params));
    if (whole !== undefined && plugin.params[whole]!.type === "budget" && typeof value === "object" && value !== null) {
      overlay(plugin, params, value as Record<string, unknown>);
      continue;
    }
    const field = findField(plugin, key);
    const budget = plugin.params[field.param]!.type === "budget";
    if (given.has(field.param)) {
      const what = budget ? "give capacity or keepRatio, not both" : "is given twice";
      throw new KvaError("usage", `${plugin.name.toLowerCase()}.${field.key}: ${what}`);
    }
    given.add(field.param);
    const read = readValue(field, value);
    params[field.param] = budget ? { [field.key]: read } : read;
  }
}

/** The values that `create` takes, from parameters in YAML form; absent ones are the defaults. */
export function typedValues(plugin: Plugin, params: Record<string, unknown>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [key, p] of Object.entries(plugin.params)) {
    const fallback = p.type === "budget" ? { capacity: p.default } : p.default;
    const value = params[key] === undefined ? fallback : params[key];
    values[key] = checkParam(plugin, key, value);
  }
  const problem = plugin.check?.(values as never);
  if (problem !== undefined) throw new KvaError("usage", `${plugin.name.toLowerCase()}: ${problem}`);
  return values;
}

/** The parameters of a plugin under a preset and a user's values; keys match ignoring case, '-' and '_'. */
export function resolveParams(
  plugin: Plugin,
  preset: string,
  overrides: Record<string, unknown>,
  model?: ModelInfo,
): Resolved {
  const known = match(preset, presetNames(plugin));
  if (known === undefined) {
    const names = presetNames(plugin).join(", ");
    throw new KvaError("usage", `${plugin.name} has no preset ${preset}; it has ${names}`);
  }
  const chosen = (more: Record<string, unknown>) => {
    const params: Record<string, unknown> = {};
    for (const [key, p] of Object.entries(plugin.params)) {
      params[key] = p.type === "budget" ? { capacity: p.default } : p.default;
    }
    overlay(plugin, params, more);
    overlay(plugin, params, plugin.presets?.[known] ?? {});
    overlay(plugin, params, overrides);
    return params;
  };
  let params = chosen({});
  if (model && plugin.modelDefaults) params = chosen(plugin.modelDefaults(model, flatParams(plugin, params)));
  return { params, values: typedValues(plugin, params) };
}

/** Parameters in YAML form with a budget's key pulled up: `{capacity: 256, window: 32}`. */
export function flatParams(plugin: Plugin, params: Record<string, unknown>): Record<string, unknown> {
  const flat: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(params)) {
    if (plugin.params[key]?.type === "budget") Object.assign(flat, value);
    else flat[key] = value;
  }
  return flat;
}

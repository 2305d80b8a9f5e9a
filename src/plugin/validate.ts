// Checks what a plugin file exports: its declaration, its presets, and the hooks that a trial `create` returns.
import { basename } from "node:path";
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { categories, type Hooks, type ModelInfo, type Needs, type Plugin } from "./index.ts";
import { DeclarationError } from "./locate.ts";
import { nearest, normalise } from "./nearest.ts";
import { presetNames, resolveParams } from "./params.ts";

/** The model that a trial `create` sees. */
export const sampleModel: ModelInfo = {
  family: "llama",
  layers: 32,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  hiddenSize: 4096,
};

const isFunction = v.custom<(...args: never[]) => unknown>((x) => typeof x === "function", "must be a function");
const text = (what: string) =>
  v.pipe(
    v.string(`must be ${what}`),
    v.check((x) => x.trim() !== "", `must be ${what}`),
  );
const count = v.pipe(
  v.number("must be a whole number"),
  v.check((x) => Number.isSafeInteger(x) && x >= 0, "must be a whole number of at least 0"),
);

const paramSchema = v.looseObject(
  {
    type: v.picklist(
      ["int", "number", "flag", "choice", "ints", "shares", "budget"],
      "must be made with param.int, param.number, ...",
    ),
    about: text("a line of help"),
    schema: v.custom((x) => typeof x === "object" && x !== null, "must be made with param.int, param.number, ..."),
  },
  "must be made with param.int, param.number, ...",
);

const pluginSchema = v.strictObject({
  name: v.pipe(
    text("the display name"),
    v.regex(/^[A-Za-z][A-Za-z0-9_-]*$/, "must begin with a letter and hold letters, digits, - and _ only"),
    v.check((name) => normalise(name) !== "all", 'must not be "all", which stands for every method'),
  ),
  about: v.pipe(text("one line that says what the method does"), v.regex(/^[^\n]*$/, "must be one line")),
  paper: text("the address of the paper"),
  category: v.picklist(categories, `must be one of ${categories.join(", ")}`),
  families: v.optional(v.array(text("a model family"), "must be a list of model families")),
  params: v.record(v.string(), paramSchema, "must be an object of param.int, param.number, ..."),
  presets: v.optional(
    v.record(
      v.string(),
      v.record(v.string(), v.unknown(), "must be an object of values"),
      "must be an object of presets",
    ),
  ),
  check: v.optional(isFunction),
  modelDefaults: v.optional(isFunction),
  beside: v.optional(isFunction),
  sharesRows: v.optional(v.picklist(["layers", "heads"], "must be layers or heads")),
  expectedRows: v.optional(isFunction),
  expectedStorage: v.optional(isFunction),
  create: isFunction,
} satisfies Record<keyof Plugin, v.GenericSchema>);

const hook = v.optional(
  v.pipe(
    isFunction,
    v.check((f) => f.constructor.name !== "AsyncFunction", "must be synchronous: no async hook"),
  ),
);

const flag = v.boolean("must be true or false");
const hooksSchema = v.strictObject({
  needs: v.optional(
    v.strictObject({
      queryRing: v.optional(count),
      queryMoments: v.optional(v.strictObject({ skip: count }, "must be an object with skip")),
      unrotatedKeys: v.optional(v.union([count, v.literal("all")], "must be a number of tokens or all")),
      sideArrays: v.optional(
        v.pipe(v.array(v.string(), "must be a list of names"), v.maxLength(4, "can name four at most")),
      ),
      lse: v.optional(flag),
      decodeProbs: v.optional(flag),
      cascade: v.optional(flag),
      perStep: v.optional(flag),
      selects: v.optional(v.picklist(["prefill", "decode", "both"], "must be prefill, decode or both")),
      hostSync: v.optional(v.picklist(["prefill", "decode", "both"], "must be prefill, decode or both")),
    } satisfies Record<keyof Needs, v.GenericSchema>),
  ),
  select: hook,
  chunk: hook,
  prefill: hook,
  decode: hook,
  end: hook,
} satisfies Record<keyof Hooks, v.GenericSchema>);

/** Runs a schema; the first issue becomes a DeclarationError at `at` and the issue's path. */
function declared(schema: v.GenericSchema, value: unknown, at: readonly string[], what: string): void {
  const result = v.safeParse(schema, value);
  if (result.success) return;
  const unknown = result.issues.find((one) => one.type === "strict_object" && one.expected === "never");
  const issue = unknown ?? result.issues[0];
  const keys = (issue.path ?? []).map((item) => String(item.key));
  const path = keys.length > 0 ? keys.join(".") : what;
  if (unknown !== undefined) {
    const known = Object.keys((schema as unknown as { entries: object }).entries);
    const near = nearest(keys.at(-1)!, known);
    throw new DeclarationError(
      [...at, ...keys],
      `unknown ${path}; ${near ? `did you mean ${near}?` : known.join(", ")}`,
    );
  }
  const missing = issue.input === undefined;
  const message = missing ? `${path} is missing in ${what}` : `${path} ${issue.message}`;
  throw new DeclarationError([...at, ...(missing ? keys.slice(0, -1) : keys)], message);
}

/** Turns a usage error of the plugin's own values into one at the preset or at the params. */
function resolved(plugin: Plugin, preset: string): Record<string, unknown> {
  try {
    return resolveParams(plugin, preset, {}, sampleFor(plugin)).values;
  } catch (error) {
    if (!(error instanceof KvaError)) throw error;
    const key = /\.(\w+):|parameter (\w+);/.exec(error.message);
    const path = plugin.presets?.[preset] !== undefined ? ["presets", preset] : ["params"];
    throw new DeclarationError([...path, ...(key ? [key[1] ?? key[2]!] : [])], `${preset} preset: ${error.message}`);
  }
}

function sampleFor(plugin: Plugin): ModelInfo {
  return { ...sampleModel, family: plugin.families?.[0] ?? sampleModel.family };
}

function checkFileName(file: string, name: string): void {
  const stem = basename(file).replace(/\.ts$/, "");
  if (!/^[a-z0-9]+(-[a-z0-9]+)*$/.test(stem) || normalise(stem) !== normalise(name)) {
    const kebab = name.toLowerCase().replace(/_/g, "-");
    throw new DeclarationError(["name"], `the file of ${name} must be named after it: ${kebab}.ts, not ${stem}.ts`);
  }
}

/** The needs of the hooks that `create` returns with the preset's values. */
function tryCreate(plugin: Plugin, preset: string): Needs {
  const hooks: unknown = plugin.create(resolved(plugin, preset) as never, sampleFor(plugin));
  declared(
    v.custom((x) => typeof x === "object" && x !== null),
    hooks,
    ["create"],
    "the result of create",
  );
  declared(hooksSchema, hooks, ["create"], "the result of create");
  const { needs, ...rest } = hooks as Hooks;
  if (plugin.category !== "full" && Object.values(rest).every((hook) => hook === undefined)) {
    throw new DeclarationError(["create"], "create returns no hook; a method has at least one of prefill, decode");
  }
  return needs ?? {};
}

/** The plugin that a file exports, and what it needs with its defaults; throws DeclarationError. */
export function checkPlugin(exported: unknown, file: string): { plugin: Plugin; needs: Needs } {
  if (typeof exported !== "object" || exported === null) {
    const hint = "a helper file begins with _ or stands in a folder of its own";
    throw new DeclarationError([], `has no default export made with definePlugin (${hint})`);
  }
  declared(pluginSchema, exported, [], "the plugin");
  const plugin = exported as Plugin;
  checkFileName(file, plugin.name);
  const needs = presetNames(plugin).map((preset) => tryCreate(plugin, preset))[0]!;
  return { plugin, needs };
}

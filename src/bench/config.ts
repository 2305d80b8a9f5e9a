// Reads a benchmark file (YAML or JSON); errors read file:line:column: key: what is wrong and what would be right.
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { isMap, isNode, LineCounter, type Pair, parseDocument } from "yaml";
import { KvaError, reason } from "../native/error.ts";
import { match, suggestion } from "../plugin/nearest.ts";
import {
  type BenchmarkConfig,
  benchmarks,
  type ConfigKey,
  type ConfigValues,
  configDefaults,
  configKeys,
  defaultTasks,
  keyAliases,
  keySchemas,
} from "./config-schema.ts";
import { readParams, rulerTask, rulerTaskNames } from "./ruler-tasks.ts";

type Path = readonly (string | number)[];

/** the parsed file, and the error that points to a place in it */
class Source {
  private readonly lines = new LineCounter();
  readonly document;
  /** the key as it was written, for each key as we spell it */
  readonly written = new Map<ConfigKey, string>();

  constructor(
    text: string,
    private readonly file: string,
  ) {
    this.document = parseDocument(text, { lineCounter: this.lines, prettyErrors: false });
    const broken = this.document.errors[0];
    if (broken) throw this.error(broken.pos[0], [], broken.message);
  }

  error(offset: number, path: Path, message: string): KvaError {
    const { line, col } = this.lines.linePos(offset);
    const key = path.length > 0 ? `${path.join(".")}: ` : "";
    return new KvaError("usage", `${this.file}:${Math.max(1, line)}:${Math.max(1, col)}: ${key}${message}`);
  }

  /** points to the value at the path, to its key where the path ends in one that is wrong itself */
  at(path: Path, message: string, origin: "key" | "value" = "value"): KvaError {
    for (let length = path.length; length > 0; length--) {
      const part = path.slice(0, length);
      const parent = length === 1 ? this.document.contents : this.document.getIn(part.slice(0, -1), true);
      const pair = isMap(parent) ? parent.items.find((item) => keyText(item) === String(part.at(-1))) : undefined;
      const node = pair && (origin === "key" || !isNode(pair.value)) ? pair.key : this.document.getIn(part, true);
      if (isNode(node) && node.range) return this.error(node.range[0], path, message);
    }
    return this.error(0, path, message);
  }

  /** as `at`, for a key in our spelling */
  atKey(key: ConfigKey, rest: Path, message: string, origin: "key" | "value" = "value"): KvaError {
    return this.at([this.written.get(key) ?? key, ...rest], message, origin);
  }
}

function keyText(pair: Pair): string {
  return String(isNode(pair.key) ? pair.key.toJSON() : pair.key);
}

const knownNames = [...configKeys, ...Object.keys(keyAliases)];

function findKey(written: string): ConfigKey | undefined {
  const name = match(written, knownNames);
  return name === undefined ? undefined : (keyAliases[name] ?? (name as ConfigKey));
}

function readKeys(source: Source): ConfigValues {
  const { contents } = source.document;
  if (!isMap(contents)) throw source.error(0, [], "must map keys to values, as in benchmark_name: RULER");
  const values: Record<string, unknown> = {};
  for (const item of contents.items) {
    const written = keyText(item);
    const key = findKey(written);
    if (key === undefined) throw source.at([written], `unknown key; ${suggestion(written, configKeys)}`, "key");
    const before = source.written.get(key);
    if (before !== undefined) throw source.at([written], `says the same as ${before}; leave one out`, "key");
    source.written.set(key, written);
    const value: unknown = isNode(item.value) ? item.value.toJS(source.document) : item.value;
    const result = v.safeParse(keySchemas[key], value);
    if (!result.success) {
      const issue = result.issues[0];
      const steps = (issue.path ?? []).map((step) => step.key as string | number);
      const path = typeof value === "object" ? steps : []; // a single item stands for a list of one
      throw source.at([written, ...path], issue.message);
    }
    values[key] = result.output;
  }
  return values as ConfigValues;
}

/** the task of that name in our spelling */
function findTask(source: Source, tasks: readonly string[], name: string, key: ConfigKey, rest: Path): string {
  const found = match(name, tasks);
  if (found !== undefined) return found;
  throw source.atKey(
    key,
    rest,
    `there is no task ${name}; ${suggestion(name, tasks)}`,
    key === "task_names" ? "value" : "key",
  );
}

/** a map whose keys are tasks, with the keys in our spelling */
function byTask<T>(source: Source, tasks: readonly string[], key: "max_new_tokens" | "params", map: Record<string, T>) {
  return Object.fromEntries(
    Object.entries(map).map(([name, value]) => [findTask(source, tasks, name, key, [name]), value]),
  );
}

function checkParams(source: Source, tasks: readonly string[], given: Record<string, Record<string, unknown>>) {
  const checked: Record<string, Record<string, unknown>> = {};
  for (const [name, params] of Object.entries(given)) {
    const task = findTask(source, tasks, name, "params", [name]);
    if (!rulerTaskNames.includes(task)) throw source.atKey("params", [name], `${task} has no parameters`, "key");
    const read = readParams(rulerTask(task), params);
    if ("issue" in read) throw source.atKey("params", [name, read.issue.key], read.issue.message);
    checked[task] = read.params;
  }
  return checked;
}

function checkTemplateTasks(source: Source, tasks: readonly string[], names: readonly string[]): void {
  for (const [i, name] of names.entries()) {
    if (name === "all" || tasks.some((task) => task.includes(name))) continue;
    throw source.atKey("no_template_tasks", [i], `no task contains ${name}; ${suggestion(name, ["all", ...tasks])}`);
  }
}

/** A benchmark file's text; `file` is its name in errors. */
export function parseBenchmarkConfig(text: string, file: string): BenchmarkConfig {
  const source = new Source(text, file);
  const values = readKeys(source);
  const { benchmark_name } = values;
  if (benchmark_name === undefined) {
    throw source.error(0, [], `benchmark_name is missing; it must be one of ${Object.keys(benchmarks).join(", ")}`);
  }
  const tasks = benchmarks[benchmark_name];
  checkTemplateTasks(source, tasks, values.no_template_tasks ?? []);
  const named = values.task_names?.map((name, i) => findTask(source, tasks, name, "task_names", [i]));
  if (values.build_data === false && !values.data_dir) {
    throw source.atKey(
      "build_data",
      [],
      "without data_dir there are no files to load; set data_dir, or build_data to true",
    );
  }
  if (values.num_samples === null && benchmark_name === "RULER" && values.build_data !== false) {
    throw source.atKey("num_samples", [], "must be a number where samples are generated; null, for all, needs files");
  }
  if ((values.questions ?? 1) > 1 && (benchmark_name !== "RULER" || values.build_data === false)) {
    throw source.atKey("questions", [], "only RULER's generated samples can be asked more than one question");
  }
  return {
    ...configDefaults,
    ...(benchmark_name === "LongBench" && { on_overflow: "truncate_middle" as const }),
    ...values,
    ...(benchmark_name === "LongBench" && { length: [] }), // its texts have their own
    benchmark_name,
    task_names: named ?? [...defaultTasks[benchmark_name]],
    max_new_tokens: byTask(source, tasks, "max_new_tokens", values.max_new_tokens ?? {}),
    params: checkParams(source, tasks, values.params ?? {}),
  };
}

export function readBenchmarkConfig(path: string): BenchmarkConfig {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new KvaError("usage", `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
  return parseBenchmarkConfig(text, path);
}

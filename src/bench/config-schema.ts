// Every key of a benchmark file: its check, and what it means when it is absent. Run flags are keys too.
import * as v from "valibot";
import { longbenchDefaults, longbenchNames } from "./longbench-tasks.ts";
import { truncations } from "./longbench-truncate.ts";
import { type TemplateName, templateNames } from "./named-templates.ts";
import { overflowPolicies } from "./overflow.ts";
import { rulerTaskNames, shortestLength, standardLengths } from "./ruler-tasks.ts";

const text = v.pipe(v.string("must be a text"), v.nonEmpty("must not be empty"));
const flag = v.boolean("must be true or false");

function whole(min: number) {
  const message = `must be a whole number of at least ${min}`;
  return v.pipe(
    v.number(message),
    v.check((x) => Number.isSafeInteger(x), message),
    v.minValue(min, message),
  );
}

function real(min: number, max: number) {
  const message = max === Infinity ? `must be a number of at least ${min}` : `must be a number from ${min} to ${max}`;
  return v.pipe(
    v.number(message),
    v.check((x) => Number.isFinite(x), message),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
}

function choice<const T extends readonly string[]>(options: T) {
  return v.picklist(options, `must be one of ${options.join(", ")}`);
}

/** one item, a list, or a text with commas or spaces between items; may be empty */
function anyListOf<T>(item: v.GenericSchema<unknown, T>, read: (part: string) => unknown = (part) => part) {
  const split = (value: unknown) =>
    typeof value === "string"
      ? value
          .split(/[\s,]+(?![^[]*\])/)
          .filter((part) => part !== "")
          .map(read)
      : value;
  const asList = (value: unknown) => (Array.isArray(value) ? value : [value]);
  return v.pipe(
    v.unknown(),
    v.transform((value) => asList(split(value))),
    v.array(item),
  );
}

function listOf<T>(item: v.GenericSchema<unknown, T>, read?: (part: string) => unknown) {
  return v.pipe(anyListOf(item, read), v.nonEmpty("must name at least one"));
}

const number = (part: string) => (/^\d+$/.test(part) ? Number(part) : part);
const scalar = v.pipe(v.union([text, v.number()], "must be a text or a number"), v.transform(String));
const settings = v.record(
  v.string(),
  v.record(v.string(), v.unknown(), "must map keys to values, as in {capacity: 1024}"),
  "must map methods to keys, or list texts like snapkv.capacity=1024",
);
const set = v.lazy((value) => (Array.isArray(value) ? v.array(text) : settings));

/** null and `default` are other toolkits' names for the model's own template */
const template = v.pipe(
  v.nullable(choice(["auto", "default", "none", ...templateNames])),
  v.transform((name): "auto" | "none" | TemplateName => (name === null || name === "default" ? "auto" : name)),
);

const dtype = v.pipe(
  v.string("must be a text"),
  v.transform((name) => name.replace(/^torch\./, "")),
  choice(["bfloat16", "float16", "float32"]),
);

/** the benchmarks there are, and their tasks */
export const benchmarks = { RULER: rulerTaskNames, LongBench: longbenchNames } as const;
/** the tasks of a file that names none */
export const defaultTasks = { RULER: rulerTaskNames, LongBench: longbenchDefaults } as const;
export type BenchmarkName = keyof typeof benchmarks;
const benchmarkNames = Object.keys(benchmarks) as BenchmarkName[];
const benchmark = v.pipe(
  v.string("must be a text"),
  v.transform((name) => benchmarkNames.find((known) => known.toLowerCase() === name.toLowerCase()) ?? name),
  choice(benchmarkNames),
);

const schemas = {
  benchmark_name: benchmark,
  task_names: listOf(text),
  length: listOf(whole(shortestLength), number),
  num_samples: v.nullable(whole(1)),
  seed: whole(0),
  build_data: flag,
  data_dir: v.nullable(text),
  no_template_tasks: v.nullable(anyListOf(text)),
  template,
  prefix_mode: choice(["assistant", "user", "none"]),
  fewshot: choice(["turn", "inline"]),
  on_overflow: choice(overflowPolicies),
  truncate: choice(truncations),
  prompt_file: v.nullable(text),
  code_sim: choice(["difflib", "levenshtein"]),
  shuffle_questions: flag,
  view: choice(["question_aware", "context_only"]),
  questions: whole(1),
  max_new_tokens: v.record(v.string(), whole(1), "must map tasks to numbers"),
  params: v.record(v.string(), v.record(v.string(), v.unknown(), "must map keys to values"), "must map tasks to keys"),
  model_path: text,
  shape: text,
  layers: whole(1),
  tokenizer_path: text,
  device: listOf(scalar),
  gp_num: v.pipe(
    scalar,
    v.regex(/^([1-9]\d*|1\/[1-9]\d*)$/, "must be GPUs per model, as 2, or copies per GPU, as 1/2"),
  ),
  torch_dtype: dtype,
  acceleration: listOf(text),
  set,
  plugin_dir: listOf(text),
  limit: whole(1),
  max_length: whole(1),
  batch_size: v.union([v.literal("auto"), whole(1)], "must be a whole number of at least 1, or auto"),
  repeat: whole(1),
  output_path: text,
  save_tag: scalar,
  resume: flag,
  fresh: flag,
  no_baseline: flag,
  log_samples: flag,
  log_kept: flag,
  output: choice(["md", "json", "jsonl", "csv"]),
  temperature: real(0, Infinity),
  top_p: real(0, 1),
  top_k: whole(0),
  threads: whole(0),
  prefill_chunk: whole(1),
  memory_limit: scalar,
  eager: flag,
};

/** other names of keys, ours and other toolkits' */
export const keyAliases: Readonly<Record<string, keyof typeof schemas>> = {
  task_name: "task_names",
  lengths: "length",
  benchmark: "benchmark_name",
  gpu_ids: "device",
  gpu_allocation: "gp_num",
  output_dir: "output_path",
  accelerations: "acceleration",
};

export const configSchema = v.partial(v.strictObject(schemas));
export const configKeys = Object.keys(schemas) as (keyof typeof schemas)[];
export type ConfigKey = (typeof configKeys)[number];
export const keySchemas: Readonly<Record<ConfigKey, v.GenericSchema>> = schemas;

/** what stands in a file; keys that are absent are undefined */
export type ConfigValues = v.InferOutput<typeof configSchema>;

/** what absent keys of the benchmark mean; absent run flags are left to the command */
export const configDefaults = {
  length: [...standardLengths],
  num_samples: 10,
  seed: 42,
  build_data: true,
  data_dir: null,
  no_template_tasks: null,
  template: "auto" as "auto" | "none" | TemplateName,
  prefix_mode: "assistant",
  on_overflow: "error",
  truncate: "tokens",
  prompt_file: null,
  code_sim: "difflib",
  shuffle_questions: false,
  view: "question_aware",
  questions: 1,
  max_new_tokens: {},
  params: {},
} satisfies ConfigValues;

type Defaults = typeof configDefaults;
export type BenchmarkConfig = ConfigValues & {
  [K in keyof Defaults]-?: Exclude<ConfigValues[K], undefined>;
} & { benchmark_name: BenchmarkName; task_names: string[] };

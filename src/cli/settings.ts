// The settings of a run: a benchmark file, and the flags of the command line, which win. Both go through the same checks.
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, extname, join } from "node:path";
import * as v from "valibot";
import { readBenchmarkConfig } from "../bench/config.ts";
import { type BenchmarkConfig, benchmarks, type ConfigKey, keySchemas } from "../bench/config-schema.ts";
import { KvaError } from "../native/error.ts";
import { match, suggestion } from "../plugin/nearest.ts";
import type { Sets } from "../plugin/sets.ts";
import type { EngineFlags, MethodFlags, SamplingFlags } from "./options.ts";
import type { TableFormat } from "./output.ts";
import { setupNames, setupPath } from "./setups.ts";

const benchmarkFolder = join(import.meta.dir, "..", "..", "benchmarks");

/** The flags of `accel run`, and the options of `runBenchmark`. Lists may be texts with commas. */
export interface RunFlags extends EngineFlags, MethodFlags, SamplingFlags {
  cfg_path?: string;
  shape?: string;
  layers?: number;
  tokenizer_path?: string;
  task_names?: string[];
  length?: (string | number)[];
  data_dir?: string;
  num_samples?: number;
  limit?: number;
  max_length?: number;
  batch_size?: (string | number)[];
  template?: string;
  view?: string;
  questions?: number;
  repeat?: number;
  output_path?: string;
  save_tag?: string;
  resume?: boolean;
  fresh?: boolean;
  dry_run?: boolean;
  log_samples?: boolean;
  log_kept?: boolean;
  no_baseline?: boolean;
  watch?: boolean;
  /** the start of a run directory that others write to, too; seconds of silence after which one of them counts as gone */
  join?: number;
  takeover?: number;
  output?: TableFormat;
}

export interface Settings {
  /** benchmark and run keys, flags included */
  config: BenchmarkConfig;
  /** name of the benchmark file, `quick` */
  name: string;
  /** of the file, then of the command line */
  sets: Sets;
  /** sequences that run together; auto: as many as fit, known when the samples are */
  batches: (number | "auto")[];
  output: TableFormat;
}

/** A benchmark file by path, or by its name in benchmarks/ or among the setups that the wizard saved. */
export function benchmarkPath(written: string): string {
  if (existsSync(written) && statSync(written).isFile()) return written;
  const own = benchmarkNames();
  const name = match(written, own);
  if (name !== undefined) return join(benchmarkFolder, `${name}.yaml`);
  const setup = match(written, setupNames());
  if (setup !== undefined) return setupPath(setup);
  const names = [...own, ...setupNames()];
  throw new KvaError(
    "usage",
    `--cfg_path ${written}: there is no such file, and no benchmark or setup of that name; ${suggestion(written, names)}`,
  );
}

export function benchmarkNames(): string[] {
  return readdirSync(benchmarkFolder)
    .filter((file) => extname(file) === ".yaml")
    .map((file) => basename(file, ".yaml"));
}

const ownKeys = new Set(["cfg_path", "set", "batch_size", "output", "verbose", "watch", "dry_run", "join", "takeover"]);

export function readSettings(flags: RunFlags): Settings {
  if (flags.resume && flags.fresh) throw new KvaError("usage", "--resume and --fresh exclude each other");
  const path = benchmarkPath(flags.cfg_path ?? "quick");
  const file = readBenchmarkConfig(path);
  const given = Object.entries(flags).filter(([key, value]) => value !== undefined && !ownKeys.has(key));
  const overrides = Object.fromEntries(given.map(([key, value]) => [key, checkedFlag(key as ConfigKey, value)]));
  const config: BenchmarkConfig = { ...file, ...overrides };
  if (flags.shape !== undefined && flags.model_path === undefined) delete config.model_path;
  if (flags.model_path !== undefined && flags.shape === undefined) delete config.shape;
  config.task_names = tasksOf(config);
  if (config.resume === false) config.fresh = true;
  const set = file.set === undefined ? [] : [file.set].flat();
  return {
    config,
    name: basename(path, extname(path)),
    sets: [...set, ...(flags.set ?? [])] as Sets,
    batches: batchSizes(flags.batch_size, file.batch_size),
    output: flags.output ?? file.output ?? "table",
  };
}

function checkedFlag(key: ConfigKey, value: unknown): unknown {
  const schema = keySchemas[key];
  if (schema === undefined)
    throw new KvaError("usage", `there is no setting ${key}; ${suggestion(key, Object.keys(keySchemas))}`);
  const texts = Array.isArray(value) && value.every((one) => typeof one === "string" || typeof one === "number");
  const result = v.safeParse(schema, texts ? value.join(" ") : value);
  if (result.success) return result.output;
  throw new KvaError("usage", `--${key} ${String(value)}: ${result.issues[0].message}`);
}

function tasksOf({ benchmark_name, task_names }: BenchmarkConfig): string[] {
  const known = benchmarks[benchmark_name];
  return task_names.map((name) => {
    const task = match(name, known);
    if (task !== undefined) return task;
    throw new KvaError("usage", `--task_names ${name}: ${benchmark_name} has no such task; ${suggestion(name, known)}`);
  });
}

function batchSizes(flag: (string | number)[] | undefined, file: number | "auto" | undefined): (number | "auto")[] {
  const words = (flag ?? [file ?? 1]).flatMap((word) => String(word).split(/[\s,]+/)).filter((word) => word !== "");
  if (words.includes("auto")) {
    if (words.length === 1) return ["auto"];
    throw new KvaError("usage", `--batch_size ${words.join(" ")}: auto stands alone, it chooses one size`);
  }
  const sizes = words.map((word) => {
    if (/^[1-9]\d{0,4}$/.test(word)) return Number(word);
    throw new KvaError("usage", `--batch_size ${word}: it takes whole numbers of at least 1, as in 8 or 1,8, or auto`);
  });
  return [...new Set(sizes)].toSorted((a, b) => a - b);
}

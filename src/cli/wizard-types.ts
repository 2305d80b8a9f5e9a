// What the wizard knows when it starts, what it asks, and what it ends with.
import type { ModelInfo } from "../plugin/index.ts";
import type { Registry } from "../plugin/loader.ts";

export interface Choice {
  value: string;
  label: string;
  hint?: string;
}

interface Asked {
  /** step of the conversation, and key of its answer */
  id: string;
  message: string;
}
/** A sentence where the answer does not do; undefined where it does. */
export type Check<T> = (answer: T) => string | undefined;

export type Question = Asked &
  (
    | { kind: "one"; choices: Choice[]; initial?: string; note?: { title: string; lines: string[] } }
    | { kind: "many"; choices: Choice[]; initial: string[]; required: boolean; check?: Check<string[]> }
    /** the registry's methods for a model family, by kind, as they are while it waits */
    | { kind: "methods"; family: string; initial: string[] }
    | { kind: "text"; initial: string; check: Check<string> }
    | { kind: "path"; initial: string; directory: boolean; check: Check<string> }
  );

export type Answer = string | string[];

export interface ModelChoice extends Choice {
  /** what --model_path takes */
  value: string;
}
/** What the wizard must know of a model that was chosen. */
export interface ModelFacts {
  info: ModelInfo;
  dtype: string;
  contextLength: number;
}
export interface DeviceChoice extends Choice {
  /** what --device takes: `cpu`, `0` */
  value: string;
  gpu: boolean;
}
export interface BenchmarkChoice extends Choice {
  /** what --cfg_path takes */
  value: string;
  /** empty: the benchmark has none */
  lengths: number[];
  samples: number;
  tasks?: number;
}

export interface WizardFacts {
  models: ModelChoice[];
  devices: DeviceChoice[];
  benchmarks: BenchmarkChoice[];
  /** named setups, saved before */
  setups: Choice[];
  registry: Registry;
  /** the facts beside `models` and `setups` are there; the first question does not wait for them */
  ready?: Promise<void>;
  /** reads a model's config.json; throws KvaError */
  readModel(modelPath: string): ModelFacts;
  /** reads a benchmark file; throws KvaError */
  readBenchmark(path: string): BenchmarkChoice;
  /** the answers that a named setup stands for; throws KvaError */
  readSetup?(name: string): Record<string, Answer>;
  /** saves the flags as a setup; the result is its file */
  saveSetup?(name: string, flags: WizardFlags): string;
  /** a sentence where a setup cannot have this name */
  setupNameProblem?(name: string): string | undefined;
  /** lines for the summary: what fits, how long it takes */
  estimate?(flags: WizardFlags): string[];
}

/** The flags of `accel run` that the wizard sets; names and forms as there. */
export interface WizardFlags {
  model_path: string;
  device: string[];
  gp_num?: string;
  torch_dtype: string;
  acceleration: string[];
  set?: string[];
  cfg_path: string;
  length?: string[];
  num_samples: number;
  plugin_dir?: string[];
}

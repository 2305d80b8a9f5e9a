// What every benchmark says of its tasks: metric, generation cap, parameters, and the version of the way samples are made.
import type { BenchmarkConfig } from "./config-schema.ts";
import { longbenchTask } from "./longbench-tasks.ts";
import { rulerTask, type TaskParams } from "./ruler-tasks.ts";
import type { Metric } from "./sample.ts";

export interface TaskFacts {
  metric: Metric;
  cap: number;
  params: TaskParams;
  /** raised when prompts or scores of the task change, so that numbers before and after are not compared */
  version: number;
}

export function taskFacts(config: Pick<BenchmarkConfig, "benchmark_name" | "code_sim">, name: string): TaskFacts {
  if (config.benchmark_name === "RULER") {
    const { metric, cap, params } = rulerTask(name);
    return { metric, cap, params, version: 1 };
  }
  const { metric, cap } = longbenchTask(name);
  const levenshtein = metric === "code_sim" && config.code_sim === "levenshtein";
  return { metric: levenshtein ? "code_sim_levenshtein" : metric, cap, params: {}, version: 1 };
}

/** where the samples come from, as results and tables name it */
export function sourceOf(config: BenchmarkConfig): "builtin" | "official-file" | "stand-in" {
  if (config.benchmark_name === "LongBench") return config.data_dir === null ? "stand-in" : "official-file";
  return config.build_data ? "builtin" : "official-file";
}

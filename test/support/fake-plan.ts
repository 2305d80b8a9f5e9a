// Plans for the fake engine: samples, methods and engines without a model.
import { join } from "node:path";
import type { PreparedSample, Task } from "../../src/bench/rows.ts";
import type { RunPlan } from "../../src/bench/run-contract.ts";
import type { EngineOptions, MethodSpec } from "../../src/engine/protocol.ts";

export const fakeCommand = [process.execPath, join(import.meta.dir, "fake-engine.ts")];

export const engineOptions: EngineOptions = {
  model: { dir: "none" },
  device: "cpu:0",
  dtype: "float32",
  prefillChunk: 4096,
  threads: 1,
  memoryLimit: 0,
  graphs: false,
};

export function method(label: string): MethodSpec {
  const parts = label === "Full" ? [] : [{ name: label, file: `${label}.ts`, preset: "paper", params: {} }];
  return { label, parts, hash: Bun.hash(label).toString(16).slice(0, 12) };
}

/** A sample whose fake answer, its first five ids, scores 1. */
export function sample(task: string, length: number, ordinal: number): PreparedSample {
  const ids = Int32Array.from({ length: length - 10 - ordinal }, (_, at) => at % 50);
  return {
    id: `${task}/${length}/${ordinal}`,
    task,
    length,
    ids,
    maxNewTokens: 8,
    refs: ["0 1 2 3 4"],
    prompt: ids.join(" "),
    score: (prediction) => (prediction === "0 1 2 3 4" ? 1 : 0),
  };
}

export function tasksOf(samples: PreparedSample[], labels: string[], { batch = 1, repeat = 0 } = {}): Task[] {
  return samples.flatMap((one) =>
    labels.map((label) => ({ key: `${one.id} ${label}`, sample: one, method: method(label), batch, repeat })),
  );
}

export function planOf(tasks: Task[], more: Partial<RunPlan> = {}): RunPlan {
  return {
    tasks,
    engines: [engineOptions],
    stopIds: [],
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
    logSamples: false,
    logKept: false,
    decode: (ids) => ids.join(" "),
    process: { command: fakeCommand, heartbeatMs: 2000 },
    ...more,
  };
}

/** What the run of fake-run-child.ts measures: some of it slowly, so that a kill finds it at work. */
export function killedTasks(): Task[] {
  const samples = Array.from({ length: 30 }, (_, at) =>
    sample(at % 3 === 0 ? "cwe" : "vt", at % 2 === 0 ? 512 : 1024, at),
  );
  return tasksOf(samples, ["Slow", "Full"]);
}

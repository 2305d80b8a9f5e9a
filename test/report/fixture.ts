// Run directories for the report's tests: a manifest, and rows whose figures are known.
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeCells } from "../../src/bench/cells.ts";
import { makeResults } from "../../src/bench/results.ts";
import { keptFile, samplesFile } from "../../src/bench/row-files.ts";
import { completedRow, failedRow, identity, type Row, type RowContext, type Task } from "../../src/bench/rows.ts";
import type { Completion } from "../../src/engine/protocol.ts";
import { sample, tasksOf } from "../support/fake-plan.ts";
import { folder } from "../support/folder.ts";

export interface FixtureOptions {
  name?: string;
  labels?: string[];
  task?: string;
  lengths?: number[];
  samples?: number;
  /** changes a row before it is written; null leaves it out */
  row?(row: Row): Row | null;
  results?: boolean;
  benchmark?: string;
  /** beside `task` */
  moreTasks?: string[];
  /** model directory of the manifest */
  model?: string;
  /** [layer][kvHead] -> ranges that a row's method holds after the prompt; null: no line of it */
  kept?(row: Row): string[][] | null;
}

const context: RowContext = { run: 1, attempts: 1, device: "cpu:0", sequences: 1, wallMs: 150, logSamples: false };

/** Full holds 100 bytes a token and takes 100 ms to the first token, each later method half of the one before. */
function completion(task: Task, place: number): Completion {
  return {
    id: task.sample.id,
    status: "ok",
    ids: [0, 1, 2, 3, 4],
    finish: "stop",
    promptTokens: task.sample.ids.length,
    prefillMs: 100 / 2 ** place,
    methodMs: place === 0 ? 0 : 5,
    decodeMs: 50,
    tokenMs: [10, 10, 10, 10, 10],
    cacheBytes: (100 * task.sample.length!) / 2 ** place,
    cacheAllocatedBytes: (110 * task.sample.length!) / 2 ** place,
    expectedCacheBytes: (100 * task.sample.length!) / 2 ** place,
    peakBytes: 2 ** 20,
    numbers: {},
  };
}

export function fixture(options: FixtureOptions = {}): string {
  const { labels = ["Full", "Half", "Quarter"], task = "niah_single_2", lengths = [512, 1024], samples = 4 } = options;
  const path = join(folder(), options.name ?? "run");
  mkdirSync(path);
  const prepared = [task, ...(options.moreTasks ?? [])].flatMap((name) =>
    lengths.flatMap((length) => Array.from({ length: samples }, (_, at) => sample(name, length, at))),
  );
  const tasks = tasksOf(prepared, labels);
  const rows = tasks.flatMap((one): Row[] => {
    const place = labels.indexOf(one.method.label);
    const row = completedRow(one, completion(one, place), place === 2 ? "wrong" : "0 1 2 3 4", context);
    const changed = options.row ? options.row(row) : row;
    return changed === null ? [] : [changed];
  });
  for (const [file, same] of Map.groupBy(rows, samplesFile)) {
    writeFileSync(join(path, file), same.map((row) => `${JSON.stringify(row)}\n`).join(""));
  }
  for (const row of options.kept === undefined ? [] : rows) {
    const prompt = options.kept!(row);
    if (prompt === null) continue;
    const { key, run, id, length, method, method_hash, batch, repeat, prompt_tokens } = row;
    const place = { key, run, id, task: row.task, length, method, method_hash, batch, repeat, prompt_tokens };
    const line = { ...place, tokens: prompt_tokens, prompt, end: prompt };
    appendFileSync(join(path, keptFile(row)), `${JSON.stringify(line)}\n`);
  }
  const methods = [...new Map(tasks.map((one) => [one.method.label, one.method])).values()];
  writeFileSync(join(path, "manifest.json"), JSON.stringify(manifest(methods, options), null, 2));
  if (options.results !== false) {
    const cells = makeCells(tasks, new Map(rows.map((row) => [identity(row), row])));
    const facts = { date: "2026-01-01T00:10:00.000Z" };
    writeFileSync(
      join(path, "results.json"),
      JSON.stringify(makeResults(cells, { tasks: {}, config: {}, facts, findings: [], pipeline: null })),
    );
  }
  return path;
}

export const outOfMemory = (row: Row, error: string): Row => ({
  ...failedRow(tasksOf([sample(row.task, row.length!, 0)], [row.method])[0]!, "oom", error, context),
  id: row.id,
  key: row.key,
});

function manifest(methods: unknown, { benchmark = "small", model = "models/small" }: FixtureOptions) {
  return {
    version: "0.1.0",
    commit: "abc",
    bun: "1.0.0",
    platform: "linux x64",
    driver: null,
    model: { path: model, hash: "m".repeat(64), tokenizer_hash: "t".repeat(64), dtype: "float32" },
    seed: 42,
    view: "question_aware",
    benchmark: { file: benchmark, name: "RULER", remarks: ["Samples: built-in texts."] },
    methods,
    devices: [{ deviceName: "a processor", buildInfo: "a compiler" }],
    runs: [{ run: 1, fresh: false, started: "2026-01-01T00:00:00.000Z" }],
  };
}

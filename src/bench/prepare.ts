// The samples of a benchmark as the runner takes them: made ahead of the run, on all cores where there is much to make.
import { availableParallelism } from "node:os";
import { KvaError } from "../native/error.ts";
import { type CellJob, type CellResult, type PlainSample, runCellJob } from "./cell-job.ts";
import type { BenchmarkConfig } from "./config-schema.ts";
import { benchmarkCells, sampleCount } from "./dataset.ts";
import type { PreparedSample } from "./rows.ts";
import type { TextCodec } from "./sample.ts";
import { SampleWorkers } from "./sample-workers.ts";
import { scoreSample } from "./score.ts";

export interface Preparation {
  samples: PreparedSample[];
  /** sentences for the reader of the tables */
  remarks: string[];
  /** time that it took, before any engine was started */
  ms: number;
}

export interface PrepareOptions {
  /** tokens that the model takes, prompt and answer */
  contextLength: number;
  /** samples carry their prompt's text */
  keepText: boolean;
  /** directory of the tokenizer, for worker threads */
  tokenizer: string;
  /** worker threads; default: as many as there are cores when it is worth starting them, else none */
  workers?: number;
}

const worthWorkers = 500_000; // tokens; this thread makes them in about the time that workers take to start
const tokensOfJob = 400_000;

/** Every sample depends on its own seed alone, so threads and their order do not matter: the bytes are the same. */
export async function prepareSamples(
  config: BenchmarkConfig,
  codec: TextCodec,
  options: PrepareOptions,
  progress: (done: number) => void = () => {},
): Promise<Preparation> {
  const { contextLength, keepText } = options;
  const started = performance.now();
  const threads = options.workers ?? workersFor(config);
  const count = sampleCount(config);
  const jobs = benchmarkCells(config).map((cell): CellJob[] => {
    const common = { config, cell, contextLength, keepText };
    if (cell.length === null || !config.build_data) return [{ ...common, from: 0, to: count }]; // a file is read once
    const step = threads === 0 ? 1 : Math.max(1, Math.floor(tokensOfJob / cell.length));
    const starts = Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
    return starts.map((from) => ({ ...common, from, to: Math.min(count, from + step) }));
  });
  let done = 0;
  const note = (result: CellResult) => {
    done += result.samples.length;
    progress(done);
  };
  const results = threads > 0 ? await inWorkers(jobs, options.tokenizer, threads, note) : await here(jobs, codec, note);
  const samples = results.flatMap((result) => result.samples.map(withScore));
  if (samples.length === 0)
    throw new KvaError("data", "every sample was left out: all are over the limit of prompt tokens");
  const remarks = new Set(results.flatMap((result) => result.remarks));
  for (const [task, cap] of Object.entries(config.max_new_tokens)) remarks.add(`${task}: at most ${cap} new tokens.`);
  if (config.on_overflow === "skip") remarks.add("Samples over the limit of prompt tokens are left out.");
  const cut = Map.groupBy(
    samples.filter(({ truncated }) => truncated),
    ({ task }) => task,
  );
  const counts = [...cut].map(([task, list]) => `${task} ${list.length}`);
  if (counts.length > 0) remarks.add(`Prompts over the limit, cut in the middle: ${counts.join(", ")}.`);
  return { samples, remarks: [...remarks], ms: performance.now() - started };
}

function withScore({ metric, firstLine, ...sample }: PlainSample): PreparedSample {
  const facts = { ...(sample.classes && { classes: sample.classes }), ...(firstLine && { firstLine }) };
  return { ...sample, score: (prediction, refs = sample.refs) => scoreSample(metric, prediction, refs, facts) };
}

function workersFor(config: BenchmarkConfig): number {
  const count = sampleCount(config);
  const longbenchTokens = config.data_dir === null ? 0 : Math.min(count, 200) * 10_000; // about
  const tokens = benchmarkCells(config).reduce(
    (sum, { length }) => sum + (length === null ? longbenchTokens : length * count),
    0,
  );
  return tokens < worthWorkers ? 0 : availableParallelism();
}

/** Gives control back between samples, so that the caller can draw and be interrupted. */
async function here(jobs: CellJob[][], codec: TextCodec, note: (result: CellResult) => void): Promise<CellResult[]> {
  const results: CellResult[] = [];
  for (const job of jobs.flat()) {
    const result = runCellJob(job, codec);
    results.push(result);
    note(result);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return results;
}

/** The first job of each cell finds the size of its samples; the others of the cell take it over. Long cells first. */
async function inWorkers(
  jobs: CellJob[][],
  tokenizer: string,
  threads: number,
  note: (result: CellResult) => void,
): Promise<CellResult[]> {
  const workers = new SampleWorkers(tokenizer, Math.min(threads, jobs.flat().length));
  const results = jobs.map((cell) => new Array<CellResult>(cell.length));
  const make = async (cell: number, at: number, calibration: CellResult["calibration"]) => {
    const job = jobs[cell]![at]!;
    const result = await workers.run(calibration ? { ...job, calibration } : job);
    results[cell]![at] = result;
    note(result);
    return result.calibration;
  };
  const order = jobs.map((_, cell) => cell);
  const length = (cell: number) => jobs[cell]![0]!.cell.length ?? 0;
  order.sort((a, b) => length(b) - length(a));
  try {
    await Promise.all(
      order.map(async (cell) => {
        const calibration = await make(cell, 0, undefined);
        await Promise.all(jobs[cell]!.slice(1).map((_, i) => make(cell, i + 1, calibration)));
      }),
    );
  } finally {
    workers.end();
  }
  return results.flat();
}

// Rows of samples_*.jsonl and timings.jsonl: their schemas, and how a completion becomes one.
import * as v from "valibot";
import type { Completion, MethodSpec } from "../engine/protocol.ts";

const count = v.pipe(v.number(), v.finite());
/** stale: measured by an earlier version of a plugin file, to be measured anew */
const status = v.picklist(["ok", "oom", "error", "stale"]);

export const rowSchema = v.looseObject({
  /** hash of sample id, prompt ids, method and parameters, model, dtype, view, cap and sampling */
  key: v.string(),
  /** which start of this run directory made the row */
  run: count,
  id: v.string(),
  task: v.string(),
  length: v.nullable(count),
  method: v.string(),
  method_hash: v.string(),
  /** batch size asked for */
  batch: count,
  /** sequences that ran together */
  sequences: count,
  /** sequences in the pipeline of a split model: their times say how much it does, not how long one takes */
  pipelined: v.optional(count),
  repeat: count,
  status,
  score: v.nullable(count),
  prediction: v.nullable(v.string()),
  refs: v.array(v.string()),
  ids: v.array(count),
  finish: v.nullable(v.picklist(["stop", "length"])),
  error: v.optional(v.string()),
  attempts: count,
  device: v.string(),
  truncated: v.optional(v.boolean()),
  source_length: v.optional(count),
  prompt_tokens: count,
  new_tokens: count,
  ttft_ms: count,
  method_ms: count,
  /** of it, choosing the blocks that prefill attention reads */
  select_ms: v.optional(count),
  decode_ms: count,
  /** in the method's recorded ops in one decode step */
  decode_method_ms: v.optional(count),
  /** share of the batch's time: its longest sequence over its size */
  wall_ms: count,
  /** share of the time in which the engine waited for this batch, and its answers were on their way back */
  gap_ms: v.optional(count),
  cache_bytes: count,
  cache_allocated_bytes: count,
  expected_cache_bytes: count,
  peak_bytes: count,
  /** of a split model: the peak of each device */
  device_peak_bytes: v.optional(v.array(count)),
  /** of the peak: weights that all workers of the device read; the device has them once */
  shared_weight_bytes: v.optional(count),
  numbers: v.record(v.string(), v.number()),
  /** answers to further questions over the same compressed context */
  follow_ups: v.optional(
    v.array(
      v.looseObject({
        id: v.string(),
        prediction: v.string(),
        refs: v.array(v.string()),
        score: count,
        feed_ms: count,
        decode_ms: count,
      }),
    ),
  ),
  prompt: v.optional(v.string()),
});
export type Row = v.InferOutput<typeof rowSchema>;

export interface TimingRow {
  key: string;
  run: number;
  id: string;
  method: string;
  length: number | null;
  batch: number;
  repeat: number;
  prefill_ms: number;
  method_ms: number;
  decode_ms: number;
  token_ms: number[];
}

/** A sample ready for the engine: its prompt as ids, and what an answer is compared with. */
export interface PreparedSample {
  id: string;
  task: string;
  length: number | null;
  /** compact, so that a whole benchmark of long prompts stays in memory */
  ids: Int32Array;
  questionStart?: number;
  maxNewTokens: number;
  refs: string[];
  /** the prompt's text; "" where rows do not carry it */
  prompt: string;
  /** more tokens that end the answer, but among its first `minNewTokens` */
  stopIds?: number[];
  minNewTokens?: number;
  /** something of the prompt's middle was left out */
  truncated?: boolean;
  /** LongBench: the record's length, in words or Chinese characters, and its classes */
  sourceLength?: number;
  classes?: string[];
  /** further questions over the cache that the prompt leaves */
  followUps?: { id: string; ids: number[]; refs: string[] }[];
  /** 0 to 1; of a further question with its own references */
  score(prediction: string, refs?: readonly string[]): number;
}

/** One measurement to make: a sample under a method, in batches of `batch`, for the `repeat`-th time. */
export interface Task {
  key: string;
  sample: PreparedSample;
  method: MethodSpec;
  batch: number;
  repeat: number;
}

/** Rows with one identity replace each other; the last one counts. */
export function identity(row: { key: string; batch: number; repeat: number }): string {
  return `${row.key}/${row.batch}/${row.repeat}`;
}

export interface RowContext {
  run: number;
  attempts: number;
  device: string;
  sequences: number;
  pipelined?: number;
  wallMs: number;
  gapMs?: number;
  sharedWeightBytes?: number;
  logSamples: boolean;
}

export function completedRow(task: Task, completion: Completion, prediction: string, context: RowContext): Row {
  const { sample } = task;
  const ok = completion.status === "ok";
  return {
    ...head(task, context),
    status: completion.status,
    score: ok ? sample.score(prediction) : null,
    prediction: ok ? prediction : null,
    ids: completion.ids,
    finish: ok ? completion.finish : null,
    ...(completion.error === undefined ? {} : { error: completion.error }),
    prompt_tokens: completion.promptTokens,
    new_tokens: completion.ids.length,
    ttft_ms: completion.prefillMs,
    method_ms: completion.methodMs,
    ...(completion.selectMs === undefined ? {} : { select_ms: completion.selectMs }),
    decode_ms: completion.decodeMs,
    ...(completion.decodeMethodMs === undefined ? {} : { decode_method_ms: completion.decodeMethodMs }),
    wall_ms: context.wallMs,
    gap_ms: context.gapMs ?? 0,
    cache_bytes: completion.cacheBytes,
    cache_allocated_bytes: completion.cacheAllocatedBytes,
    expected_cache_bytes: completion.expectedCacheBytes,
    peak_bytes: completion.peakBytes,
    ...(completion.devicePeakBytes ? { device_peak_bytes: completion.devicePeakBytes } : {}),
    ...(context.sharedWeightBytes ? { shared_weight_bytes: context.sharedWeightBytes } : {}),
    numbers: completion.numbers,
  };
}

/** The row of a sample that never came back. */
export function failedRow(task: Task, status: "oom" | "error", error: string, context: RowContext): Row {
  return {
    ...head(task, context),
    status,
    score: null,
    prediction: null,
    ids: [],
    finish: null,
    error,
    prompt_tokens: task.sample.ids.length,
    new_tokens: 0,
    ttft_ms: 0,
    method_ms: 0,
    decode_ms: 0,
    wall_ms: 0,
    cache_bytes: 0,
    cache_allocated_bytes: 0,
    expected_cache_bytes: 0,
    peak_bytes: 0,
    numbers: {},
  };
}

function head({ key, sample, method, batch, repeat }: Task, context: RowContext) {
  return {
    key,
    run: context.run,
    id: sample.id,
    task: sample.task,
    length: sample.length,
    method: method.label,
    method_hash: method.hash,
    batch,
    sequences: context.sequences,
    ...(context.pipelined === undefined ? {} : { pipelined: context.pipelined }),
    repeat,
    refs: sample.refs,
    ...(sample.truncated && { truncated: true }),
    ...(sample.sourceLength !== undefined && { source_length: sample.sourceLength }),
    attempts: context.attempts,
    device: context.device,
    ...(context.logSamples ? { prompt: sample.prompt } : {}),
  };
}

export function timingRow(task: Task, completion: Completion, run: number): TimingRow {
  return {
    key: task.key,
    run,
    id: task.sample.id,
    method: task.method.label,
    length: task.sample.length,
    batch: task.batch,
    repeat: task.repeat,
    prefill_ms: completion.prefillMs,
    method_ms: completion.methodMs,
    decode_ms: completion.decodeMs,
    token_ms: completion.tokenMs,
  };
}

// Speed rows as llama-bench has them: prompt processing (pp) and generation (tg) on random tokens.
//
// pp at depth 0: the time to the first token of a prompt of n_prompt tokens. At depth d: that of d + n_prompt tokens less that of
// d tokens, measured in turn, because a method sees a prompt as one piece. tg at depth d: the steps after the first new token of
// a prompt of d tokens (1 at depth 0); the first token belongs to the prompt. ttft_ms is the whole prompt's, depth included.
import type { Completion, MethodSpec, Request } from "../engine/protocol.ts";
import { average } from "./cells.ts";
import { EngineError, type EngineProcess } from "./engine-process.ts";
import { formatBytes, formatMs, formatRate, formatShare } from "./format.ts";
import { stream } from "./prng.ts";
import { blank, type Cell, type TableData, text } from "./table.ts";

export interface SpeedTest {
  method: MethodSpec;
  prompt: number;
  gen: number;
  depth: number;
  sequences: number;
}

/** One row of `accel bench -o json`. */
export interface SpeedRow {
  method: string;
  n_prompt: number;
  n_gen: number;
  n_depth: number;
  n_seqs: number;
  avg_ns: number | null;
  stddev_ns: number | null;
  avg_ts: number | null;
  stddev_ts: number | null;
  samples_ns: number[];
  ttft_ms: number | null;
  ms_per_token_p50: number | null;
  ms_per_token_p99: number | null;
  cache_bytes: number | null;
  peak_bytes: number | null;
  /** of a sparse method: share of the causal blocks that prefill attention read, and the time of finding them */
  density?: number;
  select_ms?: number;
  /** of a method that does anything then: its own time on the device in the prompt's prefill, and in one decode step */
  method_prefill_ms?: number;
  method_decode_ms?: number;
  /** why there are no numbers */
  error?: string;
}

export interface SpeedOptions {
  repetitions: number;
  /** sets of blocks are cut to this share after they were chosen */
  density?: number;
  seed: number;
  vocabulary: number;
}

/** pp rows, then tg rows, for each method, batch and depth. */
export function speedTests(
  methods: readonly MethodSpec[],
  sizes: { prompt: number[]; gen: number[]; depth: number[]; sequences: number[] },
): SpeedTest[] {
  return methods.flatMap((method) =>
    sizes.sequences.flatMap((sequences) =>
      sizes.depth.flatMap((depth) => [
        ...sizes.prompt.filter((n) => n > 0).map((prompt) => ({ method, prompt, gen: 0, depth, sequences })),
        ...sizes.gen.filter((n) => n > 0).map((gen) => ({ method, prompt: 0, gen, depth, sequences })),
      ]),
    ),
  );
}

/** Runs a test once untimed and `repetitions` times timed. A failed call gives a row with the reason; a dead engine throws. */
export async function runSpeedTest(engine: EngineProcess, test: SpeedTest, options: SpeedOptions): Promise<SpeedRow> {
  try {
    const samples: Completion[][] = [];
    const baseline: number[] = [];
    for (let repetition = -1; repetition < options.repetitions; repetition++) {
      if (test.prompt > 0 && test.depth > 0) {
        const before = await generate(engine, test, options, repetition, test.depth, 1);
        if (repetition >= 0) baseline.push(before[0]!.prefillMs);
      }
      const completions = await generate(
        engine,
        test,
        options,
        repetition,
        Math.max(1, test.depth + test.prompt),
        test.gen + 1,
      );
      if (repetition >= 0) samples.push(completions);
    }
    return summary(test, samples, baseline);
  } catch (error) {
    if (!(error instanceof EngineError) || error.died) throw error;
    return failedSpeedRow(test, error.message);
  }
}

async function generate(
  engine: EngineProcess,
  test: SpeedTest,
  { seed, vocabulary, density }: SpeedOptions,
  repetition: number,
  promptTokens: number,
  maxNewTokens: number,
): Promise<Completion[]> {
  const requests = Array.from({ length: test.sequences }, (_, at): Request => {
    const random = stream(seed, promptTokens, repetition, at);
    return {
      id: String(at),
      ids: Array.from({ length: promptTokens }, () => random.below(vocabulary)),
      maxNewTokens,
      stopIds: [],
      ignoreStop: true,
      ...(density === undefined ? {} : { density }),
      sampling: { temperature: 0, topP: 1, topK: 0, seed },
    };
  });
  const completions = await engine.generate(test.method, requests);
  const failed = completions.find((completion) => completion.status !== "ok");
  if (failed) throw new EngineError(failed.status === "oom" ? "oom" : "native", failed.error ?? failed.status, false);
  return completions;
}

function summary(test: SpeedTest, samples: Completion[][], baseline: number[]): SpeedRow {
  const longest = (completions: Completion[], of: (c: Completion) => number) => Math.max(...completions.map(of));
  const ms = samples.map((completions, at) =>
    test.gen > 0
      ? longest(completions, (c) => c.decodeMs)
      : longest(completions, (c) => c.prefillMs) - (baseline[at] ?? 0),
  );
  const tokens = test.sequences * (test.gen > 0 ? test.gen : test.prompt);
  const rates = ms.map((one) => (tokens * 1000) / Math.max(one, 1e-6));
  const steps = samples.flatMap((completions) => completions[0]!.tokenMs).toSorted((a, b) => a - b);
  const quantile = (share: number) => steps[Math.min(steps.length - 1, Math.floor(share * steps.length))] ?? null;
  return {
    ...sizesOf(test),
    avg_ns: Math.round(average(ms) * 1e6),
    stddev_ns: Math.round(deviation(ms) * 1e6),
    avg_ts: average(rates),
    stddev_ts: deviation(rates),
    samples_ns: ms.map((one) => Math.round(one * 1e6)),
    ttft_ms: average(samples.map((completions) => longest(completions, (c) => c.prefillMs))),
    ms_per_token_p50: quantile(0.5),
    ms_per_token_p99: quantile(0.99),
    cache_bytes: Math.max(...samples.map((completions) => completions.reduce((sum, c) => sum + c.cacheBytes, 0))),
    peak_bytes: Math.max(...samples.map((completions) => longest(completions, (c) => c.peakBytes))),
    ...sparsity(samples.flat()),
    ...methodTimes(samples),
  };
}

function sparsity(completions: readonly Completion[]): { density?: number; select_ms?: number } {
  const densities = completions.map((c) => c.numbers.density).filter((density) => density !== undefined);
  if (densities.length === 0) return {};
  return { density: average(densities), select_ms: average(completions.map((c) => c.selectMs ?? 0)) };
}

function methodTimes(samples: Completion[][]): { method_prefill_ms?: number; method_decode_ms?: number } {
  const of = (time: (c: Completion) => number) => average(samples.map((completions) => time(completions[0]!)));
  const [prefill, decode] = [of((c) => c.methodMs), of((c) => c.decodeMethodMs ?? 0)];
  return { ...(prefill > 0 && { method_prefill_ms: prefill }), ...(decode > 0 && { method_decode_ms: decode }) };
}

export function failedSpeedRow(test: SpeedTest, error: string): SpeedRow {
  const none = { avg_ns: null, stddev_ns: null, avg_ts: null, stddev_ts: null, samples_ns: [], ttft_ms: null };
  return {
    ...sizesOf(test),
    ...none,
    ms_per_token_p50: null,
    ms_per_token_p99: null,
    cache_bytes: null,
    peak_bytes: null,
    error,
  };
}

const sizesOf = ({ method, prompt, gen, depth, sequences }: SpeedTest) => ({
  method: method.label,
  n_prompt: prompt,
  n_gen: gen,
  n_depth: depth,
  n_seqs: sequences,
});

function deviation(values: number[]): number {
  const mean = average(values);
  return values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (values.length - 1));
}

export function testName({ n_prompt, n_gen, n_depth }: SpeedRow): string {
  return `${n_gen > 0 ? `tg${n_gen}` : `pp${n_prompt}`}${n_depth > 0 ? ` @ d${n_depth}` : ""}`;
}

export function speedTable(rows: readonly SpeedRow[], title: string): TableData {
  const number = (value: number | null, format: (x: number) => string): Cell =>
    value === null ? blank : { text: format(value), value };
  const sparse = rows.some((row) => row.density !== undefined);
  const errors = rows.flatMap((row) => (row.error ? [`${row.method}, ${testName(row)}: ${row.error}`] : []));
  return {
    title,
    columns: [
      { title: "method", key: "method", align: "left" },
      { title: "test", key: "test", align: "left" },
      { title: "seqs", key: "n_seqs" },
      { title: "tokens/s", key: "avg_ts" },
      { title: "TTFT", key: "ttft_ms" },
      { title: "p50", key: "ms_per_token_p50" },
      { title: "p99", key: "ms_per_token_p99" },
      { title: "cache", key: "cache_bytes" },
      { title: "peak", key: "peak_bytes" },
      ...(sparse
        ? [
            { title: "density", key: "density" },
            { title: "choice", key: "select_ms" },
          ]
        : []),
    ],
    headColumns: 3,
    rows: rows.map((row) => [
      text(row.method),
      text(testName(row)),
      { text: String(row.n_seqs), value: row.n_seqs },
      number(row.avg_ts, (mean) => `${formatRate(mean)} ± ${formatRate(row.stddev_ts ?? 0)}`),
      number(row.ttft_ms, formatMs),
      number(row.ms_per_token_p50, formatMs),
      number(row.ms_per_token_p99, formatMs),
      number(row.cache_bytes, formatBytes),
      number(row.peak_bytes, formatBytes),
      ...(sparse ? [number(row.density ?? null, formatShare), number(row.select_ms ?? null, formatMs)] : []),
    ]),
    notes: [
      "pp: prompt, tg: new tokens, @ d: tokens in the cache before. Mean and standard deviation; TTFT: the whole prompt; p50, p99: one decode step.",
      ...(sparse
        ? ["Density: share of the causal blocks that prefill attention read; choice: time of finding them."]
        : []),
      ...errors,
    ],
  };
}

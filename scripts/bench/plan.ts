// What `make bench` runs, part by part. Each row is emitted as soon as it is known, and a row that fails says why and ends nothing.
import type { ModelConfig } from "../../src/model/config.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { flexPrefill, sparseAttention, xattention } from "./blocks.ts";
import type { Ceilings } from "./device.ts";
import { endToEnd, Runner, type Test, type Wanted } from "./end-to-end.ts";
import { LayerBench } from "./layer.ts";
import { median, type Row } from "./row.ts";

const K = 1024;
const GIB = 2 ** 30;

export interface Setting {
  shape: string;
  device: string;
  top: Ceilings;
  emit(rows: Row[]): void;
  /** fewer samples */
  quick: boolean;
}

/** rows per KV head that budgeted methods keep */
const keptRows = 2048;
const kept = (name: string) => `${name}[capacity=${keptRows}]`;
const evictors = ["SnapKV", "H2O", "StreamingLLM", "L2Compress", "PyramidKV", "CakeKV", "CaM"].map(kept);

export const layerLengths = [128 * K, 32 * K, 4 * K, 16 * K, 64 * K];

/** One layer by itself; the sparse rows, the estimators and what eviction takes at 128K. */
export function layerRows({ device, shape, top, emit }: Setting, lengths: readonly number[]): void {
  const config: ModelConfig = shapeConfig(shape);
  for (const length of lengths) {
    const bench = new LayerBench(device, config, top, length);
    const attempt = (name: string, run: () => Row[]): Row[] => {
      try {
        const rows = run();
        emit(rows);
        return rows;
      } catch (error) {
        emit([bench.row(name, [], { error: error instanceof Error ? error.message : String(error) })]);
        return [];
      }
    };
    try {
      const dense = attempt("dense attention", () => [bench.attention()])[0];
      attempt("decode attention", () => [bench.decode()]);
      attempt("decode attention of codes", () => [bench.decodeCodes()]);
      if (!dense || length < 128 * K) continue;
      const denseMs = median(dense.ms);
      for (const density of [0.05, 0.1, 0.2, 0.5])
        attempt("block-sparse attention", () => [sparseAttention(bench, denseMs, density)]);
      attempt("XAttention's estimate", () => xattention(bench, denseMs));
      attempt("FlexPrefill's estimate", () => flexPrefill(bench, denseMs));
      attempt("column sums (H2O)", () => [bench.columnSums(denseMs)]);
      attempt("eviction", () => bench.eviction());
    } finally {
      bench.dispose();
    }
  }
}

async function withRunner(
  { shape, device, top, emit }: Setting,
  more: { layers?: number; memoryLimit?: number },
  run: (
    test: (table: Row["table"], test: Test, wanted?: Wanted, warm?: boolean) => Promise<Row[]>,
    runner: Runner,
  ) => Promise<void>,
): Promise<void> {
  const runner = await Runner.start({ shape, device, ...more });
  try {
    await run(async (table, test, wanted = {}, warm = true) => {
      const rows = await endToEnd(runner, top, table, test, wanted, warm);
      emit(rows);
      return rows;
    }, runner);
  } finally {
    await runner.stop();
  }
}

/** The end-to-end rows of the design's table. */
export function designRows(setting: Setting): Promise<void> {
  const { quick } = setting;
  return withRunner(setting, {}, async (measure) => {
    const table = "end to end";
    await measure(table, { method: "Full", prompt: 1, newTokens: 256 }, { tokenMs: 5.6 }, false);
    await measure(table, { method: "Full", prompt: 4 * K, newTokens: 64, repetitions: 7 }, { prefillMs: 105 }, false);
    await measure(
      table,
      { method: "Full", prompt: 32 * K, newTokens: 128, repetitions: quick ? 3 : 5 },
      { prefillMs: 1200, tokenMs: 7.2 },
    );
    const long = await measure(
      table,
      { method: "Full", prompt: 128 * K, newTokens: 128, repetitions: quick ? 2 : 3 },
      { prefillMs: 10500, tokenMs: 11.9, peakBytes: 35 * GIB },
    );
    const near = { prefillMs: long[0]?.ms.length ? 1.02 * median(long[0].ms) : 10500 };
    const repetitions = quick ? 1 : 3;
    await measure(
      table,
      { method: kept("SnapKV"), prompt: 128 * K, newTokens: 128, repetitions },
      { ...near, tokenMs: 5.8, peakBytes: 19.5 * GIB },
    );
    await measure(table, { method: "KIVI", prompt: 128 * K, newTokens: 128, repetitions }, { ...near, tokenMs: 7.7 });
  });
}

export function scalingRows(setting: Setting): Promise<void> {
  return withRunner(setting, {}, async (measure) => {
    const table = "scaling";
    for (const prompt of [4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K]) {
      for (const method of ["Full", kept("SnapKV"), "KIVI"])
        await measure(table, { method, prompt, newTokens: 32 }, {}, prompt > 4 * K); // the first runs warm up
      if (prompt > 4 * K) await measure(table, { method: "XAttention[stride=16]", prompt, newTokens: 4, density: 0.2 });
    }
    for (const method of ["Full", kept("SnapKV"), "KIVI"])
      for (const sequences of [8, 32]) await measure(table, { method, prompt: 4 * K, newTokens: 32, sequences });
  });
}

/** Every evicting method at 128K with an allocator that gives 23 GiB: what a 24 GB card has. Full must be refused, in words. */
export function limitRows(setting: Setting): Promise<void> {
  return withRunner(setting, { memoryLimit: 23 * GIB }, async (measure) => {
    for (const method of ["Full", ...evictors])
      await measure("memory limit", { method, prompt: 128 * K, newTokens: 16 }, { peakBytes: 19.5 * GIB });
  });
}

/** What each method takes of its own, on a quarter of the layers: prefill beside Full's, its hooks, decode steps. */
export function methodRows(setting: Setting): Promise<void> {
  return withRunner(setting, { layers: shapeConfig(setting.shape).layers / 4 }, async (measure) => {
    for (const prompt of [32 * K, 128 * K])
      for (const method of ["Full", ...evictors, "KIVI", "ThinK", "XAttention[stride=16]", "FlexPrefill"])
        await measure("methods", { method, prompt, newTokens: 48 }, {}, prompt > 32 * K);
  });
}

/** Half a million and a million tokens on two layers; the peak of all layers adds the weights and the kept rows of the others. */
export async function longRows(setting: Setting): Promise<void> {
  const layers = 2;
  const emitted: Row[] = [];
  await withRunner({ ...setting, emit: (rows) => emitted.push(...rows) }, { layers }, async (measure, { config }) => {
    const { heads, kvHeads, headDim, hiddenSize, intermediateSize } = config;
    const weights = 2 * ((2 * heads + 2 * kvHeads) * headDim + 3 * intermediateSize) * hiddenSize;
    const others = shapeConfig(setting.shape).layers - layers;
    for (const [method, prompt, rows] of [
      [kept("SnapKV"), K * K, keptRows],
      [kept("SnapKV"), 512 * K, keptRows],
      ["Full", 512 * K, 512 * K],
    ] as const) {
      const [prefill] = await measure("long prompt", { method, prompt, newTokens: 16 });
      if (!prefill?.peakBytes) continue;
      const peak = prefill.peakBytes + others * (weights + 4 * rows * kvHeads * headDim);
      prefill.note = `${layers} layers; all: ${(peak / GIB).toFixed(1)} GiB at the peak; ${prefill.note}`;
    }
  });
  setting.emit(emitted);
}

export function cpuRows(setting: Setting): Promise<void> {
  return withRunner(setting, {}, async (measure) => {
    for (const method of ["Full", "SnapKV[capacity=256]"])
      for (const prompt of [1, 512, 2048])
        await measure("end to end", { method, prompt, newTokens: 64, repetitions: 5 }, {}, false);
  });
}

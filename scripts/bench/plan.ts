// What `make bench` runs with whole models, part by part: the tests of each, the design's targets, and how much of the model.
import type { ModelConfig } from "../../src/model/config.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import type { Test, Wanted } from "./end-to-end.ts";
import { median, type Row } from "./row.ts";

const K = 1024;
const GIB = 2 ** 30;

export interface PlannedTest extends Test {
  /** of the whole part on the design's card; from the part's rows so far */
  wanted?: (rows: readonly Row[]) => Wanted;
}

export interface Part {
  name: string;
  table: Row["table"];
  /** of the shape, where they fit */
  layers: number;
  /** bytes that the engine's allocator gives at most */
  memoryLimit?: number;
  tests: readonly PlannedTest[];
  /** adds to a prefill row's note what follows from it for the whole shape */
  remark?(row: Row, test: Test, config: ModelConfig): string;
}

/** rows per KV head that budgeted methods keep */
const keptRows = 2048;
const kept = (name: string) => `${name}[capacity=${keptRows}]`;
const evictors = ["SnapKV", "H2O", "StreamingLLM", "L2Compress", "PyramidKV", "CakeKV", "CaM"].map(kept);

/** The end-to-end rows of the design's table; `quick`: with fewer samples. */
export function designPart(shape: string, quick: boolean): Part {
  const repetitions = quick ? 1 : 3;
  /** Full's own prefill and 2 % */
  const near = (rows: readonly Row[]) => {
    const full = rows.find(({ name, ms }) => name === "prefill, Full 128K" && ms.length > 0);
    return full ? 1.02 * median(full.ms) : 10500;
  };
  const tests: PlannedTest[] = [
    { method: "Full", prompt: 1, newTokens: 256, wanted: () => ({ tokenMs: 5.6 }) },
    { method: "Full", prompt: 4 * K, newTokens: 64, repetitions: 7, wanted: () => ({ prefillMs: 105 }) },
    {
      method: "Full",
      prompt: 32 * K,
      newTokens: 128,
      repetitions: quick ? 3 : 5,
      warm: true,
      wanted: () => ({ prefillMs: 1200, tokenMs: 7.2 }),
    },
    {
      method: "Full",
      prompt: 128 * K,
      newTokens: 128,
      repetitions: quick ? 2 : 3,
      warm: true,
      wanted: () => ({ prefillMs: 10500, tokenMs: 11.9, peakBytes: 35 * GIB }),
    },
    {
      method: kept("SnapKV"),
      prompt: 128 * K,
      newTokens: 128,
      repetitions,
      warm: true,
      wanted: (rows) => ({ prefillMs: near(rows), tokenMs: 5.8, peakBytes: 19.5 * GIB }),
    },
    {
      method: "KIVI",
      prompt: 128 * K,
      newTokens: 128,
      repetitions,
      warm: true,
      wanted: (rows) => ({ prefillMs: near(rows), tokenMs: 7.7 }),
    },
  ];
  return { name: "end", table: "end to end", layers: shapeConfig(shape).layers, tests };
}

/** What each method takes of its own, on a quarter of the layers: prefill beside Full's, its hooks, decode steps. */
export function methodsPart(shape: string): Part {
  const methods = ["Full", ...evictors, "KIVI", "ThinK", "XAttention[stride=16]", "FlexPrefill"];
  const tests = [32 * K, 128 * K].flatMap((prompt) =>
    methods.map((method) => ({ method, prompt, newTokens: 48, warm: prompt > 32 * K })),
  );
  return { name: "methods", table: "methods", layers: shapeConfig(shape).layers / 4, tests };
}

export function scalingPart(shape: string): Part {
  const methods = ["Full", kept("SnapKV"), "KIVI"];
  const lengths = [4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K].flatMap((prompt) => {
    const warm = prompt > 4 * K;
    const dense = methods.map((method) => ({ method, prompt, newTokens: 32, warm }));
    const sparse = { method: "XAttention[stride=16]", prompt, newTokens: 4, density: 0.2, warm };
    return warm ? [...dense, sparse] : dense;
  });
  const batches = methods.flatMap((method) =>
    [8, 32].map((sequences) => ({ method, prompt: 4 * K, newTokens: 32, sequences, warm: true })),
  );
  return { name: "scaling", table: "scaling", layers: shapeConfig(shape).layers, tests: [...lengths, ...batches] };
}

/** Every evicting method at 128K with an allocator that gives 23 GiB: what a 24 GB card has. Full does not fit there. */
export function limitPart(shape: string): Part {
  const tests = ["Full", ...evictors].map((method) => ({
    method,
    prompt: 128 * K,
    newTokens: 16,
    warm: true,
    wanted: () => ({ peakBytes: 19.5 * GIB }),
  }));
  return { name: "limit", table: "memory limit", layers: shapeConfig(shape).layers, memoryLimit: 23 * GIB, tests };
}

/** Half a million and a million tokens on two layers; the remark has the peak with the weights and the kept rows of the others. */
export function longPart(shape: string): Part {
  const all = shapeConfig(shape).layers;
  const tests = [
    { method: kept("SnapKV"), prompt: K * K, newTokens: 16, warm: true },
    { method: kept("SnapKV"), prompt: 512 * K, newTokens: 16, warm: true },
    { method: "Full", prompt: 512 * K, newTokens: 16, warm: true },
  ];
  const remark = ({ peakBytes = 0 }: Row, { method, prompt }: Test, config: ModelConfig) => {
    const { heads, kvHeads, headDim, hiddenSize, intermediateSize, layers } = config;
    const weights = 2 * ((2 * heads + 2 * kvHeads) * headDim + 3 * intermediateSize) * hiddenSize;
    const rows = method === "Full" ? prompt : keptRows;
    const peak = peakBytes + (all - layers) * (weights + 4 * rows * kvHeads * headDim);
    return `${(peak / GIB).toFixed(1)} GiB at the peak with all layers`;
  };
  return { name: "long", table: "long prompt", layers: 2, tests, remark };
}

/** The short table of the CPU build. */
export function cpuPart(shape: string): Part {
  const tests = ["Full", "SnapKV[capacity=256]"].flatMap((method) =>
    [1, 512, 2048].map((prompt) => ({ method, prompt, newTokens: 64, repetitions: 5 })),
  );
  return { name: "end", table: "end to end", layers: shapeConfig(shape).layers, tests };
}

// The speed table of a card in under eight minutes: what a layer and whole models take, beside floors from measured ceilings and the targets.
// usage: make bench [OUT=folder]; BENCH=layer,end,methods,scaling,limit,long picks parts, BENCH_ROWS=131072 lengths of the
// layer part; without a GPU a short table of the CPU build is made.
import { mkdirSync } from "node:fs";
import type { ModelConfig } from "../src/model/config.ts";
import { shapeConfig } from "../src/model/shapes.ts";
import { flexPrefill, sparseAttention, xattention } from "./bench/blocks.ts";
import { type Ceilings, ceilings } from "./bench/device.ts";
import { endToEnd, Runner } from "./bench/end-to-end.ts";
import { LayerBench } from "./bench/layer.ts";
import { median, type Row, save, tables } from "./bench/row.ts";

const K = 1024;
const GIB = 2 ** 30;
/** budgeted methods with 2048 rows per KV head */
const kept = (name: string) => `${name}[capacity=2048]`;
const evictors = ["SnapKV", "H2O", "StreamingLLM", "L2Compress", "PyramidKV", "CakeKV", "CaM"].map(kept);

function layerRows(device: string, config: ModelConfig, top: Ceilings): Row[] {
  const rows: Row[] = [];
  const lengths = process.env.BENCH_ROWS?.split(",").map(Number) ?? [4 * K, 16 * K, 32 * K, 64 * K, 128 * K];
  for (const length of lengths) {
    const bench = new LayerBench(device, config, top, length);
    try {
      const dense = bench.attention();
      rows.push(dense, bench.decode());
      if (length < 128 * K) continue;
      const denseMs = median(dense.ms);
      rows.push(bench.columnSums(denseMs), ...bench.eviction());
      rows.push(...sparseAttention(bench, denseMs), ...xattention(bench, denseMs), ...flexPrefill(bench, denseMs));
    } finally {
      bench.dispose();
    }
  }
  return rows;
}

/** The end-to-end rows of the design's table. */
async function designRows(runner: Runner, top: Ceilings): Promise<Row[]> {
  const rows: Row[] = [];
  const add = async (
    ...test: Parameters<typeof endToEnd> extends [unknown, unknown, unknown, ...infer R] ? R : never
  ) => rows.push(...(await endToEnd(runner, top, "end to end", ...test)));
  await add({ method: "Full", prompt: 1, newTokens: 256, repetitions: 2 }, { tokenMs: 5.6 });
  await add({ method: "Full", prompt: 4 * K, newTokens: 128, repetitions: 7 }, { prefillMs: 105 });
  await add({ method: "Full", prompt: 32 * K, newTokens: 128, repetitions: 5 }, { prefillMs: 1200, tokenMs: 7.2 });
  await add(
    { method: "Full", prompt: 128 * K, newTokens: 128, repetitions: 3 },
    { prefillMs: 10500, tokenMs: 11.9, peakBytes: 35 * GIB },
  );
  const full = median(rows.find((row) => row.name === "prefill, Full 128K")?.ms ?? []);
  const near = { prefillMs: Number.isNaN(full) ? 10500 : 1.02 * full };
  const snap = { method: kept("SnapKV"), prompt: 128 * K, newTokens: 128, repetitions: 2 };
  await add(snap, { ...near, tokenMs: 5.8, peakBytes: 19.5 * GIB }, true);
  await add({ method: "KIVI", prompt: 128 * K, newTokens: 128, repetitions: 2 }, { ...near, tokenMs: 7.7 }, true);
  return rows;
}

async function scalingRows(runner: Runner, top: Ceilings): Promise<Row[]> {
  const rows: Row[] = [];
  for (const method of ["Full", kept("SnapKV"), "KIVI"])
    for (const prompt of [4 * K, 8 * K, 16 * K, 32 * K, 64 * K])
      rows.push(...(await endToEnd(runner, top, "scaling", { method, prompt, newTokens: 32 }, {}, true)));
  for (const prompt of [8 * K, 16 * K, 32 * K, 64 * K, 128 * K]) {
    const test = { method: "XAttention[stride=16]", prompt, newTokens: 8, density: 0.2 };
    rows.push(...(await endToEnd(runner, top, "scaling", test, {}, true)));
  }
  for (const method of ["Full", kept("SnapKV"), "KIVI"])
    for (const sequences of [8, 32])
      rows.push(
        ...(await endToEnd(runner, top, "scaling", { method, prompt: 4 * K, newTokens: 32, sequences }, {}, true)),
      );
  return rows;
}

/** Every evicting method at 128K with an allocator that gives 23 GiB: what a 24 GB card has. Full must be refused, in words. */
async function limitRows(shape: string, device: string, top: Ceilings): Promise<Row[]> {
  const runner = await Runner.start({ shape, device, memoryLimit: 23 * GIB });
  const rows: Row[] = [];
  try {
    const wanted = { peakBytes: 19.5 * GIB };
    for (const method of evictors)
      rows.push(
        ...(await endToEnd(runner, top, "memory limit", { method, prompt: 128 * K, newTokens: 16 }, wanted, true)),
      );
    rows.push(
      ...(await endToEnd(runner, top, "memory limit", { method: "Full", prompt: 128 * K, newTokens: 1 }, {}, true)),
    );
  } finally {
    await runner.stop();
  }
  return rows;
}

/** What each method takes of its own, on a quarter of the layers: prefill against Full's, its hooks, decode steps. */
async function methodRows(shape: string, device: string, top: Ceilings, layers: number): Promise<Row[]> {
  const runner = await Runner.start({ shape, device, layers });
  const rows: Row[] = [];
  try {
    for (const prompt of [32 * K, 128 * K])
      for (const method of ["Full", ...evictors, "KIVI", "ThinK", "XAttention[stride=16]", "FlexPrefill"])
        rows.push(...(await endToEnd(runner, top, "methods", { method, prompt, newTokens: 48 }, {}, prompt > 32 * K)));
  } finally {
    await runner.stop();
  }
  return rows;
}

/** A prompt of a million tokens on two layers; the peak of all layers adds the weights and the kept rows of the others. */
async function longRows(shape: string, device: string, top: Ceilings): Promise<Row[]> {
  const layers = 2;
  const runner = await Runner.start({ shape, device, layers });
  try {
    const test = { method: kept("SnapKV"), prompt: K * K, newTokens: 16 };
    const made = await endToEnd(runner, top, "long prompt", test, {}, true);
    const prefill = made[0];
    if (!prefill?.peakBytes) return made;
    const { heads, kvHeads, headDim, hiddenSize, intermediateSize } = runner.config;
    const weights = 2 * ((2 * heads + 2 * kvHeads) * headDim + 3 * intermediateSize) * hiddenSize;
    const others = shapeConfig(shape).layers - layers;
    const peak = prefill.peakBytes + others * (weights + 4 * 2048 * kvHeads * headDim);
    prefill.note = `${layers} layers; all: ${(peak / GIB).toFixed(1)} GiB at the peak; ${prefill.note}`;
    return made;
  } finally {
    await runner.stop();
  }
}

async function cpuRows(shape: string, top: Ceilings): Promise<Row[]> {
  const runner = await Runner.start({ shape, device: "cpu:0" });
  const rows: Row[] = [];
  try {
    for (const method of ["Full", "SnapKV[capacity=256]"])
      for (const prompt of [1, 512, 2048])
        rows.push(...(await endToEnd(runner, top, "end to end", { method, prompt, newTokens: 64, repetitions: 5 })));
  } finally {
    await runner.stop();
  }
  return rows;
}

const hasGpu = process.env.KVACCEL_BACKEND !== "cpu" && Bun.which("nvidia-smi") !== null;
const shape = hasGpu ? "llama-3.1-8b" : "tiny-ruler";
const device = hasGpu ? "cuda:0" : "cpu:0";
const parts = new Set((process.env.BENCH ?? "layer,end,scaling,methods,limit,long").split(","));
const folder = process.argv[2];
if (folder) mkdirSync(folder, { recursive: true });

const top = ceilings(device);
const title = `${shape}, bf16, random weights, ${top.device}, ${new Date().toISOString().slice(0, 10)}; device copy ${(top.copy / 1e9).toFixed(0)} GB/s (read and written), bf16 GEMM ${(top.gemm / 1e12).toFixed(2)} TFLOP/s`;
const rows: Row[] = [];
/** Each part is printed and saved as it ends: a run that is cut short has the others. */
async function part(name: string, run: () => Row[] | Promise<Row[]>): Promise<void> {
  if (hasGpu && !parts.has(name)) return;
  const start = performance.now();
  const made = await run();
  rows.push(...made);
  console.log(tables(made));
  console.error(`${name}: ${((performance.now() - start) / 1000).toFixed(0)} s`);
  if (folder) save(folder, "bench", title, top, rows);
}

console.log(`${title}\n`);
if (!hasGpu) {
  await part("end", () => cpuRows(shape, top));
} else {
  await part("layer", () => layerRows(device, shapeConfig(shape), top));
  if (parts.has("end") || parts.has("scaling")) {
    const runner = await Runner.start({ shape, device });
    console.error(`weights: ${(runner.loadMs / 1000).toFixed(1)} s`);
    await part("end", () => designRows(runner, top));
    await part("scaling", () => scalingRows(runner, top));
    await runner.stop();
  }
  await part("methods", () => methodRows(shape, device, top, 8));
  await part("limit", () => limitRows(shape, device, top));
  await part("long", () => longRows(shape, device, top));
}

// The speed table of a card in under eight minutes: what a layer and whole models take, beside floors from measured ceilings and the targets.
// usage: make bench [OUT=folder]; BENCH=layer,end,scaling,limit,methods,long picks parts, BENCH_ROWS=131072 lengths of the layer part,
// BENCH_QUICK=1 takes fewer samples. Without a GPU: a short table of the CPU build.
import { mkdirSync } from "node:fs";
import { ceilings } from "./bench/device.ts";
import {
  cpuRows,
  designRows,
  layerLengths,
  layerRows,
  limitRows,
  longRows,
  methodRows,
  type Setting,
  scalingRows,
} from "./bench/plan.ts";
import { head, line, type Row, save } from "./bench/row.ts";

const hasGpu = process.env.KVACCEL_BACKEND !== "cpu" && Bun.which("nvidia-smi") !== null;
const shape = hasGpu ? "llama-3.1-8b" : "tiny-ruler";
const device = hasGpu ? "cuda:0" : "cpu:0";
const folder = process.argv[2];
if (folder) mkdirSync(folder, { recursive: true });

const top = ceilings(device);
const title = `${shape}, bf16, random weights, ${top.device}, ${new Date().toISOString().slice(0, 10)}; device copy ${(top.copy / 1e9).toFixed(0)} GB/s (read and written), bf16 GEMM ${(top.gemm / 1e12).toFixed(2)} TFLOP/s`;
const rows: Row[] = [];

/** A row is printed and saved at once: a run that is cut short has those before. */
function emit(made: Row[]): void {
  for (const row of made) {
    if (rows.at(-1)?.table !== row.table) console.log(`\n${head(row.table)}`);
    rows.push(row);
    console.log(line(row));
  }
  if (folder) save(folder, "bench", title, top, rows);
}

const setting: Setting = { shape, device, top, emit, quick: process.env.BENCH_QUICK === "1" };
const lengths = process.env.BENCH_ROWS?.split(",").map(Number) ?? layerLengths;
const parts: Record<string, () => void | Promise<void>> = hasGpu
  ? {
      layer: () => layerRows(setting, lengths),
      end: () => designRows(setting),
      scaling: () => scalingRows(setting),
      limit: () => limitRows(setting),
      methods: () => methodRows(setting),
      long: () => longRows(setting),
    }
  : { end: () => cpuRows(setting) };
const wanted = process.env.BENCH?.split(",") ?? Object.keys(parts);
const unknown = wanted.find((name) => !Object.hasOwn(parts, name));
if (unknown !== undefined) {
  console.error(`BENCH: there is no part "${unknown}" here; there is ${Object.keys(parts).join(", ")}`);
  process.exit(2);
}

console.log(title);
for (const name of wanted) {
  const start = performance.now();
  try {
    await parts[name]!();
  } catch (error) {
    console.log(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
  console.error(`${name}: ${((performance.now() - start) / 1000).toFixed(0)} s`);
}

// The speed table of a card: what a layer and whole models take, beside floors from measured ceilings and the targets. It ends within
// BENCH_SECONDS (460; the libraries are built before) whatever the card: the design's rows come first, every row is run once before any is
// run more often than that is cheap, and one that does not fit into the time or the memory that is left is in the table with the reason.
// usage: make bench [OUT=folder]; BENCH=end,layer,methods,scaling,limit,long picks parts, BENCH_ROWS=131072 lengths of the layer part,
// BENCH_QUICK=1 takes fewer samples. Without a GPU: a short table of the CPU build.
import { existsSync, mkdirSync } from "node:fs";
import { libraryPath } from "../src/native/library.ts";
import { loadPlugins, ownPlugins } from "../src/plugin/loader.ts";
import { ceilings, freeBytes } from "./bench/device.ts";
import type { Card } from "./bench/engine-jobs.ts";
import { layerLengths } from "./bench/layer-jobs.ts";
import { cpuParts, gpuParts } from "./bench/parts.ts";
import { head, isTargetCard, line, type Row, save } from "./bench/row.ts";
import { Schedule } from "./bench/schedule.ts";

const { KVACCEL_BACKEND, BENCH, BENCH_ROWS, BENCH_QUICK, BENCH_SECONDS = "460" } = process.env;
const hasGpu = KVACCEL_BACKEND !== "cpu" && Bun.which("nvidia-smi") !== null && existsSync(libraryPath("cuda"));
const shape = hasGpu ? "llama-3.1-8b" : "tiny-ruler";
const device = hasGpu ? "cuda:0" : "cpu:0";
const quick = BENCH_QUICK === "1";
const folder = process.argv[2];

function usage(text: string): never {
  console.error(text);
  process.exit(2);
}

const numbers = (name: string, text: string) =>
  text.split(",").map((word) => {
    const number = Number(word);
    return number > 0 && Number.isInteger(number)
      ? number
      : usage(`${name} is "${text}", it takes whole numbers above 0`);
  });
const [seconds = 0] = numbers("BENCH_SECONDS", BENCH_SECONDS);
const lengths = BENCH_ROWS === undefined ? layerLengths : numbers("BENCH_ROWS", BENCH_ROWS);

const parts = hasGpu ? gpuParts(lengths, quick) : cpuParts;
const wanted = BENCH?.split(",") ?? Object.keys(parts);
const unknown = wanted.find((name) => !Object.hasOwn(parts, name));
if (unknown !== undefined)
  usage(`BENCH: there is no part "${unknown}" here; there is ${Object.keys(parts).join(", ")}`);

if (folder) mkdirSync(folder, { recursive: true });
const top = ceilings(device);
const verdicts = isTargetCard(top.device);
const title = [
  `${shape}, bf16, random weights, ${top.device}, ${new Date().toISOString().slice(0, 10)}`,
  `device copy ${(top.copy / 1e9).toFixed(0)} GB/s (read and written), bf16 GEMM ${(top.gemm / 1e12).toFixed(2)} TFLOP/s`,
  "floors are from these two rates; targets are those of an H100 80GB",
].join("; ");
console.log(title);

const over = new AbortController();
setTimeout(
  () => over.abort(`the ${seconds} s of this run were over`),
  Math.max(0, 1000 * seconds - performance.now()),
).unref();
const card: Card = {
  shape,
  device,
  backend: hasGpu ? "cuda" : "cpu",
  top,
  free: freeBytes(device),
  registry: await loadPlugins([ownPlugins]),
  lost: over.signal,
};

const rows: Row[] = [];
const schedule = new Schedule(
  wanted.flatMap((name) => parts[name]!(card)),
  {
    totalMs: 1000 * seconds,
    now: () => performance.now(),
    /** A row is printed and saved at once: a run that is cut short has those before. */
    emit(made) {
      for (const row of made) {
        if (rows.at(-1)?.table !== row.table) console.log(`\n${head(row.table, verdicts)}`);
        rows.push(row);
        console.log(line(row, verdicts));
      }
      if (folder) save(folder, "bench", title, top, rows);
    },
    done(name, ms, failure) {
      console.error(`${name}: ${(ms / 1000).toFixed(0)} s${failure === undefined ? "" : `; ${failure}`}`);
      if (failure !== undefined) process.exitCode = 1;
    },
  },
);
await schedule.run();
const count = (of: (row: Row) => unknown) => rows.filter((row) => of(row) !== undefined).length;
console.error(
  `${rows.length} rows in ${(performance.now() / 1000).toFixed(0)} of ${seconds} s; ${count((row) => row.notRun)} not run, ${count((row) => row.error)} failed`,
);
if (count((row) => row.error) > 0) process.exitCode = 1;

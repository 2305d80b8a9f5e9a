// `accel data`: the samples of a benchmark as JSONL with the official field names, one stream or a folder of files.
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import type { BenchmarkConfig } from "../bench/config-schema.ts";
import { benchmarkCells, type Cell, cellSamples, sampleCount } from "../bench/dataset.ts";
import { type Dialect, dialectLine } from "../bench/jsonl.ts";
import { longbenchRecords, recordLine } from "../bench/longbench.ts";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { KvaError, reason } from "../native/error.ts";
import { readModel } from "./engine-setup.ts";
import { tell } from "./output.ts";
import { type RunFlags, readSettings } from "./settings.ts";

export interface DataFlags extends RunFlags {
  dialect?: Dialect;
}

export async function data({ dialect = "ruler", ...flags }: DataFlags): Promise<void> {
  const { config } = readSettings(flags);
  const { source } = await readModel({ model_path: config.model_path });
  const tokenizer = loadTokenizer((source as { dir: string }).dir);
  const folder = flags.output_path;
  for (const cell of benchmarkCells(config)) {
    const lines: string[] = [];
    for (const line of cellLines(config, cell, tokenizer, dialect)) {
      if (folder === undefined) process.stdout.write(line);
      else lines.push(line);
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (folder === undefined) continue;
    const path = join(folder, cell.length === null ? "" : String(cell.length), `${cell.task}.jsonl`);
    await write(path, lines);
    tell(`${path}: ${lines.length} samples`);
  }
}

function* cellLines(config: BenchmarkConfig, cell: Cell, tokenizer: Tokenizer, dialect: Dialect): Generator<string> {
  if (cell.length === null) {
    const records = longbenchRecords(cell.task, config.data_dir, config.seed, sampleCount(config));
    for (const [at, record] of records.entries()) yield recordLine(cell.task, record, at);
    return;
  }
  for (const { sample } of cellSamples(config, cell, tokenizer)) yield dialectLine(sample, dialect);
}

async function write(path: string, lines: string[]): Promise<void> {
  try {
    mkdirSync(dirname(path), { recursive: true });
    await Bun.write(path, lines.join(""));
  } catch (cause) {
    throw new KvaError("io", `${path} cannot be written: ${reason(cause)}`, { cause });
  }
}

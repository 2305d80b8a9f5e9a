// `accel data`: the generated samples as JSONL with the official field names, one stream or LENGTH/TASK.jsonl.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { benchmarkCells, cellSamples } from "../bench/dataset.ts";
import { sampleLine } from "../bench/jsonl.ts";
import { loadTokenizer } from "../model/tokenizer.ts";
import { KvaError, reason } from "../native/error.ts";
import { readModel } from "./engine-setup.ts";
import { tell } from "./output.ts";
import { type RunFlags, readSettings } from "./settings.ts";

export async function data(flags: RunFlags): Promise<void> {
  const { config } = readSettings(flags);
  const { source } = await readModel({ model_path: config.model_path });
  const tokenizer = loadTokenizer((source as { dir: string }).dir);
  const folder = flags.output_path;
  for (const cell of benchmarkCells(config)) {
    const lines: string[] = [];
    for (const { sample } of cellSamples(config, cell, tokenizer)) {
      if (folder === undefined) process.stdout.write(sampleLine(sample));
      else lines.push(sampleLine(sample));
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (folder === undefined) continue;
    const path = join(folder, String(cell.length), `${cell.task}.jsonl`);
    await write(path, join(folder, String(cell.length)), lines);
    tell(`${path}: ${lines.length} samples`);
  }
}

async function write(path: string, folder: string, lines: string[]): Promise<void> {
  try {
    mkdirSync(folder, { recursive: true });
    await Bun.write(path, lines.join(""));
  } catch (cause) {
    throw new KvaError("io", `${path} cannot be written: ${reason(cause)}`, { cause });
  }
}

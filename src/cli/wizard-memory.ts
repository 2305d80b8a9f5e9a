// What the wizard remembers in the user's state folder: the last answers, the models used lately, and how fast runs were.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import * as v from "valibot";
import type { Answer } from "./wizard-types.ts";

const memorySchema = v.object({
  answers: v.optional(v.record(v.string(), v.union([v.string(), v.array(v.string())])), {}),
  models: v.optional(v.array(v.string()), []),
  /** milliseconds for a prompt token, its share of decode included, by `speedKey` */
  speeds: v.optional(v.record(v.string(), v.number()), {}),
});
export type Memory = v.InferOutput<typeof memorySchema>;

const mostModels = 5;

/** `~/.local/state/kvaccel/wizard.json`, or under XDG_STATE_HOME */
export function memoryFile(): string {
  return join(process.env.XDG_STATE_HOME || join(homedir(), ".local", "state"), "kvaccel", "wizard.json");
}

/** Empty where there is no file or it is not ours. */
export function readMemory(file = memoryFile()): Memory {
  try {
    const result = v.safeParse(memorySchema, JSON.parse(readFileSync(file, "utf8")));
    if (result.success) return result.output;
  } catch {
    // none yet
  }
  return { answers: {}, models: [], speeds: {} };
}

/** Replaces the file; where it cannot be written the next conversation starts afresh. */
function writeMemory(memory: Memory, file: string): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    const draft = `${file}.${process.pid}`;
    writeFileSync(draft, `${JSON.stringify(memory, null, 2)}\n`);
    renameSync(draft, file);
  } catch {
    // a read-only home
  }
}

export function rememberAnswers(answers: Readonly<Record<string, Answer>>, file = memoryFile()): void {
  writeMemory({ ...readMemory(file), answers }, file);
}

/** The model comes first among those used lately. */
export function rememberModel(path: string, file = memoryFile()): void {
  const memory = readMemory(file);
  const models = [path, ...memory.models.filter((other) => other !== path)].slice(0, mostModels);
  writeMemory({ ...memory, models }, file);
}

export function rememberSpeed(key: string, msPerToken: number, file = memoryFile()): void {
  const memory = readMemory(file);
  writeMemory({ ...memory, speeds: { ...memory.speeds, [key]: msPerToken } }, file);
}

/** Runs with the same key take about the same time a token. */
export function speedKey(modelPath: string, device: string, dtype: string): string {
  return [modelPath, device.split(":")[0], dtype].join(" ");
}

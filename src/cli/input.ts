// Prompts and token ids from flags and files, checked before an engine starts.
import { readFileSync } from "node:fs";
import * as v from "valibot";
import type { ModelConfig } from "../model/config.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { KvaError, reason } from "../native/error.ts";
import { tell } from "./output.ts";

/** A text file; `-` is stdin. */
export function readText(path: string, flag: string): string {
  try {
    return readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (cause) {
    throw new KvaError("data", `${flag} ${path} cannot be read: ${reason(cause)}`, { cause });
  }
}

/** A JSON array of token ids. */
export function readIds(path: string, config: ModelConfig): number[] {
  const text = readText(path, "--ids_file");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new KvaError("data", `--ids_file ${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const id = v.pipe(v.number("must be a number"), v.safeInteger("must be whole"), v.minValue(0, "must be at least 0"));
  const result = v.safeParse(v.array(id, "must be an array of token ids"), value);
  if (!result.success) {
    const at = result.issues[0].path?.[0]?.key;
    throw new KvaError(
      "data",
      `--ids_file ${path}${at === undefined ? "" : `, id ${String(at)}`}: ${result.issues[0].message}`,
    );
  }
  const outside = result.output.findIndex((token) => token >= config.vocabSize);
  if (outside >= 0) {
    const token = result.output[outside];
    throw new KvaError(
      "data",
      `--ids_file ${path}, id ${outside}: ${token} is not below the vocabulary size ${config.vocabSize}`,
    );
  }
  return result.output;
}

/** Exactly one of the flags must be there. */
export function oneOf(flags: Record<string, string | undefined>): [flag: string, value: string] {
  const given = Object.entries(flags).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const names = Object.keys(flags).join(", ");
  if (given.length === 0) throw new KvaError("usage", `give one of ${names}`);
  if (given.length > 1) throw new KvaError("usage", `${given.map(([flag]) => flag).join(" and ")} exclude each other`);
  return given[0]!;
}

export interface PromptFlags {
  prompt?: string;
  prompt_file?: string;
  ids_file?: string;
  chat?: boolean;
}

export function readPrompt(flags: PromptFlags, tokenizer: Tokenizer, config: ModelConfig): number[] {
  const { prompt, prompt_file, ids_file } = flags;
  const [flag, value] = oneOf({ "--prompt": prompt, "--prompt_file": prompt_file, "--ids_file": ids_file });
  if (flag === "--ids_file") {
    if (flags.chat) throw new KvaError("usage", "--chat needs text: ids are taken as they are");
    return readIds(value, config);
  }
  const text = flag === "--prompt" ? value : readText(value, flag);
  if (!flags.chat) return tokenizer.encode(text);
  return tokenizer.encode(tokenizer.applyChatTemplate([{ role: "user", content: text }]), { special: false });
}

/** New tokens that still fit; a prompt that fills the model's context is refused. */
export function roomFor(promptTokens: number, wanted: number, config: ModelConfig): number {
  if (promptTokens === 0) throw new KvaError("data", "the prompt has no tokens");
  const room = config.contextLength - promptTokens;
  if (room < 1) {
    throw new KvaError(
      "data",
      `the prompt has ${promptTokens} tokens; the model takes ${config.contextLength}, the answer included`,
    );
  }
  if (room < wanted) tell(`${wanted} new tokens do not fit: the model's ${config.contextLength} leave ${room}`);
  return Math.min(room, wanted);
}

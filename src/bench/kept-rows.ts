// Lines of kept_*.jsonl: the positions that each layer and KV head holds of a sample, after the prompt and at the end.
import { existsSync, readFileSync } from "node:fs";
import * as v from "valibot";
import type { Completion, KeptRows } from "../engine/protocol.ts";
import type { Task } from "./rows.ts";

const count = v.pipe(v.number(), v.finite());
const ranges = v.array(v.array(v.pipe(v.string(), v.regex(/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/))));

export const keptRowSchema = v.looseObject({
  /** as in the sample's row: the two belong together by key, batch, repeat and run */
  key: v.string(),
  run: count,
  id: v.string(),
  task: v.string(),
  length: v.nullable(count),
  method: v.string(),
  method_hash: v.string(),
  batch: count,
  repeat: count,
  prompt_tokens: count,
  /** tokens that the sequence had consumed when it ended */
  tokens: count,
  /** [layer][kvHead] -> positions after the prompt, ascending, as ranges: `0-3,17` */
  prompt: ranges,
  /** the same when the sequence ended */
  end: ranges,
});
export type KeptRow = v.InferOutput<typeof keptRowSchema>;

export function keptRow(task: Task, completion: Completion, kept: KeptRows, run: number): KeptRow {
  const { key, sample, method, batch, repeat } = task;
  return {
    key,
    run,
    id: sample.id,
    task: sample.task,
    length: sample.length,
    method: method.label,
    method_hash: method.hash,
    batch,
    repeat,
    prompt_tokens: completion.promptTokens,
    ...kept,
  };
}

/** The readable lines of such a file, in order; none where the file is not there. A torn line is passed over. */
export function readKept(file: string): KeptRow[] {
  if (!existsSync(file)) return [];
  return readFileSync(file, "utf8")
    .split("\n")
    .flatMap((line) => {
      try {
        const result = v.safeParse(keptRowSchema, JSON.parse(line));
        return result.success ? [result.output] : [];
      } catch {
        return [];
      }
    });
}

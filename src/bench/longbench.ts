// LongBench's samples: records of the official JSONL files, or of the built-in stand-in set, in prompts that keep to the model's length.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import { promptParts } from "./longbench-prompts.ts";
import { retrievalForms } from "./longbench-score.ts";
import { standIn } from "./longbench-stand-in.ts";
import { type LongbenchTask, longbenchTask } from "./longbench-tasks.ts";
import type { Sample } from "./sample.ts";

const text = v.string("must be a text");

const recordSchema = v.looseObject({
  input: text,
  context: text,
  answers: v.pipe(v.array(text, "must be a list of texts"), v.nonEmpty("holds no answer")),
  length: v.number("must be a number"),
  all_classes: v.nullish(v.array(text, "must be a list of texts or null")),
  language: v.optional(text),
  _id: v.optional(text),
});
export type LongbenchRecord = v.InferOutput<typeof recordSchema>;

/** what a record of this data set must have beside the schema; the sentence says what is missing */
function missing({ metric }: LongbenchTask, { answers, all_classes }: LongbenchRecord): string | undefined {
  if (metric === "classification" && !all_classes?.length) return "all_classes must list the classes";
  if (metric !== "retrieval" && metric !== "retrieval_zh") return undefined;
  const form = metric === "retrieval" ? "Paragraph N" : "段落N";
  const bad = answers.find((answer) => !retrievalForms[metric].test(answer));
  return bad === undefined ? undefined : `answers: ${JSON.stringify(bad)} is not in the form ${form}`;
}

function parseRecord(line: string, task: LongbenchTask): LongbenchRecord {
  const result = v.safeParse(recordSchema, JSON.parse(line), { abortEarly: true });
  if (!result.success) {
    const issue = result.issues[0];
    const key = v.getDotPath(issue);
    throw new Error(key === null ? "the line must be an object" : `${key} ${issue.message}`);
  }
  const wrong = missing(task, result.output);
  if (wrong !== undefined) throw new Error(wrong);
  return result.output;
}

/** the file of a data set below a directory, as it is or in `data/` */
export function findLongbenchFile(dir: string, name: string): string {
  const layouts = [`${name}.jsonl`, `data/${name}.jsonl`];
  const found = layouts.map((layout) => join(dir, layout)).find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new KvaError("data", `${dir} has no file for ${name}; it may be ${layouts.join(" or ")}`);
}

/** Records of a file in its order, at most `limit`; the error names file and line. */
export function readLongbenchFile(path: string, name: string, limit = Infinity): LongbenchRecord[] {
  const task = longbenchTask(name);
  let content: string;
  try {
    content = readFileSync(path, "utf8");
  } catch (error) {
    throw new KvaError("data", `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
  const records: LongbenchRecord[] = [];
  let number = 0;
  for (const line of content.split("\n")) {
    if (records.length >= limit) break;
    number++;
    if (line.trim() === "") continue;
    try {
      records.push(parseRecord(line, task));
    } catch (error) {
      const reason = error instanceof SyntaxError ? `not valid JSON: ${error.message}` : (error as Error).message;
      throw new KvaError("data", `${path}:${number}: ${reason}`, { cause: error });
    }
  }
  if (records.length === 0) throw new KvaError("data", `${path} holds no records`);
  return records;
}

export interface LongbenchRequest {
  task: string;
  /** a user's directory with the official files; null: the stand-in set */
  dataDir: string | null;
  promptFile: string | null;
  seed: number;
  /** replaces the generation cap */
  maxNewTokens?: number;
  /** use edit distance for code */
  levenshtein: boolean;
}

/** Samples from .. to - 1 of a data set, before their prompts are cut. */
export function longbenchSamples(request: LongbenchRequest, from: number, to: number): Sample[] {
  const task = longbenchTask(request.task);
  const { dataDir, promptFile, seed } = request;
  const records = longbenchRecords(task.name, dataDir, seed, to);
  return records.slice(from).map((record, at) => ({
    id: `${task.name}/all/${from + at}`,
    task: task.name,
    length: null,
    source: dataDir === null ? "builtin" : "official-file",
    ...promptParts(task.dataset, record, promptFile),
    opening: "",
    refs: record.answers,
    maxNewTokens: request.maxNewTokens ?? task.cap,
    metric: task.metric === "code_sim" && request.levenshtein ? "code_sim_levenshtein" : task.metric,
    meta: {
      anyText: true, // what looks like a template in it is a part of the document
      language: record.language ?? task.language,
      sourceLength: record.length,
      ...(record.all_classes && { classes: record.all_classes }),
      ...(task.firstLine && { firstLine: true }),
    },
  }));
}

/** Records of a data set: of the user's directory, or of the stand-in set. */
export function longbenchRecords(
  name: string,
  dataDir: string | null,
  seed: number,
  limit = Infinity,
): LongbenchRecord[] {
  if (dataDir === null) return standIn(longbenchTask(name), seed).slice(0, limit);
  return readLongbenchFile(findLongbenchFile(dataDir, name), name, limit);
}

/** A line of the official form. */
export function recordLine(name: string, record: LongbenchRecord, ordinal: number): string {
  const { input, context, answers, length, all_classes, language } = record;
  const { dataset, language: kind } = longbenchTask(name);
  return `${JSON.stringify({
    input,
    context,
    answers,
    length,
    dataset,
    language: language ?? kind,
    all_classes: all_classes ?? null,
    _id: record._id ?? `${name}-${ordinal}`,
  })}\n`;
}

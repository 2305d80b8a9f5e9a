// RULER's JSONL files: the four dialects in use are read into samples; samples and predictions are written.
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import { match } from "../plugin/nearest.ts";
import { type RulerTask, rulerTask, rulerTaskNames } from "./ruler-tasks.ts";
import { inlineExample, type Sample, userText } from "./sample.ts";

const text = v.string("must be a text");
const count = v.pipe(
  v.number("must be a number"),
  v.integer("must be a whole number"),
  v.minValue(0, "must be 0 or more"),
);
const refs = v.pipe(
  v.union([text, v.array(text)], "must be a text or a list of texts"),
  v.transform((given) => (typeof given === "string" ? [given] : given)),
  v.check((list) => list.length > 0, "holds no answer"),
  v.check((list) => list.every((ref) => ref !== ""), "holds an empty answer, which every prediction would contain"),
);

/** lengths, in characters, of the pieces that `input` of a sample of ours is made of */
const partsSchema = v.object({
  example: v.optional(v.object({ user: count, assistant: count })),
  lead: count,
  context: count,
});

const rowSchema = v.pipe(
  v.looseObject({
    input: v.optional(text),
    context: v.optional(text),
    question: v.optional(text),
    answer_prefix: v.optional(text),
    outputs: v.optional(refs),
    answer: v.optional(refs),
    task: v.optional(text),
    length: v.optional(v.number("must be a number")),
    max_new_tokens: v.optional(v.pipe(count, v.minValue(1, "must be at least 1"))),
    source: v.optional(text),
    parts: v.optional(partsSchema),
    meta: v.optional(v.record(v.string(), v.unknown())),
  }),
  v.check(
    (row) => row.input !== undefined || (row.context !== undefined && row.question !== undefined),
    "has neither input nor context and question",
  ),
  v.check((row) => row.outputs !== undefined || row.answer !== undefined, "has neither outputs nor answer"),
);
type FileRow = v.InferOutput<typeof rowSchema>;

export interface RulerFileOptions {
  /** instead of the ones that the path says */
  task?: string;
  length?: number;
  /** read the first so many lines only */
  limit?: number;
}

/** task and length as the known layouts put them in a path */
export function placeInPath(path: string): { task?: string; length?: number } {
  const parents = dirname(path).split(/[\\/]/);
  const stem = basename(path).replace(/\.jsonl?$/, "");
  const numeric = (part: string | undefined) => (part && /^\d+$/.test(part) ? Number(part) : undefined);
  const known = (name: string | undefined) => (name === undefined ? undefined : match(name, rulerTaskNames));
  const inParent = known(parents.at(-1));
  if (inParent !== undefined) return { task: inParent, length: numeric(parents.at(-3)) ?? numeric(parents.at(-2)) };
  const joined = /^(.+)_(\d+)$/.exec(stem);
  const whole = known(stem);
  if (whole === undefined && joined) return { task: known(joined[1]), length: numeric(joined[2]) };
  return { task: whole, length: numeric(parents.at(-1)) };
}

/** the file of a task and length below a directory, in any of the known layouts */
export function findRulerFile(dir: string, task: string, length: number): string {
  const layouts = [`${length}/data/${task}/validation.jsonl`, `${length}/${task}.jsonl`, `${task}_${length}.jsonl`];
  const found = layouts.map((layout) => join(dir, layout)).find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new KvaError("data", `${dir} has no file for ${task} at length ${length}; it may be ${layouts.join(" or ")}`);
}

/** where the question begins: the last line, or the last two paragraphs of a question-answering task */
function questionAt(input: string, task: RulerTask): number {
  const end = input.trimEnd().length;
  if (task.generator !== "qa") return Math.max(0, input.lastIndexOf("\n", end - 1));
  const last = input.lastIndexOf("\n\n", end - 1);
  return Math.max(0, last > 0 ? input.lastIndexOf("\n\n", last - 1) : last);
}

type Pieces = Pick<Sample, "example" | "lead" | "context" | "question">;

function restoreParts(input: string, { example, lead, context }: v.InferOutput<typeof partsSchema>): Pieces {
  let at = 0;
  const take = (length: number) => {
    at += length;
    return input.slice(at - length, at);
  };
  const user = example && take(example.user);
  if (example) take(1);
  const assistant = example && take(example.assistant);
  if (example) take(2);
  return {
    ...(user !== undefined && assistant !== undefined && { example: { user, assistant } }),
    lead: take(lead),
    context: take(context),
    question: input.slice(at),
  };
}

function split(row: FileRow, task: RulerTask): Pieces {
  const { input } = row;
  if (input === undefined) return { lead: "", context: row.context!, question: row.question! };
  if (row.parts) return restoreParts(input, row.parts);
  const at = questionAt(input, task);
  return { lead: "", context: input.slice(0, at), question: input.slice(at) };
}

function dialect(row: FileRow): "A" | "B" | "C" | "D" {
  if (row.input === undefined) return "D";
  if (row.answer_prefix !== undefined) return "A";
  return row.outputs === undefined ? "C" : "B";
}

function toSample(row: FileRow, ordinal: number, path: string, options: RulerFileOptions): Sample {
  const place = placeInPath(path);
  const name = options.task ?? place.task ?? row.task;
  if (name === undefined) throw new Error("the path names no RULER task, and the line has no task; name it");
  const task = rulerTask(name);
  const length = options.length ?? place.length ?? null;
  const kind = dialect(row);
  const builtin = row.source === "builtin";
  const opening = row.answer_prefix ?? "";
  return {
    id: `${task.name}/${length ?? "file"}/${ordinal}`,
    task: task.name,
    length,
    source: builtin ? "builtin" : "official-file",
    ...split(row, task),
    opening: builtin ? opening.replace(/^\n/, "") : opening,
    refs: row.outputs ?? row.answer!,
    maxNewTokens: row.max_new_tokens ?? task.cap,
    metric: task.metric,
    meta: {
      ...row.meta,
      ...(!builtin && { dialect: kind, sourceLength: row.length ?? null }),
      ...((kind === "B" || kind === "C") && { openingInInput: true }),
    },
  };
}

function parseLine(line: string): FileRow {
  const result = v.safeParse(rowSchema, JSON.parse(line), { abortEarly: true });
  if (result.success) return result.output;
  const issue = result.issues[0];
  const key = v.getDotPath(issue);
  throw new Error(key === null ? `the line ${issue.message}` : `${key} ${issue.message}`);
}

/** The samples of a RULER file of any dialect; their ordinal is the position in the file. */
export function readRulerFile(path: string, options: RulerFileOptions = {}): Sample[] {
  let content: string;
  try {
    content = readFileSync(path, "utf8");
  } catch (error) {
    throw new KvaError("data", `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
  const samples: Sample[] = [];
  let line = 0;
  for (let at = 0; at < content.length && samples.length < (options.limit ?? Infinity); ) {
    line++;
    const end = content.indexOf("\n", at);
    const row = content.slice(at, end < 0 ? undefined : end).trim();
    at = end < 0 ? content.length : end + 1;
    if (row === "") continue;
    try {
      samples.push(toSample(parseLine(row), samples.length, path, options));
    } catch (error) {
      const reason = error instanceof SyntaxError ? `not valid JSON: ${error.message}` : (error as Error).message;
      throw new KvaError("data", `${path}:${line}: ${reason}`, { cause: error });
    }
  }
  if (samples.length === 0) throw new KvaError("data", `${path} holds no samples`);
  return samples;
}

/** one line, everything outside of ASCII escaped */
export function jsonLine(row: object): string {
  const escaped = (char: string) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return `${JSON.stringify(row).replace(/[\u0080-\uffff]/g, escaped)}\n`;
}

const ordinal = (sample: Sample) => Number(sample.id.slice(sample.id.lastIndexOf("/") + 1));
const inputOf = (sample: Sample) => (sample.example ? inlineExample(sample.example) : "") + userText(sample);

/** A line of a data file with the official keys of the newest dialect, and what a sample of ours needs to come back whole. */
export function sampleLine(sample: Sample): string {
  const builtin = sample.source === "builtin";
  const { example, lead, context } = sample;
  const { promptTokens, depths } = sample.meta;
  const total = typeof promptTokens === "number" ? promptTokens + sample.maxNewTokens : sample.length;
  return jsonLine({
    index: ordinal(sample),
    input: inputOf(sample),
    outputs: sample.refs,
    length: total,
    length_w_model_temp: total,
    answer_prefix: builtin ? `\n${sample.opening}` : sample.opening,
    ...(Array.isArray(depths) && depths.length > 0 && { token_position_answer: depths[0] }),
    task: sample.task,
    max_new_tokens: sample.maxNewTokens,
    source: sample.source,
    parts: {
      ...(example && { example: { user: example.user.length, assistant: example.assistant.length } }),
      lead: lead.length,
      context: context.length,
    },
    meta: sample.meta,
  });
}

/** The dialects by name: RULER's newest, its earlier one, LOOM-Scope's, kvpress's. */
export const dialects = ["ruler", "ruler-2024", "loom", "kvpress"] as const;
export type Dialect = (typeof dialects)[number];

/**
 * A line of a data file in a dialect. In those that keep the opening inside of `input` it follows the question on its line, where
 * readers look for the question.
 */
export function dialectLine(sample: Sample, dialect: Dialect): string {
  if (dialect === "ruler") return sampleLine(sample);
  const { example, lead, context, question, opening, refs, task, maxNewTokens } = sample;
  const { promptTokens } = sample.meta;
  const length = typeof promptTokens === "number" ? promptTokens + maxNewTokens : sample.length;
  if (dialect === "kvpress") {
    return jsonLine({
      context: (example ? inlineExample(example) : "") + lead + context,
      question: `${question}\n`,
      answer_prefix: opening,
      answer: refs,
      task,
      max_new_tokens: maxNewTokens,
    });
  }
  const input = opening === "" ? inputOf(sample) : `${inputOf(sample)} ${opening}`;
  const index = ordinal(sample);
  return jsonLine(
    dialect === "loom" ? { input, answer: refs, index, length } : { index, input, outputs: refs, length },
  );
}

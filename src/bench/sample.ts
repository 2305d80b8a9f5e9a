// One benchmark sample in its normal form, and the prompt it becomes: text, token ids, where the question starts.

import type { LongbenchMetric } from "./longbench-score.ts";
import { namedTemplates, type TemplateName } from "./named-templates.ts";

export interface Message {
  role: "user" | "assistant";
  content: string;
}

/** What assembling a prompt needs of a tokenizer. */
export interface TextCodec {
  /** `special: false` leaves out the tokens that the tokenizer puts around every text */
  encode(text: string, options?: { special?: boolean }): number[];
  /** special tokens left out */
  decode?(ids: readonly number[]): string;
  readonly hasChatTemplate?: boolean;
  applyChatTemplate?(messages: readonly Message[], options: { addGenerationPrompt: boolean; date: Date }): string;
  /** contents of the special tokens; a file's prompt that has one of them inside is templated already */
  readonly specialTokens?: readonly string[];
}

export type Metric = "string_match_all" | "string_match_part" | LongbenchMetric;
export type PrefixMode = "assistant" | "user" | "none";

/** A worked example before the sample: an earlier exchange with a chat template, plain text without one. */
export interface Exchange {
  user: string;
  assistant: string;
}

/** A further question about the context of a sample. */
export interface Question {
  question: string;
  opening: string;
  refs: string[];
  /** what a perfect model writes after the opening */
  answer: string;
}

export interface Sample {
  /** `<task>/<length>/<ordinal>`; LongBench: `<task>/all/<ordinal>` */
  id: string;
  task: string;
  /** RULER: the token budget; null: the length of the text itself */
  length: number | null;
  source: "builtin" | "official-file";
  example?: Exchange;
  /** parts of the prompt, in order */
  lead: string;
  context: string;
  question: string;
  /** start of the answer, given to the model */
  opening: string;
  refs: string[];
  /** asked over the cache that the sample's own prompt leaves */
  followUps?: Question[];
  maxNewTokens: number;
  metric: Metric;
  meta: Record<string, unknown>;
}

export interface PromptOptions {
  /** auto: the model's chat template where it has one; or one by name */
  template: "auto" | "none" | TemplateName;
  prefixMode: PrefixMode;
  /** default: turn with a chat template, inline without */
  fewshot?: "turn" | "inline";
}

export const plainPrompt: PromptOptions = { template: "none", prefixMode: "assistant" };

export interface Prompt {
  text: string;
  ids: number[];
  /** first token of the question; null where the boundary is unknown */
  questionStart: number | null;
  /** where the user text of the sample begins in `text`; null where the template changed it */
  userStart: number | null;
  /** tokenizes further text the way `text` was */
  encode: (text: string) => number[];
  templated: boolean;
  /** writes a conversation up to the head of the next answer; absent without a template */
  render?: (messages: readonly Message[]) => string;
  /** the file's text had a template inside, so none was added */
  hadTemplate: boolean;
  /** as it was done: an opening inside the text stays in the user turn */
  prefixMode: PrefixMode;
}

type Parts = Pick<Sample, "source" | "example" | "lead" | "context" | "question" | "opening" | "meta">;

/** the day that templates ask for: always the same, so that prompts are */
const promptDate = new Date(2024, 6, 26);

const instructionMarkers = [
  "[INST]",
  "<|im_start|>",
  "<|start_header_id|>",
  "<|user|>",
  "<s>[INST]",
  "### Instruction",
];

function holdsTemplate(sample: Parts, codec: TextCodec): boolean {
  if (sample.source === "builtin" || sample.meta.anyText === true) return false;
  const start = (sample.lead + sample.context).trimStart();
  if (instructionMarkers.some((marker) => start.startsWith(marker))) return true;
  return (codec.specialTokens ?? []).some(
    (token) => sample.lead.includes(token) || sample.context.includes(token) || sample.question.includes(token),
  );
}

/** the example as plain text before the sample */
export function inlineExample(example: Exchange): string {
  return `${example.user}\n${example.assistant}\n\n`;
}

/** the whole text of a sample without a template: what stands in the user turn, without the opening */
export function userText(sample: Parts): string {
  return sample.lead + sample.context + sample.question;
}

function rendererOf(codec: TextCodec, { template }: PromptOptions): Prompt["render"] {
  if (template === "none") return undefined;
  if (template !== "auto") return namedTemplates[template];
  if (codec.hasChatTemplate !== true || codec.applyChatTemplate === undefined) return undefined;
  return (messages) => codec.applyChatTemplate!(messages, { addGenerationPrompt: true, date: promptDate });
}

function buildText(sample: Parts, options: PromptOptions, render: Prompt["render"]): string {
  const inTurn = render !== undefined && options.fewshot !== "inline";
  const head = sample.example && !inTurn ? inlineExample(sample.example) : "";
  const gap = sample.source === "builtin" && sample.opening !== "" ? "\n" : "";
  const opening = options.prefixMode === "none" ? "" : sample.opening;
  const user = head + userText(sample);
  if (render === undefined) return opening === "" ? user : user + gap + opening;
  const messages: Message[] = [];
  if (sample.example && inTurn) {
    messages.push({ role: "user", content: sample.example.user });
    messages.push({ role: "assistant", content: sample.example.assistant });
  }
  messages.push({ role: "user", content: options.prefixMode === "user" ? user + gap + opening : user });
  const text = render(messages);
  return options.prefixMode === "assistant" ? text + opening : text;
}

/** where the sample's user text begins; a template may trim its ends */
function findUserText(text: string, sample: Parts): number | null {
  const user = userText(sample);
  const trimmed = user.trim();
  const found = text.lastIndexOf(trimmed);
  return found < 0 ? null : found - user.indexOf(trimmed);
}

/** Puts a sample together as one string and tokenizes that once. */
export function assemble(sample: Parts, codec: TextCodec, options: PromptOptions): Prompt {
  const hadTemplate = holdsTemplate(sample, codec);
  const render = hadTemplate ? undefined : rendererOf(codec, options);
  const templated = render !== undefined;
  const text = buildText(sample, options, render);
  const encode = (piece: string) => codec.encode(piece, { special: !templated && !hadTemplate });
  const ids = encode(text);
  const userStart = findUserText(text, sample);
  const known = userStart !== null && !hadTemplate && sample.question !== "";
  const questionChar = known ? userStart + sample.lead.length + sample.context.length : 0;
  return {
    text,
    ids,
    questionStart: known ? tokenOffset(text, ids, questionChar, encode) : null,
    userStart,
    encode,
    templated,
    ...(render && { render }),
    hadTemplate,
    prefixMode: templated && sample.meta.openingInInput === true ? "user" : options.prefixMode,
  };
}

/**
 * What is fed after the prompt to ask a further question. After the sample's own question (question_aware) its answer comes first,
 * as in a conversation; after the context alone (context_only) the question follows at once.
 */
export function followUpIds(
  sample: Pick<Sample, "source" | "lead" | "context" | "question" | "opening" | "meta">,
  prompt: Prompt,
  asked: Question,
  codec: TextCodec,
  contextOnly: boolean,
): number[] {
  const own = (text: string) => codec.encode(text, { special: false });
  const gap = asked.opening === "" ? "" : "\n";
  if (prompt.render === undefined) {
    const before = contextOnly ? "" : String(sample.meta.answer);
    return own(`${before}${asked.question}${gap}${asked.opening}`);
  }
  if (contextOnly) {
    const other = { ...sample, question: asked.question, opening: asked.opening };
    const text = buildText(other, { template: "auto", prefixMode: prompt.prefixMode }, prompt.render);
    const ids = own(text);
    const start = findUserText(text, other)! + sample.lead.length + sample.context.length;
    return ids.slice(tokenOffset(text, ids, start, own));
  }
  const given = prompt.prefixMode === "assistant" ? sample.opening : "";
  const answered = (given + String(sample.meta.answer)).trim();
  const user = prompt.prefixMode === "user" ? `${userText(sample)}\n${sample.opening}` : userText(sample);
  const messages: Message[] = [
    { role: "user", content: user },
    { role: "assistant", content: answered },
    { role: "user", content: asked.question.trimStart() },
  ];
  const whole = prompt.render(messages) + asked.opening;
  return own(whole.slice(whole.lastIndexOf(answered) + given.length));
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}

/** where `part` stands in `ids`; -1 when nowhere or twice */
function findOnce(ids: readonly number[], part: readonly number[]): number {
  let found = -1;
  for (let i = ids.indexOf(part[0]!); i >= 0; i = ids.indexOf(part[0]!, i + 1)) {
    if (!part.every((id, j) => ids[i + j] === id)) continue;
    if (found >= 0) return -1;
    found = i;
  }
  return found;
}

const reach = 400; // characters
const edge = 12; // tokens at the ends of a piece of text that may differ from those of the whole

/**
 * The number of leading tokens of `ids` that a prefix of `chars` characters shares with the whole text. Only a
 * neighbourhood is tokenized, and found again in `ids`; where that is not possible, the whole prefix.
 */
export function tokenOffset(
  text: string,
  ids: readonly number[],
  chars: number,
  encode: (text: string) => number[],
): number {
  const start = chars - reach;
  if (start > 0) {
    const around = encode(text.slice(start, chars + reach));
    const before = commonPrefix(encode(text.slice(start, chars)), around);
    const place = before > edge ? findOnce(ids, around.slice(edge, -edge)) : -1;
    if (place >= 0) return place - edge + before;
  }
  return commonPrefix(encode(text.slice(0, chars)), ids);
}

// LongBench's rule for prompts over the limit: the first and the last half of it stay, the chat template around them is whole.
import type { ReadySample } from "./dataset.ts";
import {
  assemble,
  type Prompt,
  type PromptOptions,
  type Sample,
  type TextCodec,
  tokenOffset,
  userText,
} from "./sample.ts";

export const truncations = ["tokens", "reference"] as const;
/** tokens: the halves are cut from the prompt's ids. reference: they become text again, which is then tokenized anew. */
export type Truncation = (typeof truncations)[number];

export interface LongbenchLimit {
  /** tokens of the user's text (max_length) */
  text: number;
  /** tokens of the whole prompt: what the model takes less the answer */
  prompt: number;
  how: Truncation;
}

/** where the user's text stands in the prompt's ids */
function userPart({ text, ids, userStart, templated, encode }: Prompt, sample: Sample): [start: number, end: number] {
  if (!templated || userStart === null) return [0, ids.length];
  const user = userText(sample);
  const first = userStart + (user.length - user.trimStart().length);
  return [tokenOffset(text, ids, first, encode), tokenOffset(text, ids, first + user.trim().length, encode)];
}

/** The sample within the limit; `truncated` says whether anything was left out. */
export function cutSample(
  sample: Sample,
  codec: TextCodec,
  options: PromptOptions,
  limit: LongbenchLimit,
): ReadySample {
  const prompt = assemble(sample, codec, options);
  const [start, end] = userPart(prompt, sample);
  const most = Math.min(limit.text, limit.prompt - (prompt.ids.length - (end - start)));
  const { ids, questionStart } = prompt;
  if (end - start <= most) return { sample, prompt, ids, questionStart, truncated: false };
  const half = Math.max(0, Math.floor(most / 2));
  if (limit.how === "reference") return cutText(sample, codec, options, half);
  const removed = end - start - 2 * half;
  const whole = questionStart !== null && questionStart >= end - half;
  return {
    sample,
    prompt,
    ids: [...ids.slice(0, start + half), ...ids.slice(end - half)],
    questionStart: whole ? questionStart - removed : null,
    truncated: true,
  };
}

function cutText(sample: Sample, codec: TextCodec, options: PromptOptions, half: number): ReadySample {
  const ids = codec.encode(userText(sample));
  const text = codec.decode!(ids.slice(0, half)) + codec.decode!(half === 0 ? [] : ids.slice(-half));
  const known = text.endsWith(sample.question);
  const cut: Sample = {
    ...sample,
    lead: "",
    context: known ? text.slice(0, text.length - sample.question.length) : text,
    question: known ? sample.question : "",
  };
  const prompt = assemble(cut, codec, options);
  return { sample: cut, prompt, ids: prompt.ids, questionStart: prompt.questionStart, truncated: true };
}

// Further questions over one compressed context: each is fed to a fork of the cache as the prompt left it, and answered.
import { KvaError } from "../native/error.ts";
import { Scope } from "../native/scope.ts";
import { DecodeLoop } from "./decode.ts";
import type { GenerateOptions } from "./generate.ts";
import type { FollowUp, FollowUpAnswer, Request } from "./protocol.ts";
import { Sequence } from "./sequence.ts";

/** Answers in order. One fork lives at a time; the origin stays as it is. */
export async function answerFollowUps(
  options: GenerateOptions,
  origin: Sequence,
  questions: readonly FollowUp[],
  breathe: () => Promise<void>,
): Promise<FollowUpAnswer[]> {
  if (origin.needs.perStep && questions.length > 0) {
    const names = origin.hooks.map(({ name }) => name).join("+");
    throw new KvaError(
      "plugin",
      `${names} decides anew at every step, so its cache cannot be forked for further questions`,
    );
  }
  const answers: FollowUpAnswer[] = [];
  for (const question of questions) answers.push(await answer(options, origin, question, breathe));
  return answers;
}

async function answer(
  { decoder, method, model, graphs }: GenerateOptions,
  origin: Sequence,
  { id, ids, maxNewTokens }: FollowUp,
  breathe: () => Promise<void>,
): Promise<FollowUpAnswer> {
  using scope = new Scope(decoder.context);
  const { questionStart: _, ...common } = origin.request;
  const request: Request = { ...common, id, ids, maxNewTokens };
  const start = performance.now();
  const fork = new Sequence(scope, decoder, request, method, model, origin);
  const loop = scope.own(new DecodeLoop(decoder, request.sampling, 1, graphs));
  loop.setMembers([fork]);
  let feedMs = 0;
  let sampled = -1; // nothing was sampled before the first fed token
  for (;;) {
    const next = fork.accept(sampled);
    if (feedMs === 0 && !fork.wasFed) feedMs = performance.now() - start;
    if (next === null) break;
    if (fork.wasFed) loop.feed(Int32Array.of(next));
    loop.advance();
    sampled = loop.ids()[0]!;
    await breathe();
  }
  return {
    id,
    ids: fork.newIds,
    finish: fork.finish ?? "length",
    feedMs,
    decodeMs: performance.now() - start - feedMs,
  };
}

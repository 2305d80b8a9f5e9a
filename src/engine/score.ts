// Log-probabilities of given tokens under a method: a prefilled part, then the rest fed one by one.
import type { Decoder } from "../model/decoder.ts";
import { KvaError } from "../native/error.ts";
import { logprobs } from "../native/ops.ts";
import { Scope } from "../native/scope.ts";
import { Tensor } from "../native/tensor.ts";
import type { ModelInfo } from "../plugin/index.ts";
import { DecodeLoop } from "./decode.ts";
import { checkIds } from "./generate.ts";
import type { LoadedMethod } from "./method.ts";
import { prefill } from "./prefill.ts";
import type { ScoreRequest, ScoreResult } from "./protocol.ts";
import { Sequence } from "./sequence.ts";

/** Rows whose logits are in memory at a time. */
const LOGIT_ROWS = 128;
const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0 };

export interface ScoreOptions {
  decoder: Decoder;
  model: ModelInfo;
  method: LoadedMethod;
  request: ScoreRequest;
  graphs: boolean;
}

export async function score(options: ScoreOptions, breathe: () => Promise<void>): Promise<ScoreResult> {
  const { decoder, model, method, request } = options;
  const { ids } = request;
  const prompt = Math.min(request.promptTokens ?? ids.length, ids.length);
  if (ids.length === 0) throw new KvaError("data", "there are no tokens to score");
  checkIds("score", ids, decoder.config.vocabSize);
  if (!(Number.isInteger(prompt) && prompt >= 1)) {
    throw new KvaError(
      "usage",
      `prompt_tokens must be a whole number from 1 to ${ids.length}, not ${request.promptTokens}`,
    );
  }
  using scope = new Scope(decoder.context);
  const sequence = new Sequence(
    scope,
    decoder,
    { id: "score", ids, maxNewTokens: 1, stopIds: [], questionStart: prompt, sampling: greedy },
    method,
    model,
  );
  const result: (number | null)[] = [null];
  result.push(...(await promptLogprobs(decoder, sequence, ids, breathe)));

  const loop = scope.own(new DecodeLoop(decoder, greedy, 1, options.graphs));
  loop.setMembers([sequence]);
  for (let at = prompt; at + 1 < ids.length; at++) {
    loop.feed(Int32Array.of(ids[at]!));
    loop.advance();
    result.push(...rowLogprobs(loop.step.logits, ids, at, 1));
    await breathe();
  }
  return { logprobs: result };
}

/** those of ids[1 .. prompt]: the last row of the prompt speaks for the token after it */
async function promptLogprobs(
  decoder: Decoder,
  sequence: Sequence,
  ids: readonly number[],
  breathe: () => Promise<void>,
): Promise<number[]> {
  using scope = new Scope(decoder.context);
  const { hidden } = await prefill(scope, decoder, [sequence], { breathe });
  const rows = Math.min(sequence.promptTokens, ids.length - 1);
  const size = Math.max(1, Math.min(LOGIT_ROWS, rows));
  const last = scope.on(hidden.context);
  const normed = last.tensor(decoder.dtype, size, decoder.config.hiddenSize);
  const logits = last.tensor("float32", size, decoder.config.vocabSize);
  const result: number[] = [];
  for (let from = 0; from < rows; from += size) {
    const count = Math.min(size, rows - from);
    using part = new Scope(hidden.context);
    const view = part.view(logits, 0, count);
    decoder.logits(part.view(hidden, from, count), part.view(normed, 0, count), view);
    result.push(...rowLogprobs(view, ids, from, count));
    await breathe();
  }
  return result;
}

/** log-probability of ids[from + 1 + r] in row r of the logits; waits for the device */
function rowLogprobs(logits: Tensor, ids: readonly number[], from: number, count: number): Float32Array {
  using targets = Tensor.from(logits.context, Int32Array.from(ids.slice(from + 1, from + 1 + count)), 1, count);
  using out = Tensor.create(logits.context, "float32", 1, count);
  logprobs(logits, targets, out);
  return out.toFloats();
}

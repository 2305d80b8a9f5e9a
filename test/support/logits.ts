// What a model says at every position of a text: likeliest tokens and log-probabilities, from one prefill pass.
import type { Engine } from "../../src/engine/engine.ts";
import { prefill } from "../../src/engine/prefill.ts";
import { Sequence } from "../../src/engine/sequence.ts";
import { Scope } from "../../src/native/scope.ts";
import { breathe, greedy } from "./engine.ts";

export interface Said {
  /** the likeliest token after each of the ids */
  argmax: number[];
  /** logprobs[i]: of ids[i + 1] given those before it */
  logprobs: number[];
}

/** All logits come to the host: for small vocabularies. */
export async function sayAll(engine: Engine, ids: readonly number[]): Promise<Said> {
  const { decoder, model } = engine;
  const method = { spec: { label: "Full", parts: [], hash: "" }, parts: [] };
  using scope = new Scope(decoder.context);
  const request = { id: "say", ids: [...ids], maxNewTokens: 1, stopIds: [], sampling: greedy };
  const sequence = new Sequence(scope, decoder, request, method, model);
  const { hidden } = await prefill(scope, decoder, [sequence], { breathe });
  const normed = scope.tensor(decoder.dtype, ids.length, decoder.config.hiddenSize);
  const logits = scope.tensor("float32", ids.length, decoder.config.vocabSize);
  decoder.logits(hidden, normed, logits);
  const values = logits.toFloats();
  const argmax: number[] = [];
  const logprobs: number[] = [];
  for (let at = 0; at < ids.length; at++) {
    const row = values.subarray(at * logits.columns, (at + 1) * logits.columns);
    const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
    argmax.push(row.indexOf(most));
    const next = ids[at + 1];
    if (next === undefined) continue;
    const sum = row.reduce((total, x) => total + Math.exp(x - most), 0);
    logprobs.push(row[next]! - most - Math.log(sum));
  }
  return { argmax, logprobs };
}

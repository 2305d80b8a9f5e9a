// What a method does, step by step: the logits and the kept rows after a prompt and after each token fed behind it.
import { DecodeLoop } from "../engine/decode.ts";
import type { Engine } from "../engine/engine.ts";
import type { LoadedMethod } from "../engine/method.ts";
import { gatherRows, prefill } from "../engine/prefill.ts";
import type { Request } from "../engine/protocol.ts";
import { Sequence } from "../engine/sequence.ts";
import type { StagedCache } from "../model/staged-cache.ts";
import { Scope } from "../native/scope.ts";

export interface TraceInput {
  /** the prompt, and the tokens fed one by one after it */
  ids: number[];
  promptTokens: number;
}
export interface Trace {
  /** after the prompt, and after each fed token: `[vocabSize]` */
  logits: Float32Array[];
  /** after the prompt, and after each fed token: [layer][kvHead] -> positions, ascending */
  kept: number[][][][];
  /** after the prompt, every head holds its rows by ascending position */
  ordered: boolean;
}

export const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0 };
export const breathe = async (): Promise<void> => {};

/** A greedy request for eight tokens that no stop token ends. */
export function request(ids: number[], more: Partial<Request> = {}): Request {
  const common = { stopIds: [], sampling: greedy, ignoreStop: true, logKept: true };
  return { id: "sample", ids, maxNewTokens: 8, ...common, ...more };
}

/** Runs prompts and given tokens as one batch. All must have as many tokens to feed. */
export async function traceMethod(
  engine: Engine,
  method: LoadedMethod,
  inputs: readonly TraceInput[],
  graphs = true,
): Promise<Trace[]> {
  const { decoder, model } = engine;
  using scope = new Scope(decoder.context);
  const sequences = inputs.map(
    ({ ids, promptTokens }) =>
      new Sequence(scope, decoder, request(ids, { id: ids.join(" "), questionStart: promptTokens }), method, model),
  );
  const { hidden, starts } = await prefill(scope, decoder, sequences, { breathe });
  const lastRows = starts.map((start, s) => start + inputs[s]!.promptTokens - 1);
  const loop = scope.own(new DecodeLoop(decoder, greedy, inputs.length, graphs));
  loop.setMembers(sequences);
  decoder.logits(gatherRows(scope, hidden, lastRows), loop.step.normed, loop.step.logits);
  const traces: Trace[] = sequences.map(({ cache }) => ({ logits: [], kept: [], ordered: inOrder(cache) }));
  const note = () => {
    const logits = loop.step.logits.toFloats();
    const { vocabSize } = decoder.config;
    traces.forEach(({ logits: rows, kept }, s) => {
      rows.push(logits.slice(s * vocabSize, (s + 1) * vocabSize));
      kept.push(sequences[s]!.keptPositions());
    });
  };
  note();
  const steps = inputs[0]!.ids.length - inputs[0]!.promptTokens;
  for (let step = 0; step < steps; step++) {
    loop.feed(Int32Array.from(inputs, ({ ids, promptTokens }) => ids[promptTokens + step]!));
    loop.advance();
    note();
  }
  return traces;
}

function inOrder(cache: StagedCache): boolean {
  const { layers, kvHeads } = cache.shape;
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < kvHeads; head++) {
      const positions = cache.positions(layer, head);
      if (positions.some((position, r) => r > 0 && position <= positions[r - 1]!)) return false;
    }
  }
  return true;
}

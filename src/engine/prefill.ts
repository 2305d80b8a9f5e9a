// One prefill pass over packed sequences, with their hooks, up to the hidden states of all rows.
import type { Decoder, PrefillHooks } from "../model/decoder.ts";
import { Timer } from "../native/graph.ts";
import type { Scope } from "../native/scope.ts";
import { Tensor } from "../native/tensor.ts";
import { attend } from "./attend.ts";
import type { Sequence } from "./sequence.ts";

export interface PrefillResult {
  /** hidden states of all packed rows `[rows, hiddenSize]`, on the last stage's device; owned by the scope */
  hidden: Tensor;
  /** first packed row of each sequence */
  starts: number[];
  /** milliseconds on the device inside hooks; waits for the device */
  methodMs(): number;
}

/** The prompts of some sequences, one behind the other, on the first stage's device. */
export interface PackedPrompts {
  /** i32 `[1, rows]`; owned by the scope */
  ids: Tensor;
  /** first packed row of each sequence */
  starts: number[];
}

/** Waits for the device: a pipeline packs all its prompts before any of them runs. */
export function packPrompts(scope: Scope, sequences: readonly Sequence[]): PackedPrompts {
  const starts: number[] = [];
  const packed: number[] = [];
  for (const { request, promptTokens } of sequences) {
    starts.push(packed.length);
    for (let i = 0; i < promptTokens; i++) packed.push(request.ids[i]!);
  }
  return { ids: scope.ints(Int32Array.from(packed)), starts };
}

/** Between pieces of work, and before the layers of a stage. */
export type Around = Pick<PrefillHooks, "breathe" | "enter">;

/** Runs the prompts of all sequences; their caches end as their hooks leave them. timersIn: what owns the timers behind methodMs. */
export async function prefill(
  scope: Scope,
  decoder: Decoder,
  sequences: readonly Sequence[],
  { breathe, enter }: Around,
  { ids, starts }: PackedPrompts = packPrompts(scope, sequences),
  timersIn = scope,
): Promise<PrefillResult> {
  const { layers } = decoder.config;
  const timers = decoder.stages.map(({ context }) => timersIn.own(Timer.create(context, 2 * layers)));
  const timerOf = (layer: number) => timers[decoder.stageOf(layer)]!;
  const hooked = sequences.some(({ worksAfterLayers }) => worksAfterLayers);
  const mark = (layer: number, slot: number) => hooked && timerOf(layer).mark(2 * layer + slot);
  const hidden = await decoder.prefill(
    scope,
    ids,
    sequences.map((sequence, s) => ({
      cache: sequence.cache,
      start: starts[s]!,
      rows: sequence.promptTokens,
      spareRows: sequence.prefillSpareRows,
    })),
    {
      queries: (s, first, rows) => sequences[s]!.noteQueries(rows, first),
      attend: (layer, s, q) => attend(decoder, sequences[s]!, layer, q, breathe),
      afterLayer: (layer) => {
        mark(layer, 0);
        for (const sequence of sequences) sequence.prefillHooks(layer);
        mark(layer, 1);
      },
      breathe,
      ...(enter && { enter }),
    },
  );
  for (const { cache, promptTokens, stream } of sequences) cache.seek(promptTokens, stream);
  const methodMs = () => {
    let total = 0;
    for (let layer = 0; hooked && layer < layers; layer++) total += timerOf(layer).read(2 * layer, 2 * layer + 1);
    return sequences.reduce((sum, { spans }) => sum + spans.ms(), total);
  };
  return { hidden, starts, methodMs };
}

/** hidden states of the given packed rows, side by side: `[rows.length, hiddenSize]` */
export function gatherRows(scope: Scope, hidden: Tensor, rows: readonly number[]): Tensor {
  const out = scope.own(Tensor.create(hidden.context, hidden.dtype, rows.length, hidden.columns));
  rows.forEach((row, i) => {
    using from = hidden.view(row, 1);
    using to = out.view(i, 1);
    from.copyTo(to);
  });
  return out;
}

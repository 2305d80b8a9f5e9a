// What is wrong with a trace, in the words of the method that made it: plugin, hook, layer, rows expected and got.
import type { Trace } from "./trace.ts";

const rowsOf = (count: number) => `${count} ${count === 1 ? "row" : "rows"}`;

/**
 * Rows after the prompt and after each token: sorted, in range, as many as `expected` says, and never more. Where layers share
 * their rows (`sharesRows`), that holds for a head's sum over the layers; where heads do, for a layer's sum over its heads.
 */
export function rowFault(
  name: string,
  trace: Trace,
  promptTokens: number,
  expected: (layer: number) => number,
  shared?: "layers" | "heads",
): string | undefined {
  if (!trace.ordered) return `${name}.prefill leaves rows out of order: rows must be given in ascending order`;
  for (const [step, layers] of trace.kept.entries()) {
    for (const [layer, heads] of layers.entries()) {
      for (const [head, positions] of heads.entries()) {
        const fault = headFault(positions, step, promptTokens, shared ? null : expected(layer));
        if (fault === undefined) continue;
        const hook = step === 0 ? "prefill" : "decode";
        const when = step === 0 ? "" : ` and ${step} new ${step === 1 ? "token" : "tokens"}`;
        const place = `after a prompt of ${promptTokens} tokens${when}`;
        return `${name}.${hook} in layer ${layer}: KV head ${head} holds ${fault}, ${place}`;
      }
    }
    if (shared === "heads") {
      const fault = layerFault(name, layers, step, expected);
      if (fault !== undefined) return fault;
    }
    if (shared !== "layers") continue;
    const most = layers.reduce((sum, _, layer) => sum + expected(layer), 0);
    for (const head of layers[0]!.keys()) {
      const held = layers.reduce((sum, heads) => sum + heads[head]!.length, 0);
      if (step === 0 ? held === most : held <= most + step * layers.length) continue;
      return `${name}: KV head ${head} holds ${rowsOf(held)} over all layers; expectedRows says ${most} after the prompt`;
    }
  }
}

function layerFault(
  name: string,
  layers: readonly (readonly (readonly number[])[])[],
  step: number,
  expected: (layer: number) => number,
): string | undefined {
  for (const [layer, heads] of layers.entries()) {
    const most = heads.length * expected(layer);
    const held = heads.reduce((sum, positions) => sum + positions.length, 0);
    if (step === 0 ? held === Math.round(most) : held <= most + step * heads.length) continue;
    return `${name}: layer ${layer} holds ${rowsOf(held)} over all heads; expectedRows says ${most} after the prompt`;
  }
}

function headFault(
  positions: readonly number[],
  step: number,
  promptTokens: number,
  expected: number | null,
): string | undefined {
  if (expected !== null && !Number.isInteger(expected))
    return `${rowsOf(positions.length)}, and expectedRows says ${expected}`;
  const twice = positions.find((position, i) => positions.indexOf(position) !== i);
  if (twice !== undefined) return `row ${twice} twice`;
  const outside = positions.find((position) => position < 0 || position >= promptTokens + step);
  if (outside !== undefined) return `a row of position ${outside}, which no token has`;
  if (expected === null) return undefined;
  if (step === 0 && positions.length !== expected) {
    return `${rowsOf(positions.length)}; expectedRows says ${expected}`;
  }
  if (positions.length > expected + step) return `${rowsOf(positions.length)}; ${expected + step} is the most`;
}

/** Where two traces of one input part ways; undefined where they are equal to the bit. */
export function difference(
  name: string,
  got: Trace,
  wanted: Trace,
  words: { got: string; wanted: string },
): string | undefined {
  for (const [step, layers] of wanted.kept.entries()) {
    const hook = step === 0 ? "prefill" : "decode";
    for (const [layer, heads] of layers.entries()) {
      for (const [head, positions] of heads.entries()) {
        const own = got.kept[step]?.[layer]?.[head] ?? [];
        if (own.length === positions.length && own.every((position, i) => position === positions[i])) continue;
        const place = `${name}.${hook} in layer ${layer}: KV head ${head}`;
        return `${place} holds ${listed(own, positions)} ${words.got} and ${listed(positions, own)} ${words.wanted}`;
      }
    }
    const [a, b] = [got.logits[step]!, wanted.logits[step]!];
    if (a.every((x, i) => Object.is(x, b[i]))) continue;
    const at = step === 0 ? "the prompt" : `new token ${step}`;
    return `${name}: the same rows are kept, yet the logits after ${at} differ ${words.got} and ${words.wanted}`;
  }
}

/** How many rows, and which of them the other lacks. */
function listed(own: readonly number[], other: readonly number[]): string {
  const only = own.filter((position) => !other.includes(position));
  if (only.length === 0) return rowsOf(own.length);
  const shown = only.slice(0, 4).join(", ");
  return `${rowsOf(own.length)} (${shown}${only.length > 4 ? ", ..." : ""} only here)`;
}

// DuoAttention (Xiao et al. 2024, arXiv:2410.10819): a few heads look far back and keep everything; the others live on sinks and recent rows.
// The paper learns which ones per model (full_attention_heads.tsv): name them in fullHeads. Without a list, the heads of each layer that the
// prompt's end uses to look furthest are taken.
import { definePlugin, param, rowsMustStay } from "kvaccel/plugin";

type Values = { budget: { rows(promptTokens: number): number }; sinks: number };

/** Rows of a streaming head, and the sinks among them. */
function streaming({ budget, sinks }: Values, promptTokens: number): { rows: number; first: number } {
  const rows = Math.max(budget.rows(promptTokens), sinks + 1, 2);
  return { rows, first: sinks < 0 ? Math.floor(rows / 5) : sinks };
}

/** How many heads of a layer keep all rows. */
function fullCount(share: number, fullHeads: readonly number[], layer: number, kvHeads: number): number {
  if (fullHeads.length === 0) return Math.round(share * kvHeads);
  return new Set(fullHeads.filter((head) => Math.floor(head / kvHeads) === layer)).size;
}

export default definePlugin({
  name: "DuoAttention",
  about: "some heads keep all rows, the others the first and the most recent ones",
  paper: "https://arxiv.org/abs/2410.10819",
  category: "eviction",

  params: {
    budget: param.budget({ default: 320, about: "rows of a streaming head, sinks included" }),
    sinks: param.int({
      default: -1,
      min: -1,
      about: "first rows that streaming heads keep; -1: a fifth of their rows",
    }),
    share: param.number({ default: 0.5, min: 0, max: 1, about: "share of a layer's KV heads that keep all rows" }),
    fullHeads: param.ints({
      default: [],
      min: 0,
      about: "KV heads that keep all rows, as layer * KV heads + head; empty: chosen for each prompt",
    }),
    window: param.int({ default: 32, min: 1, about: "queries at the end of the prompt that choose the heads" }),
    rolling: param.flag({ default: true, about: "streaming heads go on dropping their oldest row while decoding" }),
  },

  check({ budget, sinks }) {
    if (budget.capacity !== undefined && budget.capacity <= sinks) {
      return `capacity must be above sinks: ${budget.capacity} rows hold nothing beside ${sinks} sinks`;
    }
  },

  // Under bounds of pages, or beside keys of fewer channels, rows cannot go one by one; among codes they can.
  beside(others) {
    return rowsMustStay(others) ? { rolling: false } : undefined;
  },

  sharesRows: "heads",
  expectedRows(values, promptTokens, _newTokens, layer, { kvHeads }) {
    const full = fullCount(values.share, values.fullHeads, layer, kvHeads);
    const rows = Math.min(promptTokens, streaming(values, promptTokens).rows);
    return (full * promptTokens + (kvHeads - full) * rows) / kvHeads;
  },

  create(values) {
    const { share, fullHeads, window, rolling } = values;
    const measured = fullHeads.length === 0;
    const streams = new Map<number, number[]>(); // streaming heads by layer
    return {
      needs: measured ? { queryRing: window, hostSync: "prefill" } : {},

      prefill(layer, ops) {
        const { rows, first } = streaming(values, layer.promptTokens);
        const heads = Array.from({ length: layer.kvHeads }, (_, h) => h);
        if (!measured) {
          streams.set(
            layer.index,
            heads.filter((h) => !fullHeads.includes(layer.index * layer.kvHeads + h)),
          );
        }
        if (layer.length <= rows) return; // a short prompt loses nothing, and says nothing of its heads
        if (measured) {
          const votes = ops.windowStats(layer.queries(Math.min(window, rows - first)), layer.keys).mean;
          const far = ops.read(ops.sums(ops.slice(votes, first, layer.length - rows))); // what a streaming head would miss
          heads.sort((a, b) => far[b]! - far[a]! || a - b);
          streams.set(layer.index, heads.slice(fullCount(share, fullHeads, layer.index, layer.kvHeads)));
        }
        layer.keep(null, { first, last: rows - first, heads: streams.get(layer.index)! });
      },

      decode(layer) {
        const some = streams.get(layer.index);
        if (!rolling || !some?.length) return;
        const { rows, first } = streaming(values, layer.promptTokens);
        const limits = Array.from({ length: layer.kvHeads }, (_, h) => (some.includes(h) ? rows : Infinity));
        layer.keepAtMost(limits, { sinks: first });
      },
    };
  },
});

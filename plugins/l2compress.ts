// L2Compress (Devoto et al. 2024, arXiv:2406.11430): a key of small norm tends to receive much attention.
import { definePlugin, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "L2Compress",
  about: "keeps the rows whose keys have the smallest L2 norm",
  paper: "https://arxiv.org/abs/2406.11430",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    skipLayers: param.ints({ default: [0, 1], min: 0, about: "layers that keep all rows" }),
    decode: param.flag({ default: false, about: "go on dropping rows while decoding" }),
    interval: param.int({
      default: 1,
      min: 1,
      about: "rows that come together before they are cut back while decoding",
    }),
    pruneAfter: param.int({ default: 0, min: 0, about: "prompts below so many tokens stay whole" }),
    protectSinks: param.int({ default: 0, min: 0, about: "first rows that always stay" }),
    protectRecent: param.int({ default: 0, min: 0, about: "last rows that always stay" }),
  },
  presets: {
    kvcf: {},
    kvpress: { skipLayers: [], keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, protectSinks, protectRecent }) {
    if (budget.capacity !== undefined && budget.capacity < protectSinks + protectRecent) {
      return `capacity must hold the protected rows: ${budget.capacity} is below ${protectSinks} + ${protectRecent}`;
    }
  },

  // Under bounds of pages, or beside keys of fewer channels, rows cannot go one by one; among codes they can.
  beside(others) {
    return rowsMustStay(others) ? { decode: false } : undefined;
  },

  expectedRows(
    { budget, rounding, skipLayers, pruneAfter, protectSinks, protectRecent },
    promptTokens,
    _newTokens,
    layer,
  ) {
    if (skipLayers.includes(layer) || promptTokens < pruneAfter) return promptTokens;
    return Math.min(promptTokens, Math.max(budget.rowsUp(promptTokens, rounding), protectSinks + protectRecent, 1));
  },

  create({ budget, rounding, skipLayers, decode, interval, pruneAfter, protectSinks, protectRecent }) {
    const rowsFor = (promptTokens: number) =>
      Math.max(budget.rowsUp(promptTokens, rounding), protectSinks + protectRecent, 1);
    return {
      needs: decode ? { sideArrays: ["score"] } : {},

      prefill(layer, ops) {
        if (skipLayers.includes(layer.index)) return;
        const scores = ops.combine(-1, ops.norms(layer.keys), 0);
        ops.fill(scores, 0, Math.min(protectSinks, layer.length), Infinity);
        if (decode) layer.setSide("score", scores);
        const rows = rowsFor(layer.promptTokens);
        if (layer.promptTokens < pruneAfter || layer.length <= rows) return;
        ops.fill(scores, layer.length - protectRecent, protectRecent, Infinity);
        layer.keep(ops.topk(scores, rows));
      },

      decode(layer) {
        if (!decode || skipLayers.includes(layer.index)) return;
        const rows = rowsFor(Math.max(layer.promptTokens, pruneAfter)); // a share is one of the rows that are there when it first drops
        layer.noteNorms("score", { factor: -1 });
        layer.dropLowest("score", rows, { recent: protectRecent, interval: Math.max(interval, pruneAfter - rows) });
      },
    };
  },
});

// SnapKV (Li et al. 2024, arXiv:2404.14469): the end of the prompt votes on which of its rows to keep.
import { definePlugin, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "SnapKV",
  about: "keeps the prompt rows that the end of the prompt attends to",
  paper: "https://arxiv.org/abs/2404.14469",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    window: param.int({ default: 32, min: 1, about: "rows at the end of the prompt that vote, and always stay" }),
    kernel: param.int({
      default: 7,
      min: 1,
      odd: true,
      about: "width of the pooling that spreads a vote to its neighbours",
    }),
    pool: param.choice({ choices: ["max", "avg"], default: "max", about: "how votes are pooled" }),
    gqaReduce: param.choice({
      choices: ["mean", "max"],
      default: "mean",
      about: "how the query heads of a group agree on one set of rows",
    }),
    decodeInterval: param.int({
      default: 0,
      min: 0,
      about: "while decoding, cut back to the budget when so many rows have come, by recent votes; 0: never",
    }),
  },
  presets: {
    kvcf: { window: 8 },
    kvpress: { window: 64, kernel: 5, pool: "avg", keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, window }) {
    if (budget.capacity !== undefined && budget.capacity <= window) {
      return `capacity must be above window: ${budget.capacity} rows leave nothing to choose beside a window of ${window}`;
    }
  },

  // Under bounds of pages, or beside keys of fewer channels, rows cannot go one by one; among codes they can.
  beside(others) {
    return rowsMustStay(others) ? { decodeInterval: 0 } : undefined;
  },

  expectedRows: ({ budget, rounding, window }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens, rounding), window + 1)),

  create({ budget, rounding, window, kernel, pool, gqaReduce, decodeInterval }) {
    const limit = (promptTokens: number) => Math.max(budget.rows(promptTokens, rounding), window + 1);
    const later = decodeInterval > 0;
    return {
      needs: { queryRing: window, ...(later && { sideArrays: ["votes"], decodeProbs: true }) },

      prefill(layer, ops) {
        const rows = limit(layer.promptTokens);
        if (layer.length <= rows) return; // a short prompt loses nothing

        const votes = ops.windowStats(layer.queries(window), layer.keys, { reduce: gqaReduce }).mean; // [kvHeads, length - window]
        const scores = ops.pool(votes, pool, kernel); // without it, a winner loses the phrase around it
        if (later) layer.setSide("votes", ops.pad(scores, layer.length, 0));
        layer.keep(ops.topk(scores, rows - window), { last: window });
      },

      decode(layer) {
        if (!later) return;
        layer.accumulateProbs("votes", { factor: 1 / window, decay: 1 - 1 / window }); // the mean over about `window` tokens
        layer.dropLowest("votes", limit(layer.promptTokens), { recent: window, interval: decodeInterval });
      },
    };
  },
});

// TOVA (Oren et al. 2024, arXiv:2401.06104): the cache as the state of a recurrent network; what the newest token attends to least goes.
import { definePlugin, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "TOVA",
  about: "keeps the rows that the newest token attends to, the same ones in all heads of a layer",
  paper: "https://arxiv.org/abs/2401.06104",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    recent: param.int({ default: 0, min: 0, about: "newest rows that always stay; in the paper they compete, too" }),
    rolling: param.flag({ default: true, about: "go on dropping a row with each new token" }),
  },
  presets: {
    kvpress: { recent: 1, rolling: false, keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, recent }) {
    if (budget.capacity !== undefined && recent > budget.capacity) {
      return `recent must be within capacity: ${recent} newest rows do not fit ${budget.capacity}`;
    }
  },

  // Under bounds of pages, or beside keys of fewer channels, rows cannot go one by one; among codes they can.
  beside(others) {
    return rowsMustStay(others) ? { rolling: false } : undefined;
  },

  expectedRows: ({ budget, rounding, recent }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens, rounding), recent, 1)),

  create({ budget, rounding, recent, rolling }) {
    const limit = (promptTokens: number) => Math.max(budget.rows(promptTokens, rounding), recent, 1);
    return {
      needs: { queryRing: 1, sideArrays: rolling ? ["weight"] : [], decodeProbs: rolling },

      prefill(layer, ops) {
        const rows = limit(layer.promptTokens);
        if (layer.length <= rows) return; // a short prompt loses nothing
        const weights = ops.headsMean(ops.attention(layer.queries(1))); // one choice for the whole layer
        const older = ops.slice(weights, 0, layer.length - recent);
        layer.keep(rows > recent ? ops.topk(older, rows - recent) : null, { last: recent });
      },

      decode(layer) {
        if (!rolling) return;
        layer.accumulateProbs("weight", { decay: 0, over: "heads" });
        layer.dropLowest("weight", limit(layer.promptTokens), { recent });
      },
    };
  },
});

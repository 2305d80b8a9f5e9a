// KeyDiff (Park et al. 2025, arXiv:2504.15364): keys unlike the average key draw attention; those most like it go, without any query.
import { definePlugin, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "KeyDiff",
  about: "keeps the rows whose keys differ most from the mean direction of the head's keys",
  paper: "https://arxiv.org/abs/2504.15364",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    recent: param.int({ default: 0, min: 0, about: "newest rows that always stay" }),
    rolling: param.flag({ default: true, about: "go on dropping rows while decoding" }),
    interval: param.int({
      default: 1,
      min: 1,
      about: "rows that come together before they are cut back while decoding",
    }),
  },
  presets: {
    kvpress: { rolling: false, keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, recent }) {
    if (budget.capacity !== undefined && recent > budget.capacity) {
      return `recent must be within capacity: ${recent} newest rows do not fit ${budget.capacity}`;
    }
  },

  // Under pages with bounds, among codes or beside keys of fewer channels, rows cannot go one by one.
  beside(others) {
    return rowsMustStay(others) || others.includes("quantization") ? { rolling: false } : undefined;
  },

  expectedRows: ({ budget, rounding, recent }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens, rounding), recent, 1)),

  create({ budget, rounding, recent, rolling, interval }) {
    const limit = (promptTokens: number) => Math.max(budget.rows(promptTokens, rounding), recent, 1);
    return {
      needs: rolling ? { sideArrays: ["difference"] } : {},

      prefill(layer, ops) {
        const rows = limit(layer.promptTokens);
        if (layer.length <= rows) return; // a short prompt loses nothing
        const differences = ops.combine(-1, ops.similarity(layer.keys), 0);
        const older = ops.slice(differences, 0, layer.length - recent);
        layer.keep(rows > recent ? ops.topk(older, rows - recent) : null, { last: recent });
      },

      decode(layer) {
        if (!rolling) return;
        const rows = limit(layer.promptTokens);
        layer.noteSimilarity("difference", rows + interval, { factor: -1 }); // the mean moves with every row
        layer.dropLowest("difference", rows, { recent, interval });
      },
    };
  },
});

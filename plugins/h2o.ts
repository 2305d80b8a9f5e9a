// H2O (Zhang et al. 2023, arXiv:2306.14048): the rows that received most attention so far, and the most recent ones.
import { definePlugin, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "H2O",
  about: "keeps heavy hitters (rows with the largest sum of attention) and recent rows",
  paper: "https://arxiv.org/abs/2306.14048",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    recent: param.int({ default: -1, min: -1, about: "newest rows that always stay; -1: all but floor(capacity / 2)" }),
    positions: param.choice({
      choices: ["original", "cache"],
      default: "original",
      about:
        "distances as in the text, or as inside the cache (the authors' streaming form; unrotated keys are kept, too)",
    }),
    decay: param.number({ default: 1, min: 0, max: 1, about: "factor on a row's sum before a new token adds to it" }),
    rolling: param.flag({ default: true, about: "go on dropping the lightest row while decoding" }),
    perQuery: param.flag({
      default: false,
      about: "divide a row's sum by the number of prompt tokens that could see it",
    }),
  },
  presets: {
    kvcf: { recent: 8, rolling: false },
    kvpress: { recent: 0, rolling: false, perQuery: true, keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, recent, rolling, perQuery }) {
    if (perQuery && rolling) return "perQuery needs rolling: false: while decoding, sums are not divided";
    if (budget.capacity !== undefined && recent > budget.capacity) {
      return `recent must be within capacity: ${recent} newest rows do not fit ${budget.capacity}`;
    }
  },

  // Turning keys would undo what bounds, channels or codes were made from. Under bounds, or beside keys of fewer channels, rows cannot go one by one.
  beside(others) {
    if (others.includes("quantization")) return { positions: "original" };
    return rowsMustStay(others) ? { positions: "original", rolling: false } : undefined;
  },

  expectedRows: ({ budget, rounding }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens, rounding), 1)),

  create({ budget, rounding, recent, positions, decay, rolling, perQuery }) {
    const slots = positions === "cache";
    const split = (promptTokens: number) => {
      const rows = Math.max(budget.rows(promptTokens, rounding), 1);
      const newest = recent < 0 ? rows - Math.floor(rows / 2) : Math.min(recent, rows);
      return { rows, newest, heavy: rows - newest };
    };
    return {
      needs: { sideArrays: ["mass"], lse: true, decodeProbs: rolling, ...(slots && { unrotatedKeys: "all" }) },

      chunk(layer, ops) {
        layer.addSide("mass", ops.columnSums());
      },

      prefill(layer, ops) {
        const { rows, newest, heavy } = split(layer.promptTokens);
        if (layer.length <= rows) return; // a short prompt loses nothing
        const sums = layer.side("mass");
        const mass = perQuery ? ops.divideRamp(sums, layer.length, -1) : sums; // row j was seen by length - j tokens
        const candidates = ops.slice(mass, 0, layer.length - newest);
        layer.keep(heavy > 0 ? ops.topk(candidates, heavy) : null, { last: newest });
        if (slots) layer.rotateSlots();
      },

      decode(layer) {
        if (!rolling) return;
        const { rows, newest } = split(layer.promptTokens);
        layer.accumulateProbs("mass", { factor: layer.groupSize, decay }); // probabilities come as the group's mean
        layer.dropLowest("mass", rows, { recent: newest });
        if (slots) layer.rotateSlots();
      },
    };
  },
});

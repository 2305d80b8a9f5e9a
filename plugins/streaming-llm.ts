// StreamingLLM (Xiao et al. 2023, arXiv:2309.17453): the first rows and the most recent ones, wherever the text goes.
import { definePlugin, type Layer, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "StreamingLLM",
  about: "keeps the first rows (attention sinks) and a rolling window of recent ones",
  paper: "https://arxiv.org/abs/2309.17453",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    sinks: param.int({ default: 4, min: 0, about: "first rows that always stay" }),
    positions: param.choice({
      choices: ["cache", "original"],
      default: "cache",
      about: "distances as inside the cache (the paper), or as in the text",
    }),
    rolling: param.flag({ default: true, about: "go on dropping the oldest row while decoding" }),
  },
  presets: {
    kvcf: { positions: "original", rolling: false },
    benchmark: { positions: "original", rolling: false },
    kvpress: { positions: "original", rolling: false, keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, sinks }) {
    if (budget.capacity !== undefined && budget.capacity <= sinks) {
      return `capacity must be above sinks: ${budget.capacity} rows hold nothing beside ${sinks} sinks`;
    }
  },

  // Moving the sinks would undo what bounds, channels or codes were made from. Under bounds, or beside keys of fewer channels, rows cannot go one by one.
  beside(others) {
    if (others.includes("quantization")) return { positions: "original" };
    return rowsMustStay(others) ? { positions: "original", rolling: false } : undefined;
  },

  expectedRows: ({ budget, rounding, sinks }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens, rounding), sinks + 1)),

  create({ budget, rounding, sinks, positions, rolling }, model) {
    // Recent rows keep their own rotation; moving only the sinks along gives every distance that the paper's slots give. Where the rotation
    // changes with the length, it goes by that of the cache, and every key turns.
    const slots = positions === "cache" && model.ropeDependsOnLength === true;
    const moveSinks = positions === "cache" && !slots && sinks > 0;
    const turn = (layer: Layer) => {
      if (slots) layer.rotateSlots();
      else if (moveSinks) layer.rotateSinks(sinks);
    };
    return {
      needs: slots ? { unrotatedKeys: "all" } : moveSinks ? { unrotatedKeys: sinks } : {},

      prefill(layer) {
        const rows = Math.max(budget.rows(layer.promptTokens, rounding), sinks + 1);
        if (layer.length <= rows) return; // a short prompt loses nothing
        layer.keep(null, { first: sinks, last: rows - sinks });
        turn(layer);
      },

      decode(layer) {
        if (!rolling) return;
        layer.keepAtMost(Math.max(budget.rows(layer.promptTokens, rounding), sinks + 1), { sinks });
        turn(layer);
      },
    };
  },
});

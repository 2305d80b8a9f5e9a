// PyramidKV (Cai et al. 2024, arXiv:2406.02069): SnapKV's votes, with more rows in lower layers and fewer in higher ones.
import { type Budget, definePlugin, type Layer, param, rowsMustStay } from "kvaccel/plugin";

/**
 * Rows that each layer keeps beside the window: an arithmetic line from the first layer to the last, rounded so that the
 * total is exactly layers * rows. `choosable` is what a layer has to choose from.
 */
function pyramid(rows: number, choosable: number, layers: number, beta: number): number[] {
  let top = rows / beta;
  let bottom = 2 * rows - top;
  if (bottom > choosable) {
    bottom = choosable;
    top = 2 * rows - choosable;
  }
  const exact = Array.from({ length: layers }, (_, l) =>
    layers === 1 ? rows : bottom - (l * (bottom - top)) / (layers - 1),
  );
  const floors = exact.map((x) => Math.floor(x + 1e-9));
  const missing = Math.round(layers * rows) - floors.reduce((sum, x) => sum + x, 0);
  const byFraction = exact.map((x, l) => ({ l, fraction: x - floors[l]! }));
  byFraction.sort((a, b) => b.fraction - a.fraction || a.l - b.l);
  for (const { l } of byFraction.slice(0, missing)) floors[l]! += 1;
  return floors;
}

/** The integer line of KVCache-Factory, whose floored step gives more than the asked total. */
function flooredPyramid(rows: number, choosable: number, layers: number, beta: number): number[] {
  let least = Math.floor(rows / beta);
  let most = 2 * rows - least;
  if (most >= choosable) {
    most = choosable;
    least = 2 * rows - most;
  }
  const step = layers === 1 ? 0 : Math.floor((most - least) / (layers - 1));
  return Array.from({ length: layers }, (_, l) => most - l * step);
}

export default definePlugin({
  name: "PyramidKV",
  about: "SnapKV's votes with a budget that falls from the first layer to the last",
  paper: "https://arxiv.org/abs/2406.02069",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024, about: "mean rows per KV head and layer, window included" }),
    window: param.int({ default: 8, min: 1, about: "rows at the end of the prompt that vote, and always stay" }),
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
    beta: param.number({ default: 20, min: 1, about: "how steep: the last layer gets 1 / beta of the mean" }),
    budgets: param.choice({
      choices: ["exact", "kvcf", "kvpress"],
      default: "exact",
      about: "layer budgets: total kept exactly, or as two public implementations compute them",
    }),
  },
  presets: {
    kvcf: { budgets: "kvcf" },
    kvpress: { budgets: "kvpress", window: 64, kernel: 5, pool: "avg", keepRatio: 0.5 },
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

  expectedRows(values, promptTokens, _newTokens, layer, model) {
    return Math.min(promptTokens, layerRows(values, promptTokens, model.layers)[layer]!);
  },

  create(values) {
    const { window, kernel, pool, gqaReduce, decodeInterval } = values;
    const later = decodeInterval > 0;
    const limit = (layer: Layer) => layerRows(values, layer.promptTokens, layer.layers)[layer.index]!;
    return {
      needs: { queryRing: window, ...(later && { sideArrays: ["votes"], decodeProbs: true }) },

      prefill(layer, ops) {
        const rows = limit(layer);
        if (layer.length <= rows) return; // a short prompt loses nothing

        const votes = ops.windowStats(layer.queries(window), layer.keys, { reduce: gqaReduce }).mean;
        const scores = ops.pool(votes, pool, kernel);
        if (later) layer.setSide("votes", ops.pad(scores, layer.length, 0));
        layer.keep(rows > window ? ops.topk(scores, rows - window) : null, { last: window });
      },

      decode(layer) {
        if (!later) return;
        layer.accumulateProbs("votes", { factor: 1 / window, decay: 1 - 1 / window }); // the mean over about `window` tokens
        const rows = limit(layer);
        layer.dropLowest("votes", rows, { recent: Math.min(window, rows), interval: decodeInterval });
      },
    };
  },
});

interface Shape {
  budget: Budget;
  window: number;
  beta: number;
  budgets: "exact" | "kvcf" | "kvpress";
}

/** Rows of each layer for a prompt of `length` tokens, the window included; the mean in all where the prompt is within it. */
function layerRows({ budget, window, beta, budgets }: Shape, length: number, layers: number): number[] {
  if (budgets === "kvpress") return kvpressRows(budget.share(length), window, length, layers, beta);
  const mean = Math.max(budget.rows(length), window + 1);
  const rows = mean - window;
  if (length <= mean || (budgets === "kvcf" && length < 2 * rows)) return new Array<number>(layers).fill(mean);
  const line = budgets === "exact" ? pyramid : flooredPyramid;
  return line(rows, length - window, layers, beta).map((k) => k + window);
}

/** kvpress counts the window inside the line, takes the mean unrounded, and falls back to it where the line would leave its bounds. */
function kvpressRows(mean: number, window: number, length: number, layers: number, beta: number): number[] {
  const round = (x: number) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // halves to even
  const total = 2 * (window + mean - window); // in kvpress's order: a half may hang on the last bit
  let least = total / 2 / beta;
  let most = total - least;
  if (most >= length - window) {
    most = length - window;
    least = total - most;
  }
  if (!(length >= most && most >= least && least >= window)) {
    return new Array<number>(layers).fill(Math.max(round(mean), window + 1));
  }
  const step = layers === 1 ? 0 : (most - least) / (layers - 1);
  return Array.from({ length: layers }, (_, l) => round(most - l * step));
}

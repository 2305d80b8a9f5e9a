// Quest (Tang et al. 2024, arXiv:2406.10774): each new token reads the pages of the cache whose keys can match its query best.
import { definePlugin, param } from "kvaccel/plugin";

export default definePlugin({
  name: "Quest",
  about: "reads only the pages of the cache that each new token's query may match best; all rows stay",
  paper: "https://arxiv.org/abs/2406.10774",
  category: "sparse-decode",

  params: {
    budget: param.budget({ default: 2048, min: 16, about: "rows that a new token reads per KV head and layer" }),
    pageSize: param.int({ default: 16, min: 16, max: 128, about: "rows of a page: 16, 32, 64 or 128" }),
    skipLayers: param.ints({ default: [0, 1], min: 0, about: "layers that read everything" }),
    gqaReduce: param.choice({
      choices: ["mean", "max"],
      default: "mean",
      about: "how the query heads of a group agree on one set of pages",
    }),
  },

  check({ budget, pageSize }) {
    if (![16, 32, 64, 128].includes(pageSize)) return `pageSize must be 16, 32, 64 or 128, not ${pageSize}`;
    if (budget.capacity !== undefined && budget.capacity < pageSize) {
      return `capacity must hold a page: ${budget.capacity} rows are less than a pageSize of ${pageSize}`;
    }
  },

  beside(others) {
    if (!others.includes("channels") && !others.includes("quantization")) return undefined;
    return "it reads rows in full precision, and has no bounds of keys stored in fewer bits or channels";
  },

  // Bounds of each page: the least and the greatest number of every channel.
  expectedStorage({ pageSize, skipLayers }, before, { headDim }, layer) {
    if (skipLayers.includes(layer)) return before;
    const bounds = Math.ceil(before.rows / pageSize) * 2 * headDim * before.elementBytes;
    return { ...before, keyBytes: before.keyBytes + bounds };
  },

  create({ budget, pageSize, skipLayers, gqaReduce }) {
    return {
      needs: { selects: "decode" },

      select(layer, ops) {
        if (skipLayers.includes(layer.index)) return;
        const scores = ops.pages.bounds(pageSize, { reduce: gqaReduce });
        return ops.pages.best(scores, Math.max(budget.rows(layer.promptTokens), pageSize));
      },
    };
  },
});

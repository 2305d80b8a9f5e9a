// Ada-KV (Feng et al. 2024, arXiv:2407.11550): SnapKV's votes, with a layer's rows shared among its heads by where the best votes lie.
import { definePlugin, param } from "kvaccel/plugin";

/**
 * The authors' rule: a share of the rows that a head has among the best of all, and a floor. Each head is rounded by itself, in fp32 and
 * halves to even, so that the sum may differ from heads * rows.
 */
export function officialHeadRows(best: readonly number[], rows: number, floor: number): number[] {
  const halfToEven = (x: number) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
  const share = Math.fround(1 - floor);
  return best.map((count) => halfToEven(Math.fround(Math.fround(count * share) + Math.trunc(rows * floor))));
}

export default definePlugin({
  name: "AdaKV",
  about: "SnapKV's votes with a layer's budget shared among its heads by where the best votes lie",
  paper: "https://arxiv.org/abs/2407.11550",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024, about: "mean rows per KV head, window included" }),
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
    floor: param.number({ default: 0.2, min: 0, max: 1, about: "share of the budget that every head gets" }),
    allocation: param.choice({
      choices: ["pinned", "official"],
      default: "pinned",
      about: "each head's floor and then the best of all heads, or the authors' mean of the two",
    }),
  },
  presets: {
    official: { allocation: "official" },
  },

  check({ budget, window }) {
    if (budget.capacity !== undefined && budget.capacity <= window) {
      return `capacity must be above window: ${budget.capacity} rows leave nothing to choose beside a window of ${window}`;
    }
  },

  sharesRows: "heads",
  expectedRows: ({ budget, window }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens), window + 1)),

  create({ budget, window, kernel, pool, gqaReduce, floor, allocation }) {
    return {
      needs: { queryRing: window, hostSync: "prefill" },

      prefill(layer, ops) {
        const rows = Math.max(budget.rows(layer.promptTokens), window + 1) - window;
        if (layer.length <= rows + window) return; // a short prompt loses nothing

        const votes = ops.windowStats(layer.queries(window), layer.keys, { reduce: gqaReduce }).mean;
        const scores = ops.pool(votes, pool, kernel);
        const least = Math.floor(floor * rows + 1e-9);
        if (allocation === "pinned" && least > 0) ops.pin(scores, ops.topk(scores, least));
        const best = ops.bestPerHead(scores, layer.kvHeads * rows);
        const counts = allocation === "pinned" ? best : officialHeadRows(best, rows, floor);
        layer.keep(ops.topk(scores, counts), { last: window });
      },
    };
  },
});

// Expected Attention (Devoto et al. 2025, arXiv:2510.00636): queries to come are taken as normal, with the prompt's mean and covariance, turned
// to their positions; what they will attend to on average has a closed form.
import { definePlugin, param } from "kvaccel/plugin";

export default definePlugin({
  name: "ExpectedAttention",
  about: "keeps the rows that queries to come are expected to attend to, weighed by the length of their values",
  paper: "https://arxiv.org/abs/2510.00636",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024 }),
    rounding: param.rounding(),
    futurePositions: param.int({
      default: 512,
      min: 1,
      max: 65536,
      about: "positions after the prompt to average over",
    }),
    sinks: param.int({ default: 4, min: 0, about: "first rows that always stay, and whose queries do not count" }),
    covariance: param.flag({ default: true, about: "use the covariance of the queries beside their mean" }),
    valueNorm: param.flag({ default: true, about: "weigh a row by the norm of its value" }),
    epsilon: param.number({ default: 0, min: 0, max: 1, about: "added to the attention before it is weighed" }),
  },
  presets: {
    kvpress: { keepRatio: 0.5, rounding: "kvpress" },
  },

  check({ budget, sinks }) {
    if (budget.capacity !== undefined && budget.capacity <= sinks) {
      return `capacity must be above sinks: ${budget.capacity} rows leave nothing to choose beside ${sinks} sinks`;
    }
  },

  expectedRows: ({ budget, rounding, sinks }, promptTokens) =>
    Math.min(promptTokens, Math.max(budget.rows(promptTokens, rounding), sinks + 1)),

  create({ budget, rounding, futurePositions, sinks, covariance, valueNorm, epsilon }) {
    return {
      needs: { queryMoments: { skip: sinks } },

      prefill(layer, ops) {
        const rows = Math.max(budget.rows(layer.promptTokens, rounding), sinks + 1);
        if (layer.length <= rows) return; // a short prompt loses nothing
        const expected = ops.futureAttention({ firstRow: sinks, positions: futurePositions, covariance });
        const scores = valueNorm ? ops.multiply(ops.combine(1, expected, epsilon), ops.norms(layer.values)) : expected;
        layer.keep(ops.topk(ops.fill(scores, 0, sinks, Infinity), rows));
      },
    };
  },
});

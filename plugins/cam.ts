// CaM (Zhang et al., ICML 2024): first rows and recent ones stay; the row that leaves the window merges its value into the next ones, by chance.
import { definePlugin, type Layer, type Ops, param, rowsMustStay } from "kvaccel/plugin";

export default definePlugin({
  name: "CaM",
  about: "keeps first and recent rows, and merges the value of a dropped row into the rows after it",
  paper: "https://proceedings.mlr.press/v235/zhang24n.html",
  category: "eviction",

  params: {
    capacity: param.int({
      default: 0,
      min: 0,
      about: "rows kept, half first and half recent; 0: the two shares below",
    }),
    startRatio: param.number({ default: 0.1, min: 0, max: 1, about: "share of the prompt that stays as first rows" }),
    recentRatio: param.number({ default: 0.1, min: 0, max: 1, about: "share of the prompt that stays as recent rows" }),
    mergeCount: param.int({ default: 32, min: 1, max: 4096, about: "rows that a dropped row's value is merged into" }),
    decision: param.choice({
      choices: ["bernoulli", "threshold", "expected", "always", "never"],
      default: "bernoulli",
      about: "drawn with the ratio of attention as probability, where it is 1, with it as weight, always, or never",
    }),
    attention: param.choice({
      choices: ["accumulated", "current"],
      default: "accumulated",
      about: "attention over all new tokens so far, or of the newest alone",
    }),
    mergePrompt: param.flag({
      default: false,
      about: "rows of the prompt merge, too, oldest first, by the attention they got from the prompt",
    }),
    compat: param.choice({
      choices: ["none", "helm"],
      default: "none",
      about:
        "helm: the authors' generation code: by the newest token's attention, against all later rows, a row before its time",
    }),
    seed: param.int({ default: 42, min: 0, max: 2 ** 32 - 1, about: "of the draws" }),
  },

  check({ capacity, startRatio, recentRatio, mergePrompt, compat }) {
    if (compat === "helm" && mergePrompt)
      return "compat: helm needs mergePrompt: false: it drops the middle of the prompt unmerged";
    if (capacity === 1) return "capacity must be 0 or at least 2: one row for each half";
    if (capacity === 0 && startRatio + recentRatio >= 1) {
      return `startRatio and recentRatio must be below 1 together: they are ${startRatio} and ${recentRatio}`;
    }
  },

  // It lives from dropping rows while decoding.
  beside(others) {
    if (!rowsMustStay(others) && !others.includes("quantization")) return undefined;
    return "its merges drop rows one by one, which rows in fewer bits or channels, or in pages with bounds, do not allow";
  },

  expectedRows(values, promptTokens) {
    const { sinks, held } = split(values, promptTokens);
    return Math.min(promptTokens, sinks + held);
  },

  create(values) {
    const { mergeCount, decision, attention, seed, mergePrompt, compat } = values;
    const helm = compat === "helm";
    return {
      needs: { sideArrays: ["mass"], decodeProbs: true, lse: mergePrompt },

      ...(mergePrompt && {
        chunk(layer: Layer, ops: Ops) {
          layer.addSide("mass", ops.combine(1 / layer.groupSize, ops.columnSums(), 0));
        },
      }),

      prefill(layer) {
        const { sinks, held } = split(values, layer.promptTokens);
        if (layer.length <= sinks + held) return; // a short prompt loses nothing
        if (mergePrompt) layer.mergeOldest("mass", sinks + held, { sinks, targets: mergeCount, decision, seed });
        layer.keep(null, { first: sinks, last: held });
      },

      decode(layer) {
        const { sinks, recent, held } = split(values, layer.promptTokens);
        layer.accumulateProbs("mass", { decay: helm || attention === "current" ? 0 : 1 });
        if (!helm) {
          layer.mergeOldest("mass", sinks + held, { sinks, targets: mergeCount, decision, seed });
          return;
        }
        // The row after the one that leaves the window now: it goes with the next token, which still sees it.
        if (recent > 2) {
          layer.mergeRecent("mass", sinks + held, { recent: recent - 2, targets: mergeCount, decision, seed });
        }
        layer.keepAtMost(sinks + held, { sinks });
      },
    };
  },
});

interface Shares {
  capacity: number;
  startRatio: number;
  recentRatio: number;
  compat: "none" | "helm";
}

/** First and recent rows for a prompt, and how many recent ones are held between tokens: the authors count the newest token among them. */
function split({ capacity, startRatio, recentRatio, compat }: Shares, promptTokens: number) {
  const share = (ratio: number) => Math.floor(promptTokens * ratio + 1e-9);
  const sinks = capacity > 0 ? Math.floor(capacity / 2) : share(startRatio);
  const newest = compat === "helm" ? 1 : 0;
  const recent = Math.max(capacity > 0 ? capacity - sinks : share(recentRatio), 1 + newest);
  return { sinks, recent, held: recent - newest };
}

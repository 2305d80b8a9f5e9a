// CAKE (Qin et al. 2025, arXiv:2503.12491): layers whose attention is spread and shifting get more rows; rows whose attention is high or shifting stay.
import { definePlugin, type ModelInfo, param, rowsMustStay } from "kvaccel/plugin";

/** tau1, tau2 that the authors searched for, by model (family, layers, KV heads) and capacity; elsewhere 1, 1. */
const searchedTaus: Readonly<Record<string, Readonly<Record<number, readonly [number, number]>>>> = {
  "llama 32 8": { 1024: [1.6, 0.4], 128: [1.6, 0.6] },
  "llama 32 32": { 1024: [1.9, 1.8], 128: [0.9, 2.3] },
  "llama 40 40": { 1024: [0.5, 0.4], 128: [1.8, 2] },
  "mistral 32 8": { 1024: [0.8, 0.5], 128: [1, 0.8] },
  "qwen2 28 4": { 1024: [1.5, 0.6], 128: [0.4, 0.6] },
};

function tausOf({ family, layers, kvHeads }: ModelInfo, capacity: unknown): readonly [number, number] {
  return searchedTaus[`${family} ${layers} ${kvHeads}`]?.[Number(capacity)] ?? [1, 1];
}

/** Rows per layer in proportion to the preferences, none above `most`, together `total` where that fits. */
export function waterfill(preferences: readonly number[], total: number, most: number): number[] {
  const rows = new Array<number>(preferences.length).fill(0);
  let open = preferences.map((_, l) => l);
  let left = Math.min(total, most * preferences.length);
  while (open.length > 0) {
    const sum = open.reduce((all, l) => all + preferences[l]!, 0);
    const share = (l: number) => (sum > 0 ? (left * preferences[l]!) / sum : left / open.length);
    const full = open.filter((l) => share(l) >= most);
    for (const l of full.length > 0 ? full : open) rows[l] = Math.min(most, share(l));
    if (full.length === 0) break;
    left -= most * full.length;
    open = open.filter((l) => !full.includes(l));
  }
  return rows;
}

/** Whole rows of the same sum: floors, then one each to the largest fractions, lower layers first. */
export function wholeRows(rows: readonly number[]): number[] {
  const floors = rows.map((x) => Math.floor(x + 1e-9));
  const missing = Math.round(rows.reduce((sum, x) => sum + x, 0)) - floors.reduce((sum, x) => sum + x, 0);
  const byFraction = rows.map((x, l) => ({ l, fraction: x - floors[l]! }));
  byFraction.sort((a, b) => b.fraction - a.fraction || a.l - b.l);
  for (const { l } of byFraction.slice(0, missing)) floors[l]! += 1;
  return floors;
}

/** The authors' integer rule: truncated shares, cut at `most`; what was cut, and then what the total still lacks, is spread evenly. */
export function officialRows(preferences: readonly number[], total: number, most: number): number[] {
  const sum = preferences.reduce((all, p) => all + p, 0);
  const shares = preferences.map((p) => Math.trunc(sum > 0 ? (p / sum) * total : total / preferences.length));
  const rows = shares.map((x) => Math.min(x, most));
  const spread = (amount: number, sign: 1 | -1) => {
    const open = rows.flatMap((x, l) => ((sign > 0 ? x < most : x > 1) ? [l] : []));
    open.forEach((l, i) => {
      rows[l]! += sign * (Math.floor(amount / open.length) + (i < amount % open.length ? 1 : 0));
    });
  };
  spread(
    shares.reduce((cut, x, l) => cut + x - rows[l]!, 0),
    1,
  );
  const lacking = total - rows.reduce((all, x) => all + x, 0);
  spread(Math.abs(lacking), lacking >= 0 ? 1 : -1);
  return rows.map((x) => Math.min(x, most));
}

export default definePlugin({
  name: "CakeKV",
  about:
    "shares rows among layers by how their attention spreads and shifts, and keeps rows by mean and variance of it",
  paper: "https://arxiv.org/abs/2503.12491",
  category: "eviction",

  params: {
    budget: param.budget({ default: 1024, about: "mean rows per KV head and layer, window included" }),
    window: param.int({ default: 32, min: 1, about: "rows at the end of the prompt that vote, and always stay" }),
    kernel: param.int({ default: 5, min: 1, odd: true, about: "width of the pooling of scores" }),
    gamma: param.number({ default: 200, min: 0, about: "weight of the variance of a row's attention beside its mean" }),
    tau1: param.number({ default: 1, min: 0.01, about: "temperature of a layer's entropy" }),
    tau2: param.number({ default: 1, min: 0.01, about: "temperature of a layer's variance" }),
    cascade: param.flag({ default: true, about: "shrink earlier layers as later ones arrive, not at the end" }),
    allocation: param.choice({
      choices: ["waterfill", "official"],
      default: "waterfill",
      about: "rows per layer: total kept exactly, or the authors' integer rule",
    }),
    decode: param.choice({
      choices: ["sorted", "official", "none"],
      default: "sorted",
      about:
        "while decoding, drop the row whose neighbourhood got least from the newest token, in order of text or as the authors' code; or nothing",
    }),
  },
  presets: {
    official: { allocation: "official", decode: "official" },
  },

  // Under pages with bounds, among codes or beside keys of fewer channels, rows cannot go one by one.
  beside(others) {
    return rowsMustStay(others) || others.includes("quantization") ? { decode: "none" } : undefined;
  },

  sharesRows: "layers",

  modelDefaults(model, { capacity }) {
    const [tau1, tau2] = tausOf(model, capacity);
    return { tau1, tau2 };
  },

  check({ budget, window }) {
    if (budget.capacity !== undefined && budget.capacity <= window) {
      return `capacity must be above window: ${budget.capacity} rows leave nothing to choose beside a window of ${window}`;
    }
  },

  expectedRows({ budget, window, decode }, promptTokens) {
    const rows = Math.max(budget.rows(promptTokens), window + 1);
    return promptTokens <= mostWhole(rows, window, decode) ? promptTokens : rows;
  },

  create({ budget, window, kernel, gamma, tau1, tau2, cascade, allocation, decode }) {
    const mean = (promptTokens: number) => Math.max(budget.rows(promptTokens), window + 1);
    const preferences: number[] = [];
    let budgets: number[] = []; // rows beside the window, of each layer that takes part
    return {
      needs: {
        queryRing: window,
        sideArrays: ["indicator"],
        cascade: true,
        hostSync: "prefill",
        decodeProbs: decode !== "none",
      },

      prefill(layer, ops) {
        const rows = mean(layer.promptTokens);
        if (layer.promptTokens <= mostWhole(rows, window, decode)) return; // a short prompt loses nothing

        const stats = ops.windowStats(layer.queries(window), layer.keys);
        const indicator = ops.pool(ops.combine(1, stats.mean, gamma, stats.variance), "avg", kernel);
        layer.setSide("indicator", ops.pad(indicator, layer.length, Infinity)); // the window stays
        const { entropy, variance } = stats.totals;
        const preference = Math.max(entropy, 0) ** (1 / tau1) * variance ** (1 / tau2);
        preferences.push(Number.isFinite(preference) ? preference : 0);

        const { hooked } = layer;
        const last = layer.index === hooked.at(-1);
        if (!cascade && !last) return;
        const total = hooked.length * (rows - window);
        const choosable = layer.promptTokens - window;
        if (allocation === "official") {
          budgets = officialRows(preferences, total, choosable); // they may rise again: what is gone stays gone
        } else {
          const shares = waterfill(preferences, total, choosable);
          budgets = last ? wholeRows(shares) : shares.map((x) => Math.ceil(x - 1e-9));
        }
        budgets.forEach((count, i) => {
          const earlier = layer.at(hooked[i]!);
          if (earlier.length <= count + window) return;
          const scores = ops.slice(earlier.side("indicator"), 0, earlier.length - window);
          earlier.keep(count > 0 ? ops.topk(scores, count) : null, { last: window });
        });
      },

      decode(layer) {
        if (decode === "none") return;
        const count = budgets[layer.hooked.indexOf(layer.index)];
        const rows = count === undefined ? mean(layer.promptTokens) : count + window;
        if (decode === "sorted") layer.dropPooled(rows, { recent: window, width: kernel });
        else layer.keepRanked("indicator", rows, { recent: window, width: kernel });
      },
    };
  },
});

/** Longest prompt that stays whole. The authors' code leaves some above the budget to its decoding, which cuts them at the first new token. */
function mostWhole(rows: number, window: number, decode: "sorted" | "official" | "none"): number {
  return decode === "official" ? rows + window : rows;
}

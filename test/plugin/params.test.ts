// Parameter values: order of precedence, spelling of keys, ranges as sentences, budgets.
import { describe, expect, test } from "bun:test";
import { definePlugin, type ModelInfo, type Plugin, param } from "../../src/plugin/index.ts";
import { nearest, suggestion } from "../../src/plugin/nearest.ts";
import { Budget } from "../../src/plugin/param.ts";
import { fields, flatParams, presetNames, resolveParams, typedValues } from "../../src/plugin/params.ts";

const plugin = definePlugin({
  name: "SnapLike",
  about: "keeps rows",
  paper: "https://example.org",
  category: "eviction",
  params: {
    budget: param.budget({ default: 1024 }),
    window: param.int({ default: 32, min: 1, about: "voting rows" }),
    kernel: param.int({ default: 7, min: 1, odd: true, about: "width" }),
    tau: param.number({ default: 0.5, min: 0, max: 1, about: "share" }),
    pool: param.choice({ default: "max", choices: ["max", "avg"], about: "how" }),
    rolling: param.flag({ default: true, about: "goes on" }),
    skipLayers: param.ints({ default: [0, 1], min: 0, about: "layers left alone" }),
  },
  presets: { kvcf: { window: 8 }, kvpress: { keepRatio: 0.5, window: 64 } },
  modelDefaults: (model) => (model.heads > model.kvHeads ? { tau: 0.9 } : {}),
  check: ({ budget, window }) => {
    if (budget.capacity === undefined || budget.capacity >= window) return undefined;
    return `the window of ${window} does not fit the capacity of ${budget.capacity}`;
  },
  create: () => ({ prefill() {} }),
}) as unknown as Plugin;

const model: ModelInfo = { family: "llama", layers: 2, heads: 8, kvHeads: 2, headDim: 16, hiddenSize: 128 };
const resolve = (overrides: Record<string, unknown>, preset = "paper", info?: ModelInfo) =>
  resolveParams(plugin, preset, overrides, info);

describe("a share of the prompt", () => {
  test("is rounded down, or up, by 1e-9; or as kvpress does, in the order of its operations", () => {
    const rows = (ratio: number, n: number, rounding?: "exact" | "kvpress") => {
      const budget = new Budget(undefined, ratio);
      return [budget.rows(n, rounding), budget.rowsUp(n, rounding)];
    };
    expect(rows(0.29, 100)).toEqual([29, 29]);
    expect(rows(0.9, 11)).toEqual([9, 10]);
    expect(rows(0.9, 11, "kvpress")).toEqual([9, 9]);
    expect(rows(0.1, 10)).toEqual([1, 1]);
    expect(rows(0.1, 10, "kvpress")).toEqual([0, 0]); // 10 * (1 - 0.9) is just below 1
    expect(new Budget(64, undefined).rows(10, "kvpress")).toBe(64);
  });
});

describe("values", () => {
  test("the defaults, in YAML form and as create takes them", () => {
    const { params, values } = resolve({});
    expect(params).toEqual({
      budget: { capacity: 1024 },
      window: 32,
      kernel: 7,
      tau: 0.5,
      pool: "max",
      rolling: true,
      skipLayers: [0, 1],
    });
    expect(values.budget).toEqual(new Budget(1024, undefined));
    expect(values.window).toBe(32);
  });

  test("the model's defaults, the preset and the user's values, each over the one before", () => {
    expect(resolve({}, "paper", model).params.tau).toBe(0.9);
    expect(resolve({ tau: 0.1 }, "paper", model).params.tau).toBe(0.1);
    expect(resolve({}, "KVCF").params.window).toBe(8);
    expect(resolve({ window: 4 }, "kvcf").params.window).toBe(4);
  });

  test("capacity and keepRatio replace each other", () => {
    expect(resolve({}, "kvpress").params.budget).toEqual({ keepRatio: 0.5 });
    expect(resolve({ capacity: 256 }, "kvpress").params.budget).toEqual({ capacity: 256 });
    expect(resolve({ keep_ratio: 0.25 }).params.budget).toEqual({ keepRatio: 0.25 });
    expect((resolve({ keepRatio: 0.25 }).values.budget as Budget).rows(1001)).toBe(250);
    expect(() => resolve({ capacity: 1, keepRatio: 0.5 })).toThrow(
      "snaplike.keepRatio: give capacity or keepRatio, not both",
    );
  });

  test("keys match ignoring case, '-' and '_', and text from a command line takes its type", () => {
    const { params } = resolve({ Skip_Layers: "[3, 5]", "WIN-DOW": "64", rolling: "false", pool: "AVG", tau: "1e-1" });
    expect(params).toMatchObject({ skipLayers: [3, 5], window: 64, rolling: false, pool: "avg", tau: 0.1 });
  });

  test("what was resolved resolves to the same again", () => {
    const { params, values } = resolve({ keepRatio: 0.25, window: 4 }, "kvcf");
    expect(resolve(params).params).toEqual(params);
    expect(typedValues(plugin, params)).toEqual(values);
    expect(flatParams(plugin, params)).toMatchObject({ keepRatio: 0.25, window: 4 });
  });
});

test.each([
  [{ window: 0 }, "snaplike.window: must be a whole number of at least 1, not 0"],
  [{ window: 1.5 }, "snaplike.window: must be a whole number of at least 1, not 1.5"],
  [{ window: "many" }, 'snaplike.window: must be a whole number of at least 1, not "many"'],
  [{ window: null }, "snaplike.window: must be a whole number of at least 1, not null"],
  [{ kernel: 4 }, "snaplike.kernel: must be odd, not 4"],
  [{ tau: 1.5 }, "snaplike.tau: must be a number from 0 to 1, not 1.5"],
  [{ tau: Number.NaN }, "snaplike.tau: must be a number from 0 to 1"],
  [{ pool: "mean" }, 'snaplike.pool: must be one of max, avg, not "mean"'],
  [{ rolling: "maybe" }, 'snaplike.rolling: must be true or false, not "maybe"'],
  [{ skipLayers: "[0,x]" }, "snaplike.skipLayers: must be whole numbers of at least 0"],
  [{ skipLayers: 3 }, "snaplike.skipLayers: must be a list of whole numbers, not 3"],
  [{ capacity: 0 }, "snaplike.capacity: must be a whole number of rows of at least 1, not 0"],
  [{ keepRatio: 1.5 }, "snaplike.keepRatio: must be a number above 0 and at most 1, not 1.5"],
  [{ budget: { capasity: 3 } }, "snaplike: unknown parameter capasity; did you mean capacity?"],
  [{ windw: 3 }, "snaplike: unknown parameter windw; did you mean window?"],
  [{ zzz: 3 }, "snaplike: unknown parameter zzz; there is capacity, keepRatio, window"],
  [{ capacity: 16 }, "snaplike: the window of 32 does not fit the capacity of 16"],
])("%j is refused with a sentence", (overrides, sentence) => {
  expect(() => resolve(overrides as Record<string, unknown>)).toThrow(sentence);
});

test("an absent preset is refused, and those there are named", () => {
  expect(presetNames(plugin)).toEqual(["paper", "kvcf", "kvpress"]);
  expect(() => resolve({}, "loom")).toThrow("SnapLike has no preset loom; it has paper, kvcf, kvpress");
});

test("a budget shows as its two keys", () => {
  expect(
    fields(plugin)
      .map(({ key, default: value }) => [key, value])
      .slice(0, 3),
  ).toEqual([
    ["capacity", 1024],
    ["keepRatio", null],
    ["window", 32],
  ]);
});

test("the nearest name: swapped, missing and cut letters; nothing where nothing is near", () => {
  const names = ["SnapKV", "StreamingLLM", "PyramidKV"];
  expect(nearest("sanpkv", names)).toBe("SnapKV");
  expect(nearest("streaming", names)).toBe("StreamingLLM");
  expect(nearest("pyramid_kv", names)).toBe("PyramidKV");
  expect(nearest("quest", names)).toBeUndefined();
  expect(suggestion("quest", names)).toBe("there is SnapKV, StreamingLLM, PyramidKV");
});

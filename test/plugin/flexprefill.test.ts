// FlexPrefill: its block lists against its definition in float64, and every check of its specification.
import { describe, expect, test } from "bun:test";
import plugin from "../../plugins/flexprefill.ts";
import { Scope } from "../../src/native/scope.ts";
import type { ModelInfo } from "../../src/plugin/index.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { type Matrix, matrix, row } from "../support/guarded.ts";
import { hooksOf, type Prompt, prompted, runSelect, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import type { BlockLists } from "../support/reference-blocks.ts";
import * as reference from "../support/reference-blocks.ts";
import { HEAD_DIM, patterned, patterns, recall } from "../support/sparse-heads.ts";

const shape = { kvHeads: 2, groupSize: 3, headDim: 64, dtype: "float32" as const };
const HEADS = 6;
const COLUMNS = 2 * 5 * 64;

interface Settings {
  gamma: number;
  tau: number;
  minBudget: number;
  maxBudget: number;
  block: number;
  mode: "official" | "covered";
}
const small: Settings = { gamma: 0.9, tau: 0.1, minBudget: 64, maxBudget: 0, block: 64, mode: "official" };

const promptOf = (scope: Scope, rows: number, seed = rows, scale = 1): Prompt =>
  prompted(scope, shape, new Random(seed).normals(rows * COLUMNS, scale));
const choose = (scope: Scope, prompt: Prompt, settings: Partial<Settings> = {}): BlockLists | null =>
  runSelect(scope, hooksOf(plugin, { ...small, ...settings }, shape).hooks, prompt);

const lastRows = (x: Matrix, count: number) => matrix(count, x.columns, x.data.subarray((x.rows - count) * x.columns));
const ascending = (columns: Iterable<number>) => [...new Set(columns)].sort((a, b) => a - b);

interface Head {
  distance: number;
  vertical: number[];
  slash: number[];
  lists: number[][];
}

/** The method as its authors' code computes it, head by head. */
function flexPrefill({ twin, queryValues }: Prompt, settings: Settings): Head[] {
  const { gamma, tau, minBudget, maxBudget, block, mode } = settings;
  const n = queryValues.rows;
  const nb = Math.ceil(n / block);
  const scale = scaleOf(64);
  const { columns, diagonals, columnBlocks, diagonalBlocks } = reference.windowSums(
    twin.layer,
    lastRows(queryValues, block),
    scale,
    block,
  );
  const keys = reference.blockMeans(reference.keysOf(twin.layer), block);
  const means = reference.blockMeans(queryValues, block);
  const lastMean = reference.blockMeans(lastRows(queryValues, block), block);
  const foretold = reference.pooledAttention(lastMean, keys, HEADS, 2, scale, null);
  const map = reference.pooledAttention(means, keys, HEADS, 2, scale, 0);
  const least = Math.ceil(minBudget / block);
  const most = maxBudget > 0 ? Math.min(nb, Math.ceil(maxBudget / block)) : nb;
  const clamp = (count: number) => Math.min(most, Math.max(least, count));
  return Array.from({ length: HEADS }, (_, h) => {
    const distance = reference.jsDistance(row(foretold, h), row(columnBlocks, h));
    const aware = distance < tau;
    const count = (tokens: Matrix, pooled: Matrix) => {
      if (aware) return least;
      if (mode === "covered") return clamp(reference.countOf(row(pooled, h), gamma, { inclusive: true, forced: [0] }));
      const kept = 1 + reference.countOf(row(tokens, h), gamma, { inclusive: false });
      return clamp(Math.floor(kept / 128) + 1);
    };
    const best = (pooled: Matrix, wanted: number) => reference.ranked(row(pooled, h), [0]).slice(0, wanted);
    const vertical = ascending(best(columnBlocks, count(columns, columnBlocks)));
    const slash = ascending(best(diagonalBlocks, count(diagonals, diagonalBlocks)));
    const reach = (o: number) => (mode === "covered" ? [o - (n % block === 0 ? 0 : 1), o, o + 1] : [o]);
    const lists = Array.from({ length: nb }, (_, r) => [
      ...vertical.filter((c) => c <= r),
      ...slash.flatMap(reach).flatMap((o) => (o >= 0 && o <= r ? [r - o] : [])),
    ]);
    if (aware) {
      const flat = map.data.subarray(h * nb * nb, (h + 1) * nb * nb);
      const taken = reference.ranked(flat).slice(0, reference.countOf(flat, gamma, { inclusive: false }));
      for (const i of taken) if (i % nb <= Math.floor(i / nb)) lists[Math.floor(i / nb)]!.push(i % nb);
    }
    return { distance, vertical, slash, lists: lists.map(ascending) };
  });
}

eachBackend("FlexPrefill", (backend) => {
  for (const [rows, block] of [
    [320, 64],
    [333, 64],
    [129, 64],
    [500, 128],
  ] as const) {
    test.each(["official", "covered"] as const)(`block lists of ${rows} rows, block ${block}, %s`, (mode) => {
      using scope = new Scope(backend.context);
      const prompt = promptOf(scope, rows);
      for (const gamma of [0.4, 0.9]) {
        for (const tau of [0, 0.15, 0.25, 1]) {
          const settings: Settings = { ...small, gamma, tau, block, minBudget: block, mode };
          const lists = choose(scope, prompt, settings);
          const expected = flexPrefill(prompt, settings);
          expect(lists).toEqual(expected.map((head) => head.lists));
        }
      }
    });
  }

  test("tau of 0 leaves no head to its estimate, one above every distance leaves all", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 448, 3);
    const distances = flexPrefill(prompt, small).map((head) => head.distance);
    expect(Math.min(...distances)).toBeGreaterThan(0);
    expect(Math.max(...distances)).toBeLessThan(0.84);
    const lines = flexPrefill(prompt, { ...small, tau: 0 });
    const maps = flexPrefill(prompt, { ...small, tau: 0.84 });
    expect(choose(scope, prompt, { tau: 0 })).toEqual(lines.map((head) => head.lists));
    expect(choose(scope, prompt, { tau: 0.84 })).toEqual(maps.map((head) => head.lists));
    expect(lines.map((head) => head.lists)).not.toEqual(maps.map((head) => head.lists));
  });

  test("a gamma of 1, a short prompt and a budget of the whole prompt read everything", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 333, 4);
    expect(choose(scope, prompt, { gamma: 1 })).toBeNull();
    expect(choose(scope, prompt, { minBudget: 333 })).toBeNull();
    expect(choose(scope, prompt, { minBudget: 321 })).toBeNull(); // 6 blocks of 64 are more than 333
    expect(choose(scope, promptOf(scope, 128, 5))).toBeNull();
    expect(choose(scope, prompt, { minBudget: 300 })).not.toBeNull();
  });

  test("every query block reads block 0 and its own; lists are ascending and end at the diagonal", () => {
    using scope = new Scope(backend.context);
    for (const settings of [{}, { mode: "covered" as const }, { tau: 1 }, { gamma: 0.05, minBudget: 0 }]) {
      for (const head of choose(scope, promptOf(scope, 400, 6), settings)!) {
        head.forEach((columns, own) => {
          expect(columns).toEqual(ascending(columns));
          expect(columns[0]).toBe(0);
          expect(columns.at(-1)).toBe(own);
        });
      }
    }
  });

  test("a larger gamma reads all that a smaller one does", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 448, 7);
    for (const settings of [{ tau: 0 }, { tau: 1 }, { tau: 0, mode: "covered" as const }]) {
      const nested = [0.2, 0.5, 0.8, 0.99].map((gamma) => choose(scope, prompt, { ...settings, gamma })!.flat());
      nested.slice(1).forEach((lists, i) => {
        lists.forEach((columns, at) => {
          expect(nested[i]![at]!.every((c) => columns.includes(c))).toBe(true);
        });
      });
    }
  });

  test("budgets bound the lines of a head", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 640, 8);
    for (const [minBudget, maxBudget] of [
      [192, 0],
      [64, 128],
      [100, 130],
    ] as const) {
      const settings: Settings = { ...small, tau: 0, gamma: 0.97, minBudget, maxBudget, mode: "covered" };
      const expected = flexPrefill(prompt, settings);
      expect(choose(scope, prompt, settings)).toEqual(expected.map((head) => head.lists));
      const most = maxBudget > 0 ? Math.ceil(maxBudget / 64) : 10;
      for (const { vertical, slash } of expected) {
        expect(Math.min(vertical.length, slash.length)).toBeGreaterThanOrEqual(Math.ceil(minBudget / 64));
        expect(Math.max(vertical.length, slash.length)).toBeLessThanOrEqual(most);
      }
    }
  });

  describe("heads of a known pattern", () => {
    test.each(patterns)("%s: covered reads gamma of the true attention", (pattern) => {
      using scope = new Scope(backend.context);
      const [rows, block, gamma] = [576, 64, 0.9];
      const one = { kvHeads: 1, groupSize: 1, headDim: HEAD_DIM, dtype: "float32" as const };
      const prompt = prompted(scope, one, patterned(new Random(31), pattern, rows, block));
      const held = (mode: string) => {
        const { hooks } = hooksOf(plugin, { ...small, gamma, mode }, one);
        const lists = runSelect(scope, hooks, prompt)!;
        return recall(prompt.twin.layer, prompt.queryValues, scaleOf(HEAD_DIM), block, lists)[0]!;
      };
      expect(held("covered")).toBeGreaterThanOrEqual(gamma - 0.05);
      // Tokens turned into as many blocks promise nothing: of scattered columns and far offsets they hold a part.
      if (pattern === "slash") expect(held("official")).toBeLessThan(0.5);
    });
  });
});

describe("FlexPrefill's parameters", () => {
  const model = (family: string, layers: number): ModelInfo => ({
    family,
    layers,
    heads: 32,
    kvHeads: 4,
    headDim: 128,
    hiddenSize: 4096,
  });

  test("gamma follows the model", () => {
    const gamma = (family: string, layers: number) =>
      resolveParams(plugin, "paper", {}, model(family, layers)).params.gamma;
    expect([gamma("llama", 32), gamma("glm", 40), gamma("llama", 48), gamma("qwen2", 28)]).toEqual([
      0.95, 0.95, 0.9, 0.9,
    ]);
  });

  test("values that do not fit are refused with a sentence", () => {
    expect(() => resolveParams(plugin, "paper", { block: 32 })).toThrow(/block: must be a whole number from 64 to 128/);
    expect(() => resolveParams(plugin, "paper", { block: 100 })).toThrow(/block must be 64 or 128, not 100/);
    expect(() => resolveParams(plugin, "paper", { maxBudget: 512 })).toThrow(/512 is less than 1024/);
    expect(resolveParams(plugin, "readme", {}).params.minBudget).toBe(512);
  });
});

// XAttention: its block lists against its definition in float64, and every check of its specification.
import { describe, expect, test } from "bun:test";
import plugin from "../../plugins/xattention.ts";
import { thresholds } from "../../scripts/xattention-thresholds.ts";
import { cumulative } from "../../src/native/blocks.ts";
import { Scope } from "../../src/native/scope.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import type { Hooks, ModelInfo } from "../../src/plugin/index.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, openEngine, randomIds, request } from "../support/engine.ts";
import { input, row } from "../support/guarded.ts";
import { hooksOf, type Prompt, prompted, runSelect, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { antidiagonalScores, type BlockLists, countOf, ranked } from "../support/reference-blocks.ts";
import { causal, type LayerInputs, referenceLogits } from "../support/reference-model.ts";
import { HEAD_DIM, patterned, patterns, recall } from "../support/sparse-heads.ts";

const shape = { kvHeads: 2, groupSize: 3, headDim: 64, dtype: "float32" as const };
const COLUMNS = 2 * 5 * 64;
const small = { minLen: 0, block: 64 };

const promptOf = (scope: Scope, rows: number, seed = rows): Prompt =>
  prompted(scope, shape, new Random(seed).normals(rows * COLUMNS));
const choose = (scope: Scope, prompt: Prompt, params: Record<string, unknown>): BlockLists | null =>
  runSelect(scope, hooksOf(plugin, params, shape).hooks, prompt);

/** Scores [head][row][column] in float64. */
function scoresOf({ twin, queryValues }: Prompt, stride: number, block: number, norm = 1): Float64Array[][] {
  const scale = scaleOf(64) / (stride * norm);
  const all = antidiagonalScores(twin.layer, queryValues, scale, stride, block);
  const rows = all.rows / 6;
  return Array.from({ length: 6 }, (_, h) => Array.from({ length: rows }, (_, r) => row(all, h * rows + r)));
}

const ascending = (columns: Iterable<number>) => [...new Set(columns)].sort((a, b) => a - b);
const sumOf = (scores: Float64Array, columns: readonly number[]) => columns.reduce((sum, c) => sum + scores[c]!, 0);

/** The first block and the diagonal, then the best until tau of the row is reached. */
function exactRow(scores: Float64Array, own: number, tau: number): number[] {
  const chosen = ascending([0, own]);
  const budget = tau * scores.reduce((a, b) => a + b, 0);
  for (const c of ranked(scores.subarray(0, own + 1), chosen).slice(chosen.length)) {
    if (sumOf(scores, chosen) >= budget) break;
    chosen.push(c);
  }
  return ascending(chosen);
}

/** The authors' first chunk, word for word: the best other block always; the k-th while diagonal and the k - 1 best are below budget. */
function compatRow(scores: Float64Array, own: number, tau: number): number[] {
  const budget = tau * scores.reduce((a, b) => a + b, 0);
  const others = ranked(scores.subarray(0, own + 1), [own]).slice(1);
  const taken = others.filter((_, k) => k === 0 || scores[own]! + sumOf(scores, others.slice(0, k - 1)) < budget);
  return ascending([0, own, ...taken]);
}

eachBackend("XAttention", (backend) => {
  for (const [rows, stride, block, norm] of [
    [320, 8, 64, 1],
    [333, 4, 64, 1],
    [500, 16, 128, 2],
  ] as const) {
    test(`block lists of ${rows} rows, stride ${stride}, block ${block}, norm ${norm}`, () => {
      using scope = new Scope(backend.context);
      const prompt = promptOf(scope, rows);
      const scores = scoresOf(prompt, stride, block, norm);
      for (const tau of [0.5, 0.8, 0.95]) {
        const lists = choose(scope, prompt, { ...small, tau, stride, block, norm })!;
        expect(lists).toEqual(scores.map((head) => head.map((row, own) => exactRow(row, own, tau))));
        const compat = choose(scope, prompt, { ...small, tau, stride, block, norm, compat: true })!;
        expect(compat).toEqual(scores.map((head) => head.map((row, own) => compatRow(row, own, tau))));
      }
    });
  }

  test("what is read holds tau of the scores, and without its weakest block of choice less", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 448);
    const scores = scoresOf(prompt, 8, 64);
    const lists = choose(scope, prompt, { ...small, tau: 0.7 })!;
    lists.forEach((head, h) => {
      head.forEach((columns, own) => {
        const row = scores[h]![own]!;
        const budget = 0.7 * row.reduce((a, b) => a + b, 0);
        expect(sumOf(row, columns)).toBeGreaterThanOrEqual(budget * (1 - 1e-6));
        const optional = columns.filter((c) => c !== 0 && c !== own).sort((a, b) => row[a]! - row[b]!);
        if (optional.length > 0) expect(sumOf(row, columns) - row[optional[0]!]!).toBeLessThan(budget);
        expect(columns).toContain(0);
        expect(columns).toContain(own);
        expect(columns).toEqual(ascending(columns));
        expect(columns.at(-1)).toBe(own);
      });
    });
  });

  test("a larger tau reads all that a smaller one does", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 448, 2);
    const nested = [0, 0.3, 0.6, 0.9, 0.99].map((tau) => choose(scope, prompt, { ...small, tau })!);
    nested.slice(1).forEach((lists, i) => {
      lists.flat().forEach((columns, at) => {
        expect(nested[i]!.flat()[at]!.every((c) => columns.includes(c))).toBe(true);
      });
    });
    expect(nested[0]!.flat().map((columns) => columns.length)).toEqual(
      nested[0]!.flatMap((head) => head.map((_, own) => (own === 0 ? 1 : 2))),
    );
  });

  test("each head has its own tau; one of 1 reads everything, and so does a layer where all are 1", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 384, 3);
    const scores = scoresOf(prompt, 8, 64);
    const tau = [0.2, 0.9, 1, 0.5, 0, 0.7];
    const lists = choose(scope, prompt, { ...small, tau: [tau] })!;
    expect(lists).toEqual(
      scores.map((head, h) =>
        head.map((row, own) =>
          tau[h] === 1 ? Array.from({ length: own + 1 }, (_, c) => c) : exactRow(row, own, tau[h]!),
        ),
      ),
    );
    expect(choose(scope, prompt, { ...small, tau: 1 })).toBeNull();
    expect(() => choose(scope, prompt, { ...small, tau: [[0.5]] })).toThrow(/1 heads in layer 0.*6 query heads/);
  });

  test("short prompts and dense layers read everything; the last rows do where that is asked for", () => {
    using scope = new Scope(backend.context);
    const prompt = promptOf(scope, 330, 4);
    expect(choose(scope, prompt, {})).toBeNull();
    expect(choose(scope, prompt, { ...small, minLen: 331 })).toBeNull();
    expect(choose(scope, prompt, { ...small, denseLayers: [0] })).toBeNull();
    const sparse = choose(scope, prompt, { ...small, tau: 0.1 })!;
    const lists = choose(scope, prompt, { ...small, tau: 0.1, denseLast: 20 })!; // rows 310 to 329: blocks 4 and 5
    lists.forEach((head, h) => {
      expect(head.slice(0, 4)).toEqual(sparse[h]!.slice(0, 4));
      expect(head.slice(4)).toEqual([4, 5].map((own) => Array.from({ length: own + 1 }, (_, c) => c)));
    });
  });

  describe("heads of a known pattern", () => {
    test.each(patterns)("%s: the blocks hold tau of the true attention", (pattern) => {
      using scope = new Scope(backend.context);
      const [rows, block, tau] = [512, 64, 0.9];
      const one = { kvHeads: 1, groupSize: 1, headDim: HEAD_DIM, dtype: "float32" as const };
      const prompt = prompted(scope, one, patterned(new Random(21), pattern, rows, block));
      const { hooks } = hooksOf(plugin, { ...small, tau, stride: 8 }, one);
      const lists = runSelect(scope, hooks, prompt)!;
      const [held] = recall(prompt.twin.layer, prompt.queryValues, scaleOf(HEAD_DIM), block, lists);
      expect(held).toBeGreaterThanOrEqual(tau - 0.05);
    });
  });

  test("a band may begin at a query block, and be added to a set", () => {
    using scope = new Scope(backend.context);
    const hooks: Hooks = {
      select: (_, { blocks }) =>
        blocks.band(64, { sinks: 1, recent: 0, from: 3 }, blocks.band(64, { sinks: 0, recent: 1 })),
    };
    const lists = runSelect(scope, hooks, promptOf(scope, 330))!;
    expect(lists).toEqual(new Array(6).fill([[0], [1], [2], [0, 3], [0, 4], [0, 5]]));
  });

  test("the worked example: exact, and as the authors' first chunk", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "float32", 1, 6, [0.3, 0.05, 0.2, 0.02, 0.03, 0.4]);
    const run = (forced: number, extra: number) => {
      const must = scope.own(Tensor.from(scope.context, Int32Array.of(forced), 1, 1));
      const bits = scope.own(Tensor.from(scope.context, Int32Array.of(0), 1, 1));
      const how = { shares: Float64Array.of(0.85), inclusive: true, forced: must, extra, extraRows: 1 };
      cumulative(x.tensor, how, { bits });
      return bits.toInts()[0];
    };
    expect(run(0b100001, 0)).toBe(0b100101);
    expect(run(0b100000, 1)! | 1).toBe(0b100111);
  });
});

eachBackend("XAttention's thresholds", (backend) => {
  test("of a model's heads are the shares that hold 90 % of the true attention, and run as a table", async () => {
    const engine = openEngine(backend, { config: { num_hidden_layers: 2 } });
    const ids = randomIds(230, 3);
    const found = await thresholds(engine, ids, 8, 64);
    const inputs: LayerInputs[] = [];
    referenceLogits(engine, ids, causal, inputs);
    const { heads } = engine.config;
    const scale = engine.decoder.scale;
    const expected = inputs.map(({ queries, layer }) => {
      const [truth, estimate] = [1, 8].map((stride) => antidiagonalScores(layer, queries, scale / stride, stride, 64));
      return Array.from({ length: heads }, (_, h) => {
        let [above, all] = [0, 0];
        for (let r = 4 * h; r < 4 * h + 4; r++) {
          const [mass, scores] = [row(truth!, r), row(estimate!, r)];
          const needed = ranked(mass).slice(0, countOf(mass, 0.9, { inclusive: true }));
          const lowest = Math.min(...needed.map((c) => scores[c]!));
          scores.forEach((score) => {
            all += score;
            if (score >= lowest) above += score;
          });
        }
        return above / all;
      });
    });
    found.flat().forEach((tau, at) => {
      expect(Math.abs(tau - expected.flat()[at]!)).toBeLessThan(1e-4);
    });
    expect(Math.min(...found.flat())).toBeGreaterThan(0.5);

    const registry = await loadPlugins([ownPlugins]);
    const sets = { xattention: { minLen: 0, block: 64, stride: 8, tau: found } };
    const [method] = parseMethods(["XAttention"], sets, registry);
    const [done] = await generate(engine, method!, [request(ids, { maxNewTokens: 1 })]);
    expect(done!.numbers.density).toBeLessThanOrEqual(1);
    engine.dispose();
  });
});

describe("XAttention's parameters", () => {
  const llama: ModelInfo = { family: "llama", layers: 32, heads: 32, kvHeads: 8, headDim: 128, hiddenSize: 4096 };

  test("Llama-3.1-8B has the authors' thresholds of its stride, other models 0.9", () => {
    expect(resolveParams(plugin, "paper", {}, llama).params.tau).toBe("table");
    expect(resolveParams(plugin, "paper", { tau: 0.8 }, llama).params.tau).toBe(0.8);
    expect(resolveParams(plugin, "paper", {}, { ...llama, family: "qwen2" }).params.tau).toBe(0.9);
    expect(() => resolveParams(plugin, "paper", { stride: 2 }, llama)).toThrow(/strides 4, 8 and 16, not 2/);
  });

  test("values that do not fit are refused with a sentence", () => {
    const refused: [Record<string, unknown>, RegExp][] = [
      [{ block: 96 }, /block must be 64 or 128, not 96/],
      [{ block: 64, stride: 128 }, /128 does not divide 64/],
      [{ tau: 1.2 }, /tau: must be a number from 0 to 1.*not 1.2/],
      [{ tau: "often" }, /tau: must be a number/],
    ];
    for (const [params, text] of refused) expect(() => resolveParams(plugin, "paper", params)).toThrow(text);
    expect(Object.keys(plugin.presets!)).toEqual(["official", "openvino"]);
  });
});

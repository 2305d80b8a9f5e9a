// StreamingLLM: which rows it keeps, at which distances, and that text far beyond its rows stays readable to the model.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import plugin from "../../plugins/streaming-llm.ts";
import { Engine } from "../../src/engine/engine.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { Batch } from "../../src/native/kv.ts";
import { attentionDecode, ropeAppend, ropeAppendBatch } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { deviceRope, emptyTwin, llamaRope } from "../support/cache.ts";
import {
  breathe,
  generate,
  groupsOfFour,
  groupsOfSeven,
  methodOf,
  openEngine,
  randomIds,
  request,
  trace,
  traceOf,
} from "../support/engine.ts";
import { input, matrix, output, row } from "../support/guarded.ts";
import { hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { type Arithmetic, both, dot, exact, rotate } from "../support/reference.ts";
import { attend, headOf, type Row, ropeAppend as referenceAppend } from "../support/reference-attention.ts";
import { causal, referenceLogits } from "../support/reference-model.ts";
import { relativeError } from "../support/tolerance.ts";

const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
/** The rows that stay of `tokens` tokens. */
const window = (tokens: number, capacity: number, sinks: number): number[] =>
  tokens <= capacity ? range(0, tokens) : [...range(0, sinks), ...range(tokens - capacity + sinks, tokens)];

describe("parameters", () => {
  const values = (preset: string, overrides: Record<string, unknown> = {}) =>
    resolveParams(plugin, preset, overrides).values;

  test("defaults are the paper's: four sinks, positions inside the cache, rolling", () => {
    expect(values("paper")).toMatchObject({ sinks: 4, positions: "cache", rolling: true });
    expect(values("kvcf")).toMatchObject({ sinks: 4, positions: "original", rolling: false });
    expect(values("kvpress")).toMatchObject({ positions: "original", rolling: false });
  });

  test("a capacity that the sinks fill is refused", () => {
    expect(() => values("paper", { capacity: 4 })).toThrow(/capacity must be above sinks/);
    expect(() => values("paper", { capacity: 8, sinks: 8 })).toThrow(/8 sinks/);
    expect(values("paper", { capacity: 5 })).toBeDefined();
  });
});

eachBackend("StreamingLLM's rows", (backend) => {
  for (const [shape, model] of [
    ["groups of four", groupsOfFour],
    ["groups of seven", groupsOfSeven],
  ] as const) {
    describe(shape, () => {
      let engine: Engine;
      beforeAll(() => {
        engine = openEngine(backend, model);
      });
      afterAll(() => engine.dispose());

      test.each([
        ["StreamingLLM[capacity=20]", 20, 4],
        ["StreamingLLM[capacity=20,sinks=0]", 20, 0],
        ["StreamingLLM[capacity=9,sinks=8]", 9, 8],
        ["StreamingLLM[capacity=20,positions=original]", 20, 4],
      ] as const)(
        "%s: sinks and the newest, the same in all layers and heads, rolling by one per token",
        async (text, capacity, sinks) => {
          const inputs = [61, 7, 20].map((rows, s) => traceOf(rows, 30, s));
          const traces = await trace(engine, await methodOf(text), inputs);
          traces.forEach(({ kept }, s) => {
            kept.forEach((layers, step) => {
              const expected = window(inputs[s]!.promptTokens + step, capacity, sinks);
              for (const heads of layers) for (const positions of heads) expect(positions).toEqual(expected);
            });
          });
        },
      );

      test.each(["kvcf", "kvpress"])("preset %s drops once and then lets the cache grow", async (preset) => {
        const method = await methodOf(`StreamingLLM@${preset}${preset === "kvcf" ? "[capacity=20]" : ""}`);
        const [traced] = await trace(engine, method, [traceOf(60, 10, 3)]);
        const rows = preset === "kvcf" ? 20 : 30;
        traced!.kept.forEach((layers, step) => {
          const expected = [...window(60, rows, 4), ...range(60, 60 + step)];
          for (const heads of layers) for (const positions of heads) expect(positions).toEqual(expected);
        });
      });

      test("keepRatio: floor(n * ratio + 1e-9) rows, never fewer than the sinks and one", async () => {
        for (const [ratio, promptTokens, rows] of [
          [0.3, 70, 21],
          [0.29, 70, 20],
          [0.1, 30, 5],
          [1, 30, 30],
        ] as const) {
          const method = await methodOf(`StreamingLLM[keepRatio=${ratio}]`);
          const [done] = await generate(engine, method, [request(randomIds(promptTokens, 4), { maxNewTokens: 1 })]);
          expect(done!.kept![0]![0]!).toEqual(window(promptTokens, rows, 4));
        }
      });

      test("tokens of a second turn leave the sinks and the newest rows, also where they are more than the cache holds", async () => {
        const method = await methodOf("StreamingLLM[capacity=20]");
        for (const turn of [1, 15, 16, 17, 40]) {
          const [traced] = await trace(engine, method, [traceOf(50, turn, 5)]);
          expect(traced!.kept.at(-1)![1]![0]!).toEqual(window(50 + turn, 20, 4));
        }
      });

      test("capacity for every token: the logits of full attention, bit for bit", async () => {
        const input = traceOf(40, 20, 6);
        const expected = await trace(engine, await methodOf("Full"), [input]);
        for (const positions of ["cache", "original"]) {
          const method = await methodOf(`StreamingLLM[capacity=60,positions=${positions}]`);
          expect(await trace(engine, method, [input])).toEqual(expected);
        }
      });

      test("cache positions: logits of a model whose keys all stand at the slots 0 .. m - 1, the query at m - 1", async () => {
        const input = traceOf(50, 25, 7);
        const [traced] = await trace(engine, await methodOf("StreamingLLM[capacity=20]"), [input]);
        const expected = referenceLogits(engine, input.ids, (layer, kvHead, query) => {
          const step = query - input.promptTokens;
          if (step < 0) return causal(layer, kvHead, query);
          const rows = [...traced!.kept[step]![layer]![kvHead]!, query];
          return { rows: rows.map((token, slot) => ({ token, position: slot })), query: rows.length - 1 };
        });
        traced!.logits.forEach((logits, step) => {
          expect(relativeError(logits, row(expected, input.promptTokens - 1 + step))).toBeLessThan(1e-5);
        });
      });

      test("original positions: logits of full attention with the dropped rows masked", async () => {
        const input = traceOf(50, 25, 8);
        const [traced] = await trace(engine, await methodOf("StreamingLLM[capacity=20,positions=original]"), [input]);
        const expected = referenceLogits(engine, input.ids, (layer, kvHead, query) => {
          if (query < input.promptTokens) return causal(layer, kvHead, query);
          const rows = [...window(query, 20, 4), query];
          return { rows: rows.map((token) => ({ token, position: token })), query };
        });
        traced!.logits.forEach((logits, step) => {
          expect(relativeError(logits, row(expected, input.promptTokens - 1 + step))).toBeLessThan(1e-5);
        });
      });
    });
  }
});

eachBackend("A rotation that depends on the length", (backend) => {
  const dynamic = { rope_scaling: { type: "dynamic", factor: 2 }, max_position_embeddings: 24 };

  test.each(["StreamingLLM[capacity=20]", "StreamingLLM[capacity=30]", "H2O[capacity=20,positions=cache]"])(
    "%s: goes by the rows in the cache",
    async (text) => {
      const engine = openEngine(backend, { config: dynamic });
      const input = traceOf(50, 12, 21);
      const [traced] = await trace(engine, await methodOf(text), [input]);
      const expected = referenceLogits(engine, input.ids, (layer, kvHead, query) => {
        if (query < 50) return { ...causal(layer, kvHead, query), length: 50 };
        const rows = [...traced!.kept[query - 50]![layer]![kvHead]!, query];
        const seen = rows.map((token, slot) => ({ token, position: slot }));
        return { rows: seen, query: rows.length - 1, length: rows.length };
      });
      engine.dispose();
      traced!.logits.forEach((logits, step) => {
        expect(relativeError(logits, row(expected, 49 + step))).toBeLessThan(1e-5);
      });
    },
  );
});

describe("the exact shortcut", () => {
  test.each([0, 1, 1000, 100_000])(
    "moving only the sinks by %i gives every logit of keys at slots, to 1e-9 in float64",
    (dropped) => {
      const random = new Random(9);
      const rope = { ...llamaRope(128), invFreq: llamaRope(128).invFreq };
      const [sinks, rows] = [4, 24];
      const query = random.normals(128);
      const turned = (position: number) => rotate(query, position, rope, exact);
      for (let r = 0; r < rows; r++) {
        const key = random.normals(128);
        const original = r < sinks ? r : r + dropped;
        const moved = rotate(key, r < sinks ? original + dropped : original, rope, exact);
        const slot = dot(turned(rows), rotate(key, r, rope, exact), exact);
        expect(Math.abs(dot(turned(rows + dropped), moved, exact) - slot)).toBeLessThan(1e-9);
      }
    },
  );
});

eachBackend("StreamingLLM's distances", (backend) => {
  const rope = llamaRope(64);
  const [sinks, recent, headDim] = [4, 12, 64];

  for (const dtype of ["float32", "bfloat16"] as const) {
    test.each([0, 1, 1000, 100_000])(
      `after %i dropped rows attention is that of keys at cache slots (${dtype})`,
      (dropped) => {
        using scope = new Scope(backend.context);
        const random = new Random(10);
        const shape = { kvHeads: 2, groupSize: 2, headDim, dtype, unrotatedRows: sinks };
        const twin = emptyTwin(scope, shape);
        const columns = 8 * headDim;
        const rows = [sinks, recent, 1].map((count) =>
          input(scope, dtype, count, columns, random.normals(count * columns)),
        );
        const device = deviceRope(scope, rope);
        twin.cache.reserve(0, sinks + recent);
        const prefilled = [0, sinks + dropped];
        prefilled.forEach((start, i) => {
          const count = rows[i]!.values.rows;
          ropeAppend(twin.cache, 0, start, rows[i]!.tensor, scope.tensor(dtype, count, 4 * headDim), device);
        });
        const newest = sinks + dropped + recent;
        const batch = scope.own(Batch.create(backend.context, 1));
        batch.set([twin.cache]);
        batch.reserve(1);
        twin.cache.seek(newest - 1, 0); // the last token before the query
        batch.rotateSinks(0, 1, 0, sinks, device);
        twin.cache.seek(newest, 0);
        const q = scope.tensor(dtype, 1, 4 * headDim);
        ropeAppendBatch(batch, 0, rows[2]!.tensor, q, device);
        const out = output(scope, dtype, 1, 4 * headDim);
        const probs = output(scope, "float32", 2, sinks + recent + 1);
        attentionDecode(batch, 0, q, scaleOf(headDim), 0, out.tensor, probs.tensor);

        const all = matrix(
          sinks + recent + 1,
          columns,
          rows.flatMap(({ values }) => Array.from(values.data)),
        );
        const slots = (a: Arithmetic) => {
          const layer = emptyTwin(scope, shape).layer;
          const queries = referenceAppend(layer, 0, all, rope, a);
          const last = row(queries, sinks + recent);
          const attended = matrix(1, 4 * headDim);
          const mean = matrix(2, sinks + recent + 1);
          for (let h = 0; h < 4; h++) {
            const group = h >> 1;
            const result = attend(headOf(last, h, headDim), layer.heads[group] as Row[], scaleOf(headDim), a);
            attended.data.set(result.out, h * headDim);
            result.probabilities.forEach((p, j) => {
              row(mean, group)[j] = row(mean, group)[j]! + p / 2;
            });
          }
          return { attended, mean };
        };
        expect(out.read()).toMatchReference(both(dtype, (a) => slots(a).attended));
        const expected = slots(exact).mean.data;
        expect(relativeError(probs.read(), expected)).toBeLessThan(dtype === "float32" ? 2e-6 : 1e-2);
      },
    );
  }

  test("the prefill hook moves the sinks of a long prompt by the rows it dropped", () => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 2, groupSize: 2, headDim, dtype: "float32" as const };
    const { hooks, shape: needed } = hooksOf(plugin, { capacity: 16 }, shape);
    const prompt = prompted(scope, needed, new Random(11).normals(100 * 8 * headDim), rope);
    const kept = runPrefill(scope, hooks, prompt, 100, rope);
    expect(kept).toEqual([window(100, 16, 4), window(100, 16, 4)]);
    const out = output(scope, "float32", 16, headDim);
    prompt.twin.cache.read(0, 1, "keys", out.tensor);
    const expected = window(100, 16, 4).flatMap((position) => {
      const held = prompt.twin.layer;
      const key =
        position < 4
          ? rotate(held.unrotated[1]![position]!, position + 84, rope, exact)
          : held.heads[1]![position]!.key;
      return Array.from(key);
    });
    expect(relativeError(out.read(), expected)).toBeLessThan(1e-6);
  });
});

eachBackend("StreamingLLM on the bundled model", (backend) => {
  const dir = join(import.meta.dir, "../../models/tiny-ruler");

  test("text of ten times its rows: perplexity stays flat with sinks, and is far worse without", async () => {
    const engine = Engine.load({
      model: { dir },
      device: backend.device,
      dtype: "float32",
      prefillChunk: 4096,
      threads: 0,
      memoryLimit: 0,
      graphs: true,
    });
    try {
      const samples = readFileSync(join(dir, "samples.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      const text = samples.find(({ task, length }) => task === "fwe" && length === 4096).prompt as string;
      const ids = loadTokenizer(dir).encode(text).slice(0, 1000);
      const perplexities = async (method: string) => {
        const { logprobs } = await engine.score(await methodOf(method), { ids, promptTokens: 96 }, breathe);
        return [200, 400, 600, 800].map((from) => {
          const part = logprobs.slice(from, from + 200) as number[];
          return Math.exp(-part.reduce((sum, value) => sum + value, 0) / part.length);
        });
      };
      const withSinks = await perplexities("StreamingLLM[capacity=96]");
      const without = await perplexities("StreamingLLM[capacity=96,sinks=0]");
      const full = await perplexities("Full");
      expect(withSinks.every(Number.isFinite)).toBe(true);
      expect(Math.max(...withSinks)).toBeLessThan(1.4 * Math.max(...full));
      expect(without.reduce((sum, x) => sum + x, 0)).toBeGreaterThan(2 * withSinks.reduce((sum, x) => sum + x, 0));
    } finally {
      engine.dispose();
    }
  });
});

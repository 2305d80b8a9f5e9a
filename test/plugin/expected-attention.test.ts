// Expected Attention: moments of the queries before rotation, their mean rotation, and the attention to come, against float64.
import { describe, expect, test } from "bun:test";
import plugin from "../../plugins/expected-attention.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { llamaRope } from "../support/cache.ts";
import { expectBest, range } from "../support/choice.ts";
import { generate, groupsOfSeven, methodOf, openEngine, randomIds, request } from "../support/engine.ts";
import { row } from "../support/guarded.ts";
import { hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { futureAttention, meanRotation, momentsOf } from "../support/reference-heads.ts";

describe("parameters", () => {
  test("512 positions, four sinks, covariance and value norms", () => {
    expect(resolveParams(plugin, "paper", {}).values).toMatchObject({
      futurePositions: 512,
      sinks: 4,
      covariance: true,
      valueNorm: true,
      epsilon: 0,
    });
    expect(() => resolveParams(plugin, "paper", { capacity: 4 })).toThrow(/capacity must be above sinks/);
  });
});

const norm = (x: ArrayLike<number>) => Math.sqrt(Array.from(x).reduce((sum, v) => sum + v * v, 0));

eachBackend("Expected Attention on one layer", (backend) => {
  for (const [groupSize, more] of [
    [1, {}],
    [4, { covariance: false }],
    [7, { epsilon: 0.02, sinks: 0 }],
    [4, { valueNorm: false, futurePositions: 3 }],
  ] as const) {
    test(`keeps the sinks and the rows of most expected attention: groups of ${groupSize}, ${JSON.stringify(more)}`, () => {
      using scope = new Scope(backend.context);
      const shape = { kvHeads: 2, groupSize, headDim: 64, dtype: "float32" as const };
      const settings = { sinks: 4, covariance: true, valueNorm: true, epsilon: 0, futurePositions: 512, ...more };
      const { hooks, shape: needed } = hooksOf(plugin, { capacity: 24, ...settings }, shape);
      const columns = (groupSize + 2) * 128;
      const [rows, rope] = [100, llamaRope(64)];
      const qkv = Float64Array.from(new Random(5).normals(rows * columns), (x, i) =>
        Math.fround(x + Math.sin(i % columns)),
      );
      const prompt = prompted(scope, needed, qkv, rope);
      const queries = Array.from({ length: 2 * groupSize }, (_, h) =>
        momentsOf(range(settings.sinks, rows).map((r) => qkv.slice(r * columns + h * 64, r * columns + (h + 1) * 64))),
      );
      const R = meanRotation(rope, 64, rows, settings.futurePositions);
      const { layer } = prompt.twin;
      const expected = futureAttention(layer, queries, R, scaleOf(64), settings.sinks, settings.covariance);
      for (const chunk of [100, 7]) {
        runPrefill(scope, hooks, prompted(scope, needed, qkv, rope), chunk, rope).forEach((kept, h) => {
          const scores = row(expected, h).map((a, j) => {
            const weight = settings.valueNorm ? norm(layer.heads[h]![j + settings.sinks]!.value) : 1;
            return (a + (settings.valueNorm ? settings.epsilon : 0)) * weight;
          });
          expect(kept.slice(0, settings.sinks)).toEqual(range(0, settings.sinks));
          const chosen = kept.slice(settings.sinks).map((position) => position - settings.sinks);
          expectBest(chosen, scores, 24 - settings.sinks);
        });
      }
    });
  }
});

eachBackend("Expected Attention in the engine", (backend) => {
  test("a prompt gets the same rows alone, in a batch and in chunks; one no longer than the sinks stays whole", async () => {
    const method = await methodOf("ExpectedAttention[capacity=20]");
    const prompts = [90, 3, 41].map((rows, s) => request(randomIds(rows, s), { id: `p${s}`, maxNewTokens: 2 }));
    const engine = openEngine(backend, groupsOfSeven);
    const together = (await generate(engine, method, prompts)).map(({ kept }) => kept);
    const alone = [];
    for (const one of prompts) alone.push((await generate(engine, method, [one]))[0]!.kept);
    engine.dispose();
    expect(together).toEqual(alone);
    expect(alone[1]!.flat()).toEqual(new Array(6).fill([0, 1, 2]));
    const chunked = openEngine(backend, groupsOfSeven, { prefillChunk: 3 });
    expect((await generate(chunked, method, [prompts[0]!]))[0]!.kept).toEqual(alone[0]!);
    chunked.dispose();
  });
});

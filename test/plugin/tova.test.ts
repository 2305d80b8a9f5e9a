// TOVA: the last query's attention over all heads, prompt and every step, against float64.
import { describe, expect, test } from "bun:test";
import plugin from "../../plugins/tova.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { expectBest, range } from "../support/choice.ts";
import { matrix, row } from "../support/guarded.ts";
import { decoderOf, hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attend, headOf } from "../support/reference-attention.ts";

describe("parameters", () => {
  test("no row is protected, and a row goes at each token; kvpress protects the newest and drops once", () => {
    expect(resolveParams(plugin, "paper", {}).values).toMatchObject({ recent: 0, rolling: true });
    const { values, params } = resolveParams(plugin, "kvpress", {});
    expect(values).toMatchObject({ recent: 1, rolling: false });
    expect(params.budget).toEqual({ keepRatio: 0.5 });
    expect(() => resolveParams(plugin, "paper", { capacity: 4, recent: 5 })).toThrow(/recent must be within capacity/);
  });
});

eachBackend("TOVA on one layer", (backend) => {
  for (const groupSize of [1, 4, 7]) {
    for (const recent of [0, 1, 9]) {
      test(`keeps what the last query attends to over all heads: groups of ${groupSize}, ${recent} newest`, () => {
        using scope = new Scope(backend.context);
        const shape = { kvHeads: 2, groupSize, headDim: 64, dtype: "float32" as const };
        const { hooks, shape: needed } = hooksOf(plugin, { capacity: 20, recent }, shape);
        const prompt = prompted(scope, needed, new Random(3).normals(80 * (groupSize + 2) * 128));
        const mean = new Float64Array(80);
        for (let h = 0; h < 2 * groupSize; h++) {
          const query = headOf(row(prompt.queryValues, 79), h, 64);
          const rows = prompt.twin.layer.heads[Math.floor(h / groupSize)]!;
          attend(query, rows, scaleOf(64), exact).probabilities.forEach((p, j) => {
            mean[j]! += p / (2 * groupSize);
          });
        }
        const [first, second] = runPrefill(scope, hooks, prompt);
        expect(second!).toEqual(first!);
        expect(first!.slice(20 - recent)).toEqual(range(80 - recent, 80));
        expectBest(first!.slice(0, 20 - recent), mean.subarray(0, 80 - recent), 20 - recent);
      });
    }
  }

  test("each new token drops the row that it attends to least over all heads, itself among them", () => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };
    const { hooks, shape: needed } = hooksOf(plugin, { capacity: 16 }, shape);
    const random = new Random(4);
    const prompt = prompted(scope, needed, random.normals(50 * 12 * 64));
    const kept = runPrefill(scope, hooks, prompt);
    const { layer } = prompt.twin;
    layer.heads = layer.heads.map((rows, h) => rows.filter(({ position }) => kept[h]!.includes(position)));
    const step = decoderOf(scope, hooks, prompt);
    for (let i = 0; i < 30; i++) {
      const { probabilities, kept: held } = step(random.normals(12 * 64));
      const mean = matrix(
        1,
        17,
        layer.heads[0]!.map((_, r) => (probabilities[0]![r]! + probabilities[1]![r]!) / 2),
      ).data;
      const victim = mean.indexOf(Math.min(...mean));
      layer.heads = layer.heads.map((rows) => rows.filter((_, r) => r !== victim));
      const positions = layer.heads[0]!.map(({ position }) => position);
      expect(held).toEqual([positions, positions]);
    }
  });
});

// DuoAttention: which heads keep everything, what streaming heads keep and drop, and the memory that ragged heads save.
import { describe, expect, test } from "bun:test";
import plugin from "../../plugins/duo-attention.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { range } from "../support/choice.ts";
import { generate, methodOf, openEngine, randomIds, request, trace, traceOf } from "../support/engine.ts";
import { matrix, row } from "../support/guarded.ts";
import { hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import * as reference from "../support/reference-scores.ts";

const streaming = (length: number, rows: number, first: number) => [
  ...range(0, Math.min(first, length)),
  ...range(Math.max(first, length - (rows - first)), length),
];

describe("parameters", () => {
  test("half of the heads, 64 sinks and 256 recent rows", () => {
    expect(resolveParams(plugin, "paper", {}).values).toMatchObject({
      share: 0.5,
      sinks: -1,
      fullHeads: [],
      rolling: true,
    });
    expect(() => resolveParams(plugin, "paper", { capacity: 8, sinks: 8 })).toThrow(/capacity must be above sinks/);
  });

  test("with a list of heads nothing is measured, and nothing waits", () => {
    const shape = { kvHeads: 2, groupSize: 1, headDim: 64, dtype: "float32" as const };
    expect(hooksOf(plugin, {}, shape).hooks.needs).toEqual({ queryRing: 32, hostSync: "prefill" });
    expect(hooksOf(plugin, { fullHeads: [1] }, shape).hooks.needs).toEqual({});
  });
});

eachBackend("DuoAttention on one layer", (backend) => {
  for (const [groupSize, share] of [
    [1, 0.5],
    [4, 0.25],
    [7, 0.75],
    [4, 0],
    [4, 1],
  ] as const) {
    test(`the heads that look past sinks and recent rows most keep all: groups of ${groupSize}, share ${share}`, () => {
      using scope = new Scope(backend.context);
      const shape = { kvHeads: 4, groupSize, headDim: 64, dtype: "float32" as const };
      const { hooks, shape: needed } = hooksOf(plugin, { capacity: 30, sinks: 4, window: 8, share }, shape);
      const prompt = prompted(scope, needed, new Random(9).normals(120 * (groupSize + 2) * 256));
      const { columns, data } = prompt.queryValues;
      const { mean } = reference.windowStats(
        prompt.twin.layer,
        matrix(8, columns, data.slice(-8 * columns)),
        scaleOf(64),
        "mean",
        exact,
      );
      const far = range(0, 4).map((h) =>
        row(mean, h)
          .slice(4, 94)
          .reduce((sum, x) => sum + x, 0),
      );
      const full = range(0, 4)
        .sort((a, b) => far[b]! - far[a]!)
        .slice(0, Math.round(4 * share));
      const kept = runPrefill(scope, hooks, prompt);
      kept.forEach((positions, h) => {
        expect(positions).toEqual(full.includes(h) ? range(0, 120) : streaming(120, 30, 4));
      });
    });
  }
});

eachBackend("DuoAttention in the engine", (backend) => {
  test("named heads keep everything, the others roll; bytes are those of both", async () => {
    const engine = openEngine(backend);
    const method = await methodOf("DuoAttention[capacity=20,sinks=3,fullHeads=[1,2]]"); // head 1 of layer 0, head 0 of layer 1
    const [traced] = await trace(engine, method, [traceOf(70, 15, 1)]);
    traced!.kept.forEach((layers, step) => {
      const [all, some] = [range(0, 70 + step), streaming(70 + step, 20, 3)];
      expect(layers).toEqual([
        [some, all],
        [all, some],
      ]);
    });
    const asked = [request(randomIds(500, 2), { maxNewTokens: 4 })];
    const [done] = await generate(engine, method, asked);
    const [full] = await generate(engine, await methodOf("Full"), asked);
    engine.dispose();
    expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
    expect(done!.cacheBytes / full!.cacheBytes).toBeCloseTo((500 + 20) / 1000, 10);
    expect(done!.cacheAllocatedBytes).toBeLessThan(0.56 * full!.cacheAllocatedBytes);
  });

  test("a short prompt says nothing of its heads: none loses a row", async () => {
    const engine = openEngine(backend);
    const [traced] = await trace(engine, await methodOf("DuoAttention[capacity=20]"), [traceOf(18, 10, 3)]);
    for (const positions of traced!.kept.at(-1)!.flat()) expect(positions).toEqual(range(0, 28));
    engine.dispose();
  });
});

// What every file in plugins/ must keep, whatever its method: found by itself, on two shapes of tiny models.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rowFault } from "../../src/check/faults.ts";
import type { Engine } from "../../src/engine/engine.ts";
import type { MethodSpec } from "../../src/engine/protocol.ts";
import { Scope } from "../../src/native/scope.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import type { Plugin } from "../../src/plugin/index.ts";
import { type LoadedPlugin, loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { fields, presetNames, typedValues } from "../../src/plugin/params.ts";
import { bothOpen, eachBackend } from "../support/backends.ts";
import {
  expectSameTrace,
  footprint,
  generate,
  openEngine,
  randomIds,
  request,
  settled,
  type Trace,
  trace,
  traceOf,
} from "../support/engine.ts";
import { row } from "../support/guarded.ts";
import { hooksOf, permuteHeads, prompted, replaceValues, runPrefill } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { causal, referenceLogits } from "../support/reference-model.ts";
import { relativeError } from "../support/tolerance.ts";

const registry = await loadPlugins([ownPlugins]);
const plugins = registry.plugins.map((loaded): [string, LoadedPlugin] => [loaded.plugin.name, loaded]);
const has = ({ plugin }: LoadedPlugin, key: string) => fields(plugin).some((field) => field.key === key);
const budgeted = plugins.filter(([, loaded]) => has(loaded, "capacity"));
/** Where capacity is what stays, not what a new token reads of all. */
const dropping = budgeted.filter(([, loaded]) => loaded.plugin.category !== "sparse-decode");

/** A plugin with so many rows, a short window where it has one, and every layer taking part. */
function method(loaded: LoadedPlugin, capacity: number | null, more: Record<string, unknown> = {}): MethodSpec {
  const short = { minLen: 0, minBudget: 1, block: 64, residual: 32 }; // prompts of a hundred tokens are sparse and quantised, too
  const wanted = { ...(capacity === null ? {} : { capacity }), window: 8, skipLayers: "[]", ...short, ...more };
  const own = Object.entries(wanted).filter(([key]) => has(loaded, key));
  const brackets = own.map(([key, value]) => `${key}=${value}`).join(",");
  const text = brackets ? `${loaded.plugin.name}[${brackets}]` : loaded.plugin.name;
  return parseMethods([text], [], registry)[0]!;
}

const tight = (loaded: LoadedPlugin) => method(loaded, 24);
const full = parseMethods(["Full"], [], registry)[0]!;
const models = {
  "groups of four": { config: { num_hidden_layers: 4 } },
  "groups of seven": { config: { hidden_size: 112, num_attention_heads: 14, num_hidden_layers: 3 }, seed: 7 },
};
const STEPS = 12;
const prompts = [97, 13, 60].map((rows, s) => traceOf(rows, STEPS, s));

test("every file in plugins/ loads", () => {
  expect(registry.errors).toEqual([]);
  expect(plugins.length).toBeGreaterThanOrEqual(3);
});

describe.each(plugins)("%s", (_, loaded) => {
  test("every preset has valid parameters", () => {
    for (const preset of presetNames(loaded.plugin)) {
      expect(parseMethods([`${loaded.plugin.name}@${preset}`], [], registry)).toHaveLength(1);
    }
  });
});

/** What a plugin's functions take; Full, which has no part in a spec, has no parameters. */
const valuesOf = (plugin: Plugin, { parts }: MethodSpec) => typedValues(plugin, parts[0]?.params ?? {});

/** Rows that the method's own formula keeps of a prompt. */
function expectedRows(
  { plugin }: LoadedPlugin,
  spec: MethodSpec,
  engine: Engine,
  promptTokens: number,
  layer: number,
): number {
  const values = valuesOf(plugin, spec);
  return plugin.expectedRows?.(values as never, promptTokens, 0, layer, engine.model) ?? promptTokens;
}

for (const [shape, model] of Object.entries(models)) {
  eachBackend(`contract, ${shape}`, (backend) => {
    let engine: Engine;
    let chunked: Engine[];
    beforeAll(() => {
      engine = openEngine(backend, model);
      chunked = [1, 7, 64].map((prefillChunk) => openEngine(backend, model, { prefillChunk }));
    });
    afterAll(() => {
      for (const one of [engine, ...chunked]) one.dispose();
    });

    describe.each(budgeted)("%s", (_, loaded) => {
      test("a budget above prompt and answer changes nothing, bit for bit, alone and in a batch", async () => {
        const generous = method(loaded, 10_000);
        expect(await trace(engine, generous, prompts)).toEqual(await trace(engine, full, prompts));
        const [alone] = await trace(engine, generous, [prompts[0]!]);
        expect([alone!]).toEqual(await trace(engine, full, [prompts[0]!]));
        const exactly = method(loaded, 97 + STEPS);
        expect(await trace(engine, exactly, [prompts[0]!])).toEqual([alone!]);
      });
    });

    describe.each(dropping)("%s", (_, loaded) => {
      test("a smaller budget keeps fewer rows than the prompt has", async () => {
        const [kept] = await trace(engine, tight(loaded), [prompts[0]!]);
        expect(kept!.kept[0]!.flat().some((positions) => positions.length < 97)).toBe(true);
      });

      test("after rows were dropped, attention is full attention without them", async () => {
        const original = method(loaded, 24, { positions: "original", decision: "never" });
        const input = prompts[2]!;
        const [traced] = await trace(engine, original, [input]);
        const expected = referenceLogits(engine, input.ids, (layer, kvHead, query) => {
          const step = query - input.promptTokens;
          if (step < 0) return causal(layer, kvHead, query);
          const rows = [...traced!.kept[step]![layer]![kvHead]!, query];
          return { rows: rows.map((token) => ({ token, position: token })), query };
        });
        traced!.logits.forEach((logits, step) => {
          const reference = row(expected, input.promptTokens - 1 + step);
          expect(relativeError(logits, reference)).toBeLessThan(1e-5);
        });
      });
    });

    describe.each(plugins)("%s", (_, loaded) => {
      test("kept rows are in order, in range, as many as its formula says, and never more", async () => {
        const spec = tight(loaded);
        const traces = await trace(engine, spec, prompts);
        traces.forEach((one, s) => {
          const { promptTokens } = prompts[s]!;
          const rowsOf = (layer: number) => expectedRows(loaded, spec, engine, promptTokens, layer);
          expect(rowFault(loaded.plugin.name, one, promptTokens, rowsOf, loaded.plugin.sharesRows)).toBeUndefined();
        });
      });

      test("the same input twice gives the same rows and bits", async () => {
        const first = await trace(engine, tight(loaded), prompts);
        expect(await trace(engine, tight(loaded), prompts)).toEqual(first);
      });

      test("graphs change no bit", async () => {
        const eager = await trace(engine, tight(loaded), prompts, false);
        expect(await trace(engine, tight(loaded), prompts, true)).toEqual(eager);
      });

      test("two requests that run interleaved do not mix, and leave nothing to later ones", async () => {
        const [a, b] = [71, 40].map((rows, s) => [request(randomIds(rows, 100 + s), { id: `r${s}` })]);
        const turns = async () => await new Promise<void>((resolve) => setImmediate(resolve));
        const before = footprint(engine);
        const alone = [await generate(engine, tight(loaded), a!), await generate(engine, tight(loaded), b!)].map(
          settled,
        );
        const together = await Promise.all([a!, b!].map((one) => generate(engine, tight(loaded), one, turns)));
        expect(together.map(settled)).toEqual(alone);
        expect(footprint(engine)).toEqual(before);
      });

      test("a batch gives each sequence what it gets alone", async () => {
        const together = await trace(engine, tight(loaded), prompts);
        for (const [s, input] of prompts.entries()) {
          const [alone] = await trace(engine, tight(loaded), [input]);
          expectSameTrace(backend, together[s]!, alone!);
        }
      });

      test("prefill in chunks keeps the same rows as in one pass", async () => {
        const [whole] = await trace(engine, tight(loaded), [prompts[0]!]);
        for (const one of chunked)
          expectSameTrace(backend, (await trace(one, tight(loaded), [prompts[0]!]))[0]!, whole!);
      });

      test("what comes after the prompt changes nothing of what was kept of it", async () => {
        const other = { ...prompts[0]!, ids: [...prompts[0]!.ids.slice(0, 97), ...randomIds(STEPS, 999)] };
        const [first] = await trace(engine, tight(loaded), [prompts[0]!]);
        const [second] = await trace(engine, tight(loaded), [other]);
        expect(second!.kept[0]).toEqual(first!.kept[0]!);
        expect(second!.logits[0]).toEqual(first!.logits[0]!);
      });

      test("bytes held are those of its formula, and what was dropped is really free", async () => {
        const spec = tight(loaded);
        const [done] = await generate(engine, spec, [request(randomIds(300, 5), { maxNewTokens: 4 })]);
        const [whole] = await generate(engine, full, [request(randomIds(300, 5), { maxNewTokens: 4 })]);
        expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
        expect(whole!.cacheBytes).toBe(300 * engine.info.cacheBytesPerToken);
        if (loaded.plugin.expectedStorage) return; // what it saves depends on the size of heads
        const { layers, kvHeads, headDim } = engine.model;
        const rows = Array.from({ length: layers }, (_, layer) => expectedRows(loaded, spec, engine, 300, layer));
        const { needs = {} } = loaded.plugin.create(valuesOf(loaded.plugin, spec) as never, engine.model);
        const { sideArrays = [], unrotatedKeys = 0 } = needs;
        const rowBytes = 2 * headDim * 4 + 4 + 4 * sideArrays.length;
        const parts = 3 + sideArrays.length; // each of a head's parts ends at a multiple of 128 bytes
        const most =
          kvHeads * rows.reduce((sum, count) => sum + (count + 4) * rowBytes + parts * 128, 0) +
          layers * kvHeads * 128 * Math.ceil((Number(unrotatedKeys) * headDim * 4) / 128);
        expect(done!.cacheAllocatedBytes).toBeLessThanOrEqual(most);
      });
    });
  });
}

eachBackend("storage of larger heads", (backend) => {
  const changed = plugins.filter(([, { plugin }]) => plugin.expectedStorage && plugin.category !== "sparse-decode");
  test.each(changed)("%s holds what its formula says and frees the rest", async (_, loaded) => {
    for (const dtype of ["float32", "float16"] as const) {
      const engine = openEngine(backend, { config: { head_dim: 64 } }, { dtype });
      const asked = [request(randomIds(300, 5), { maxNewTokens: 4 })];
      const [done] = await generate(engine, tight(loaded), asked);
      const [whole] = await generate(engine, full, asked);
      engine.dispose();
      expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
      expect(done!.cacheBytes).toBeLessThan(0.9 * whole!.cacheBytes);
      expect(done!.cacheAllocatedBytes).toBeLessThan(0.95 * whole!.cacheBytes);
    }
  });
});

eachBackend("one layer", (backend) => {
  const shape = { kvHeads: 3, groupSize: 4, headDim: 64, dtype: "float32" as const };
  const columns = 18 * 64;
  const params = (loaded: LoadedPlugin) =>
    Object.fromEntries(
      Object.entries({ capacity: 24, window: 8, skipLayers: [], valueNorm: false }).filter(([key]) => has(loaded, key)),
    );
  const kept = (scope: Scope, loaded: LoadedPlugin, qkv: Float64Array, chunk?: number) => {
    const { hooks, shape: needed } = hooksOf(loaded.plugin, params(loaded), shape);
    return runPrefill(scope, hooks, prompted(scope, needed, qkv), chunk);
  };

  describe.each(plugins)("%s", (_, loaded) => {
    test("keeps the same rows whatever the values are", () => {
      using scope = new Scope(backend.context);
      const random = new Random(1);
      const qkv = random.normals(100 * columns);
      const noise = replaceValues(qkv, shape, () => 10 * random.normal());
      expect(kept(scope, loaded, noise)).toEqual(kept(scope, loaded, qkv));
    });

    test("KV heads in another order keep their rows in that order", () => {
      using scope = new Scope(backend.context);
      const qkv = new Random(2).normals(100 * columns);
      const order = [2, 0, 1];
      const rows = kept(scope, loaded, qkv);
      expect(kept(scope, loaded, permuteHeads(qkv, shape, order))).toEqual(order.map((h) => rows[h]!));
    });

    test("chunks smaller than, equal to and larger than a window keep the same rows", () => {
      using scope = new Scope(backend.context);
      const qkv = new Random(3).normals(100 * columns);
      const whole = kept(scope, loaded, qkv);
      for (const chunk of [3, 8, 31]) expect(kept(scope, loaded, qkv, chunk)).toEqual(whole);
    });

    test("a prompt shorter than any window is kept whole", () => {
      using scope = new Scope(backend.context);
      for (const rows of [1, 2, 7, 8, 9]) {
        const all = Array.from({ length: rows }, (_, i) => i);
        expect(kept(scope, loaded, new Random(rows).normals(rows * columns))).toEqual([all, all, all]);
      }
    });
  });
});

if (bothOpen()) {
  describe.each(Object.entries(models))("on both backends, %s", (_, model) => {
    test.each(plugins)("%s keeps the same rows", async (_, loaded) => {
      const kept: Trace["kept"][][] = [];
      for (const device of ["cpu:0", "cuda:0"]) {
        const engine = openEngine({ device }, model);
        kept.push((await trace(engine, tight(loaded), prompts)).map((one) => one.kept));
        engine.dispose();
      }
      expect(kept[1]).toEqual(kept[0]!);
    });
  });
}

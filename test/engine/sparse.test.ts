// Sparse prefill in the engine: composed with every kind of cache method, in batches and chunks, with its density and its errors.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Engine } from "../../src/engine/engine.ts";
import { eachBackend } from "../support/backends.ts";
import {
  expectSameTrace,
  footprint,
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
import { row } from "../support/guarded.ts";
import { PluginFolder, pluginText } from "../support/plugin-files.ts";
import { type Held, referenceLogits, type Sight } from "../support/reference-model.ts";
import { quantizedLayer } from "../support/reference-segments.ts";
import { relativeError } from "../support/tolerance.ts";

const xattention = "XAttention[minLen=0,block=64,tau=0.6]";
const flexprefill = "FlexPrefill[minBudget=1,block=64,gamma=0.6]";
const caches = [
  "",
  "+SnapKV[capacity=40,window=8]",
  "+H2O[capacity=40]",
  "+SnapKV[capacity=40,window=8]+KIVI[residual=32]",
];
const full = await methodOf("Full");
const prompts = [300, 131, 70].map((rows, s) => traceOf(rows, 6, 40 + s));

eachBackend("sparse prefill", (backend) => {
  let engine: Engine;
  let chunked: Engine[];
  beforeAll(() => {
    engine = openEngine(backend, groupsOfSeven);
    chunked = [7, 64, 100].map((prefillChunk) => openEngine(backend, groupsOfSeven, { prefillChunk }));
  });
  afterAll(() => {
    for (const one of [engine, ...chunked]) one.dispose();
  });

  describe.each([xattention, flexprefill])("%s", (name) => {
    test("reads less than everything, and says how much", async () => {
      const [done] = await generate(engine, await methodOf(name), [request(randomIds(300, 5))]);
      expect(done!.numbers.density).toBeGreaterThan(0.3);
      expect(done!.numbers.density).toBeLessThan(0.999);
      expect(done!.selectMs).toBeGreaterThan(0);
      expect(done!.selectMs).toBeLessThanOrEqual(done!.methodMs);
      const [whole] = await generate(engine, full, [request(randomIds(300, 5))]);
      expect(whole!.numbers).toEqual({});
      expect(whole!.selectMs).toBeUndefined();
      expect(done!.cacheBytes).toBe(whole!.cacheBytes); // all rows stay
      const traced = [traceOf(300, 2, 9)];
      const [sparse, dense] = [await trace(engine, await methodOf(name), traced), await trace(engine, full, traced)];
      expect(sparse[0]!.logits[0]).not.toEqual(dense[0]!.logits[0]!);
      expect(sparse[0]!.kept).toEqual(dense[0]!.kept);
    });

    for (const cache of caches) {
      test(`${cache || "alone"}: a batch gives each sequence what it gets alone`, async () => {
        const method = await methodOf(name + cache);
        const together = await trace(engine, method, prompts);
        for (const [s, prompt] of prompts.entries()) {
          expectSameTrace(backend, together[s]!, (await trace(engine, method, [prompt]))[0]!);
        }
      });

      test(`${cache || "alone"}: chunks of any size give what one pass gives`, async () => {
        const method = await methodOf(name + cache);
        const [whole] = await trace(engine, method, [prompts[0]!]);
        for (const one of chunked) expectSameTrace(backend, (await trace(one, method, [prompts[0]!]))[0]!, whole!);
      });
    }

    test.each([
      "CakeKV[capacity=40,window=8]",
      "CaM[capacity=40]",
      "L2Compress[capacity=40]",
      "PyramidKV[capacity=40,window=8]",
      "StreamingLLM[capacity=40]",
      "ThinK",
      "KIVI[residual=32]",
      "SnapKV[capacity=40,window=8]+ThinK+KIVI[residual=32]",
    ])("runs with %s: rows and bytes are those of its formula, nothing is left behind", async (cache) => {
      const method = await methodOf(`${name}+${cache}`);
      const before = footprint(engine);
      const [done] = await generate(engine, method, [request(randomIds(300, 6))]);
      expect(done!.status).toBe("ok");
      expect(done!.ids).toHaveLength(8);
      expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
      expect(done!.numbers.density).toBeLessThan(0.999);
      expect(footprint(engine)).toEqual(before);
    });

    test("cut to a density, it reads about that share", async () => {
      const method = await methodOf(name.replace(/0\.6/, "0.99"));
      const [done] = await generate(engine, method, [request(randomIds(640, 7), { density: 0.4, maxNewTokens: 1 })]);
      expect(Math.abs(done!.numbers.density! - 0.4)).toBeLessThan(0.05);
    });
  });

  test("groups of four: uneven prompts give together, with every kind of cache, what each gives alone", async () => {
    const fours = openEngine(backend, groupsOfFour);
    for (const name of [xattention, flexprefill]) {
      for (const cache of caches) {
        const method = await methodOf(name + cache);
        const together = await trace(fours, method, prompts);
        for (const [s, prompt] of prompts.entries())
          expectSameTrace(backend, together[s]!, (await trace(fours, method, [prompt]))[0]!);
      }
      const [done] = await generate(fours, await methodOf(name), [request(randomIds(300, 5))]);
      expect(done!.numbers.density).toBeLessThan(0.999);
    }
    fours.dispose();
  });

  test("settings that read everything give Full's bits", async () => {
    const expected = await trace(engine, full, prompts);
    for (const name of [
      "XAttention",
      "XAttention[minLen=0,tau=1]",
      "FlexPrefill[gamma=1,minBudget=0]",
      "FlexPrefill",
    ]) {
      expect(await trace(engine, await methodOf(name), prompts)).toEqual(expected);
    }
  });

  test("XAttention, SnapKV and KIVI at once are that composition in float64, step by step", async () => {
    const composed = await methodOf(
      "XAttention[minLen=0,block=64,tau=0]+SnapKV[capacity=70,window=8]+KIVI[kBits=2,vBits=2,residual=32]",
    );
    const input = traceOf(140, 30, 3);
    const [traced] = await trace(engine, composed, [input]);
    const sight: Sight = (layer, kvHead, query) => {
      const step = query - input.promptTokens;
      const tokens =
        step < 0 // the first block of 64 rows and its own
          ? Array.from({ length: query + 1 }, (_, j) => j).filter((j) => j < 64 || j >> 6 === query >> 6)
          : [...traced!.kept[step]![layer]![kvHead]!, query];
      return { rows: tokens.map((token) => ({ token, position: token })), query };
    };
    const how = { keyBits: 2, valueBits: 2, group: 32, residual: 32 };
    const packed: Held = (rows, query) => {
      if (query < input.promptTokens) return rows;
      const old = { groupSize: 7, headDim: engine.config.headDim, heads: [rows.slice(0, -1)], unrotated: [] };
      return [...quantizedLayer(old, how).heads[0]!, rows.at(-1)!]; // rows are packed after the step
    };
    const expected = referenceLogits(engine, input.ids, sight, [], packed);
    const [whole] = await trace(engine, await methodOf(composed.label.replace(/[+]KIVI.*/, "")), [input]);
    traced!.logits.forEach((logits, step) => {
      const apart = relativeError(logits, row(expected, input.promptTokens - 1 + step));
      expect(apart).toBeLessThan(step === 0 ? 1e-5 : 2e-3); // a key near the middle of two codes may take either
      if (step > 0) expect(apart).toBeLessThan(0.1 * relativeError(logits, whole!.logits[step]!));
    });
  });

  test("with a tau of 0 each row reads the first block and its own: the density is known", async () => {
    const method = await methodOf("XAttention[minLen=0,block=64,tau=0,denseLayers=[1]]");
    const [done] = await generate(engine, method, [request(randomIds(300, 8))]);
    expect(done!.numbers.density).toBeCloseTo((9 / 15 + 1 + 9 / 15) / 3, 6); // 5 query blocks: 9 of 15; layer 1 of 3 is whole
  });

  test("column sums under sparse prefill: every query gives one unit to each head", async () => {
    using folder = new PluginFolder();
    const create = `() => {
      let mass = 0;
      return {
        needs: { lse: true, hostSync: "prefill" },
        chunk(layer, ops) { for (const x of ops.read(ops.columnSums())) mass += x; },
        end: () => ({ mass }),
      };
    }`;
    folder.write("mass.ts", pluginText({ name: "Mass", params: "", more: "", create }));
    for (const name of [xattention, flexprefill]) {
      const method = await methodOf(`${name}+Mass`, [folder.dir]);
      for (const one of [engine, chunked[0]!]) {
        const [done] = await generate(one, method, [request(randomIds(300, 5))]);
        expect(done!.numbers.density).toBeLessThan(0.999);
        expect(done!.numbers.mass! / (300 * 14 * 3)).toBeCloseTo(1, 4);
      }
    }
  });

  test("a select hook that returns nonsense, or asks for what is not there, ends its run with a sentence", async () => {
    using folder = new PluginFolder();
    const wrong: [create: string, text: RegExp][] = [
      [
        "() => ({ select: () => 5 })",
        /Wrong\d\.select in layer 0 failed: select: its result takes what an op of this hook returned, not number 5/,
      ],
      [
        "() => ({ select: (_, { blocks }) => blocks.band(32, { sinks: 1, recent: 1 }) })",
        /a block has 64 or 128 rows, not 32/,
      ],
      [
        "() => ({ prefill: (_, { blocks }) => blocks })",
        /Wrong\d\.prefill in layer 0 failed: ops\.blocks works in the select hook/,
      ],
      [
        "() => ({ select: (layer, { blocks }) => blocks.pooledAttention(blocks.means(layer.queries(), 64), blocks.means(layer.keys, 64)) })",
        /takes one mean query, not 5/,
      ],
    ];
    for (const [at, [create, text]] of wrong.entries()) {
      folder.write(
        `wrong${at}.ts`,
        pluginText({ name: `Wrong${at}`, category: "sparse-prefill", params: "", more: "", create }),
      );
      const method = await methodOf(`Wrong${at}`, [folder.dir]);
      const before = footprint(engine);
      await expect(generate(engine, method, [request(randomIds(300, 5))])).rejects.toThrow(text);
      await generate(engine, full, [request(randomIds(3, 5))]);
      expect(footprint(engine)).toEqual(before);
    }
  });

  test("layers whose sliding window is shorter than the prompt keep it, and no blocks are chosen there", async () => {
    const config = { model_type: "mistral", architectures: ["MistralForCausalLM"], sliding_window: 40 };
    const sliding = openEngine(backend, { config });
    const method = await methodOf(xattention);
    const inputs = [traceOf(200, 2, 9)];
    expect(await trace(sliding, method, inputs)).toEqual(await trace(sliding, full, inputs));
    sliding.dispose();
  });
});

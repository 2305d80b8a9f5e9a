// Quest: at each token the pages that float64 chooses, on whole models and over what eviction left; what does not compose; what a hook may say.
import { afterAll, beforeAll, expect, test } from "bun:test";
import plugin from "../../plugins/quest.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import {
  footprint,
  generate,
  groupsOfSeven,
  methodOf,
  openEngine,
  randomIds,
  request,
  type Trace,
  type TraceInput,
  trace,
  traceOf,
} from "../support/engine.ts";
import { row } from "../support/guarded.ts";
import { PluginFolder, pluginText } from "../support/plugin-files.ts";
import { exact } from "../support/reference.ts";
import { causal, type LayerInputs, referenceLogits } from "../support/reference-model.ts";
import { choosePages, pageScores, rowsOfPages } from "../support/reference-pages.ts";
import { relativeError } from "../support/tolerance.ts";

interface Reads {
  rows: number;
  pageRows: number;
  reduce: "mean" | "max";
  skip: readonly number[];
}

/** Logits where each token after the prompt reads, of the rows that `traced` held before it and its own, the pages that its queries choose. */
function pagedLogits(engine: Engine, { ids, promptTokens }: TraceInput, traced: Trace, reads: Reads) {
  const inputs: LayerInputs[] = [];
  return referenceLogits(
    engine,
    ids,
    (layer, kvHead, query) => {
      const step = query - promptTokens;
      if (step < 0) return causal(layer, kvHead, query);
      const held = [...traced.kept[step]![layer]![kvHead]!, query];
      const { queries, layer: all } = inputs[layer]!;
      const heads = all.heads.map((rows, h) => (h === kvHead ? held.map((token) => rows[token]!) : []));
      const scores = pageScores({ ...all, heads }, row(queries, query), reads.pageRows, reads.reduce, exact)[kvHead]!;
      const pages = reads.skip.includes(layer) ? null : choosePages(scores, held.length, reads.rows, reads.pageRows);
      const seen = rowsOfPages(pages, held.length, reads.pageRows).map((r) => held[r]!);
      return { rows: seen.map((token) => ({ token, position: token })), query };
    },
    inputs,
  );
}

eachBackend("Quest", (backend) => {
  let engine: Engine;
  let sevens: Engine;
  beforeAll(() => {
    engine = openEngine(backend, { config: { num_hidden_layers: 3 } });
    sevens = openEngine(backend, groupsOfSeven);
  });
  afterAll(() => {
    engine.dispose();
    sevens.dispose();
  });

  test.each([
    ["Quest[capacity=47,skipLayers=[0]]", { rows: 47, pageRows: 16, reduce: "mean", skip: [0] }],
    ["Quest[capacity=64,pageSize=32,skipLayers=[],gqaReduce=max]", { rows: 64, pageRows: 32, reduce: "max", skip: [] }],
    ["Quest[keepRatio=0.4]", { rows: 39, pageRows: 16, reduce: "mean", skip: [0, 1] }],
    ["SnapKV[capacity=70,window=8]+Quest[capacity=32]", { rows: 32, pageRows: 16, reduce: "mean", skip: [0, 1] }],
  ] as [string, Reads][])("%s attends to the pages that float64 chooses at each token", async (name, reads) => {
    for (const one of [engine, sevens]) {
      const input = traceOf(99, 4, 3);
      const [traced] = await trace(one, await methodOf(name), [input]);
      const expected = pagedLogits(one, input, traced!, reads);
      const [everything] = await trace(one, await methodOf("Full"), [input]);
      for (const [step, logits] of traced!.logits.entries()) {
        const at = input.promptTokens - 1 + step;
        expect(relativeError(logits, row(expected, at))).toBeLessThan(1e-5);
        if (step > 0) expect(relativeError(logits, everything!.logits[step]!)).toBeGreaterThan(1e-3);
      }
    }
  });

  test.each([
    "XAttention[minLen=0]+Quest[capacity=32]",
    "CakeKV[capacity=64]+Quest[capacity=32]",
    "H2O[capacity=64]+Quest[capacity=32]",
  ])("%s holds what the formulas say and leaves nothing behind", async (name) => {
    const before = footprint(engine);
    const [done] = await generate(engine, await methodOf(name), [request(randomIds(150, 4), { maxNewTokens: 20 })]);
    expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
    expect(done!.numbers.density === undefined).toBe(!name.startsWith("XAttention"));
    expect(footprint(engine)).toEqual(before);
  });

  test("a hook that records what cannot be ends its run with a sentence", async () => {
    using folder = new PluginFolder();
    const decode = 'needs: { selects: "decode" }';
    const wrong: [create: string, text: RegExp][] = [
      [
        `() => ({ ${decode}, select: (_, { pages }) => pages.best(pages.bounds(48), 96) })`,
        /pages have 16, 32, 64, 128 rows/,
      ],
      [
        `() => ({ ${decode}, select: (_, { pages }) => pages.best(pages.bounds(16), 15) })`,
        /at least the 16 of a page/,
      ],
      [`() => ({ ${decode}, select: (_, { pages }) => pages.bounds(16) })`, /select: its result takes what an op/],
      [`() => ({ ${decode}, select: (_, { blocks }) => blocks })`, /ops\.blocks works in the select hook of prefill/],
      [
        "() => ({ select: (_, { pages }) => pages })",
        /ops\.pages works in the select hook of decode: declare `selects/,
      ],
      [
        '() => ({ needs: { selects: "decode", decodeProbs: true }, select() {} })',
        /Wrong\d selects in decode: there are no probabilities/,
      ],
      [
        `() => ({ ${decode}, select: (_, { pages }) => pages.best(pages.bounds(16), 32), decode: (layer) => layer.keepAtMost(40) })`,
        /layer 0 keeps bounds of pages/,
      ],
    ];
    for (const [at, [create, text]] of wrong.entries()) {
      folder.write(
        `wrong${at}.ts`,
        pluginText({ name: `Wrong${at}`, category: "sparse-decode", params: "", more: "", create }),
      );
      const before = footprint(engine);
      const method = await methodOf(`Wrong${at}`, [folder.dir]);
      await expect(generate(engine, method, [request(randomIds(60, 5))])).rejects.toThrow(text);
      expect(footprint(engine)).toEqual(before);
    }
  });
});

test("composes with what reads full precision and leaves rows where they are", async () => {
  const registry = await loadPlugins([ownPlugins]);
  const parts = (text: string) => parseMethods([text], [], registry)[0]!.parts;
  expect(parts("quest+h2o+xattention").map(({ name }) => name)).toEqual(["XAttention", "H2O", "Quest"]);
  expect(parts("H2O+Quest")[0]!.params).toMatchObject({ rolling: false });
  expect(parts("StreamingLLM+Quest")[0]!.params).toMatchObject({ rolling: false, positions: "original" });
  expect(() => parts("H2O[rolling=true]+Quest")).toThrow("h2o.rolling: must be false beside sparse-decode");
  expect(() => parts("Quest+KIVI")).toThrow("Quest and KIVI: it reads rows in full precision");
  expect(() => parts("Quest+ThinK")).toThrow("Quest and ThinK: it reads rows in full precision");
  expect(() => parts("CaM+Quest")).toThrow("CaM and Quest: its merges drop rows one by one");
});

test("refuses pages that are none, and less than a page", () => {
  const values = (params: Record<string, unknown>) => () => resolveParams(plugin, "paper", params);
  expect(values({ pageSize: 48 })).toThrow("pageSize must be 16, 32, 64 or 128, not 48");
  expect(values({ pageSize: 64, capacity: 63 })).toThrow("capacity must hold a page: 63 rows");
  expect(values({ capacity: 15 })).toThrow("at least 16");
});

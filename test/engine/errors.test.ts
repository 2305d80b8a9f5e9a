// Requests and plugins that go wrong: the error names what, and the engine works on with nothing left behind.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { Engine } from "../../src/engine/engine.ts";
import type { MethodSpec, Request } from "../../src/engine/protocol.ts";
import { parseConfig } from "../../src/model/config.ts";
import { planWeights, targets } from "../../src/model/plan.ts";
import { KvaError } from "../../src/native/error.ts";
import { eachBackend } from "../support/backends.ts";
import { breathe, footprint, generate, methodOf, openEngine, randomIds, request, settled } from "../support/engine.ts";
import { PluginFolder, pluginText } from "../support/plugin-files.ts";
import { tinyConfig } from "../support/tiny-model.ts";

const full = await methodOf("Full");
const folder = new PluginFolder();
afterAll(() => folder[Symbol.dispose]());

let written = 0;
/** A method whose hooks are this text. */
async function hooks(create: string, params = ""): Promise<MethodSpec> {
  const name = `Wrong${written++}`;
  folder.write(`${name.toLowerCase()}.ts`, pluginText({ name, params, more: "", create }));
  return await methodOf(name, [folder.dir]);
}

async function failure(run: Promise<unknown>): Promise<KvaError> {
  try {
    await run;
  } catch (error) {
    if (error instanceof KvaError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

eachBackend("an engine", (backend) => {
  let engine: Engine;
  let before: ReturnType<typeof footprint>;
  let healthy: ReturnType<typeof settled>;
  const good = (): Request[] => [request(randomIds(60, 1), { id: "good" })];
  beforeAll(async () => {
    engine = openEngine(backend);
    healthy = settled(await generate(engine, full, good()));
  });
  beforeEach(() => {
    before = footprint(engine);
  });
  afterEach(async () => {
    expect(footprint(engine)).toEqual(before);
    expect(settled(await generate(engine, full, good()))).toEqual(healthy);
  });
  afterAll(() => engine.dispose());

  describe("refuses a request", () => {
    const ids = randomIds(20, 2);
    const wrong: [string, Partial<Request>, RegExp][] = [
      ["without tokens", { ids: [] }, /the prompt has no tokens/],
      ["with an id above the vocabulary", { ids: [5, 259] }, /token id 259.*259 tokens/],
      ["with an id below 0", { ids: [-1, 5] }, /token id -1/],
      ["with an id that is no whole number", { ids: [5, 6.5] }, /token id 6\.5/],
      ["for no new tokens", { maxNewTokens: 0 }, /maxNewTokens.*0/],
      ["for half a token", { maxNewTokens: 1.5 }, /maxNewTokens.*1\.5/],
      ["whose question starts behind the prompt", { questionStart: 21 }, /21.*20/],
      ["whose question is the whole prompt", { questionStart: 0 }, /token 0/],
    ];
    test.each(wrong)("%s", async (_, change, text) => {
      const error = await failure(
        generate(engine, full, [request(ids, { id: "fine" }), request(ids, { id: "bad", ...change })]),
      );
      expect(error.code).toBe("data");
      expect(error.message).toMatch(text);
      expect(error.message).toMatch(/^bad: /);
    });

    test("score: no tokens, more prompt tokens than none, ids outside of the vocabulary", async () => {
      expect((await failure(engine.score(full, { ids: [] }, breathe))).message).toMatch(/no tokens/);
      expect((await failure(engine.score(full, { ids, promptTokens: 0 }, breathe))).message).toMatch(
        /prompt_tokens.*0/,
      );
      expect((await failure(engine.score(full, { ids: [3, 1000] }, breathe))).message).toMatch(/1000.*259/);
    });
  });

  describe("names plugin, hook and layer where", () => {
    const throwing: [string, string, RegExp][] = [
      [
        "create throws",
        "(_, model) => { if (model.hiddenSize === 64) throw new Error('no thanks'); return { prefill() {} }; }",
        /^Wrong\d+\.create failed: no thanks/,
      ],
      [
        "chunk throws",
        "() => ({ chunk() { throw new Error('too many'); } })",
        /^Wrong\d+\.chunk in layer 0 failed: too many/,
      ],
      [
        "prefill throws",
        "() => ({ prefill(layer) { if (layer.index === 1) throw new Error('second'); } })",
        /^Wrong\d+\.prefill in layer 1 failed: second/,
      ],
      ["decode throws", "() => ({ decode() { throw new Error('oh'); } })", /^Wrong\d+\.decode in layer 0 failed: oh/],
      ["end throws", "() => ({ end() { throw new Error('late'); } })", /^Wrong\d+\.end failed: late/],
      ["a string is thrown", "() => ({ prefill() { throw 'text'; } })", /^Wrong\d+\.prefill in layer 0 failed: text/],
      [
        "undefined is read",
        "() => ({ prefill(layer) { layer.nothing.there; } })",
        /^Wrong\d+\.prefill in layer 0 failed: .*undefined/,
      ],
    ];
    const refused: [string, string, RegExp][] = [
      [
        "more rows are kept than there are",
        "() => ({ prefill(layer) { layer.keep(null, { last: 61 }); } })",
        /prefill in layer 0 failed: .*61/,
      ],
      [
        "rows outside of the range are kept",
        "() => ({ needs: { queryRing: 8 }, prefill(layer, ops) { layer.keep(ops.topk(ops.norms(layer.keys), layer.length), { last: 1 }); } })",
        /prefill in layer 0 failed/,
      ],
      [
        "too many are chosen",
        "() => ({ prefill(layer, ops) { ops.topk(ops.norms(layer.keys), layer.length + 1); } })",
        /k is 61, the row has 60/,
      ],
      [
        "scores are nonsense",
        "() => ({ prefill(layer, ops) { ops.topk([1, 2, 3], 2); } })",
        /ops\.topk takes what an op of this hook returned, not an array/,
      ],
      [
        "rows are nonsense",
        "() => ({ prefill(layer) { layer.keep('all'); } })",
        /layer\.keep takes what an op.*string all/,
      ],
      [
        "a width is even",
        "() => ({ prefill(layer, ops) { ops.pool(ops.norms(layer.keys), 'max', 4); } })",
        /width is 4/,
      ],
      ["queries were not asked for", "() => ({ prefill(layer) { layer.queries(8); } })", /queryRing: 8/],
      [
        "more queries are read than asked for",
        "() => ({ needs: { queryRing: 4 }, prefill(layer) { layer.queries(8); } })",
        /the last 4/,
      ],
      [
        "scores are read without saying so",
        "() => ({ prefill(layer, ops) { ops.read(ops.norms(layer.keys)); } })",
        /hostSync/,
      ],
      [
        "sinks are rotated without saying so",
        "() => ({ prefill(layer) { layer.rotateSinks(2); } })",
        /unrotatedKeys: 2/,
      ],
      [
        "rows are kept in decode",
        "() => ({ decode(layer) { layer.keep(null, { last: 1 }); } })",
        /layer\.keep works in the prefill hook/,
      ],
      [
        "rows are limited in prefill",
        "() => ({ prefill(layer) { layer.keepAtMost(4); } })",
        /layer\.keepAtMost works in the decode hook/,
      ],
      ["a limit is no whole number", "() => ({ decode(layer) { layer.keepAtMost(NaN); } })", /keepAtMost\(NaN/],
      [
        "the limit is within the sinks",
        "() => ({ decode(layer) { layer.keepAtMost(3, { sinks: 3 }); } })",
        /above sinks/,
      ],
      ["a side array has no such name", "() => ({ prefill(layer) { layer.side('mass'); } })", /"mass"/],
      ["an earlier layer is changed without saying so", "() => ({ prefill(layer) { layer.at(0); } })", /cascade/],
    ];
    test.each([...throwing, ...refused])("%s", async (_, create, text) => {
      const error = await failure(generate(engine, await hooks(create), good()));
      expect(error.code).toBe("plugin");
      expect(error.message).toMatch(text);
      expect(error.message).toMatch(/^Wrong\d+\./);
    });

    test("what an op returned in an earlier hook is used after that hook ended", async () => {
      const method = await hooks(
        "() => { let kept; return { prefill(layer, ops) { kept ??= ops.norms(layer.keys); ops.topk(kept, 2); } }; }",
      );
      const error = await failure(generate(engine, method, good()));
      expect(error.message).toMatch(/prefill in layer 1 failed/);
    });
  });

  test("a hook that keeps nothing leaves an engine that still decodes", async () => {
    const method = await hooks("() => ({ prefill(layer) { layer.keep(null); } })");
    const [done] = await generate(engine, method, good());
    expect(done!.kept).toEqual([
      [[], []],
      [[], []],
    ]);
    expect(done!.cacheBytes).toBe(0);
    expect(done!.ids).toHaveLength(8);
  });

  test("the end hook reads what is held then: [layer][kvHead], ascending; the completion says the same", async () => {
    const method = await hooks(`() => ({
      prefill(layer) { layer.keep(null, { first: 2, last: 3 + layer.index }); },
      decode(layer) { layer.keepAtMost(6, { sinks: 2 }); },
      end: (kept) => ({ layers: kept().length, first: kept()[1][0][0], last: kept()[1][1].at(-1), rows: kept()[1][1].length }),
    })`);
    const [done] = await generate(engine, method, good());
    expect(done!.numbers).toEqual({ layers: 2, first: 0, last: 66, rows: 6 });
    expect(done!.kept).toEqual([new Array(2).fill([0, 1, 57, 58, 59]), new Array(2).fill([0, 1, 56, 57, 58, 59])]);
    expect(done!.keptAtEnd).toEqual(new Array(2).fill(new Array(2).fill([0, 1, 63, 64, 65, 66])));
  });

  test("hooks that do nothing, and that give numbers", async () => {
    const method = await hooks("() => ({ prefill() {}, decode() {}, chunk() {}, end: () => ({ rows: 3 }) })");
    const [done] = await generate(engine, method, good());
    expect(done!.ids).toEqual(healthy[0]!.ids);
    expect(done!.numbers).toEqual({ rows: 3 });
  });

  test("out of memory is an error with needed, free and limit, in prefill and in decode", async () => {
    const { context } = engine.decoder;
    const prompts = [request(randomIds(600, 3), { id: "long" })];
    for (const room of [10_000, 300_000, 700_000]) {
      context.limitMemory(footprint(engine).bytes + room);
      const error = await failure(generate(engine, full, prompts)).finally(() => context.limitMemory(0));
      expect(error.code).toBe("oom");
      expect(error.message).toMatch(/\d+ bytes are needed.*\d+ are free.*limit is \d+/);
    }
    const [fits] = await generate(engine, full, prompts);
    expect(fits!.status).toBe("ok");
  });

  test("a model that does not fit is out of memory and leaves nothing", () => {
    const load = () => openEngine(backend, {}, { memoryLimit: 50_000 });
    expect(load).toThrow(/does not fit .*needed/);
  });

  test("a load shows that it lives before each of the model's tensors", () => {
    const config = parseConfig(tinyConfig, "config.json");
    const model = { config, seed: 1, deviation: 0.02 };
    const options = { device: backend.device, dtype: "float32", prefillChunk: 64, threads: 1 } as const;
    let beats = 0;
    Engine.load({ ...options, model, memoryLimit: 0, graphs: false }, () => beats++).dispose();
    expect(beats).toBe(targets(planWeights(config)).length);
  });
});

// A graph's steps against steps queued op by op (--eager), on the bundled model and real prompts: every method that drops rows with each new token.
import { afterAll, beforeAll, expect, spyOn, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Engine } from "../../src/engine/engine.ts";
import { createHooks, loadMethod } from "../../src/engine/method.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { Graph } from "../../src/native/graph.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, methodOf, openEngine, request, settled, trace } from "../support/engine.ts";

const methods = [
  "H2O[capacity=96]",
  "H2O[capacity=96,positions=cache]",
  "H2O[keepRatio=0.2,decay=0.9]",
  "TOVA[capacity=96]",
  "CaM[capacity=96]",
  "CaM[capacity=96,compat=helm]",
  "CakeKV[capacity=96]",
  "CakeKV@official[capacity=96]",
  "KeyDiff[capacity=96]",
  "StreamingLLM[capacity=96]",
  "StreamingLLM[capacity=96,positions=original]",
  "SnapKV[capacity=96,decodeInterval=1]",
  "PyramidKV[capacity=96,decodeInterval=1]",
  "L2Compress[capacity=96,decode=true]",
  "DuoAttention[capacity=96]",
  "H2O[capacity=96]+KIVI[residual=32]",
  "TOVA[capacity=96]+KIVI[residual=32]",
];
const newTokens = 72;

const dir = join(import.meta.dir, "..", "..", "models", "tiny-ruler");
const tokenizer = loadTokenizer(dir);
const samples = readFileSync(join(dir, "samples.jsonl"), "utf8")
  .split("\n", 12)
  .map((line): { task: string; prompt: string } => JSON.parse(line));
const prompts = ["niah_multivalue", "vt"].map((task) =>
  tokenizer.encode(samples.find((sample) => sample.task === task)!.prompt),
);

eachBackend("graph and eager", (backend) => {
  let graphed: Engine;
  let eager: Engine;
  beforeAll(() => {
    const open = (graphs: boolean) => openEngine(backend, { dir }, { dtype: "bfloat16", graphs });
    graphed = open(true);
    eager = open(false);
  });
  afterAll(() => {
    graphed.dispose();
    eager.dispose();
  });

  test.each(methods)(
    "%s: the same tokens, kept positions and logits",
    async (name) => {
      const method = await methodOf(name);
      using capture = spyOn(Graph, "capture");
      const requests = prompts.map((ids, s) => request(ids, { id: `${s}`, maxNewTokens: newTokens }));
      const expected = settled(await generate(eager, method, requests));
      expect(capture).toHaveBeenCalledTimes(0);
      const same = settled(await generate(graphed, method, requests));
      expect(capture.mock.calls.length).toBeGreaterThan(0);
      expect(same).toEqual(expected);

      // a row came with each step; most heads dropped as many
      const drops = expected.flatMap(({ kept, keptAtEnd }) =>
        kept!.flatMap((heads, layer) =>
          heads.map((rows, h) => rows.length + newTokens - 1 - keptAtEnd![layer]![h]!.length),
        ),
      );
      const rolling = drops.filter((dropped) => dropped >= newTokens - 1);
      expect(rolling.length).toBeGreaterThanOrEqual(drops.length / 2);

      const inputs = prompts.map((ids, s) => ({ ids: [...ids, ...expected[s]!.ids], promptTokens: ids.length }));
      expect(await trace(graphed, method, inputs, true)).toEqual(await trace(eager, method, inputs, false));
    },
    20_000,
  );

  test("the list names every plugin that records something for each new token", async () => {
    const listed = (await Promise.all(methods.map((name) => methodOf(name)))).flatMap(({ parts }) =>
      parts.map(({ name }) => name),
    );
    const { plugins } = await loadPlugins([ownPlugins]);
    for (const { plugin } of plugins) {
      const [named] = createHooks(await loadMethod(await methodOf(plugin.name), graphed.model), graphed.model);
      if (named?.hooks.decode) expect(listed).toContain(plugin.name);
    }
  });
});

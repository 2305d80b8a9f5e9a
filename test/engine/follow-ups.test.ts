// Further questions over one compressed context: forks of the cache that leave the prompt's own answer as it was; stop ids among the first tokens.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Engine } from "../../src/engine/engine.ts";
import { eachBackend } from "../support/backends.ts";
import { footprint, generate, methodOf, openEngine, randomIds, request, settled } from "../support/engine.ts";
import { PluginFolder, pluginText } from "../support/plugin-files.ts";

const folder = new PluginFolder();
folder.write(
  "everystep.ts",
  pluginText({ name: "EveryStep", params: "", more: "", create: "() => ({ needs: { perStep: true }, decode() {} })" }),
);
afterAll(() => folder[Symbol.dispose]());

const prompt = randomIds(90, 1);
const questions = [randomIds(7, 2), randomIds(12, 3)];

eachBackend("further questions", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend);
  });
  afterAll(() => engine.dispose());

  test.each([
    "Full",
    "SnapKV[capacity=40]",
    "H2O[capacity=40]",
    "KIVI[residual=32]",
    "ThinK",
    "CakeKV[capacity=40]",
    "Quest[capacity=32]",
  ])("under %s are answered as if each were fed after the prompt alone", async (name) => {
    const method = await methodOf(name);
    const before = footprint(engine);
    const alone = await Promise.all(
      questions.map(async (ids) => {
        const whole = request([...prompt, ...ids], { id: "sample", questionStart: prompt.length });
        return (await generate(engine, method, [whole]))[0]!.ids;
      }),
    );
    const [plain] = await generate(engine, method, [request(prompt)]);
    const followUps = questions.map((ids, i) => ({ id: `sample+${i + 1}`, ids, maxNewTokens: 8 }));
    const [asked] = await generate(engine, method, [request(prompt, { followUps })]);
    expect(asked!.followUps!.map(({ ids }) => ids)).toEqual(alone);
    expect(asked!.followUps!.map(({ id, finish }) => [id, finish])).toEqual([
      ["sample+1", "length"],
      ["sample+2", "length"],
    ]);
    const { followUps: _, ...rest } = asked!;
    expect(settled([rest])).toEqual(settled([plain!]));
    expect(footprint(engine)).toEqual(before);
  });

  test("are refused where a method decides anew at every step, and without tokens", async () => {
    const followUps = [{ id: "sample+1", ids: questions[0]!, maxNewTokens: 2 }];
    const method = await methodOf("EveryStep", [folder.dir]);
    expect(generate(engine, method, [request(prompt, { followUps })])).rejects.toThrow(
      "EveryStep decides anew at every step, so its cache cannot be forked",
    );
    const none = [{ id: "sample+1", ids: [], maxNewTokens: 2 }];
    expect(generate(engine, await methodOf("Full"), [request(prompt, { followUps: none })])).rejects.toThrow(
      "sample+1: the question has no tokens",
    );
  });

  test("a stop id among the first new tokens is taken, and ends the answer behind them", async () => {
    const full = await methodOf("Full");
    const [free] = await generate(engine, full, [request(prompt)]);
    const stopIds = [free!.ids[0]!];
    const stopped = { ignoreStop: false, stopIds };
    const [ended] = await generate(engine, full, [request(prompt, stopped)]);
    expect(ended).toMatchObject({ ids: [], finish: "stop" });
    const [longer] = await generate(engine, full, [request(prompt, { ...stopped, minNewTokens: 1 })]);
    const second = free!.ids.indexOf(stopIds[0]!, 1);
    expect(longer!.ids).toEqual(second < 0 ? free!.ids : free!.ids.slice(0, second));
  });
});

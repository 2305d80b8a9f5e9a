// A model whose layers lie on several devices gives what it gives on one: tokens, kept rows, bytes, under every method.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Engine } from "../../src/engine/engine.ts";
import type { MethodSpec } from "../../src/engine/protocol.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { splitLayers, weightParts } from "../../src/model/stages.ts";
import { openLibrary } from "../../src/native/library.ts";
import { Context, Tensor } from "../../src/native/tensor.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { eachBackend } from "../support/backends.ts";
import {
  footprint,
  generate,
  methodOf,
  openEngine,
  randomIds,
  request,
  settled,
  type TestModel,
  trace,
  traceOf,
} from "../support/engine.ts";
import { poseDevices } from "../support/pose-devices.ts";

poseDevices(4);

const { plugins } = await loadPlugins([ownPlugins]);
const singles = await Promise.all(
  plugins.map(({ plugin }) => methodOf(plugin.params.budget ? `${plugin.name}[capacity=40]` : plugin.name)),
);
const methods: MethodSpec[] = [...singles, await methodOf("CakeKV[capacity=40]+KIVI[residual=32]")];

const model: TestModel = { config: { num_hidden_layers: 5, tie_word_embeddings: true }, seed: 3 };
const golden = join(import.meta.dir, "..", "golden", "models");

eachBackend("a split model", (backend) => {
  // On CUDA the stages are those of the devices that are there; with one GPU they are two contexts of it.
  const device = (stages: number) => {
    const there = backend.name === "cpu" ? 4 : openLibrary("cuda").devices().length;
    return Array.from({ length: stages }, (_, s) => `${backend.name}:${s % there}`).join("+");
  };
  const open = (stages: number, of = model) => openEngine({ device: device(stages) }, of, { prefillChunk: 48 });

  describe("over two and over four devices", () => {
    let whole: Engine;
    let halves: Engine;
    let quarters: Engine;
    beforeAll(() => {
      whole = open(1);
      halves = open(2);
      quarters = open(4);
    });
    afterAll(() => {
      for (const engine of [whole, halves, quarters]) engine.dispose();
    });
    const requests = [request(randomIds(130, 5), { maxNewTokens: 20 }), request(randomIds(61, 6), { id: "other" })];

    test.each(methods.map((method) => [method.label, method] as const))("%s gives the same", async (_, method) => {
      const expected = settled(await generate(whole, method, requests)).map(({ cacheAllocatedBytes, ...rest }) => rest);
      for (const engine of [halves, quarters]) {
        const before = footprint(engine);
        const done = await generate(engine, method, requests);
        for (const { devicePeakBytes, peakBytes } of done) {
          expect(devicePeakBytes).toHaveLength(engine === halves ? 2 : 4);
          expect(devicePeakBytes!.reduce((sum, bytes) => sum + bytes, 0)).toBe(peakBytes);
        }
        const same = settled(done).map(({ cacheAllocatedBytes, devicePeakBytes, ...rest }) => rest);
        expect(same).toEqual(expected);
        expect(footprint(engine)).toEqual(before);
      }
    });

    test("samples in a pipeline get what they get alone, whatever their lengths and ends", async () => {
      const lengths = [130, 61, 90, 7, 45, 33];
      const samples = lengths.map((rows, s) =>
        request(randomIds(rows, 20 + s), { id: `s${s}`, maxNewTokens: 3 + 4 * s }),
      );
      samples[2]!.questionStart = 80;
      for (const method of methods) {
        const expected = [];
        for (const sample of samples) expected.push(...settled(await generate(whole, method, [sample])));
        for (const [engine, size] of [
          [halves, 1],
          [quarters, 2],
        ] as const) {
          const before = footprint(engine);
          const done = settled(await generate(engine, method, samples, undefined, size));
          const bare = (all: typeof done) => all.map(({ cacheAllocatedBytes, devicePeakBytes, ...rest }) => rest);
          expect(bare(done)).toEqual(bare(expected));
          expect(footprint(engine)).toEqual(before);
        }
      }
    });

    test("a prompt that fails in a pipeline fails the call and leaves nothing", async () => {
      const before = footprint(halves);
      const good = request(randomIds(60, 1), { id: "good" });
      const events = { breathe: async () => {} };
      const method = await methodOf("SnapKV[capacity=40]");
      const tight = openEngine({ device: device(2) }, model, { memoryLimit: 1_500_000 });
      const empty = footprint(tight);
      const long = request(randomIds(3000, 2), { id: "long" });
      await expect(tight.generate(method, [good, long, good], events, 1)).rejects.toThrow(/bytes are needed for/);
      expect(footprint(tight)).toEqual(empty);
      tight.dispose();
      expect(footprint(halves)).toEqual(before);
    });

    test("graphs, eager steps and one device give the same logits", async () => {
      const inputs = [90, 33].map((rows, s) => traceOf(rows, 12, s));
      const method = methods.find(({ label }) => label.startsWith("SnapKV"))!;
      const expected = await trace(whole, method, inputs);
      expect(await trace(halves, method, inputs, true)).toEqual(expected);
      expect(await trace(halves, method, inputs, false)).toEqual(expected);
    });

    test("scores are the same, prefilled and fed", async () => {
      const ids = randomIds(70, 9);
      const breathe = async () => {};
      for (const promptTokens of [70, 40]) {
        const expected = await whole.score(methods[0]!, { ids, promptTokens }, breathe);
        expect(await quarters.score(methods[0]!, { ids, promptTokens }, breathe)).toEqual(expected);
      }
    });

    test("each device holds its layers and no others", () => {
      const { stages, weightBytes } = quarters.info;
      expect(stages.map(({ device }) => device)).toEqual(device(4).split("+"));
      expect(stages.map(({ first }) => first)).toEqual([0, ...stages.slice(0, -1).map(({ end }) => end)]);
      expect(stages.at(-1)!.end).toBe(5);
      const { layers, first, last } = weightParts(quarters.config, "float32");
      const expected = stages.map(({ first: from, end }, s) =>
        layers.slice(from, end).reduce((sum, bytes) => sum + bytes, (s === 0 ? first : 0) + (s === 3 ? last : 0)),
      );
      expect(stages.map((stage) => stage.weightBytes)).toEqual(expected);
      expect(expected.reduce((sum, bytes) => sum + bytes, 0)).toBe(weightBytes);
    });
  });

  test.each(["llama-dynamic", "glm4"])("%s: rotations by length and norms of branches cross devices", async (name) => {
    const method = await methodOf("StreamingLLM[capacity=24]");
    const results = [];
    for (const stages of [1, 2]) {
      const engine = openEngine({ device: device(stages) }, { dir: join(golden, name) });
      const { vocabSize } = engine.config;
      const ids = randomIds(60, 2).map((id) => id % vocabSize);
      results.push(await generate(engine, method, [request(ids, { maxNewTokens: 16 })]));
      engine.dispose();
    }
    expect(results[1]![0]!.ids).toEqual(results[0]![0]!.ids);
    expect(results[1]![0]!.kept).toEqual(results[0]![0]!.kept);
  });

  test("a device without room says so and leaves nothing behind", () => {
    expect(() => openEngine({ device: device(2) }, model, { memoryLimit: 20_000 })).toThrow(
      /the model does not fit \w+:0\+\w+:\d: .*bytes are needed for weights, .* the limit is 20000/,
    );
    expect(() => openEngine({ device: device(4) }, { config: { num_hidden_layers: 3 } })).toThrow(
      "4 devices for one model: it has 3 layers, and each device needs one",
    );
  });

  test("a peer copy converts, takes views, and waits for what was queued before", () => {
    const other = Context.open(device(2).split("+")[1]!);
    const values = Float32Array.from({ length: 12 }, (_, i) => i - 5);
    using from = Tensor.from(backend.context, values, 3, 4);
    const to = Tensor.create(other, "bfloat16", 5, 6);
    to.fill(9);
    const part = to.view(1, 3, 2, 4);
    from.copyToPeer(part);
    from.fill(0);
    using back = Tensor.create(backend.context, "float32", 3, 4);
    part.copyToPeer(back);
    expect(Array.from(back.toFloats())).toEqual(Array.from(values));
    expect(Array.from(to.toFloats().subarray(0, 9))).toEqual([9, 9, 9, 9, 9, 9, 9, 9, -5]);
    part.dispose();
    to.dispose();
    other.dispose();
  });
});

describe("layers are split by memory", () => {
  const config = shapeConfig("llama-3.1-8b");
  const gib = 2 ** 30;
  test("evenly over equal devices", () => {
    expect(splitLayers(config, "bfloat16", [80 * gib])).toEqual([32]);
    expect(splitLayers(config, "bfloat16", [80 * gib, 80 * gib])).toEqual([16, 32]);
    const ends = splitLayers(config, "bfloat16", new Array(4).fill(24 * gib));
    const counts = ends.map((end, s) => end - (ends[s - 1] ?? 0));
    expect(counts.reduce((sum, n) => sum + n, 0)).toBe(32);
    expect(counts[1]! + counts[2]!).toBeGreaterThan(counts[0]! + counts[3]!); // embeddings and logits weigh two layers each
  });
  test("by the room that each device has", () => {
    const [first] = splitLayers(config, "bfloat16", [24 * gib, 8 * gib]);
    expect(first).toBeGreaterThan(22);
    expect(splitLayers(config, "bfloat16", [8 * gib, 24 * gib])[0]).toBeLessThan(10);
  });
});

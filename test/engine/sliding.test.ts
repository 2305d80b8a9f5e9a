// Methods that evict, on a model some of whose layers have a sliding window shorter than the prompt: those layers are left alone.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Engine } from "../../src/engine/engine.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { fields } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, methodOf, openEngine, randomIds, request, trace, traceOf } from "../support/engine.ts";

const config = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  use_sliding_window: true,
  sliding_window: 40,
  num_hidden_layers: 4,
  layer_types: ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
};

const { plugins } = await loadPlugins([ownPlugins]);
const evicting = plugins.filter(({ plugin }) => plugin.category === "eviction");
const texts = evicting.map(({ plugin }) => {
  const keys = new Set(fields(plugin).map(({ key }) => key));
  const wanted = { capacity: "24", window: "8", skipLayers: "[]" };
  const own = Object.entries(wanted).filter(([key]) => keys.has(key));
  return `${plugin.name}[${own.map(([key, value]) => `${key}=${value}`).join(",")}]`;
});

eachBackend("sliding windows", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend, { config });
  });
  afterAll(() => engine.dispose());

  describe.each(texts)("%s", (text) => {
    test("layers of a shorter window keep every row; the others get their budgets, and the bytes are as expected", async () => {
      const method = await methodOf(text);
      const [done] = await generate(engine, method, [request(randomIds(97, 1), { maxNewTokens: 3 })]);
      const rows = done!.kept!.map(
        (heads) => heads.reduce((sum, positions) => sum + positions.length, 0) / heads.length,
      );
      expect([rows[1], rows[3]]).toEqual([97, 97]);
      expect(done!.keptAtEnd![1]![0]).toHaveLength(99);
      expect(rows[0]! + rows[2]!).toBeLessThan(2 * 97);
      if (!/^(PyramidKV|Duo)/.test(text)) expect(rows[0]! + rows[2]!).toBe(48);
      expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
    });
  });

  test("a prompt within the window is compressed in every layer", async () => {
    const [traced] = await trace(engine, await methodOf("SnapKV[capacity=24,window=8]"), [traceOf(40, 2, 2)]);
    for (const positions of traced!.kept[0]!.flat()) expect(positions).toHaveLength(24);
  });
});

// The estimate of peak memory against what the allocator counts, for every plugin.
import { expect, test } from "bun:test";
import { Engine } from "../../src/engine/engine.ts";
import { estimateMemory } from "../../src/engine/estimate.ts";
import { loadMethod } from "../../src/engine/method.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, methodOf, request } from "../support/engine.ts";

const registry = await loadPlugins([ownPlugins]);
const names = registry.plugins.map(({ plugin }) => plugin.name);

eachBackend("estimates", (backend) => {
  const common = { device: backend.device, prefillChunk: 512, threads: 2, memoryLimit: 0, graphs: true };
  test.each(names)(
    "%s: within 3 percent of the measured peak",
    async (name) => {
      for (const promptTokens of [700, 1600]) {
        const engine = Engine.load({ ...common, model: { shape: "tiny-ruler", seed: 1 }, dtype: "bfloat16" });
        try {
          const spec = await methodOf(name);
          const ids = Array.from({ length: promptTokens }, (_, i) => 3 + ((i * 7919) % 3000));
          const [done] = await generate(engine, spec, [request(ids, { maxNewTokens: 8 })]);
          const method = await loadMethod(spec, engine.model);
          const estimate = estimateMemory({
            config: engine.config,
            dtype: "bfloat16",
            method,
            promptTokens,
            newTokens: 8,
            prefillChunk: 512,
            backend: backend.name,
          });
          expect(Math.abs(estimate.peakBytes / done!.peakBytes - 1)).toBeLessThan(0.03);
          expect(estimate.weightBytes).toBe(engine.info.weightBytes);
        } finally {
          engine.dispose();
        }
      }
    },
    20_000,
  );
});

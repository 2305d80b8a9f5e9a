// The estimate of peak memory against what the allocator counts, for every plugin.
import { expect, test } from "bun:test";
import { Engine } from "../../src/engine/engine.ts";
import { estimateMemory, totalOf } from "../../src/engine/estimate.ts";
import { loadMethod, methodFrom } from "../../src/engine/method.ts";
import { modelInfo } from "../../src/engine/model-info.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
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
          expect(Math.abs(totalOf(estimate) / done!.peakBytes - 1)).toBeLessThan(0.03);
          expect(estimate.weights).toBe(engine.info.weightBytes);
        } finally {
          engine.dispose();
        }
      }
    },
    20_000,
  );
});

test("the peaks that an H100 counted, within 1 %", async () => {
  // scripts/gpu/memory.ts, GiB: docs/measurements/memory-h100.md
  const measured = {
    Full: [3.802, 19.881],
    SnapKV: [2.884, 16.104],
    KIVI: [3.181, 17.269],
    H2O: [2.898, 16.132],
    CakeKV: [2.905, 16.17],
    XAttention: [3.904, 19.983],
  };
  for (const [at, shape] of ["llama-3.2-1b", "llama-3.1-8b"].entries()) {
    const config = shapeConfig(shape);
    const info = modelInfo(config);
    for (const [name, peaks] of Object.entries(measured)) {
      const method = methodFrom(parseMethods([name], [], registry, info)[0]!, registry, info);
      const request = { config, dtype: "bfloat16", method, newTokens: 8, prefillChunk: 4096, backend: "cuda" } as const;
      const peak = totalOf(estimateMemory({ ...request, promptTokens: 32768 }));
      expect(Math.abs(peak / 2 ** 30 / peaks[at]! - 1), `${name} of ${shape}`).toBeLessThan(0.01);
    }
  }
});

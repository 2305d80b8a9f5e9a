// Estimated peak memory beside the measured one, by shape, length and method: `bun scripts/gpu/memory.ts [device] [shape,…] [length,…]`
import { Engine } from "../../src/engine/engine.ts";
import { estimateMemory, totalOf } from "../../src/engine/estimate.ts";
import { loadMethod } from "../../src/engine/method.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { engineOptions } from "../bench/engine-options.ts";

const [device = "cuda:0", shapes = "llama-3.2-1b,llama-3.1-8b", lengths = "4096,32768"] = process.argv.slice(2);
const names = ["Full", "SnapKV", "KIVI", "H2O", "CakeKV", "XAttention"];
const newTokens = 8;
const registry = await loadPlugins([ownPlugins]);
const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(3);

console.log(
  "| shape | tokens | method | estimated GiB | measured GiB | estimated / measured | weights | activations | cache | scratch |",
);
console.log(`|---|--:|---|${"--:|".repeat(7)}`);
for (const shape of shapes.split(",")) {
  for (const promptTokens of lengths.split(",").map(Number)) {
    for (const name of names) {
      // a fresh engine: the peak of a kind is that of its whole life
      const engine = Engine.load({ ...engineOptions, device, model: { shape, seed: 1 } });
      const spec = parseMethods([name], [], registry, engine.model)[0]!;
      const ids = Array.from({ length: promptTokens }, (_, i) => (i * 7919) % engine.config.vocabSize);
      const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0 };
      const request = { id: "memory", ids, maxNewTokens: newTokens, stopIds: [], ignoreStop: true, sampling };
      const [done] = await engine.generate(spec, [request], { breathe: async () => {} });
      const method = await loadMethod(spec, engine.model);
      const { config } = engine;
      const estimated = totalOf(
        estimateMemory({
          config,
          dtype: engineOptions.dtype,
          method,
          promptTokens,
          newTokens,
          prefillChunk: engineOptions.prefillChunk,
          backend: device.startsWith("cuda") ? "cuda" : "cpu",
        }),
      );
      const kinds = (["weights", "activations", "cache", "scratch"] as const).map((kind) =>
        gib(engine.decoder.context.memory(kind).peakBytes),
      );
      const ratio = (estimated / done!.peakBytes).toFixed(4);
      console.log(
        `| ${[shape, promptTokens, name, gib(estimated), gib(done!.peakBytes), ratio, ...kinds].join(" | ")} |`,
      );
      engine.dispose();
    }
  }
}

// Prints what methods keep of prompts on the bundled model in fp32, for scripts/fidelity/kvpress.py to compare: rows of each layer and KV head,
// and the channels that ThinK leaves. Arguments: prompt tokens (default 600).
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { breathe, request } from "../../src/check/trace.ts";
import { Engine } from "../../src/engine/engine.ts";
import { loadMethod } from "../../src/engine/method.ts";
import { prefill } from "../../src/engine/prefill.ts";
import { Sequence } from "../../src/engine/sequence.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { Scope } from "../../src/native/scope.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";

const methods = [
  "SnapKV@kvpress",
  "SnapKV[capacity=200,window=32,kernel=7]",
  "StreamingLLM@kvpress",
  "L2Compress@kvpress",
  "H2O@kvpress",
  "PyramidKV@kvpress",
  "TOVA@kvpress",
  "KeyDiff@kvpress",
  "ExpectedAttention@kvpress",
  "ExpectedAttention[keepRatio=0.25,covariance=false]",
  "AdaKV[keepRatio=0.5,window=64,kernel=5,pool=avg]",
  "ThinK",
];

const dir = join(import.meta.dir, "../../models/tiny-ruler");
const length = Number(process.argv[2] ?? 600);
const engine = Engine.load({
  model: { dir },
  device: "cpu:0",
  dtype: "float32",
  prefillChunk: 4096,
  threads: 0,
  memoryLimit: 0,
  graphs: true,
});
const texts = readFileSync(join(dir, "samples.jsonl"), "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line) as { prompt: string; length: number });
const tokenizer = loadTokenizer(dir);
const prompts = texts
  .filter((sample) => sample.length >= 2 * length)
  .slice(0, 3)
  .map(({ prompt }) => tokenizer.encode(prompt).slice(0, length));
const registry = await loadPlugins([ownPlugins]);

const kept: Record<string, number[][][][]> = {};
for (const text of methods) {
  const [spec] = parseMethods([text], [], registry, engine.model);
  const method = await loadMethod(spec!, engine.model);
  kept[text] = [];
  for (const ids of prompts) {
    using scope = new Scope(engine.decoder.context);
    const sequence = new Sequence(scope, engine.decoder, request(ids), method, engine.model);
    await prefill(scope, engine.decoder, [sequence], { breathe });
    kept[text].push(text === "ThinK" ? channels(sequence) : sequence.keptPositions());
  }
}
engine.dispose();
process.stdout.write(`${JSON.stringify({ prompts, kept })}\n`);

/** [layer][kvHead] -> channels of the first row's key that are not gone */
function channels({ cache }: Sequence): number[][][] {
  const { layers, kvHeads, headDim } = cache.shape;
  return Array.from({ length: layers }, (_, layer) =>
    Array.from({ length: kvHeads }, (_, head) => {
      using scope = new Scope(cache.of(layer).context);
      const keys = scope.tensor("float32", cache.lengths(layer)[head]!, headDim);
      cache.of(layer).read(layer, head, "keys", keys);
      const first = keys.toFloats().subarray(0, headDim);
      return Array.from(first.keys()).filter((channel) => first[channel] !== 0);
    }),
  );
}

// Finds XAttention's tau of each layer and head for a model, from texts, and prints it as a config's `set`.
//   bun scripts/xattention-thresholds.ts MODEL_DIR TEXT_FILE... [--stride 8] [--block 128] [--device cpu]
// Of each query block: the fewest blocks with 90 % of the true attention, and the lowest estimate among them. tau is the share of all
// estimates in blocks that score at least so much; of several texts the largest.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Engine } from "../src/engine/engine.ts";
import { loadTokenizer } from "../src/model/tokenizer.ts";
import { antidiagonalScores } from "../src/native/blocks.ts";
import { attentionPrefill } from "../src/native/ops.ts";
import { Scope } from "../src/native/scope.ts";

const TRUE_SHARE = 0.9;

/** tau of one head from its rows of true and estimated scores, each `[blocks]` */
export function headThreshold(truth: readonly Float32Array[], estimate: readonly Float32Array[]): number {
  let [above, all] = [0, 0];
  truth.forEach((mass, r) => {
    const scores = estimate[r]!;
    const order = Array.from(mass.keys()).sort((a, b) => mass[b]! - mass[a]! || a - b);
    const wanted = TRUE_SHARE * mass.reduce((sum, x) => sum + x, 0);
    let [held, lowest] = [0, Infinity];
    for (const c of order) {
      if (held >= wanted) break;
      held += mass[c]!;
      lowest = Math.min(lowest, scores[c]!);
    }
    for (const score of scores) {
      all += score;
      if (score >= lowest) above += score;
    }
  });
  return above / all;
}

/** `[layers][heads]` for one text */
export async function thresholds(
  { decoder }: Engine,
  ids: readonly number[],
  stride: number,
  block: number,
): Promise<number[][]> {
  const { heads, layers } = decoder.config;
  using scope = new Scope(decoder.context);
  const cache = scope.own(decoder.newCache(0, 0));
  const blocks = Math.ceil(ids.length / block);
  const found: number[][] = Array.from({ length: layers }, () => []);
  const sequence = { cache, start: 0, rows: ids.length, spareRows: 0 };
  await decoder.prefill(scope, scope.ints(Int32Array.from(ids)), [sequence], {
    queries() {},
    async attend(layer, _, q) {
      using inner = new Scope(q.context);
      const kv = cache.of(layer);
      const rowsOf = (step: number) => {
        const out = inner.tensor("float32", heads * blocks, blocks, "scratch");
        const how = { firstRow: 0, firstHead: 0, scale: decoder.scale / step, stride: step, block };
        antidiagonalScores(kv, layer, q, how, out);
        const all = out.toFloats();
        return Array.from({ length: heads * blocks }, (_, r) => all.subarray(r * blocks, (r + 1) * blocks));
      };
      const [truth, estimate] = [rowsOf(1), rowsOf(stride)]; // with a stride of 1 the scores are the attention itself
      for (let h = 0; h < heads; h++) {
        const own = [h * blocks, (h + 1) * blocks] as const;
        found[layer]!.push(headThreshold(truth.slice(...own), estimate.slice(...own)));
      }
      attentionPrefill(kv, layer, 0, q, decoder.scale, decoder.window(layer), q);
    },
    afterLayer() {},
    async breathe() {},
  });
  return found;
}

async function main(): Promise<void> {
  const options = { stride: { type: "string" }, block: { type: "string" }, device: { type: "string" } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [dir, ...texts] = positionals;
  const [stride, block] = [Number(values.stride ?? 8), Number(values.block ?? 128)];
  if (dir === undefined || texts.length === 0) throw new Error("name a model directory, then one or more text files");
  const tokenizer = loadTokenizer(dir);
  const common = { prefillChunk: 4096, threads: 0, memoryLimit: 0, graphs: false };
  const engine = Engine.load({ model: { dir }, device: values.device ?? "cpu:0", dtype: "bfloat16", ...common });
  const { layers, heads } = engine.config;
  const tau = Array.from({ length: layers }, () => new Array<number>(heads).fill(0));
  for (const file of texts) {
    const found = await thresholds(engine, tokenizer.encode(readFileSync(file, "utf8")), stride, block);
    for (const [layer, row] of tau.entries()) {
      found[layer]!.forEach((share, head) => {
        row[head] = Math.max(row[head]!, Math.round(share * 1e4) / 1e4);
      });
    }
  }
  engine.dispose();
  const rows = tau.map((shares) => `      - [${shares.join(", ")}]\n`).join("");
  process.stdout.write(`set:\n  xattention:\n    stride: ${stride}\n    block: ${block}\n    tau:\n${rows}`);
}

if (import.meta.main) await main();

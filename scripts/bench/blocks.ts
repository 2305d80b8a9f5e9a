// Block-sparse prefill of one layer: attention over random sets of blocks by density, and the estimators of XAttention and FlexPrefill.
import * as blocks from "../../src/native/blocks.ts";
import { Scope } from "../../src/native/scope.ts";
import { timeMs } from "./device.ts";
import type { LayerBench } from "./layer.ts";
import { median, type Row } from "./row.ts";

const BLOCK = 128;
/** what the design asks for at 128K, in milliseconds */
const wanted: Readonly<Record<string, number>> = { "0.5": 147, "0.2": 59, "0.1": 30, "0.05": 16 };

/** Random key blocks for each query block, the first and the diagonal among them. */
function randomBits(heads: number, rows: number, words: number, density: number): { bits: Int32Array; share: number } {
  const bits = new Int32Array(heads * rows * words);
  let state = 88172645;
  let count = 0;
  const limit = density * 4294967296;
  for (let h = 0; h < heads; h++)
    for (let r = 0; r < rows; r++) {
      const at = (h * rows + r) * words;
      for (let c = 0; c <= r; c++) {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        if (c > 0 && c < r && state >>> 0 >= limit) continue;
        bits[at + (c >> 5)]! |= 1 << (c & 31);
        count++;
      }
    }
  return { bits, share: count / ((heads * rows * (rows + 1)) / 2) };
}

export function sparseAttention(bench: LayerBench, denseMs: number, density: number, more?: () => boolean): Row {
  const { context, cache, queries, out, scale, config, rows, top, attentionFlops } = bench;
  const queryBlocks = Math.ceil(rows / BLOCK);
  const words = Math.ceil(queryBlocks / 32);
  using scope = new Scope(context);
  const made = randomBits(config.heads, queryBlocks, words, density);
  const bits = scope.tensor("int32", config.heads * queryBlocks, words);
  bits.upload(made.bits);
  const set = { bits, heads: config.heads, firstBlock: 0, block: BLOCK, kinds: null };
  const ms = timeMs(context, () => blocks.attentionBlocks(cache, 0, 0, queries, scale, set, out), { samples: 5, more });
  const ratio = median(ms) / (denseMs * made.share);
  const target = rows === 131072 ? Math.min(wanted[density]!, (denseMs * made.share) / 0.85) : undefined;
  return bench.row(`block-sparse attention, density ${made.share.toFixed(3)}`, ms, {
    floorMs: (1000 * attentionFlops * made.share) / top.gemm,
    ...(target === undefined ? {} : { targetMs: target }),
    note: `${ratio.toFixed(2)} of dense time x density`,
  });
}

/** XAttention with stride 16: scores of all blocks, and those that hold 0.9 of each row. */
export function xattention(bench: LayerBench, denseMs: number, stride = 16): Row[] {
  const { context, cache, queries, scale, config, rows } = bench;
  const queryBlocks = Math.ceil(rows / BLOCK);
  const words = Math.ceil(queryBlocks / 32);
  using scope = new Scope(context);
  const scores = scope.tensor("float32", config.heads * queryBlocks, queryBlocks);
  const bits = scope.tensor("int32", config.heads * queryBlocks, words);
  const how = { firstRow: 0, firstHead: 0, scale: scale / stride, stride, block: BLOCK };
  const score = () => blocks.antidiagonalScores(cache, 0, queries, how, scores);
  const forced = scope.tensor("int32", config.heads * queryBlocks, words);
  forced.fill(0);
  blocks.blocksBand({ bits: forced, heads: config.heads, firstBlock: 0 }, 1, 1);
  const choose = () => {
    bits.fill(0);
    const shares = new Float64Array(config.heads).fill(0.9);
    blocks.cumulative(scores, { shares, inclusive: true, forced }, { bits });
  };
  const scoreMs = timeMs(context, score, { samples: 5 });
  const chooseMs = timeMs(context, choose, { samples: 5 });
  const all = scoreMs.map((ms, i) => ms + chooseMs[i]!);
  return [
    bench.row(`XAttention's estimate, stride ${stride}`, all, {
      floorMs: (1000 * bench.attentionFlops) / 2 / stride / bench.top.gemm,
      targetMs: 0.06 * denseMs,
      note: `${((100 * median(all)) / denseMs).toFixed(1)} % of dense attention: scores ${median(scoreMs).toFixed(2)} ms, choice ${median(chooseMs).toFixed(2)} ms`,
    }),
  ];
}

/** FlexPrefill: where the last block of queries attends to, lines of blocks, and the map of the heads that choose by pooled queries. */
export function flexPrefill(bench: LayerBench, denseMs: number): Row[] {
  const { context, cache, queries, scale, config, rows } = bench;
  const { heads, kvHeads, headDim } = config;
  const nb = Math.ceil(rows / BLOCK);
  const words = Math.ceil(nb / 32);
  using scope = new Scope(context);
  const last = scope.view(queries, rows - BLOCK, BLOCK);
  const columns = scope.tensor("float32", heads, rows);
  const diagonals = scope.tensor("float32", heads, rows);
  const columnBlocks = scope.tensor("float32", heads, nb);
  const diagonalBlocks = scope.tensor("float32", heads, nb);
  const keys = scope.tensor("float32", nb, kvHeads * headDim);
  const lastMean = scope.tensor("float32", 1, heads * headDim);
  const means = scope.tensor("float32", nb, heads * headDim);
  const foretold = scope.tensor("float32", heads, nb);
  const distance = scope.tensor("float32", 1, heads);
  const counts = scope.tensor("int32", 1, heads);
  const lines = [scope.tensor("int32", heads, words), scope.tensor("int32", heads, words)] as const;
  const map = scope.tensor("float32", heads * nb, nb);
  const bits = scope.tensor("int32", heads * nb, words);
  const shares = new Float64Array(heads).fill(0.95);
  const steps: [string, () => void][] = [
    [
      "window sums",
      () => blocks.windowSums(cache, 0, last, scale, BLOCK, { columns, diagonals, columnBlocks, diagonalBlocks }),
    ],
    [
      "pooling",
      () => {
        blocks.keyBlockMean(cache, 0, BLOCK, keys);
        blocks.blockMean(last, BLOCK, lastMean);
        blocks.pooledAttention(lastMean, keys, heads, kvHeads, scale, null, foretold);
        blocks.jsDistance(foretold, columnBlocks, distance);
        blocks.blockMean(queries, BLOCK, means);
        blocks.pooledAttention(means, keys, heads, kvHeads, scale, 0, map);
      },
    ],
    [
      "choice",
      () => {
        bits.fill(0);
        for (const [tokens, pooled, line] of [
          [columns, columnBlocks, lines[0]],
          [diagonals, diagonalBlocks, lines[1]],
        ] as const) {
          line.fill(0);
          blocks.cumulative(tokens, { shares, inclusive: false }, { counts });
          blocks.countsDivide(counts, 1 + BLOCK, BLOCK, 8, nb);
          blocks.topBits(pooled, counts, null, line);
        }
        blocks.blocksVerticalSlash(lines[0], lines[1], 0, 0, { bits, heads, firstBlock: 0 });
        // every head takes part, which is the most there can be
        blocks.cumulative(
          map,
          { shares, flat: true, inclusive: false, gate: { values: distance, below: 2 } },
          { bits },
        );
      },
    ],
  ];
  const times = steps.map(([name, run]) => [name, timeMs(context, run, { samples: 5 })] as const);
  const all = times[0]![1].map((_, i) => times.reduce((sum, [, ms]) => sum + ms[i]!, 0));
  return [
    bench.row("FlexPrefill's estimate, all heads by both ways", all, {
      targetMs: 0.06 * denseMs,
      note: `${((100 * median(all)) / denseMs).toFixed(1)} % of dense attention: ${times.map(([name, ms]) => `${name} ${median(ms).toFixed(2)} ms`).join(", ")}`,
    }),
  ];
}

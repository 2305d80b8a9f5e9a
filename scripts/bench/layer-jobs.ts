// The jobs of one layer at a length: attention everywhere; the sparse rows, the estimators and what eviction takes at 128K.
import { formatCount } from "../../src/bench/format.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { flexPrefill, sparseAttention, xattention } from "./blocks.ts";
import type { Turn } from "./budget.ts";
import type { Card } from "./engine-jobs.ts";
import { memoryOf, roomFor } from "./fit.ts";
import { attentionFlops } from "./floors.ts";
import { CALLS, coldBytes, LayerBench } from "./layer.ts";
import { median, type Row } from "./row.ts";
import type { Group, Job } from "./schedule.ts";

/** the design's first */
export const layerLengths = [131072, 32768, 4096, 16384, 65536];

const densities = [0.05, 0.1, 0.2, 0.5];

interface LayerJob {
  /** without the length, as the rows have them */
  names: readonly string[];
  /** of one run, and the runs of a row with one sample */
  floorMs: number;
  leastRuns: number;
  /** `denseMs`: of dense attention; throws where that was not timed */
  run(bench: LayerBench, turn: Turn, denseMs: () => number): Row[];
}

export function layerGroup(rows: number, { shape, device, backend, top, free, registry }: Card): Group {
  const config = shapeConfig(shape);
  const attentionMs = (1000 * attentionFlops(config, rows)) / top.gemm;
  const cacheBytes = 4 * rows * config.kvHeads * config.headDim;
  const readMs = (1000 * cacheBytes) / top.copy;
  const decodeMs = (1000 * (CALLS * cacheBytes + coldBytes[backend])) / top.copy;
  // what the engine has of one layer, without its weights; forks of the cache beside it
  const prompt = { method: "Full", prompt: rows, newTokens: 0 };
  const { cache, activations } = memoryOf(prompt, shapeConfig(shape, 1), backend, registry);
  const needBytes = activations + 2 * cache + coldBytes[backend];
  const { words, bytes } = roomFor(free, backend);

  let bench: LayerBench | undefined;
  let dense: number | undefined;
  const denseMs = () => {
    if (dense === undefined) throw new Error("dense attention, which it is measured against, was not timed");
    return dense;
  };
  const everywhere: LayerJob[] = [
    {
      names: ["dense attention"],
      floorMs: attentionMs,
      leastRuns: 2,
      run(bench, turn) {
        const row = bench.attention(() => turn.more());
        dense = median(row.ms);
        return [row];
      },
    },
    // 20 samples and one that does not count, a launch ahead of each
    { names: ["decode attention"], floorMs: decodeMs, leastRuns: 42, run: (bench) => [bench.decode()] },
    {
      names: ["decode attention of 4-bit codes"],
      floorMs: decodeMs,
      leastRuns: 42,
      run: (bench) => [bench.decodeCodes()],
    },
  ];
  const jobs = rows < 131072 ? everywhere : [...everywhere, ...designJobs(attentionMs, readMs)];
  return {
    name: `layer ${formatCount(rows)}`,
    room: { words, bytes },
    jobs: jobs.map(
      ({ names, floorMs, leastRuns, run }): Job => ({
        table: "layer",
        names: names.map((name) => `${name}, ${formatCount(rows)}`),
        cost: { kind: names[0]!.replace(/, density.*/, ""), floorMs, leastRuns },
        needBytes,
        run: (turn) => run(bench!, turn, denseMs),
      }),
    ),
    open() {
      bench = LayerBench.open(device, config, top, rows);
    },
    close() {
      bench!.dispose();
    },
  };
}

/** Rows that the design has targets for. */
function designJobs(attentionMs: number, readMs: number): LayerJob[] {
  const sparse = densities.map(
    (density): LayerJob => ({
      names: [`block-sparse attention, density ${density}`],
      floorMs: attentionMs * density,
      leastRuns: 2,
      run: (bench, turn, denseMs) => [sparseAttention(bench, denseMs(), density, () => turn.more())],
    }),
  );
  return [
    ...sparse,
    {
      names: ["XAttention's estimate, stride 16"],
      floorMs: attentionMs / 32,
      leastRuns: 6,
      run: (bench, _turn, denseMs) => xattention(bench, denseMs()),
    },
    {
      names: ["FlexPrefill's estimate, all heads by both ways"],
      floorMs: attentionMs / 32,
      leastRuns: 6,
      run: (bench, _turn, denseMs) => flexPrefill(bench, denseMs()),
    },
    {
      names: ["column sums (H2O)"],
      floorMs: attentionMs / 2,
      leastRuns: 4, // the attention that gives the log-sum-exp is two
      run: (bench, turn, denseMs) => [bench.columnSums(denseMs(), () => turn.more())],
    },
    {
      names: ["window scores of 32 queries", "pooling and top-k", "compaction to 2048 rows", "key norms"],
      floorMs: readMs,
      leastRuns: 28,
      run: (bench) => bench.eviction(),
    },
  ];
}

// The order of accuracy on the bundled model: all rows; rows that the question asks for; rows by sums or age; rows by their norm alone.
import { expect, test } from "bun:test";
import { join } from "node:path";
import { runBenchmark } from "kvaccel";
import { folder } from "../support/folder.ts";

/** Five samples of each task, at budgets that tell the methods apart. */
const run = () =>
  runBenchmark({
    cfg_path: "quick",
    device: ["cpu"],
    acceleration: ["ThinK", "KIVI", "SnapKV", "H2O", "StreamingLLM", "L2Compress"],
    set: ["l2compress.skipLayers=[]"],
    length: [512],
    num_samples: 5,
    output_path: join(folder(), "run"),
  });

test("Full >= ThinK, KIVI > SnapKV > H2O, StreamingLLM > L2Compress in every layer, ten points apart; bytes are the expected ones", async () => {
  const { cells, failed } = await run();
  expect(failed).toBe(0);
  const score = (method: string) => cells.accuracy.find((cell) => cell.method === method)!.score!;
  const steps = [["Full"], ["ThinK", "KIVI"], ["SnapKV"], ["H2O", "StreamingLLM"], ["L2Compress"]];
  steps.slice(1).forEach((lower, i) => {
    const apart = i === 0 ? 0 : 10;
    for (const better of steps[i]!)
      for (const worse of lower)
        expect([better, worse, score(better) - score(worse) >= apart]).toEqual([better, worse, true]);
  });
  for (const { cacheBytes, expectedCacheBytes } of cells.cost) expect(cacheBytes).toBe(expectedCacheBytes!);
}, 120_000);

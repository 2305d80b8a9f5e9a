// Needle depth x length: how often a needle at a depth of the prompt was found. Depths come from the prompts of `--log_samples`.
import type { Row } from "../bench/rows.ts";
import { seriesName } from "./points.ts";
import type { RunData } from "./run-data.ts";

const bins = 10;

export interface DepthCell {
  series: string;
  run: string;
  method: string;
  length: number | null;
  /** lower edge of a tenth of the prompt, 0 to 90 % */
  depth: number;
  needles: number;
  /** found of them, 0 to 100 */
  score: number;
}

export function depthCells(runs: readonly RunData[]): DepthCell[] {
  return runs.flatMap((run) => {
    const smallest = Math.min(...run.cells.batches);
    const rows = run.rows.filter((row) => row.batch === smallest && row.repeat === 0 && row.status === "ok");
    const order = run.cells.methods.map(({ label }) => label);
    const needles = rows.flatMap(needlesOf).toSorted((a, b) => order.indexOf(a.method) - order.indexOf(b.method));
    const cells = Map.groupBy(needles, ({ method, length, depth }) => JSON.stringify([method, length, depth]));
    return [...cells.values()].map((same): DepthCell => {
      const { method, length, depth } = same[0]!;
      const found = same.filter((needle) => needle.found).length;
      const series = seriesName(runs, run, method);
      return { series, run: run.name, method, length, depth, needles: same.length, score: (100 * found) / same.length };
    });
  });
}

function needlesOf({ task, method, length, prompt, refs, prediction }: Row) {
  if (!task.startsWith("niah") || prompt === undefined) return [];
  const answer = (prediction ?? "").toLowerCase();
  return refs.flatMap((ref) => {
    const at = prompt.indexOf(ref);
    if (at < 0) return [];
    const depth = Math.floor((at / prompt.length) * bins) * (100 / bins);
    return [{ method, length, depth, found: answer.includes(ref.toLowerCase()) }];
  });
}

// The report's one list of figures: a point for each run, method, length and batch size; and the best of them (Pareto front).
import type { CostCell, Counts, Measure } from "../bench/cells.ts";
import type { Interval } from "../bench/intervals.ts";
import type { RunData } from "./run-data.ts";

export interface Point extends Counts {
  /** the method, with its run where there are several */
  series: string;
  run: string;
  method: string;
  length: number | null;
  batch: number;
  /** the run's method without parts */
  isFull: boolean;
  /** 0 to 100; of the smallest batch only */
  score: number | null;
  interval: Interval | null;
  time: TimeSplit | null;
  ttft: Measure | null;
  msPerToken: Measure | null;
  cacheBytes: number | null;
  cacheShare: number | null;
  expectedCacheBytes: number | null;
  allocatedBytes: number | null;
  peakBytes: number | null;
  /** of the peak, weights that the workers of a device share */
  sharedWeightBytes: number | null;
}

/** Time of a sample in milliseconds; prefill without the method's hooks in it. */
export interface TimeSplit {
  prefill: number;
  method: number;
  decode: number;
  total: number;
}

export function makePoints(runs: readonly RunData[]): Point[] {
  return runs.flatMap((run) =>
    run.cells.cost.map((cost): Point => {
      const first = cost.batch === run.cells.batches[0];
      const same = ({ method, length }: { method: string; length: number | null }) =>
        method === cost.method && length === cost.length;
      const accuracy = first ? run.cells.accuracy.find(same) : undefined;
      return {
        series: seriesName(runs, run, cost.method),
        run: run.name,
        method: cost.method,
        length: cost.length,
        batch: cost.batch,
        isFull: run.cells.methods.find(({ label }) => label === cost.method)?.parts.length === 0,
        n: cost.n,
        oom: cost.oom,
        errors: cost.errors,
        missing: cost.missing,
        status: cost.status,
        score: accuracy?.score ?? null,
        interval: accuracy?.interval ?? null,
        time: timeSplit(cost),
        ttft: cost.ttftMs,
        msPerToken: cost.msPerToken,
        cacheBytes: cost.cacheBytes,
        cacheShare: cost.cacheShare,
        expectedCacheBytes: cost.expectedCacheBytes,
        allocatedBytes: cost.cacheAllocatedBytes,
        peakBytes: cost.peakBytes,
        sharedWeightBytes: cost.sharedWeightBytes,
      };
    }),
  );
}

export const seriesName = (runs: readonly RunData[], run: RunData, method: string) =>
  runs.length === 1 ? method : `${method} (${run.name})`;

function timeSplit({ ttftMs, methodMs, msPerToken, steps }: CostCell): TimeSplit | null {
  if (ttftMs === null) return null;
  const method = Math.min(methodMs ?? 0, ttftMs.median);
  const decode = steps * (msPerToken?.median ?? 0);
  return { prefill: ttftMs.median - method, method, decode, total: ttftMs.median + decode };
}

/** Points of the smallest batch of their run: what the charts show. */
export function chartPoints(points: readonly Point[]): Point[] {
  const smallest = new Map<string, number>();
  for (const { run, batch } of points) smallest.set(run, Math.min(batch, smallest.get(run) ?? batch));
  return points.filter((point) => point.batch === smallest.get(point.run));
}

export const lengthsOf = (points: readonly Point[]) =>
  [...new Set(points.map((point) => point.length))].toSorted((a, b) => (a ?? 0) - (b ?? 0));

/** Items that no other beats: none costs no more and scores higher, or costs less and scores as high. By ascending cost. */
export function paretoFront<T>(items: readonly T[], cost: (item: T) => number, score: (item: T) => number): T[] {
  const sorted = items.toSorted((a, b) => cost(a) - cost(b) || score(b) - score(a));
  const front: T[] = [];
  for (const item of sorted) {
    const last = front.at(-1);
    if (last === undefined || score(item) > score(last)) front.push(item);
  }
  return front;
}

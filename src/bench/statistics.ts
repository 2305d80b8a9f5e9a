// How sure a score is: bootstrap intervals, and the comparison of two methods on the same samples.
import { type Prng, stream } from "./prng.ts";
import { mean } from "./score.ts";

export interface Interval {
  mean: number;
  low: number;
  high: number;
  /** samples in all groups */
  n: number;
}

const resamples = 1000;
const tail = 0.025;

/** the value at a share of the sorted list, between neighbours by linear interpolation */
function quantile(sorted: readonly number[], share: number): number {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const left = sorted[below]!;
  return left + (place - below) * ((sorted[below + 1] ?? left) - left);
}

function resampledMean(values: readonly number[], rng: Prng): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[rng.below(values.length)]!;
  return sum / values.length;
}

/**
 * The mean of the groups' means with its 95 % percentile bootstrap over the samples of each group (1000 resamples).
 * A cell is one group; a length score has one group for each task.
 */
export function bootstrap(groups: readonly (readonly number[])[], seed: number): Interval {
  const filled = groups.filter((group) => group.length > 0);
  if (filled.length === 0) throw new RangeError("an interval needs at least one sample");
  const rng = stream("bootstrap", seed);
  const means = Array.from({ length: resamples }, () => mean(filled.map((group) => resampledMean(group, rng))));
  means.sort((a, b) => a - b);
  return {
    mean: mean(filled.map(mean)),
    low: quantile(means, tail),
    high: quantile(means, 1 - tail),
    n: filled.reduce((sum, group) => sum + group.length, 0),
  };
}

export interface Comparison extends Interval {
  /** samples on which a is better, worse, equal */
  wins: number;
  losses: number;
  ties: number;
  /** of a difference as large as this, or larger, if better and worse were a matter of chance on each sample */
  p: number;
  /** the interval of the difference leaves out 0, and p is below 0.05: the two may be ranked */
  distinct: boolean;
}

/**
 * Sign-flip test of the mean of the groups' means: each difference keeps its size, and its sign is drawn (1000 times). Unlike the
 * interval it is honest about a handful of samples: fewer than six differences never reach 0.05.
 */
function signFlip(groups: readonly (readonly number[])[], seed: number): number {
  const weighted = groups.flatMap((group) => group.map((value) => value / group.length)).filter((value) => value !== 0);
  const observed = Math.abs(weighted.reduce((sum, value) => sum + value, 0));
  const rng = stream("signs", seed);
  let asLarge = 0;
  for (let draw = 0; draw < resamples; draw++) {
    let sum = 0;
    for (const value of weighted) sum += rng.below(2) === 0 ? value : -value;
    if (Math.abs(sum) >= observed * (1 - 1e-9)) asLarge++;
  }
  return (asLarge + 1) / (resamples + 1);
}

/**
 * Groups to resample. A group of one sample has nothing to draw from, so that its interval would have no width: all samples then
 * become one group, each weighed so that the mean of the groups' means stays what it is.
 */
function resampleable(groups: number[][]): number[][] {
  if (groups.every((group) => group.length > 1)) return groups;
  const n = groups.reduce((sum, group) => sum + group.length, 0);
  return [groups.flatMap((group) => group.map((value) => (value * n) / (groups.length * group.length)))];
}

/** a - b over the samples that both have; the keys are sample ids, grouped by what stands before the last slash */
export function comparePaired(
  a: ReadonlyMap<string, number>,
  b: ReadonlyMap<string, number>,
  seed: number,
): Comparison | null {
  const groups = new Map<string, number[]>();
  for (const [id, score] of a) {
    const other = b.get(id);
    if (other === undefined) continue;
    const cell = id.slice(0, id.lastIndexOf("/"));
    const group = groups.get(cell) ?? [];
    group.push(score - other);
    groups.set(cell, group);
  }
  if (groups.size === 0) return null;
  const differences = [...groups.values()].flat();
  const interval = bootstrap(resampleable([...groups.values()]), seed);
  const p = signFlip([...groups.values()], seed);
  return {
    ...interval,
    wins: differences.filter((d) => d > 0).length,
    losses: differences.filter((d) => d < 0).length,
    ties: differences.filter((d) => d === 0).length,
    p,
    distinct: p < 0.05 && (interval.low > 0 || interval.high < 0),
  };
}

// Ticks of axes: powers of two for bytes, 1-2-5 steps for times. A logarithmic axis ends at ticks; a linear one begins at 0.

export interface LogAxis {
  domain: [number, number];
  ticks: number[];
}

const most = 6;

/** At most six powers of two, evenly spaced. */
export function byteAxis(values: readonly number[]): LogAxis {
  const low = Math.floor(Math.log2(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log2(Math.max(...values))));
  const step = Math.ceil((high - low) / (most - 1));
  const count = Math.ceil((high - low) / step);
  const ticks = Array.from({ length: count + 1 }, (_, at) => 2 ** (low + at * step));
  return { domain: [ticks[0]!, ticks.at(-1)!], ticks };
}

/** 1, 2 and 5 times powers of ten; the powers alone where those are too many. */
export function timeAxis(values: readonly number[]): LogAxis {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const decades = Array.from({ length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 2 }, (_, at) => {
    return 10 ** (Math.floor(Math.log10(low)) + at);
  });
  const steps = decades.flatMap((decade) => [1, 2, 5].map((digit) => digit * decade));
  const from = steps.findLastIndex((step) => step <= low);
  const to = Math.max(
    from + 1,
    steps.findIndex((step) => step >= high),
  );
  const domain: [number, number] = [steps[from]!, steps[to]!];
  const inside = steps.slice(from, to + 1);
  const ticks = inside.length <= most ? inside : decades.filter((tick) => tick >= domain[0] && tick <= domain[1]);
  return { domain, ticks };
}

/** Zero and at most three multiples of 1, 2 or 5 times a power of ten. */
export function linearTimeTicks(most: number): number[] {
  const least = Math.max(1e-6, most) / 3;
  const decade = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((digit) => digit * decade).find((size) => size >= least)!;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step);
}

/** Zero and at most three multiples of a power of two. */
export function linearByteTicks(most: number): number[] {
  const step = 2 ** Math.ceil(Math.log2(Math.max(1, most) / 3));
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step);
}

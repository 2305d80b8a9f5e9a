// The time of `make bench`: what a row needs, by its floor and by how far from theirs the rows before it were, and what it may take of what is left.

/** What a row costs at this card's ceilings. */
export interface Cost {
  /** method or kernel: rows of one kind are about as far from their floors as each other */
  kind: string;
  /** of one run */
  floorMs: number;
  /** runs of a row with one sample, those that do not count among them */
  leastRuns: number;
}

/** times its floor, of a run before any has been timed */
const firstGuess = 2;
/** how much slower than expected a row may be, where its kind has been timed and where it has not */
const caution = { known: 1.2, unknown: 1.5 } as const;

/** How far from their floors the rows so far were. */
export class Pace {
  private readonly kinds = new Map<string, { ms: number; floorMs: number }>();
  private readonly all = { ms: 0, floorMs: 0 };

  add({ kind, floorMs }: Cost, runs: number, ms: number): void {
    const own = this.kinds.get(kind) ?? { ms: 0, floorMs: 0 };
    this.kinds.set(kind, own);
    for (const sum of [own, this.all]) {
      sum.ms += ms;
      sum.floorMs += runs * floorMs;
    }
  }

  /** Of a row with one sample. */
  expectedMs({ kind, floorMs, leastRuns }: Cost): number {
    const { ms, floorMs: floors } = this.kinds.get(kind) ?? this.all;
    return leastRuns * floorMs * (floors > 0 ? ms / floors : firstGuess);
  }

  /** The same if it is slower than expected: what must be left for a row to be run. */
  neededMs(cost: Cost): number {
    return this.expectedMs(cost) * (this.kinds.has(cost.kind) ? caution.known : caution.unknown);
  }
}

export interface Time {
  totalMs: number;
  leftMs: number;
  /** that the rows after this one are expected to take with one sample each */
  laterMs: number;
}

/** every row may take this share of the whole time, however little is left for those after it */
const freeShare = 1 / 50;

const seconds = (ms: number) => `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;

/** What a row may take: its own need, and for more samples what the later rows leave. Or, in words, why it is not run. */
export function allow(needMs: number, { totalMs, leftMs, laterMs }: Time): { allowedMs: number } | { refusal: string } {
  const left = Math.max(0, leftMs);
  if (needMs > left) return { refusal: `needs about ${seconds(needMs)}, ${seconds(left)} are left` };
  return { allowedMs: Math.min(left, Math.max(needMs, left - laterMs, freeShare * totalMs)) };
}

/** A row's turn: it makes its least number of runs, and asks before each further one. */
export class Turn {
  private readonly start: number;

  constructor(
    public runs: number,
    private readonly allowedMs: number,
    private readonly now: () => number,
  ) {
    this.start = now();
  }

  get elapsedMs(): number {
    return this.now() - this.start;
  }

  /** Whether one more run, as long as those before it, ends in time; it is then counted. */
  more(): boolean {
    const { elapsedMs } = this;
    if (elapsedMs + elapsedMs / this.runs > this.allowedMs) return false;
    this.runs++;
    return true;
  }
}

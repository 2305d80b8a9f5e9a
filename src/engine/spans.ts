// Time on the device of many short pieces of work, added up: pairs of marks, in timers of a few pairs each.
import { Timer } from "../native/graph.ts";
import type { Scope } from "../native/scope.ts";
import type { Context } from "../native/tensor.ts";

const PAIRS = 64;

export class Spans {
  private readonly timers: Timer[] = [];
  /** pairs taken of the last timer */
  private taken = PAIRS;
  private current: Context | null = null;
  private readonly pairs: number[] = [];

  /** The scope owns the timers. */
  constructor(private readonly scope: Scope) {}

  /** Runs what queues work in `context`; what it queues counts. */
  time(context: Context, run: () => void): void {
    if (this.taken === PAIRS || this.current !== context) {
      this.timers.push(this.scope.own(Timer.create(context, 2 * PAIRS)));
      this.pairs.push(0);
      this.taken = 0;
      this.current = context;
    }
    const timer = this.timers.at(-1)!;
    const slot = 2 * this.taken++;
    this.pairs[this.pairs.length - 1] = this.taken;
    timer.mark(slot);
    run();
    timer.mark(slot + 1);
  }

  /** milliseconds so far; waits for the device */
  ms(): number {
    let total = 0;
    this.timers.forEach((timer, t) => {
      for (let pair = 0; pair < this.pairs[t]!; pair++) total += timer.read(2 * pair, 2 * pair + 1);
    });
    return total;
  }
}

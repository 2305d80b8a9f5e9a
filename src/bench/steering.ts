// What may be asked of a run that is under way: to pause, to skip a cell, to measure some methods anew.
import type { Row, Task } from "./rows.ts";

/** A plan in place of the one that runs, after a plugin file was saved. */
export interface Replan {
  tasks: Task[];
  /** the row was measured by an earlier version of its method */
  stale(row: Pick<Row, "method_hash">): boolean;
  /** the task cannot run now: its plugin file is broken */
  held(task: Task): boolean;
}

/** Measurements of one method, length and batch size: what a cell of the live table stands for. */
export function cellName({
  method,
  sample,
  batch,
}: Pick<Task, "method" | "batch"> & { sample: { length: number | null } }) {
  return `${method.hash}/${sample.length ?? "all"}/${batch}`;
}

export class Steering {
  private gate: { open(): void; opened: Promise<void> } | undefined;
  private readonly skipped = new Set<string>();
  private onReplan: (change: Replan) => void = () => {};

  /** `holdsOpen`: the run does not end with its last measurement, it waits for plugin files to be saved. */
  constructor(readonly holdsOpen = false) {}

  get paused(): boolean {
    return this.gate !== undefined;
  }

  /** No sample is started until `resume`; the one in flight finishes. */
  pause(): void {
    if (this.gate !== undefined) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.gate = { open: resolve, opened: promise };
  }

  resume(): void {
    this.gate?.open();
    this.gate = undefined;
  }

  /** What is left of the cell is not run in this start; false where that was said before. */
  skip(cell: string): boolean {
    const before = this.skipped.size;
    return this.skipped.add(cell).size > before;
  }

  skips(task: Task): boolean {
    return this.skipped.has(cellName(task));
  }

  /** Resolves at once unless paused. */
  opened(): Promise<void> {
    return this.gate?.opened ?? Promise.resolve();
  }

  replan(change: Replan): void {
    this.onReplan(change);
  }

  /** The runner's ear. */
  listen(onReplan: (change: Replan) => void): void {
    this.onReplan = onReplan;
  }
}

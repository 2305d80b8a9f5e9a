// Captured op sequences, and timers on the device.
import type { Pointer } from "bun:ffi";
import { type Context, made } from "./tensor.ts";

/** A queued sequence of ops that is launched as one. */
export class Graph {
  private constructor(
    private readonly context: Context,
    private readonly pointer: Pointer,
  ) {}

  /** Captures the ops that `queue` issues; they do not run. */
  static capture(context: Context, queue: () => void): Graph {
    const { library } = context;
    library.check(library.native.kva_graph_begin(context.pointer));
    try {
      queue();
    } catch (error) {
      library.native.kva_graph_abandon(context.pointer);
      throw error;
    }
    return new Graph(
      context,
      made(library, (out) => library.native.kva_graph_end(context.pointer, out)),
    );
  }

  launch(): void {
    this.context.library.check(this.context.library.native.kva_graph_launch(this.pointer));
  }

  dispose(): void {
    this.context.library.check(this.context.library.native.kva_graph_destroy(this.pointer));
  }
}

/** Marks on the device's own clock. */
export class Timer {
  private readonly elapsed = new Float32Array(1);

  private constructor(
    private readonly context: Context,
    private readonly pointer: Pointer,
  ) {}

  static create(context: Context, slots: number): Timer {
    const { library } = context;
    return new Timer(
      context,
      made(library, (out) => library.native.kva_timer_create(context.pointer, slots, out)),
    );
  }

  mark(slot: number): void {
    this.context.library.check(this.context.library.native.kva_timer_mark(this.pointer, slot));
  }

  /** What is queued in `context` from here on waits for a mark; the host does not. */
  hold(slot: number, context: Context): void {
    this.context.library.check(this.context.library.native.kva_timer_wait(this.pointer, slot, context.pointer));
  }

  /** milliseconds between two marks; waits for them */
  read(from: number, to: number): number {
    this.context.library.check(this.context.library.native.kva_timer_read(this.pointer, from, to, this.elapsed));
    return this.elapsed[0] ?? 0;
  }

  dispose(): void {
    this.context.library.check(this.context.library.native.kva_timer_destroy(this.pointer));
  }
}

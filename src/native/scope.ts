// Owns native objects and frees them together, newest first, also when an op in between failed.
import type { Context, Dtype, MemoryKind } from "./tensor.ts";
import { Tensor } from "./tensor.ts";

interface Disposable {
  dispose(): void;
}

export class Scope {
  private readonly owned: Disposable[] = [];

  constructor(readonly context: Context) {}

  own<T extends Disposable>(thing: T): T {
    this.owned.push(thing);
    return thing;
  }

  tensor(dtype: Dtype, rows: number, columns: number, kind: MemoryKind = "activations"): Tensor {
    return this.own(Tensor.create(this.context, dtype, rows, columns, kind));
  }

  /** This scope for things of another context: they are freed with it. */
  on(context: Context): Scope {
    return context === this.context ? this : this.own(new Scope(context));
  }

  ints(values: Int32Array): Tensor {
    return this.own(Tensor.from(this.context, values, 1, values.length));
  }

  view(of: Tensor, row: number, rows: number, column = 0, columns = of.columns): Tensor {
    return this.own(of.view(row, rows, column, columns));
  }

  dispose(): void {
    for (let thing = this.owned.pop(); thing; thing = this.owned.pop()) thing.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

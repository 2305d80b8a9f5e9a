// What hooks hold: tensors behind the plugin API's opaque types, and the check that a value came from an op of the hook.
import { KvaError } from "../native/error.ts";
import type { Tensor } from "../native/tensor.ts";
import type { Queries, Rows, Scores } from "../plugin/index.ts";

export class TensorScores implements Scores {
  constructor(readonly tensor: Tensor) {}
  get rows(): number {
    return this.tensor.rows;
  }
  get columns(): number {
    return this.tensor.columns;
  }
}

export class TensorRows implements Rows {
  /** counts: of each head, where they differ */
  constructor(
    readonly tensor: Tensor,
    readonly counts: readonly number[] | null = null,
  ) {}
  get count(): number {
    return this.tensor.columns;
  }
}

export class TensorQueries implements Queries {
  constructor(readonly tensor: Tensor) {}
  get count(): number {
    return this.tensor.rows;
  }
}

export function own<T>(value: unknown, type: new (...args: never[]) => T, where: string): T {
  if (value instanceof type) return value;
  throw new KvaError("plugin", `${where} takes what an op of this hook returned, not ${describe(value)}`);
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" ? `a ${value.constructor.name}` : `${typeof value} ${String(value)}`;
}

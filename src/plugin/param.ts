// Parameter declarations of plugins: each carries its valibot schema, default, range and one line of help.
import * as v from "valibot";

/** One parameter as it stands in YAML, on the command line and in the wizard. */
export interface Param<T> {
  readonly type: "int" | "number" | "flag" | "choice" | "ints" | "shares" | "budget";
  readonly about: string;
  readonly default: unknown;
  readonly min?: number;
  readonly max?: number;
  readonly choices?: readonly string[];
  /** only odd whole numbers */
  readonly odd?: boolean;
  /** checks one value from outside */
  readonly schema: v.GenericSchema<unknown, T>;
}
export type ParamValue<P> = P extends Param<infer T> ? T : never;

/** How a share of the prompt becomes a number of rows. */
export type Rounding = "exact" | "kvpress";

/** How many rows a KV head of a layer may hold, the window and the sinks included: a count, or a share of the prompt. */
export class Budget {
  constructor(
    readonly capacity: number | undefined,
    readonly keepRatio: number | undefined,
  ) {}

  /** rows for a prompt of `length` tokens: `capacity`, or floor(length * keepRatio + 1e-9), or what kvpress makes of the share */
  rows(length: number, rounding: Rounding = "exact"): number {
    if (this.keepRatio === undefined) return this.capacity ?? length;
    return Math.floor(rounding === "exact" ? length * this.keepRatio + 1e-9 : this.share(length));
  }

  /** as `rows`, but an exact share is rounded up (L2Compress) */
  rowsUp(length: number, rounding: Rounding = "exact"): number {
    if (this.keepRatio === undefined || rounding === "kvpress") return this.rows(length, rounding);
    return Math.ceil(length * this.keepRatio - 1e-9);
  }

  /** the share before it is rounded, in double precision and kvpress's order: what a compression ratio leaves of `length` */
  share(length: number): number {
    return this.keepRatio === undefined ? (this.capacity ?? length) : length * (1 - (1 - this.keepRatio));
  }
}

/** One share, `[layers][heads]`, or the plugin's own table. */
export type Shares = number | "table" | readonly (readonly number[])[];

interface Range {
  about: string;
  min?: number;
  max?: number;
}

function range(noun: string, min: number | undefined, max: number | undefined): string {
  if (min !== undefined && max !== undefined) return `${noun} from ${min} to ${max}`;
  if (min !== undefined) return `${noun} of at least ${min}`;
  return max === undefined ? noun : `${noun} of at most ${max}`;
}

function numeric(noun: string, integer: boolean, { min, max }: Range): v.GenericSchema<unknown, number> {
  const text = `must be ${range(noun, min, max)}`;
  return v.pipe(
    v.number(text),
    v.check((x) => Number.isFinite(x) && (!integer || Number.isSafeInteger(x)), text),
    v.minValue(min ?? -Infinity, text),
    v.maxValue(max ?? Infinity, text),
  );
}

/** Builders for the `params` of a plugin. */
export const param = {
  /** a whole number */
  int(options: Range & { default: number; odd?: boolean }): Param<number> {
    const schema = numeric("a whole number", true, options);
    const checked = options.odd
      ? v.pipe(
          schema,
          v.check((x) => x % 2 === 1, "must be odd"),
        )
      : schema;
    return { type: "int", ...options, schema: checked };
  },
  /** any number within the range */
  number(options: Range & { default: number }): Param<number> {
    return { type: "number", ...options, schema: numeric("a number", false, options) };
  },
  /** true or false */
  flag(options: { about: string; default: boolean }): Param<boolean> {
    return { type: "flag", ...options, schema: v.boolean("must be true or false") };
  },
  /** one of the words */
  choice<const C extends string>(options: { about: string; default: C; choices: readonly C[] }): Param<C> {
    const text = `must be one of ${options.choices.join(", ")}`;
    return { type: "choice", ...options, schema: v.picklist(options.choices, text) as v.GenericSchema<unknown, C> };
  },
  /** a list of whole numbers */
  ints(options: Range & { default: readonly number[] }): Param<readonly number[]> {
    return {
      type: "ints",
      ...options,
      schema: v.array(numeric("whole numbers", true, options), "must be a list of whole numbers"),
    };
  },
  /** a share for all heads, a list of lists with one for each layer and query head, or the word `table`: the plugin's own such list */
  shares(options: { about: string; default: number }): Param<Shares> {
    const text = "must be a number from 0 to 1, a list of layers with one such number per query head, or table";
    const share = v.pipe(v.number(text), v.minValue(0, text), v.maxValue(1, text));
    const schema = v.union([share, v.literal("table"), v.array(v.array(share, text), text)], text);
    return { type: "shares", min: 0, max: 1, ...options, schema };
  },
  /** how `keepRatio` becomes rows, for methods with a kvpress preset */
  rounding(): Param<Rounding> {
    const about = "rows of a keepRatio: exact, or as kvpress computes them, int(n * (1 - (1 - ratio)))";
    return param.choice({ choices: ["exact", "kvpress"], default: "exact", about });
  },
  /** rows kept per KV head and layer; in YAML `capacity` (rows) or `keepRatio` (share of the prompt) */
  budget(options: { default: number; min?: number; about?: string }): Param<Budget> {
    const min = options.min ?? 1;
    const capacity = numeric("a whole number of rows", true, { about: "", min });
    const ratio = v.pipe(
      v.number("must be a number above 0 and at most 1"),
      v.check((x) => x > 0 && x <= 1, "must be a number above 0 and at most 1"),
    );
    return {
      type: "budget",
      about: options.about ?? "rows kept per KV head and layer, window and sinks included",
      default: options.default,
      min,
      schema: v.pipe(
        v.strictObject({ capacity: v.optional(capacity), keepRatio: v.optional(ratio) }),
        v.check((x) => x.capacity === undefined || x.keepRatio === undefined, "give capacity or keepRatio, not both"),
        v.transform(
          (x) => new Budget(x.keepRatio === undefined ? (x.capacity ?? options.default) : undefined, x.keepRatio),
        ),
      ) as v.GenericSchema<unknown, Budget>,
    };
  },
};

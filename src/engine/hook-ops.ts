// Ops as hooks see them, over the native tensors of one sequence's layer. What ops return is freed when the hook ends.
import { columnSumsBlocks } from "../native/blocks.ts";
import { KvaError } from "../native/error.ts";
import { divideRamp } from "../native/evict.ts";
import * as heads from "../native/heads.ts";
import * as native from "../native/ops.ts";
import type { Scope } from "../native/scope.ts";
import * as segments from "../native/segments.ts";
import type { Tensor } from "../native/tensor.ts";
import type { CacheRows, Ops, Queries, Rows, Scores, WindowStats } from "../plugin/index.ts";
import { HookBlockOps } from "./block-ops.ts";
import { own, TensorQueries, TensorRows, TensorScores } from "./handles.ts";
import type { HookLayer } from "./layer.ts";
import { HookPageOps } from "./page-ops.ts";

/** The ops of one hook call; their results die with the scope. */
export class HookOps implements Ops {
  constructor(
    private readonly layer: HookLayer,
    private readonly scope: Scope,
  ) {}

  windowStats(queries: Queries, keys: CacheRows, options: { reduce?: "mean" | "max" | "sum" } = {}): WindowStats {
    const q = own(queries, TensorQueries, "ops.windowStats").tensor;
    if (keys.kind !== "keys") throw new KvaError("plugin", "ops.windowStats reads layer.keys, not layer.values");
    const { cache, scale, maySync } = this.layer.state;
    const run = (out: native.WindowOutputs) =>
      native.windowStats(cache, this.layer.index, q, scale, options.reduce ?? "mean", out);
    const part = (name: "mean" | "variance" | "maximum") => (): Scores => {
      const out = this.scores(this.layer.length - q.rows);
      run({ [name]: out.tensor });
      return out;
    };
    const totals = () => {
      if (!maySync)
        throw new KvaError("plugin", "windowStats().totals waits for the device: declare hostSync in needs");
      const scalars = this.scope.tensor("float32", 1, 2, "scratch");
      run({ scalars });
      const [entropy = 0, variance = 0] = scalars.toFloats();
      return { entropy, variance };
    };
    return lazy({ mean: part("mean"), variance: part("variance"), maximum: part("maximum"), totals });
  }

  columnSums(reduce: "sum" | "max" = "sum"): Scores {
    const { cache, chunk, scale } = this.layer.state;
    if (!chunk) throw new KvaError("plugin", "ops.columnSums works in the chunk hook");
    if (!chunk.lse) throw new KvaError("plugin", "ops.columnSums needs `lse: true` in needs");
    const out = this.scores(this.layer.length);
    out.tensor.fill(0);
    const { first, queries, lse, blocks } = chunk;
    const { index } = this.layer;
    if (blocks) columnSumsBlocks(cache, index, first, queries, lse, scale, reduce, blocks, out.tensor);
    else native.columnSums(cache, index, first, queries, lse, scale, reduce, out.tensor);
    return out;
  }

  attention(queries: Queries): Scores {
    const q = own(queries, TensorQueries, "ops.attention").tensor;
    const { cache, scale } = this.layer.state;
    const { index, length, heads, groupSize } = this.layer;
    const first = length - q.rows;
    const lse = this.scope.tensor("float32", heads, q.rows, "scratch");
    const attended = this.scope.tensor(q.dtype, q.rows, q.columns, "scratch");
    native.attentionPrefill(cache, index, first, q, scale, 0, attended, lse);
    const sums = this.scores(length);
    sums.tensor.fill(0);
    native.columnSums(cache, index, first, q, lse, scale, "sum", sums.tensor);
    return this.combine(1 / (groupSize * q.rows), sums, 0);
  }

  headsMean(scores: Scores): Scores {
    const x = own(scores, TensorScores, "ops.headsMean").tensor;
    const out = this.like(x);
    heads.rowsMean(x, out.tensor);
    return out;
  }

  sums(scores: Scores): Scores {
    const x = own(scores, TensorScores, "ops.sums").tensor;
    const out = this.like(x, 1);
    heads.rowSums(x, out.tensor);
    return out;
  }

  similarity(keys: CacheRows): Scores {
    if (keys.kind !== "keys") throw new KvaError("plugin", "ops.similarity reads layer.keys, not layer.values");
    const out = this.scores(this.layer.length);
    heads.keySimilarity(this.layer.state.cache, this.layer.index, out.tensor);
    return out;
  }

  futureAttention(options: { firstRow: number; positions: number; covariance: boolean }): Scores {
    const { cache, moments, scale, promptTokens, rope } = this.layer.state;
    if (!moments) throw new KvaError("plugin", "ops.futureAttention needs `queryMoments` in needs");
    const { firstRow, positions, covariance } = options;
    const out = this.scores(this.layer.length);
    out.tensor.fill(0);
    const { tensor, seen } = moments;
    heads.futureAttention(
      cache,
      this.layer.index,
      {
        moments: tensor,
        seen,
        firstPosition: promptTokens,
        positions,
        rope: rope(this.scope),
        scale,
        firstRow,
        covariance,
      },
      this.scope.view(out.tensor, 0, out.rows, firstRow, out.columns - firstRow),
    );
    return out;
  }

  multiply(x: Scores, y: Scores): Scores {
    const [a, b] = [own(x, TensorScores, "ops.multiply").tensor, own(y, TensorScores, "ops.multiply").tensor];
    const out = this.like(a);
    heads.multiply(a, b, out.tensor);
    return out;
  }

  norms(rows: CacheRows, p: 1 | 2 = 2): Scores {
    const out = this.scores(this.layer.length);
    native.rowNorms(this.layer.state.cache, this.layer.index, rows.kind, p, out.tensor);
    return out;
  }

  channelScores(queries: Queries): Scores {
    const q = own(queries, TensorQueries, "ops.channelScores").tensor;
    const out = this.scores(this.layer.headDim);
    segments.channelScores(this.layer.state.cache, this.layer.index, q, out.tensor);
    return out;
  }

  pool(scores: Scores, kind: "max" | "avg", width: number): Scores {
    const x = own(scores, TensorScores, "ops.pool").tensor;
    const out = this.like(x);
    native.pool(x, kind, width, out.tensor);
    return out;
  }

  combine(a: number, x: Scores, b: number, y?: Scores): Scores {
    const first = own(x, TensorScores, "ops.combine").tensor;
    const out = this.like(first);
    native.combine(a, first, b, y === undefined ? null : own(y, TensorScores, "ops.combine").tensor, out.tensor);
    return out;
  }

  divideRamp(scores: Scores, start: number, step: number): Scores {
    const { tensor } = own(scores, TensorScores, "ops.divideRamp");
    const out = this.like(tensor);
    divideRamp(tensor, start, step, out.tensor);
    return out;
  }

  pad(scores: Scores, columns: number, value: number): Scores {
    const { tensor } = own(scores, TensorScores, "ops.pad");
    const out = this.like(tensor, columns);
    out.tensor.fill(value);
    tensor.copyTo(this.scope.view(out.tensor, 0, tensor.rows, 0, tensor.columns));
    return out;
  }

  slice(scores: Scores, first: number, count: number): Scores {
    const { tensor } = own(scores, TensorScores, "ops.slice");
    return new TensorScores(this.scope.view(tensor, 0, tensor.rows, first, count));
  }

  fill(scores: Scores, first: number, count: number, value: number): Scores {
    const { tensor } = own(scores, TensorScores, "ops.fill");
    if (count > 0) this.scope.view(tensor, 0, tensor.rows, first, count).fill(value);
    return scores;
  }

  pin(scores: Scores, rows: Rows): Scores {
    const { tensor } = own(scores, TensorScores, "ops.pin");
    const { tensor: index, counts } = own(rows, TensorRows, "ops.pin");
    if (counts) throw new KvaError("plugin", "ops.pin takes rows of which every head has as many");
    heads.fillAt(tensor, index, Infinity);
    return scores;
  }

  topk(scores: Scores, k: number | readonly number[]): Rows {
    const x = own(scores, TensorScores, "ops.topk").tensor;
    if (typeof k === "number") {
      const index = this.scope.on(x.context).tensor("int32", x.rows, k, "scratch");
      native.topk(x, k, index);
      return new TensorRows(index);
    }
    const wrong = k.find((count) => !(Number.isInteger(count) && count >= 0 && count <= x.columns));
    if (k.length !== x.rows || wrong !== undefined) {
      const what = `of each of ${x.rows} heads, whole numbers from 0 to ${x.columns}`;
      throw new KvaError("plugin", `ops.topk(scores, [${k}]): it takes the numbers of rows ${what}`);
    }
    const scope = this.scope.on(x.context);
    const counts = scope.ints(Int32Array.from(k));
    const index = scope.tensor("int32", x.rows, Math.max(1, ...k), "scratch");
    heads.topkEach(x, counts, index);
    return new TensorRows(index, k);
  }

  bestPerHead(scores: Scores, k: number): number[] {
    if (!this.layer.state.maySync)
      throw new KvaError("plugin", "ops.bestPerHead waits for the device: declare hostSync in needs");
    const x = own(scores, TensorScores, "ops.bestPerHead").tensor;
    const counts = this.scope.on(x.context).tensor("int32", 1, x.rows, "scratch");
    heads.topkCounts(x, k, counts);
    return Array.from(counts.toInts());
  }

  get blocks(): HookBlockOps {
    const { pass } = this.layer.state;
    if (!pass) throw new KvaError("plugin", "ops.blocks works in the select hook of prefill");
    return new HookBlockOps(this.layer.index, this.layer.state, this.scope, pass.kept);
  }

  get pages(): HookPageOps {
    if (!this.layer.decoding)
      throw new KvaError(
        "plugin",
        'ops.pages works in the select hook of decode: declare `selects: "decode"` in needs',
      );
    return new HookPageOps();
  }

  read(scores: Scores): Float32Array {
    if (!this.layer.state.maySync)
      throw new KvaError("plugin", "ops.read waits for the device: declare hostSync in needs");
    return own(scores, TensorScores, "ops.read").tensor.toFloats();
  }

  private scores(columns: number): TensorScores {
    return new TensorScores(this.scope.tensor("float32", this.layer.kvHeads, columns, "scratch"));
  }

  /** rows as x has, on its device: scores of an earlier layer may lie elsewhere */
  private like(x: Tensor, columns = x.columns): TensorScores {
    return new TensorScores(this.scope.on(x.context).tensor("float32", x.rows, columns, "scratch"));
  }
}

/** Properties that are computed when first read. */
function lazy<T extends object>(makers: { [K in keyof T]: () => T[K] }): T {
  const out = {} as T;
  for (const key of Object.keys(makers) as (keyof T)[]) {
    let value: T[typeof key] | undefined;
    Object.defineProperty(out, key, {
      enumerable: true,
      get: () => {
        value ??= makers[key]();
        return value;
      },
    });
  }
  return out;
}

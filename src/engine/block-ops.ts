// ops.blocks: the operations of the select hook over the native tensors of one layer.
import * as native from "../native/blocks.ts";
import { KvaError } from "../native/error.ts";
import type { Scope } from "../native/scope.ts";
import type { Tensor } from "../native/tensor.ts";
import type {
  Band,
  BlockOps,
  BlockScores,
  Blocks,
  Bounds,
  CacheRows,
  Counts,
  Marks,
  Means,
  Queries,
  Scores,
  WindowSums,
} from "../plugin/index.ts";
import { own, TensorQueries, TensorScores } from "./handles.ts";
import type { LayerState } from "./layer.ts";

/** Bytes that the scores of the heads at work may take. */
const GROUP_BYTES = 64 << 20;

/** Heads whose scores fp32 `[blocks, blocks]` are there together: whole groups that fit the budget, one at least. */
export function headsAtOnce(heads: number, kvHeads: number, blocks: number): number {
  const group = heads / kvHeads;
  const groups = Math.max(1, Math.floor(GROUP_BYTES / (group * blocks * blocks * 4)));
  return Math.min(heads, groups * group);
}

class TensorMeans implements Means {
  constructor(readonly tensor: Tensor) {}
  get rows(): number {
    return this.tensor.rows;
  }
}

class TensorCounts implements Counts {
  constructor(readonly tensor: Tensor) {}
  get heads(): number {
    return this.tensor.columns;
  }
}

class TensorMarks implements Marks {
  constructor(
    readonly tensor: Tensor,
    readonly columns: number,
  ) {}
}

class GroupedScores implements BlockScores {
  constructor(
    readonly block: number,
    /** scores of heads [first, first + heads): out `[heads * blocks, blocks]` */
    readonly compute: (scope: Scope, first: number, heads: number, out: Tensor) => void,
  ) {}
}

/** A set of blocks of the whole pass. */
export class TensorBlocks implements Blocks, native.ReadSet {
  readonly firstBlock = 0;
  readonly kinds: Int32Array;
  constructor(
    readonly bits: Tensor,
    readonly heads: number,
    readonly block: number,
    readonly rows: number,
  ) {
    this.kinds = new Int32Array(heads);
  }
}

const words = (columns: number): number => Math.ceil(columns / 32);

export class HookBlockOps implements BlockOps {
  constructor(
    private readonly index: number,
    private readonly state: LayerState,
    private readonly scope: Scope,
    /** where sets of blocks live: past the hook, until attention has read them */
    private readonly kept: Scope,
  ) {}

  private get cache() {
    return this.state.cache;
  }
  private get length(): number {
    return this.state.promptTokens;
  }

  windowSums(queries: Queries, keys: CacheRows, block: number): WindowSums {
    const q = own(queries, TensorQueries, "ops.blocks.windowSums").tensor;
    if (keys.kind !== "keys") throw new KvaError("plugin", "ops.blocks.windowSums reads layer.keys, not layer.values");
    const blocks = Math.ceil(this.length / block);
    const out = {
      columns: this.scores(this.length),
      diagonals: this.scores(this.length),
      columnBlocks: this.scores(blocks),
      diagonalBlocks: this.scores(blocks),
    };
    native.windowSums(this.cache, this.index, q, this.state.scale, block, {
      columns: out.columns.tensor,
      diagonals: out.diagonals.tensor,
      columnBlocks: out.columnBlocks.tensor,
      diagonalBlocks: out.diagonalBlocks.tensor,
    });
    return out;
  }

  means(of: Queries | CacheRows, block: number): Means {
    const { kvHeads, headDim } = this.cache.shape;
    if ("kind" in of) {
      if (of.kind !== "keys") throw new KvaError("plugin", "ops.blocks.means reads layer.keys, not layer.values");
      const out = this.scope.tensor("float32", Math.ceil(this.length / block), kvHeads * headDim, "scratch");
      native.keyBlockMean(this.cache, this.index, block, out);
      return new TensorMeans(out);
    }
    const q = own(of, TensorQueries, "ops.blocks.means").tensor;
    const out = this.scope.tensor("float32", Math.ceil(q.rows / block), q.columns, "scratch");
    native.blockMean(q, block, out);
    return new TensorMeans(out);
  }

  pooledAttention(query: Means, keys: Means): Scores {
    const q = own(query, TensorMeans, "ops.blocks.pooledAttention").tensor;
    const k = own(keys, TensorMeans, "ops.blocks.pooledAttention").tensor;
    if (q.rows !== 1) throw new KvaError("plugin", `ops.blocks.pooledAttention takes one mean query, not ${q.rows}`);
    const { heads, kvHeads } = this.cache.shape;
    const out = this.scores(k.rows);
    native.pooledAttention(q, k, heads, kvHeads, this.state.scale, null, out.tensor);
    return out;
  }

  pooledScores(queries: Means, keys: Means, block: number): BlockScores {
    const q = own(queries, TensorMeans, "ops.blocks.pooledScores").tensor;
    const k = own(keys, TensorMeans, "ops.blocks.pooledScores").tensor;
    const { heads, kvHeads, headDim } = this.cache.shape;
    const group = heads / kvHeads;
    return new GroupedScores(block, (scope, first, count, out) => {
      const from = scope.view(q, 0, q.rows, first * headDim, count * headDim);
      const to = scope.view(k, 0, k.rows, (first / group) * headDim, (count / group) * headDim);
      native.pooledAttention(from, to, count, count / group, this.state.scale, 0, out);
    });
  }

  antidiagonalScores(
    queries: Queries,
    keys: CacheRows,
    { stride, block, norm = 1 }: { stride: number; block: number; norm?: number },
  ): BlockScores {
    const q = own(queries, TensorQueries, "ops.blocks.antidiagonalScores").tensor;
    if (keys.kind !== "keys") throw new KvaError("plugin", "ops.blocks.antidiagonalScores reads layer.keys");
    const { headDim } = this.cache.shape;
    const how = { firstRow: this.length - q.rows, scale: this.state.scale / (stride * norm), stride, block };
    return new GroupedScores(block, (scope, firstHead, heads, out) => {
      const some = scope.view(q, 0, q.rows, firstHead * headDim, heads * headDim);
      native.antidiagonalScores(this.cache, this.index, some, { ...how, firstHead }, out);
    });
  }

  distance(p: Scores, q: Scores): Scores {
    const first = own(p, TensorScores, "ops.blocks.distance").tensor;
    const second = own(q, TensorScores, "ops.blocks.distance").tensor;
    const out = new TensorScores(this.scope.tensor("float32", 1, first.rows, "scratch"));
    native.jsDistance(first, second, out.tensor);
    return out;
  }

  countWithin(scores: Scores, share: number): Counts {
    const x = own(scores, TensorScores, "ops.blocks.countWithin").tensor;
    const counts = this.counts(x.rows);
    native.cumulative(x, { shares: new Float64Array(x.rows).fill(share), inclusive: false }, { counts });
    return new TensorCounts(counts);
  }

  countReaching(scores: Scores, share: number, { least, most, forced }: Bounds & { forced: number }): Counts {
    const x = own(scores, TensorScores, "ops.blocks.countReaching").tensor;
    const counts = this.counts(x.rows);
    const shares = new Float64Array(x.rows).fill(share);
    const marks = this.firstColumns(x.rows, x.columns, forced);
    native.cumulative(x, { shares, inclusive: true, least, most, forced: marks }, { counts });
    return new TensorCounts(counts);
  }

  divide(counts: Counts, { offset, divisor, least, most }: Bounds & { offset: number; divisor: number }): Counts {
    const out = this.copyOf(own(counts, TensorCounts, "ops.blocks.divide"));
    native.countsDivide(out.tensor, offset, divisor, least, most);
    return out;
  }

  replaceBelow(counts: Counts, scores: Scores, limit: number, value: number): Counts {
    const out = this.copyOf(own(counts, TensorCounts, "ops.blocks.replaceBelow"));
    native.countsWhere(own(scores, TensorScores, "ops.blocks.replaceBelow").tensor, limit, value, out.tensor);
    return out;
  }

  best(scores: Scores, counts: Counts, { forced }: { forced: number }): Marks {
    const x = own(scores, TensorScores, "ops.blocks.best").tensor;
    const bits = this.zeros(this.scope, x.rows, words(x.columns));
    const marks = this.firstColumns(x.rows, x.columns, forced);
    native.topBits(x, own(counts, TensorCounts, "ops.blocks.best").tensor, marks, bits);
    return new TensorMarks(bits, x.columns);
  }

  lines(
    vertical: Marks,
    slash: Marks,
    { block, before = 0, after = 0 }: { block: number; before?: number; after?: number },
  ): Blocks {
    const blocks = this.emptySet(block);
    const columns = own(vertical, TensorMarks, "ops.blocks.lines").tensor;
    const distances = own(slash, TensorMarks, "ops.blocks.lines").tensor;
    native.blocksVerticalSlash(columns, distances, before, after, blocks);
    return blocks;
  }

  band(block: number, { sinks, recent, from = 0 }: Band, into?: Blocks): Blocks {
    const set = into === undefined ? this.emptySet(block) : own(into, TensorBlocks, "ops.blocks.band");
    if (from === 0) native.blocksBand(set, sinks, recent);
    for (let head = 0; from > 0 && from < set.rows && head < set.heads; head++) {
      const bits = this.scope.view(set.bits, head * set.rows + from, set.rows - from);
      native.blocksBand({ bits, heads: 1, firstBlock: from }, sinks, recent);
    }
    return set;
  }

  readAll(blocks: Blocks, rows: number): Blocks {
    const set = own(blocks, TensorBlocks, "ops.blocks.readAll");
    if (rows <= 0) return set;
    const first = Math.floor(Math.max(0, this.length - rows) / set.block);
    for (let head = 0; head < set.heads; head++) {
      this.scope.view(set.bits, head * set.rows + first, set.rows - first).fill(-1); // every bit
    }
    return set;
  }

  cover(
    scores: BlockScores,
    shares: number | readonly number[],
    { forced, extraRows = 0 }: { forced: Blocks; extraRows?: number },
  ): Blocks {
    const from = own(scores, GroupedScores, "ops.blocks.cover");
    const must = own(forced, TensorBlocks, "ops.blocks.cover");
    const set = this.emptySet(from.block);
    const { heads } = this.cache.shape;
    const all = Float64Array.from({ length: heads }, (_, head) =>
      typeof shares === "number" ? shares : (shares[head] ?? Number.NaN),
    );
    all.forEach((share, head) => {
      if (!(share >= 0)) throw new KvaError("plugin", `ops.blocks.cover: the share of head ${head} is ${share}`);
      set.kinds[head] = share >= 1 ? 1 : 0;
    });
    this.byHeads(from, set, (scope, first, count, x, bits) => {
      const forcedBits = scope.view(must.bits, first * set.rows, count * set.rows);
      const how = { shares: all.slice(first, first + count).map((share) => Math.min(share, 1)), inclusive: true };
      native.cumulative(x, { ...how, forced: forcedBits, extra: 1, extraRows }, { bits });
    });
    return set;
  }

  coverMap(
    blocks: Blocks,
    scores: BlockScores,
    share: number,
    { gate, limit }: { gate: Scores; limit: number },
  ): Blocks {
    const from = own(scores, GroupedScores, "ops.blocks.coverMap");
    const set = own(blocks, TensorBlocks, "ops.blocks.coverMap");
    const values = own(gate, TensorScores, "ops.blocks.coverMap").tensor;
    this.byHeads(from, set, (scope, first, count, x, bits) => {
      const shares = new Float64Array(count).fill(share);
      const some = { values: scope.view(values, 0, 1, first, count), below: limit };
      native.cumulative(x, { shares, flat: true, inclusive: false, gate: some }, { bits });
    });
    return set;
  }

  /** body for whole groups of heads whose scores fit the budget */
  private byHeads(
    scores: GroupedScores,
    set: TensorBlocks,
    body: (scope: Scope, first: number, heads: number, x: Tensor, bits: Tensor) => void,
  ): void {
    const { heads, kvHeads } = this.cache.shape;
    const step = headsAtOnce(heads, kvHeads, set.rows);
    const whole = this.scope.tensor("float32", step * set.rows, set.rows, "scratch");
    for (let first = 0; first < heads; first += step) {
      const count = Math.min(step, heads - first);
      const views = this.scope.on(this.scope.context);
      const x = views.view(whole, 0, count * set.rows);
      const bits = views.view(set.bits, first * set.rows, count * set.rows);
      scores.compute(views, first, count, x);
      body(views, first, count, x, bits);
    }
  }

  private emptySet(block: number): TensorBlocks {
    if (block !== 64 && block !== 128) throw new KvaError("plugin", `a block has 64 or 128 rows, not ${block}`);
    const rows = Math.ceil(this.length / block);
    const { heads } = this.cache.shape;
    return new TensorBlocks(this.zeros(this.kept, heads * rows, words(rows)), heads, block, rows);
  }

  /** bits of the first `count` columns of each row; null where there are none */
  private firstColumns(rows: number, columns: number, count: number): Tensor | null {
    if (count <= 0) return null;
    if (count > 24) throw new KvaError("plugin", `at most 24 columns can be forced, not ${count}`);
    const bits = this.zeros(this.scope, rows, words(columns));
    this.scope.view(bits, 0, rows, 0, 1).fill(2 ** count - 1);
    return bits;
  }

  private copyOf(counts: TensorCounts): TensorCounts {
    const out = this.counts(counts.heads);
    counts.tensor.copyTo(out);
    return new TensorCounts(out);
  }

  private counts(heads: number): Tensor {
    return this.scope.tensor("int32", 1, heads, "scratch");
  }

  private zeros(scope: Scope, rows: number, columns: number): Tensor {
    const bits = scope.tensor("int32", rows, columns, "scratch");
    bits.fill(0);
    return bits;
  }

  private scores(columns: number): TensorScores {
    return new TensorScores(this.scope.tensor("float32", this.cache.shape.heads, columns, "scratch"));
  }
}

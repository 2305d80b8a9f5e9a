// Layer and Ops as hooks see them, over the native tensors of one sequence. What ops return is freed when the hook ends.
import { columnSumsBlocks } from "../native/blocks.ts";
import { KvaError } from "../native/error.ts";
import { divideRamp } from "../native/evict.ts";
import * as heads from "../native/heads.ts";
import type { KvCache, Rotation } from "../native/kv.ts";
import * as native from "../native/ops.ts";
import type { Scope } from "../native/scope.ts";
import * as segments from "../native/segments.ts";
import type { Tensor } from "../native/tensor.ts";
import type {
  CacheRows,
  Layer,
  MergeOptions,
  Ops,
  Quantization,
  Queries,
  Rows,
  Scores,
  WindowStats,
} from "../plugin/index.ts";
import type { ChunkState } from "./attend.ts";
import { HookBlockOps } from "./block-ops.ts";
import { own, TensorQueries, TensorRows, TensorScores } from "./handles.ts";
import type { DecodeOp } from "./recorded.ts";

/** What the select hook sees of a layer's prefill. */
export interface Pass {
  /** the rotated queries of the whole prompt, `[promptTokens, heads * headDim]` */
  queries: Tensor;
  /** owns what attention reads after the hook */
  kept: Scope;
}

/** What a hook may touch: a sequence's cache on the layer's device, and the kept queries of the layer. */
export interface LayerState {
  cache: KvCache;
  /** the cache on the device of another layer */
  cacheOf(layer: number): KvCache;
  promptTokens: number;
  scale: number;
  /** post-RoPE queries of the last prompt tokens of a layer; null where the method asked for none */
  ring(layer: number): Tensor | null;
  /** numbers of this plugin's side arrays */
  sides: ReadonlyMap<string, number>;
  /** the chunk whose hook this is; null in other hooks */
  chunk: ChunkState | null;
  /** the pass whose select hook this is; null in other hooks */
  pass: Pass | null;
  /** of the layer's queries before rotation; null where the method asked for none */
  moments: { tensor: Tensor; seen: number } | null;
  /** the rotation that applies to this prompt */
  rope(scope: Scope): Rotation;
  cascade: boolean;
  maySync: boolean;
  unrotatedRows: number;
  /** rows that shrunk storage gets for tokens to come */
  spareRows: number;
  /** decode hook: where ops are recorded; null in prefill */
  record: DecodeOp[] | null;
  /** prefill: runs a decode op at once */
  apply(layer: number, op: DecodeOp): void;
}

/** Stands for "as many as there are" where each head has its own limit. */
const MOST_ROWS = 2 ** 31 - 1;

/** The layer of one sequence inside one hook call. */
export class HookLayer implements Layer {
  readonly keys: CacheRows = { kind: "keys" };
  readonly values: CacheRows = { kind: "values" };
  constructor(
    readonly index: number,
    readonly state: LayerState,
    private readonly scope: Scope,
  ) {}

  get layers(): number {
    return this.state.cache.shape.layers;
  }
  get heads(): number {
    return this.state.cache.shape.heads;
  }
  get kvHeads(): number {
    return this.state.cache.shape.kvHeads;
  }
  get groupSize(): number {
    return this.heads / this.kvHeads;
  }
  get headDim(): number {
    return this.state.cache.shape.headDim;
  }
  get length(): number {
    return Math.max(...this.state.cache.lengths(this.index));
  }
  get promptTokens(): number {
    return this.state.promptTokens;
  }

  queries(count = this.promptTokens): TensorQueries {
    const { pass } = this.state;
    if (pass) {
      const rows = Math.min(count, pass.queries.rows);
      return new TensorQueries(this.scope.view(pass.queries, pass.queries.rows - rows, rows));
    }
    const ring = this.state.ring(this.index);
    if (!ring) throw new KvaError("plugin", `layer.queries(${count}) needs \`queryRing: ${count}\` in needs`);
    const wanted = Math.min(count, this.state.promptTokens);
    if (wanted > ring.rows) {
      throw new KvaError("plugin", `layer.queries(${count}): needs.queryRing keeps only the last ${ring.rows}`);
    }
    return new TensorQueries(this.scope.view(ring, ring.rows - wanted, wanted));
  }

  at(layer: number): HookLayer {
    if (!this.state.cascade) throw new KvaError("plugin", "layer.at needs `cascade: true` in needs");
    if (!(Number.isInteger(layer) && layer >= 0 && layer <= this.index)) {
      throw new KvaError("plugin", `layer.at(${layer}): only layers 0 to ${this.index} are there yet`);
    }
    const cache = this.state.cacheOf(layer);
    return new HookLayer(layer, { ...this.state, cache }, this.scope.on(cache.context));
  }

  side(name: string): TensorScores {
    const out = new TensorScores(this.scope.tensor("float32", this.kvHeads, this.length, "scratch"));
    this.state.cache.side(this.index, this.sideNumber(name), "read", out.tensor);
    return out;
  }

  setSide(name: string, scores: Scores): void {
    const x = this.here(own(scores, TensorScores, "layer.setSide").tensor);
    this.state.cache.side(this.index, this.sideNumber(name), "write", x);
  }

  addSide(name: string, scores: Scores): void {
    const x = this.here(own(scores, TensorScores, "layer.addSide").tensor);
    this.state.cache.side(this.index, this.sideNumber(name), "add", x);
  }

  private sideNumber(name: string): number {
    const number = this.state.sides.get(name);
    if (number !== undefined) return number;
    const known = [...this.state.sides.keys()].join(", ") || "none";
    throw new KvaError("plugin", `there is no side array "${name}": needs.sideArrays names ${known}`);
  }

  accumulateProbs(side: string, options: { factor?: number; decay?: number; over?: "group" | "heads" } = {}): void {
    const { factor = 1, decay = 1, over = "group" } = options;
    const shared = over === "heads";
    this.recorder("accumulateProbs").push({
      kind: "accumulateProbs",
      side: this.sideNumber(side),
      factor,
      decay,
      shared,
    });
  }

  dropLowest(side: string, rows: number, options: { recent?: number; interval?: number } = {}): void {
    const { recent = 0, interval = 1 } = options;
    if (!(Number.isInteger(rows) && rows >= 1 && recent >= 0 && recent <= rows)) {
      throw new KvaError(
        "plugin",
        `layer.dropLowest("${side}", ${rows}, {recent: ${recent}}): recent must be within rows`,
      );
    }
    const op = { side: this.sideNumber(side), rows, recent };
    this.recorder("dropLowest").push(
      interval === 1 ? { kind: "dropLowest", ...op } : { kind: "dropLowestEvery", ...op, interval },
    );
  }

  noteNorms(side: string, options: { p?: 1 | 2; factor?: number } = {}): void {
    const { p = 2, factor = 1 } = options;
    this.recorder("noteNorms").push({ kind: "noteNorms", side: this.sideNumber(side), p, factor });
  }

  noteSimilarity(side: string, rows: number, options: { factor?: number } = {}): void {
    const { factor = 1 } = options;
    this.recorder("noteSimilarity").push({ kind: "noteSimilarity", side: this.sideNumber(side), rows, factor });
  }

  dropPooled(rows: number, options: { recent: number; width: number }): void {
    this.recorder("dropPooled").push({ kind: "dropPooled", rows, ...options });
  }

  mergeOldest(side: string, rows: number, options: MergeOptions): void {
    const op: DecodeOp = { kind: "mergeOldest", side: this.sideNumber(side), rows, ...options };
    if (this.state.record) this.state.record.push(op);
    else for (let left = this.length; left > rows; left--) this.state.apply(this.index, op);
  }

  keep(rows: Rows | null, ranges: { first?: number; last?: number; heads?: readonly number[] } = {}): void {
    if (this.state.record)
      throw new KvaError("plugin", "layer.keep works in the prefill hook; in decode use keepAtMost");
    const chosen = rows === null ? null : own(rows, TensorRows, "layer.keep");
    const counts = chosen?.counts ? Int32Array.from(chosen.counts) : undefined;
    const { first = 0, last = 0, heads: of } = ranges;
    if (of) {
      if (rows !== null) throw new KvaError("plugin", "layer.keep takes chosen rows or a list of heads, not both");
      this.keepEnds(first, last, of);
      return;
    }
    const index = chosen && this.here(chosen.tensor);
    this.state.cache.keep(this.index, index, first, last, this.state.spareRows, counts);
  }

  /** The first and the last rows of some heads; the others stay whole. */
  private keepEnds(first: number, last: number, of: readonly number[]): void {
    const wrong = of.find((head) => !(Number.isInteger(head) && head >= 0 && head < this.kvHeads));
    if (wrong !== undefined)
      throw new KvaError("plugin", `layer.keep: KV head ${wrong}, the layer has ${this.kvHeads}`);
    const { length } = this;
    if (first + last >= length) return;
    const before = length - last;
    const counts = Array.from({ length: this.kvHeads }, (_, head) => (of.includes(head) ? first : before));
    const equal = this.scope.tensor("float32", this.kvHeads, before, "scratch"); // among equals, the first ones are chosen
    equal.fill(0);
    const index = this.scope.tensor("int32", this.kvHeads, before, "scratch");
    const device = this.scope.ints(Int32Array.from(counts));
    heads.topkEach(equal, device, index);
    this.state.cache.keep(this.index, index, 0, last, this.state.spareRows, Int32Array.from(counts));
  }

  keepAtMost(rows: number | readonly number[], options: { sinks?: number } = {}): void {
    const sinks = options.sinks ?? 0;
    const each = typeof rows === "number" ? [rows] : rows;
    if (!(sinks >= 0 && each.every((count) => (Number.isInteger(count) || count === Infinity) && count > sinks))) {
      throw new KvaError(
        "plugin",
        `layer.keepAtMost(${rows}, {sinks: ${sinks}}): rows must be a whole number above sinks`,
      );
    }
    if (typeof rows === "number") {
      this.recorder("keepAtMost").push({ kind: "keepAtMost", rows, sinks });
      return;
    }
    if (rows.length !== this.kvHeads) {
      throw new KvaError("plugin", `layer.keepAtMost takes one number or ${this.kvHeads}, one of each KV head`);
    }
    const most = rows.map((count) => Math.min(count, MOST_ROWS));
    this.recorder("keepAtMost").push({ kind: "keepAtMostEach", rows: most, sinks });
  }

  rotateSinks(sinks: number): void {
    if (sinks > this.state.unrotatedRows) {
      throw new KvaError("plugin", `layer.rotateSinks(${sinks}) needs \`unrotatedKeys: ${sinks}\` in needs`);
    }
    const op: DecodeOp = { kind: "rotateSinks", sinks };
    if (this.state.record) this.state.record.push(op);
    else this.state.apply(this.index, op);
  }

  keepChannels(channels: Rows, options: { last?: number } = {}): void {
    if (this.state.record) throw new KvaError("plugin", "layer.keepChannels works in the prefill hook");
    const index = own(channels, TensorRows, "layer.keepChannels").tensor;
    segments.keepChannels(this.state.cache, this.index, index, options.last ?? 0, this.state.spareRows);
  }

  quantize(how: Quantization): void {
    if (this.state.record)
      throw new KvaError("plugin", "layer.quantize works in the prefill hook; in decode use flush");
    segments.quantize(this.state.cache, this.index, how, this.state.spareRows);
  }

  flush(): void {
    this.recorder("flush").push({ kind: "flush" });
  }

  /** a tensor on this layer's device: of another layer's it is a copy */
  private here(tensor: Tensor): Tensor {
    const { context } = this.state.cache;
    if (tensor.context === context) return tensor;
    const copy = this.scope.tensor(tensor.dtype, tensor.rows, tensor.columns, "scratch");
    tensor.copyToPeer(copy);
    return copy;
  }

  private recorder(op: string): DecodeOp[] {
    if (this.state.record) return this.state.record;
    throw new KvaError("plugin", `layer.${op} works in the decode hook`);
  }
}

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
    if (!pass) throw new KvaError("plugin", "ops.blocks works in the select hook");
    return new HookBlockOps(this.layer.index, this.layer.state, this.scope, pass.kept);
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

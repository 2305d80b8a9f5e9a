// The layer as hooks see it, over the native tensors of one sequence.
import { KvaError } from "../native/error.ts";
import * as heads from "../native/heads.ts";
import { EVERY_ROW, type KvCache, type Rotation } from "../native/kv.ts";
import type { Scope } from "../native/scope.ts";
import * as segments from "../native/segments.ts";
import type { Tensor } from "../native/tensor.ts";
import type { CacheRows, Layer, MergeInto, MergeOptions, Quantization, Rows, Scores } from "../plugin/index.ts";
import type { ChunkState } from "./attend.ts";
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
  /** whether this is the select hook of decode */
  decoding: boolean;
  /** of the layer's queries before rotation; null where the method asked for none */
  moments: { tensor: Tensor; seen: number } | null;
  /** the rotation that applies to this prompt */
  rope(scope: Scope): Rotation;
  /** the layers that hooks of this plugin run in */
  hooked: readonly number[];
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
  get hooked(): readonly number[] {
    return this.state.hooked;
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

  get decoding(): boolean {
    return this.state.decoding;
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

  keepRanked(side: string, rows: number, options: { recent: number; width: number }): void {
    this.recorder("keepRanked").push({ kind: "keepRanked", side: this.sideNumber(side), rows, ...options });
  }

  mergeRecent(side: string, rows: number, options: MergeInto & { recent: number }): void {
    this.recorder("mergeRecent").push({ kind: "mergeRecent", side: this.sideNumber(side), rows, ...options });
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

  rotateSlots(): void {
    if (this.state.unrotatedRows !== EVERY_ROW) {
      throw new KvaError("plugin", 'layer.rotateSlots needs `unrotatedKeys: "all"` in needs');
    }
    const op: DecodeOp = { kind: "rotateSlots" };
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

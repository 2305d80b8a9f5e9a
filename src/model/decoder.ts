// The forward pass of a decoder-only transformer: layer-major prefill over packed sequences, and one decode step of a batch.
// Knows no plugin: what happens around attention comes in as callbacks.
import type { Batch, Rotation } from "../native/kv.ts";
import * as ops from "../native/ops.ts";
import { attentionDecodePages, type PageLists } from "../native/pages.ts";
import { Scope } from "../native/scope.ts";
import { type Context, type Dtype, Tensor } from "../native/tensor.ts";
import type { ModelConfig } from "./config.ts";
import { ropeDependsOnLength, ropeTable } from "./rope.ts";
import { StagedCache } from "./staged-cache.ts";
import type { Stage } from "./stages.ts";
import type { LayerWeights, Weights } from "./weights.ts";

/** A sequence of a prefill pass: `rows` tokens that start at `start` of the packed rows; its cache is empty before the pass. */
export interface PrefillSequence {
  cache: StagedCache;
  start: number;
  rows: number;
  /** rows that a layer's storage gets beyond the prompt when it is made */
  spareRows: number;
}

export interface PrefillHooks {
  /** queries of tokens [first, first + rows) of a sequence's prompt, before rotation: `[rows, heads * headDim]` */
  queries(sequence: number, first: number, queries: Tensor): void;
  /** attention of one sequence: q `[rows, heads * headDim]` holds its rotated queries, and the output afterwards */
  attend(layer: number, sequence: number, q: Tensor): Promise<void>;
  /** the layer is done: its cache may shrink */
  afterLayer(layer: number): void;
  /** between row chunks: a chance to answer others */
  breathe(): Promise<void>;
  /** before the layers of a stage are queued, where several prompts go through the stages one behind the other; the result leaves it */
  enter?(stage: number): Promise<() => void>;
}

/** What a decode step does besides the decoder's own work. */
export interface StepHooks {
  /** fp32 `[sequences * kvHeads, columns]`: takes attention's probabilities; null: they are not wanted */
  probs: Tensor | null;
  /** before a layer's attention: queues the choice of the pages it reads, mostRows rows of a head at most; null: it reads everything */
  choose(layer: number): (PageLists & { mostRows: number }) | null;
  /** queues what follows a layer's attention */
  after(layer: number): void;
}

/** Buffers of a decode step of one stage for a number of sequences; made once. */
export interface StepBuffers {
  sequences: number;
  hidden: Tensor;
  normed: Tensor;
  qkv: Tensor;
  /** the query and the key columns of qkv */
  queries: Tensor;
  keys: Tensor;
  attended: Tensor;
  branch: Tensor;
  gateUp: Tensor;
  activated: Tensor;
  /** of the last stage; elsewhere one element that nothing uses */
  logits: Tensor;
  /** i32 [1, sequences]: in the first stage the tokens to feed, in the last the sampled ones */
  ids: Tensor;
  rope: Rotation;
}

export class Decoder {
  readonly scale: number;
  /** one for each stage */
  private readonly fixedRopes: Rotation[] = [];

  /** stages: where the layers are, in order */
  constructor(
    readonly stages: readonly Stage[],
    readonly config: ModelConfig,
    readonly weights: Weights,
    readonly dtype: Dtype,
    readonly rowChunk: number,
  ) {
    this.scale = 1 / Math.sqrt(config.headDim);
    for (const { context } of stages) this.fixedRopes.push(this.rotation(context, 1, [0]));
  }

  /** of the first stage, which takes the tokens */
  get context(): Context {
    return this.stages[0]!.context;
  }

  /** the number of the stage that holds a layer */
  stageOf(layer: number): number {
    return this.stages.findIndex(({ end }) => layer < end);
  }

  /** Waits for all devices. */
  sync(): void {
    for (const { context } of this.stages) context.sync();
  }

  /** Frees what the decoder itself made; the weights are the caller's. */
  dispose(): void {
    for (const { invFreq } of this.fixedRopes) invFreq.dispose();
  }

  /** an empty cache for one sequence */
  newCache(sideArrays: number, unrotatedRows: number): StagedCache {
    const { layers, heads, kvHeads, headDim } = this.config;
    return StagedCache.create(this.stages, {
      layers,
      heads,
      kvHeads,
      headDim,
      dtype: this.dtype,
      sideArrays,
      unrotatedRows,
    });
  }

  private get queryColumns(): number {
    return this.config.heads * this.config.headDim;
  }

  private get qkvColumns(): number {
    return (this.config.heads + 2 * this.config.kvHeads) * this.config.headDim;
  }

  /** Frequencies for sequences of these lengths: one row each. */
  private rotation(context: Context, rows: number, lengths: readonly number[]): Rotation {
    const tables = lengths.map((length) => ropeTable(this.config, length));
    const width = tables[0]!.invFreq.length;
    const values = new Float32Array(rows * width);
    tables.forEach((table, row) => {
      values.set(table.invFreq, row * width);
    });
    const invFreq = Tensor.from(context, values, rows, width);
    return { invFreq, interleaved: this.config.ropeInterleaved, mscale: tables[0]!.mscale };
  }

  /** The rotation that applies to a sequence of `length` tokens on the scope's device; owned by the scope where it is its own. */
  rotationFor(scope: Scope, length: number): Rotation {
    if (!ropeDependsOnLength(this.config)) return this.fixedRopes[this.stageOn(scope.context)]!;
    const rope = this.rotation(scope.context, 1, [length]);
    scope.own(rope.invFreq);
    return rope;
  }

  private stageOn(context: Context): number {
    return this.stages.findIndex((stage) => stage.context === context);
  }

  /** sliding window of a layer; 0: none */
  window(layer: number): number {
    return this.config.slidingWindow !== null && this.config.slidingLayers[layer] ? this.config.slidingWindow : 0;
  }

  /**
   * Runs the packed prompts through all layers, a layer at a time; ids i32 `[1, rows]` on the first stage's device. Returns the
   * hidden states of all rows `[rows, hiddenSize]`, before the final norm, on the last stage's device; the scope owns them.
   */
  async prefill(
    scope: Scope,
    ids: Tensor,
    sequences: readonly PrefillSequence[],
    hooks: PrefillHooks,
  ): Promise<Tensor> {
    let hidden: Tensor | undefined;
    try {
      for (const [s, stage] of this.stages.entries()) {
        const leave = await hooks.enter?.(s);
        try {
          hidden = this.enterStage(stage, ids, hidden);
          await this.prefillStage(stage, hidden, sequences, hooks);
        } finally {
          leave?.();
        }
      }
    } catch (error) {
      hidden?.dispose();
      throw error;
    }
    return scope.own(hidden!);
  }

  /** the embedded tokens, or the hidden states of the stage before */
  private enterStage({ context }: Stage, ids: Tensor, before: Tensor | undefined): Tensor {
    const hidden = Tensor.create(context, this.dtype, ids.columns, this.config.hiddenSize);
    if (!before) ops.embed(this.weights.embed, ids, hidden);
    else {
      before.copyToPeer(hidden);
      before.dispose();
    }
    return hidden;
  }

  /** the layers of a stage, over hidden states on its device */
  private async prefillStage(
    stage: Stage,
    hidden: Tensor,
    sequences: readonly PrefillSequence[],
    hooks: PrefillHooks,
  ): Promise<void> {
    const { config, dtype, weights } = this;
    using inner = new Scope(stage.context);
    const rows = Math.min(this.rowChunk, hidden.rows);
    const buffers: ChunkBuffers = {
      normed: inner.tensor(dtype, rows, config.hiddenSize),
      wide: inner.tensor(dtype, rows, Math.max(this.qkvColumns, 2 * config.intermediateSize)),
      activated: inner.tensor(dtype, rows, config.intermediateSize),
      branch: inner.tensor(dtype, config.sandwichNorm ? rows : 1, config.hiddenSize),
    };
    const queries = inner.tensor(dtype, hidden.rows, this.queryColumns);
    const ropes = sequences.map((sequence) => this.rotationFor(inner, sequence.rows));

    for (let layer = stage.first; layer < stage.end; layer++) {
      for (const { cache, rows, spareRows } of sequences) cache.reserve(layer, rows + spareRows);
      for (const [from, count] of chunks(hidden.rows, rows)) {
        this.project(layer, hidden, queries, buffers, sequences, ropes, from, count, hooks.queries);
        await hooks.breathe();
      }
      for (const [s, { start, rows }] of sequences.entries()) {
        using q = queries.view(start, rows);
        await hooks.attend(layer, s, q);
      }
      for (const [from, count] of chunks(hidden.rows, rows)) {
        this.finishLayer(weights.layers[layer]!, hidden, queries, buffers, from, count);
        await hooks.breathe();
      }
      hooks.afterLayer(layer);
    }
  }

  /** norm, QKV, rotation and append for rows [from, from + count) of the packed pass */
  private project(
    layer: number,
    hidden: Tensor,
    queries: Tensor,
    buffers: ChunkBuffers,
    sequences: readonly PrefillSequence[],
    ropes: readonly Rotation[],
    from: number,
    count: number,
    watch: PrefillHooks["queries"],
  ): void {
    const w = this.weights.layers[layer]!;
    using scope = new Scope(hidden.context);
    const normed = scope.view(buffers.normed, 0, count);
    const qkv = scope.view(buffers.wide, 0, count, 0, this.qkvColumns);
    ops.rmsnorm(scope.view(hidden, from, count), w.inputNorm, this.config.normEps, normed);
    ops.linear(normed, w.qkv, w.qkvBias ?? null, qkv);
    this.normHeads(w, this.headViews(scope, qkv));
    sequences.forEach(({ cache, start, rows }, s) => {
      const first = Math.max(from, start);
      const end = Math.min(from + count, start + rows);
      if (first >= end) return;
      const part = scope.view(qkv, first - from, end - first);
      const q = scope.view(queries, first, end - first);
      watch(s, first - start, scope.view(part, 0, part.rows, 0, this.queryColumns));
      ops.ropeAppend(cache.of(layer), layer, first - start, part, q, ropes[s]!);
    });
  }

  /** Qwen3: norms over each query head and each key head */
  private normHeads(w: LayerWeights, { queries, keys }: HeadViews): void {
    if (!w.qNorm || !w.kNorm) return;
    ops.rmsnorm(queries, w.qNorm, this.config.normEps, queries);
    ops.rmsnorm(keys, w.kNorm, this.config.normEps, keys);
  }

  private headViews(scope: Scope, qkv: Tensor): HeadViews {
    const queries = scope.view(qkv, 0, qkv.rows, 0, this.queryColumns);
    const keys = scope.view(qkv, 0, qkv.rows, this.queryColumns, this.config.kvHeads * this.config.headDim);
    return { queries, keys };
  }

  private finishLayer(
    w: LayerWeights,
    hidden: Tensor,
    attended: Tensor,
    buffers: ChunkBuffers,
    from: number,
    count: number,
  ): void {
    using scope = new Scope(hidden.context);
    this.mix(w, {
      hidden: scope.view(hidden, from, count),
      attended: scope.view(attended, from, count),
      normed: scope.view(buffers.normed, 0, count),
      gateUp: scope.view(buffers.wide, 0, count, 0, 2 * this.config.intermediateSize),
      activated: scope.view(buffers.activated, 0, count),
      branch: scope.view(buffers.branch, 0, Math.min(count, buffers.branch.rows)),
    });
  }

  /** output projection, residual, norm, MLP, residual */
  private mix(w: LayerWeights, b: MixBuffers): void {
    const eps = this.config.normEps;
    this.addBranch(b.attended, w.o, w.oBias, w.postSelfAttnNorm, b);
    ops.rmsnorm(b.hidden, w.postAttentionNorm, eps, b.normed);
    ops.linearSiluMul(b.normed, w.gateUp, w.gateUpBias ?? null, b.gateUp, b.activated);
    this.addBranch(b.activated, w.down, w.downBias, w.postMlpNorm, b);
  }

  /** hidden += x * weight^T, through a norm of the branch where the family has one */
  private addBranch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | undefined,
    norm: Tensor | undefined,
    b: MixBuffers,
  ): void {
    if (!norm) {
      ops.linear(x, weight, bias ?? null, b.hidden, true);
      return;
    }
    ops.linear(x, weight, bias ?? null, b.branch);
    ops.rmsnorm(b.branch, norm, this.config.normEps, b.branch);
    ops.add(b.hidden, b.branch, b.hidden);
  }

  /** logits fp32 `[rows, vocabSize]` of hidden rows; normed is scratch of the same shape as hidden */
  logits(hidden: Tensor, normed: Tensor, logits: Tensor): void {
    ops.rmsnorm(hidden, this.weights.finalNorm, this.config.normEps, normed);
    ops.linear(normed, this.weights.lmHead, null, logits);
  }

  /** of a stage, on its device */
  stepBuffers(scope: Scope, stage: number, sequences: number): StepBuffers {
    const { config, dtype } = this;
    const qkv = scope.tensor(dtype, sequences, this.qkvColumns);
    const fixed = this.fixedRopes[stage]!;
    const own = ropeDependsOnLength(config);
    const rope = own ? this.rotation(scope.context, sequences, new Array(sequences).fill(0)) : fixed;
    if (own) scope.own(rope.invFreq);
    const last = stage + 1 === this.stages.length;
    return {
      sequences,
      hidden: scope.tensor(dtype, sequences, config.hiddenSize),
      normed: scope.tensor(dtype, sequences, config.hiddenSize),
      qkv,
      ...this.headViews(scope, qkv),
      attended: scope.tensor(dtype, sequences, this.queryColumns),
      branch: scope.tensor(dtype, sequences, config.hiddenSize),
      gateUp: scope.tensor(dtype, sequences, 2 * config.intermediateSize),
      activated: scope.tensor(dtype, sequences, config.intermediateSize),
      logits: last ? scope.tensor("float32", sequences, config.vocabSize) : scope.tensor("float32", 1, 1),
      ids: scope.tensor("int32", 1, sequences),
      rope,
    };
  }

  /** Frequencies that depend on the length follow the sequences' lengths (dynamic NTK, longrope). */
  updateRope(buffers: StepBuffers, lengthsNow: () => readonly number[]): void {
    if (!ropeDependsOnLength(this.config)) return;
    const lengths = lengthsNow();
    const width = buffers.rope.invFreq.columns;
    const values = new Float32Array(lengths.length * width);
    lengths.forEach((length, row) => {
      values.set(ropeTable(this.config, length).invFreq, row * width);
    });
    buffers.rope.invFreq.upload(values);
  }

  /**
   * One token of every sequence of the batch through a stage: from `ids`, in later stages from `hidden`, to `hidden`, in the
   * last one to logits.
   */
  step(stage: number, batch: Batch, b: StepBuffers, hooks: StepHooks): void {
    const { config, weights } = this;
    const { first, end } = this.stages[stage]!;
    if (stage === 0) ops.embed(weights.embed, b.ids, b.hidden);
    for (let layer = first; layer < end; layer++) {
      const w = weights.layers[layer]!;
      ops.rmsnorm(b.hidden, w.inputNorm, config.normEps, b.normed);
      ops.linear(b.normed, w.qkv, w.qkvBias ?? null, b.qkv);
      this.normHeads(w, b);
      ops.ropeAppendBatch(batch, layer, b.qkv, b.queries, b.rope);
      const pages = hooks.choose(layer);
      if (pages) attentionDecodePages(batch, layer, b.queries, this.scale, pages.mostRows, pages, b.attended);
      else ops.attentionDecode(batch, layer, b.queries, this.scale, this.window(layer), b.attended, hooks.probs);
      hooks.after(layer);
      this.mix(w, b);
    }
    if (stage + 1 === this.stages.length) this.logits(b.hidden, b.normed, b.logits);
  }
}

interface HeadViews {
  queries: Tensor;
  keys: Tensor;
}

interface ChunkBuffers {
  normed: Tensor;
  /** the wider of QKV and gate+up: they are never needed together */
  wide: Tensor;
  activated: Tensor;
  branch: Tensor;
}

interface MixBuffers {
  hidden: Tensor;
  attended: Tensor;
  normed: Tensor;
  gateUp: Tensor;
  activated: Tensor;
  branch: Tensor;
}

function* chunks(total: number, size: number): Generator<[from: number, count: number]> {
  for (let from = 0; from < total; from += size) yield [from, Math.min(size, total - from)];
}

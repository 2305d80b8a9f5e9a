// One layer of a shape by itself: attention of a prompt, what methods compute on it, decode attention; each against its floor.
import type { ModelConfig } from "../../src/model/config.ts";
import { Batch, KvCache, type Rotation } from "../../src/native/kv.ts";
import * as ops from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { quantize } from "../../src/native/segments.ts";
import { Context, Tensor } from "../../src/native/tensor.ts";
import { type Ceilings, timeMs } from "./device.ts";
import { median, type Row } from "./row.ts";

/** Query rows that column sums are taken over at a time, as the engine does. */
const CHUNK = 4096;

/** A layer that holds `rows` random rows, and the queries of all of them. */
export class LayerBench {
  readonly context: Context;
  readonly scope: Scope;
  readonly cache: KvCache;
  readonly queries: Tensor;
  readonly out: Tensor;
  readonly scale: number;
  private readonly rope: Rotation;

  constructor(
    device: string,
    readonly config: ModelConfig,
    readonly top: Ceilings,
    readonly rows: number,
  ) {
    const { heads, kvHeads, headDim } = config;
    this.context = Context.open(device);
    this.scope = new Scope(this.context);
    this.scale = 1 / Math.sqrt(headDim);
    this.cache = this.scope.own(
      KvCache.create(this.context, {
        layers: 1,
        heads,
        kvHeads,
        headDim,
        dtype: "bfloat16",
        sideArrays: 0,
        unrotatedRows: 0,
      }),
    );
    const frequencies = Float32Array.from({ length: headDim / 2 }, (_, i) => 500000 ** ((-2 * i) / headDim));
    const invFreq = this.scope.own(Tensor.from(this.context, frequencies, 1, frequencies.length));
    this.rope = { invFreq, interleaved: false, mscale: 1 };
    this.queries = this.scope.tensor("bfloat16", rows, heads * headDim);
    this.out = this.scope.tensor("bfloat16", rows, heads * headDim);
    this.cache.reserve(0, rows + 256);
    using scratch = new Scope(this.context);
    const qkv = scratch.tensor("bfloat16", Math.min(rows, CHUNK), (heads + 2 * kvHeads) * headDim);
    for (let first = 0; first < rows; first += qkv.rows) {
      qkv.randomize("normal", first + 1, 1);
      const count = Math.min(qkv.rows, rows - first);
      const part = scratch.view(qkv, 0, count);
      ops.ropeAppend(this.cache, 0, first, part, scratch.view(this.queries, first, count), this.rope);
    }
    this.cache.seek(rows, 0);
  }

  dispose(): void {
    this.scope.dispose();
    this.context.trim();
    this.context.dispose();
  }

  private get length(): string {
    return `${this.rows / 1024}K`;
  }

  /** operations of dense causal attention, half of the pairs visible */
  get attentionFlops(): number {
    return 2 * this.rows ** 2 * this.config.headDim * this.config.heads;
  }

  row(name: string, ms: number[], more: Partial<Row> = {}): Row {
    return { table: "layer", name: `${name}, ${this.length}`, ms, ...more };
  }

  attention(repetitions = 5): Row {
    const { cache, queries, out, scale } = this;
    const ms = timeMs(
      this.context,
      () => ops.attentionPrefill(cache, 0, 0, queries, scale, 0, out),
      this.rows > 65536 ? 3 : repetitions,
    );
    return this.row("dense attention", ms, {
      floorMs: (1000 * this.attentionFlops) / this.top.gemm,
      note: `${((this.attentionFlops / median(ms)) * 1e-9).toFixed(0)} TFLOP/s`,
    });
  }

  /** H2O's sums in the engine's row ranges; the attention that gives their log-sum-exp is not counted */
  columnSums(denseMs: number): Row {
    const { cache, queries, out, scale, config, rows } = this;
    using scope = new Scope(this.context);
    const lse = scope.tensor("float32", config.heads, rows);
    const sums = scope.tensor("float32", config.kvHeads, rows);
    ops.attentionPrefill(cache, 0, 0, queries, scale, 0, out, lse);
    const parts = Array.from({ length: Math.ceil(rows / CHUNK) }, (_, i) => {
      const count = Math.min(CHUNK, rows - i * CHUNK);
      return {
        first: i * CHUNK,
        queries: scope.view(queries, i * CHUNK, count),
        lse: scope.view(lse, 0, config.heads, i * CHUNK, count),
      };
    });
    sums.fill(0);
    const ms = timeMs(
      this.context,
      () => {
        for (const part of parts) ops.columnSums(cache, 0, part.first, part.queries, part.lse, scale, "sum", sums);
      },
      3,
    );
    return this.row("column sums (H2O)", ms, {
      floorMs: (500 * this.attentionFlops) / this.top.gemm,
      targetMs: 0.6 * denseMs,
      note: `${(median(ms) / denseMs).toFixed(2)} of dense attention`,
    });
  }

  /** SnapKV's scores, pooling, choice and compaction, and L2Compress's norms */
  eviction(kept = 2048, window = 32): Row[] {
    const { cache, queries, scale, config, rows, top } = this;
    using scope = new Scope(this.context);
    const last = scope.view(queries, rows - window, window);
    const mean = scope.tensor("float32", config.kvHeads, rows - window);
    const pooled = scope.tensor("float32", config.kvHeads, rows - window);
    const norms = scope.tensor("float32", config.kvHeads, rows);
    const index = scope.tensor("int32", config.kvHeads, kept - window);
    const keyBytes = rows * config.kvHeads * config.headDim * 2;
    const read = (1000 * keyBytes) / top.copy;
    const stats = timeMs(this.context, () => ops.windowStats(cache, 0, last, scale, "mean", { mean }));
    const choice = timeMs(this.context, () => {
      ops.pool(mean, "max", 7, pooled);
      ops.topk(pooled, kept - window, index);
    });
    let fork = cache.fork();
    const compaction = timeMs(
      this.context,
      () => fork.keep(0, index, 0, window, 256),
      5,
      () => {
        fork.dispose();
        fork = cache.fork();
      },
    );
    fork.dispose();
    const normMs = timeMs(this.context, () => ops.rowNorms(cache, 0, "keys", 2, norms));
    return [
      this.row(`window scores of ${window} queries`, stats, { floorMs: read }),
      this.row("pooling and top-k", choice),
      this.row(`compaction to ${kept} rows`, compaction),
      this.row("key norms", normMs, { floorMs: read }),
    ];
  }

  /** decode attention of one token over all rows, as a graph-free launch; the cache is read once */
  decode(): Row {
    const { config, rows } = this;
    return this.decodeRow("decode attention", this.cache, 2 * rows * config.kvHeads * config.headDim * 2, 0.94);
  }

  /** the same over KIVI's rows of 4 bits, but for the newest 128 */
  decodeCodes(): Row {
    const { config, rows } = this;
    using scope = new Scope(this.context);
    const fork = scope.own(this.cache.fork());
    quantize(fork, 0, { keyBits: 4, valueBits: 4, group: 32, residual: 128 }, 256);
    const perRow = 2 * (config.headDim / 2 + config.headDim / 8); // codes of half a byte, a scale and a zero for 32 of them
    return this.decodeRow("decode attention of 4-bit codes", fork, rows * config.kvHeads * perRow, 0.88);
  }

  private decodeRow(name: string, cache: KvCache, bytes: number, share: number): Row {
    const { rows, top, scale } = this;
    using scope = new Scope(this.context);
    const batch = scope.own(Batch.create(this.context, 1));
    batch.set([cache]);
    batch.reserve(1);
    const q = scope.view(this.queries, rows - 1, 1);
    const out = scope.tensor("bfloat16", 1, q.columns);
    const ms = timeMs(this.context, () => ops.attentionDecode(batch, 0, q, scale, 0, out), 20);
    const floorMs = (1000 * bytes) / top.copy;
    return this.row(name, ms, { floorMs, targetMs: floorMs / share });
  }
}

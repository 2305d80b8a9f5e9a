// One layer of a shape by itself: attention of a prompt, what methods compute on it, decode attention; each against its floor.
import { formatCount } from "../../src/bench/format.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { Graph } from "../../src/native/graph.ts";
import { Batch, KvCache, type Rotation } from "../../src/native/kv.ts";
import type { Backend } from "../../src/native/library.ts";
import * as ops from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { quantize } from "../../src/native/segments.ts";
import { Context, Tensor } from "../../src/native/tensor.ts";
import { type Ceilings, timeMs } from "./device.ts";
import { attentionFlops } from "./floors.ts";
import { median, type Row } from "./row.ts";

/** Query rows that column sums are taken over at a time, as the engine does. */
const CHUNK = 4096;

/** Bytes that are read between two reads of one cache, at least: no second-level cache holds it until then. */
export const coldBytes: Record<Backend, number> = { cuda: 256e6, cpu: 4e6 };

/** Calls of decode attention in a graph, at least. */
export const CALLS = 8;

/** A layer that holds `rows` random rows, and the queries of all of them. */
export class LayerBench {
  private constructor(
    readonly config: ModelConfig,
    readonly top: Ceilings,
    readonly rows: number,
    readonly scope: Scope,
    readonly cache: KvCache,
    readonly queries: Tensor,
    readonly out: Tensor,
  ) {}

  static open(device: string, config: ModelConfig, top: Ceilings, rows: number): LayerBench {
    const { heads, kvHeads, headDim } = config;
    const context = Context.open(device);
    const scope = new Scope(context);
    try {
      const shape = { layers: 1, heads, kvHeads, headDim, dtype: "bfloat16", sideArrays: 0, unrotatedRows: 0 } as const;
      const cache = scope.own(KvCache.create(context, shape));
      const queries = scope.tensor("bfloat16", rows, heads * headDim);
      const out = scope.tensor("bfloat16", rows, heads * headDim);
      cache.reserve(0, rows + 256);
      fill(cache, queries);
      return new LayerBench(config, top, rows, scope, cache, queries, out);
    } catch (error) {
      close(scope);
      throw error;
    }
  }

  get context(): Context {
    return this.scope.context;
  }

  get scale(): number {
    return 1 / Math.sqrt(this.config.headDim);
  }

  dispose(): void {
    close(this.scope);
  }

  get attentionFlops(): number {
    return attentionFlops(this.config, this.rows);
  }

  row(name: string, ms: number[], more: Partial<Row> = {}): Row {
    return { table: "layer", name: `${name}, ${formatCount(this.rows)}`, ms, ...more };
  }

  attention(more?: () => boolean): Row {
    const { cache, queries, out, scale } = this;
    const samples = this.rows > 65536 ? 3 : 5;
    const ms = timeMs(this.context, () => ops.attentionPrefill(cache, 0, 0, queries, scale, 0, out), { samples, more });
    return this.row("dense attention", ms, {
      floorMs: (1000 * this.attentionFlops) / this.top.gemm,
      note: `${((this.attentionFlops / median(ms)) * 1e-9).toFixed(0)} TFLOP/s`,
    });
  }

  /** H2O's sums in the engine's row ranges; the attention that gives their log-sum-exp is not counted */
  columnSums(denseMs: number, more?: () => boolean): Row {
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
    const run = () => {
      for (const part of parts) ops.columnSums(cache, 0, part.first, part.queries, part.lse, scale, "sum", sums);
    };
    const ms = timeMs(this.context, run, { samples: 3, more });
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
    const prepare = () => {
      fork.dispose();
      fork = cache.fork();
    };
    const compaction = timeMs(this.context, () => fork.keep(0, index, 0, window, 256), { samples: 5, prepare });
    fork.dispose();
    const normMs = timeMs(this.context, () => ops.rowNorms(cache, 0, "keys", 2, norms));
    return [
      this.row(`window scores of ${window} queries`, stats, { floorMs: read }),
      this.row("pooling and top-k", choice),
      this.row(`compaction to ${kept} rows`, compaction),
      this.row("key norms", normMs, { floorMs: read }),
    ];
  }

  /** decode attention of one token over all rows; the cache is read once */
  decode(): Row {
    const { config, rows } = this;
    const bytes = 2 * rows * config.kvHeads * config.headDim * 2;
    return this.decodeRow("decode attention", this.cache, bytes, 0.94);
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

  /** As in a step: calls in a graph, each on a cache that was read so long ago that it comes from memory. */
  private decodeRow(name: string, cache: KvCache, bytes: number, share: number): Row {
    const { context, rows, top, scale } = this;
    using scope = new Scope(context);
    const caches = [cache];
    while (caches.length * bytes < coldBytes[context.backend]) caches.push(scope.own(cache.fork()));
    const q = scope.view(this.queries, rows - 1, 1);
    const out = scope.tensor("bfloat16", 1, q.columns);
    const batches = caches.map((one) => {
      const batch = scope.own(Batch.create(context, 1));
      batch.set([one]);
      batch.reserve(1);
      return batch;
    });
    const round = () => {
      for (const batch of batches) ops.attentionDecode(batch, 0, q, scale, 0, out);
    };
    round(); // what is captured has been run before: its scratch is there
    const rounds = Math.ceil(CALLS / caches.length);
    const graph = scope.own(
      Graph.capture(context, () => {
        for (let i = 0; i < rounds; i++) round();
      }),
    );
    // the launch before the timed one keeps the device busy until that one is queued: the host's part is not in the time
    const all = timeMs(context, () => graph.launch(), { samples: 20, prepare: () => graph.launch() });
    const floorMs = (1000 * bytes) / top.copy;
    const ms = all.map((time) => time / (rounds * caches.length));
    return this.row(name, ms, { floorMs, targetMs: floorMs / share });
  }
}

/** Random rows and their queries, as a prompt leaves them. */
function fill(cache: KvCache, queries: Tensor): void {
  const { context, shape } = cache;
  const { heads, kvHeads, headDim } = shape;
  using scope = new Scope(context);
  const frequencies = Float32Array.from({ length: headDim / 2 }, (_, i) => 500000 ** ((-2 * i) / headDim));
  const invFreq = scope.own(Tensor.from(context, frequencies, 1, frequencies.length));
  const rope: Rotation = { invFreq, interleaved: false, mscale: 1 };
  const qkv = scope.tensor("bfloat16", Math.min(queries.rows, CHUNK), (heads + 2 * kvHeads) * headDim);
  for (let first = 0; first < queries.rows; first += qkv.rows) {
    qkv.randomize("normal", first + 1, 1);
    const count = Math.min(qkv.rows, queries.rows - first);
    const part = scope.view(qkv, 0, count);
    ops.ropeAppend(cache, 0, first, part, scope.view(queries, first, count), rope);
  }
  cache.seek(queries.rows, 0);
}

function close(scope: Scope): void {
  scope.dispose();
  scope.context.trim();
  scope.context.dispose();
}

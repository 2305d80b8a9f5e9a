// One typed function for each native op; shapes and formulas stand in cuda/include/kvaccel.h.
import type { Batch, KvCache, Rotation } from "./kv.ts";
import type { Tensor } from "./tensor.ts";

const NONE = null;
export const reductions = ["mean", "max", "sum", "none"] as const;
export type Reduction = (typeof reductions)[number];

export function embed(table: Tensor, ids: Tensor, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_embed(table.pointer, ids.pointer, out.pointer));
}

/** out = x * weight / sqrt(mean(x^2) + eps), per group of `weight.columns` */
export function rmsnorm(x: Tensor, weight: Tensor, eps: number, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_rmsnorm(x.pointer, weight.pointer, eps, out.pointer));
}

/** out = x * weight^T (+ bias) (+ out) */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null, out: Tensor, accumulate = false): void {
  const { library } = out.context;
  library.check(
    library.native.kva_linear(x.pointer, weight.pointer, bias?.pointer ?? NONE, accumulate ? 1 : 0, out.pointer),
  );
}

export function siluMul(x: Tensor, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_silu_mul(x.pointer, out.pointer));
}

/** out = silu(a) * b of [a, b] = x * weight^T (+ bias), which may go through gateUp */
export function linearSiluMul(x: Tensor, weight: Tensor, bias: Tensor | null, gateUp: Tensor, out: Tensor): void {
  const { library } = out.context;
  library.check(
    library.native.kva_linear_silu_mul(x.pointer, weight.pointer, bias?.pointer ?? NONE, gateUp.pointer, out.pointer),
  );
}

export function add(x: Tensor, y: Tensor, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_add(x.pointer, y.pointer, out.pointer));
}

export function ropeAppend(kv: KvCache, layer: number, start: number, qkv: Tensor, q: Tensor, rope: Rotation): void {
  const { library } = q.context;
  const interleaved = rope.interleaved ? 1 : 0;
  library.check(
    library.native.kva_rope_append(
      kv.pointer,
      layer,
      start,
      qkv.pointer,
      q.pointer,
      rope.invFreq.pointer,
      interleaved,
      rope.mscale,
    ),
  );
}

export function ropeAppendBatch(batch: Batch, layer: number, qkv: Tensor, q: Tensor, rope: Rotation): void {
  const { library } = q.context;
  const interleaved = rope.interleaved ? 1 : 0;
  library.check(
    library.native.kva_rope_append_batch(
      batch.pointer,
      layer,
      qkv.pointer,
      q.pointer,
      rope.invFreq.pointer,
      interleaved,
      rope.mscale,
    ),
  );
}

export function attentionPrefill(
  kv: KvCache,
  layer: number,
  firstRow: number,
  q: Tensor,
  scale: number,
  window: number,
  out: Tensor,
  lse: Tensor | null = null,
): void {
  const { library } = out.context;
  library.check(
    library.native.kva_attention_prefill(
      kv.pointer,
      layer,
      firstRow,
      q.pointer,
      scale,
      window,
      out.pointer,
      lse?.pointer ?? NONE,
    ),
  );
}

export function attentionDecode(
  batch: Batch,
  layer: number,
  q: Tensor,
  scale: number,
  window: number,
  out: Tensor,
  probs: Tensor | null = null,
): void {
  const { library } = out.context;
  library.check(
    library.native.kva_attention_decode(
      batch.pointer,
      layer,
      q.pointer,
      scale,
      window,
      out.pointer,
      probs?.pointer ?? NONE,
    ),
  );
}

export interface SampleOptions {
  temperature: number;
  topK: number;
  topP: number;
  seed: number;
}
export function sample(batch: Batch, logits: Tensor, options: SampleOptions, ids: Tensor): void {
  const { library } = ids.context;
  const { temperature, topK, topP, seed } = options;
  library.check(
    library.native.kva_sample(batch.pointer, logits.pointer, temperature, topK, topP, seed >>> 0, ids.pointer),
  );
}

export function logprobs(logits: Tensor, ids: Tensor, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_logprobs(logits.pointer, ids.pointer, out.pointer));
}

export interface WindowOutputs {
  mean?: Tensor;
  variance?: Tensor;
  maximum?: Tensor;
  scalars?: Tensor;
}
export function windowStats(
  kv: KvCache,
  layer: number,
  queries: Tensor,
  scale: number,
  reduce: Reduction,
  out: WindowOutputs,
): void {
  const { library } = queries.context;
  library.check(
    library.native.kva_window_stats(
      kv.pointer,
      layer,
      queries.pointer,
      scale,
      reductions.indexOf(reduce),
      out.mean?.pointer ?? NONE,
      out.variance?.pointer ?? NONE,
      out.maximum?.pointer ?? NONE,
      out.scalars?.pointer ?? NONE,
    ),
  );
}

export function rowNorms(kv: KvCache, layer: number, of: "keys" | "values", p: 1 | 2, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_row_norms(kv.pointer, layer, of === "keys" ? 0 : 1, p, out.pointer));
}

export function pool(x: Tensor, kind: "max" | "avg", width: number, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_pool(x.pointer, kind === "max" ? 0 : 1, width, out.pointer));
}

/** out = a * x + b * y; without y: a * x + b */
export function combine(a: number, x: Tensor, b: number, y: Tensor | null, out: Tensor): void {
  const { library } = out.context;
  library.check(library.native.kva_combine(a, x.pointer, b, y?.pointer ?? NONE, out.pointer));
}

export function topk(x: Tensor, k: number, index: Tensor): void {
  const { library } = index.context;
  library.check(library.native.kva_topk(x.pointer, k, index.pointer));
}

/** out += what rows receive from these queries (or the maximum with it), reduced over the group */
export function columnSums(
  kv: KvCache,
  layer: number,
  firstRow: number,
  queries: Tensor,
  lse: Tensor,
  scale: number,
  reduce: "sum" | "max",
  out: Tensor,
): void {
  const { library } = out.context;
  library.check(
    library.native.kva_column_sums(
      kv.pointer,
      layer,
      firstRow,
      queries.pointer,
      lse.pointer,
      scale,
      reductions.indexOf(reduce),
      out.pointer,
    ),
  );
}

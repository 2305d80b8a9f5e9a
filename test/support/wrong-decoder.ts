// Wrong calls: the decoder's ops.
import { NULL, type Wrong } from "./wrong-calls.ts";

export const wrongDecoder: Wrong[] = [
  [
    "embed: rows of another width",
    ({ native, f, t }) => native.kva_embed(f(9, 4), t("int32", 1, 2), f(2, 5)),
    /\[2, 5\]/,
  ],
  ["embed: ids of another type", ({ native, f }) => native.kva_embed(f(9, 4), f(1, 2), f(2, 4)), /ids is f32.*i32/],
  [
    "embed: another type out",
    ({ native, f, t }) => native.kva_embed(f(9, 4), t("int32", 1, 2), t("float16", 2, 4)),
    /f16/,
  ],
  ["rmsnorm: width not a multiple", ({ native, f }) => native.kva_rmsnorm(f(2, 10), f(1, 4), 1e-5, f(2, 10)), /10.*4/],
  ["rmsnorm: eps below 0", ({ native, f }) => native.kva_rmsnorm(f(2, 4), f(1, 4), -1, f(2, 4)), /eps is -1/],
  [
    "rmsnorm: mixed types",
    ({ native, f, t }) => native.kva_rmsnorm(f(2, 4), t("float16", 1, 4), 1e-5, f(2, 4)),
    /f16.*f32/,
  ],
  ["linear: inner widths differ", ({ native, f }) => native.kva_linear(f(2, 8), f(3, 7), NULL, 0, f(2, 3)), /7.*8/],
  [
    "linear: mixed types",
    ({ native, f, t }) => native.kva_linear(f(2, 8), t("bfloat16", 3, 8), NULL, 0, f(2, 3)),
    /bf16.*f32/,
  ],
  [
    "linear: a bias of another width",
    ({ native, f }) => native.kva_linear(f(2, 8), f(3, 8), f(1, 2), 0, f(2, 3)),
    /bias is \[1, 2\].*\[1, 3\]/,
  ],
  [
    "linear: another half type out",
    ({ native, t }) => native.kva_linear(t("float16", 2, 8), t("float16", 3, 8), NULL, 0, t("bfloat16", 2, 3)),
    /out is bf16/,
  ],
  ["linear: accumulate 2", ({ native, f }) => native.kva_linear(f(2, 8), f(3, 8), NULL, 2, f(2, 3)), /accumulate is 2/],
  ["silu_mul: an odd width", ({ native, f }) => native.kva_silu_mul(f(2, 7), f(2, 3)), /7/],
  ["silu_mul: out of another width", ({ native, f }) => native.kva_silu_mul(f(2, 8), f(2, 8)), /\[2, 8\].*\[2, 4\]/],
  [
    "linear_silu_mul: an odd number of features",
    ({ native, f }) => native.kva_linear_silu_mul(f(2, 8), f(7, 8), NULL, f(2, 7), f(2, 3)),
    /weight has 7 rows/,
  ],
  [
    "linear_silu_mul: out of another width",
    ({ native, f }) => native.kva_linear_silu_mul(f(2, 8), f(6, 8), NULL, f(2, 6), f(2, 6)),
    /out is \[2, 6\].*\[2, 3\]/,
  ],
  ["add: other shape", ({ native, f }) => native.kva_add(f(2, 8), f(2, 7), f(2, 8)), /\[2, 7\]/],
  [
    "rope_append: a layer too many",
    ({ native, kv, f }) => native.kva_rope_append(kv, 2, 0, f(1, 512), f(1, 256), f(1, 32), 0, 1),
    /layer is 2.*2/,
  ],
  [
    "rope_append: qkv of another width",
    ({ native, kv, f }) => native.kva_rope_append(kv, 0, 0, f(1, 500), f(1, 256), f(1, 32), 0, 1),
    /\[1, 500\].*\[1, 512\]/,
  ],
  [
    "rope_append: q of another width",
    ({ native, kv, f }) => native.kva_rope_append(kv, 0, 0, f(1, 512), f(1, 200), f(1, 32), 0, 1),
    /\[1, 200\]/,
  ],
  [
    "rope_append: more frequencies than pairs",
    ({ native, kv, f }) => native.kva_rope_append(kv, 0, 0, f(1, 512), f(1, 256), f(1, 33), 0, 1),
    /33.*64/,
  ],
  [
    "rope_append: interleaved 2",
    ({ native, kv, f }) => native.kva_rope_append(kv, 0, 0, f(1, 512), f(1, 256), f(1, 32), 2, 1),
    /interleaved is 2/,
  ],
  [
    "rope_append: no room",
    ({ native, kv, f }) => native.kva_rope_append(kv, 0, 0, f(11, 512), f(11, 256), f(1, 32), 0, 1),
    /reserve/,
  ],
  [
    "rope_append: a start below 0",
    ({ native, kv, f }) => native.kva_rope_append(kv, 0, -1, f(1, 512), f(1, 256), f(1, 32), 0, 1),
    /start is -1/,
  ],
  [
    "rope_append_batch: an empty batch",
    ({ native, empty, f }) => native.kva_rope_append_batch(empty, 0, f(1, 512), f(1, 256), f(1, 32), 0, 1),
    /no sequences/,
  ],
  [
    "rope_append_batch: rows for other sequences",
    ({ native, batch, f }) => native.kva_rope_append_batch(batch, 0, f(2, 512), f(2, 256), f(1, 32), 0, 1),
    /\[2, 512\].*\[1, 512\]/,
  ],
  [
    "rope_append_batch: frequencies of two",
    ({ native, batch, f }) => native.kva_rope_append_batch(batch, 0, f(1, 512), f(1, 256), f(3, 32), 0, 1),
    /3 rows/,
  ],
  [
    "attention_prefill: rows the layer lacks",
    ({ native, kv, f }) => native.kva_attention_prefill(kv, 0, 0, f(1, 256), 1, 0, f(1, 256), NULL),
    /holds 0/,
  ],
  [
    "attention_prefill: a scale that is NaN",
    ({ native, kv, f }) => native.kva_attention_prefill(kv, 0, 0, f(1, 256), Number.NaN, 0, f(1, 256), NULL),
    /nan/i,
  ],
  [
    "attention_prefill: a window below 0",
    ({ native, kv, f }) => native.kva_attention_prefill(kv, 0, 0, f(1, 256), 1, -3, f(1, 256), NULL),
    /window is -3/,
  ],
  [
    "attention_decode: out of another shape",
    ({ native, batch, f }) => native.kva_attention_decode(batch, 0, f(1, 256), 1, 0, f(1, 128), NULL),
    /\[1, 128\]/,
  ],
  [
    "attention_decode: probs of other rows",
    ({ native, batch, f }) => native.kva_attention_decode(batch, 0, f(1, 256), 1, 0, f(1, 256), f(3, 10)),
    /\[3, 10\]/,
  ],
  [
    "attention_decode: layer -1",
    ({ native, batch, f }) => native.kva_attention_decode(batch, -1, f(1, 256), 1, 0, f(1, 256), NULL),
    /layer is -1/,
  ],
  [
    "sample: a temperature below 0",
    ({ native, batch, f, t }) => native.kva_sample(batch, f(1, 9), -0.5, 0, 1, 0, t("int32", 1, 1)),
    /temperature is -0\.5/,
  ],
  [
    "sample: top_k below 0",
    ({ native, batch, f, t }) => native.kva_sample(batch, f(1, 9), 1, -1, 1, 0, t("int32", 1, 1)),
    /top_k is -1/,
  ],
  [
    "sample: top_p of 0",
    ({ native, batch, f, t }) => native.kva_sample(batch, f(1, 9), 1, 0, 0, 0, t("int32", 1, 1)),
    /top_p is 0/,
  ],
  [
    "sample: ids of another type",
    ({ native, batch, f }) => native.kva_sample(batch, f(1, 9), 1, 0, 1, 0, f(1, 1)),
    /i32/,
  ],
  [
    "sample: logits in bf16",
    ({ native, batch, t }) => native.kva_sample(batch, t("bfloat16", 1, 9), 1, 0, 1, 0, t("int32", 1, 1)),
    /bf16/,
  ],
  [
    "logprobs: ids for other rows",
    ({ native, f, t }) => native.kva_logprobs(f(3, 9), t("int32", 1, 2), f(1, 3)),
    /\[1, 2\].*\[1, 3\]/,
  ],
];

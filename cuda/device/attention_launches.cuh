// The launches of prefill attention over one layer of a cache: one where the KV heads lie at equal distances, else one for each of them.
#pragma once
#include "../core/cuda.h"
#include "../core/kv.h"
#include "attention_prefill.cuh"

namespace kva {

// launch(arguments, first query head of theirs). ints: i32 of device memory that each launch gets beside its counter, at counter + 1.
template <class Launch>
void each_prefill_launch(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix q, float scale, int32_t window, Matrix out, Matrix lse,
                         int64_t ints, Launch&& launch) {
  if (q.rows == 0) return;
  const KvShape& shape = kv.shape;
  const KvHead* heads = kv.layer(layer);
  const int64_t bytes = dtype_bytes(shape.dtype);
  if (q.dtype != shape.dtype)
    fail(KVA_E_UNSUPPORTED, "queries are %s and the cache is %s; on CUDA both must be of one type", dtype_name(q.dtype), dtype_name(shape.dtype));
  const auto distance = [](const void* a, const void* b) { return static_cast<const char*>(b) - static_cast<const char*>(a); };
  const int64_t step = shape.kv_heads > 1 ? distance(heads[0].k, heads[1].k) : 0;
  bool regular = true; // heads of unequal capacity do not lie at equal distances
  for (int h = 1; h < shape.kv_heads; ++h)
    regular = regular && distance(heads[h - 1].k, heads[h].k) == step && distance(heads[h - 1].v, heads[h].v) == step;
  const int launches = regular ? 1 : shape.kv_heads;
  int32_t* counters = static_cast<int32_t*>(context.scratch(launches * (1 + ints) * int64_t(sizeof(int32_t))));

  for (int i = 0; i < launches; ++i) {
    const int first_head = i * shape.group();
    AttentionPrefill args = {};
    args.q = static_cast<const char*>(q.data) + int64_t(first_head) * shape.head_dim * bytes;
    args.out = static_cast<char*>(out.data) + int64_t(first_head) * shape.head_dim * bytes;
    args.q_stride = q.stride;
    args.out_stride = out.stride;
    args.k = heads[i].k;
    args.v = heads[i].v;
    args.head_stride = regular ? step / bytes : 0;
    args.lse = lse ? lse.row<float>(first_head) : nullptr;
    args.lse_stride = lse.stride;
    args.counter = counters + i * (1 + ints);
    args.rows = q.rows;
    args.first_row = first_row;
    args.heads = regular ? shape.heads : shape.group();
    args.kv_heads = regular ? shape.kv_heads : 1;
    args.head_dim = shape.head_dim;
    args.window = window;
    args.dtype = shape.dtype;
    args.scale = scale;
    args.stream = stream_of(context);
    launch(args, first_head);
  }
}

}  // namespace kva

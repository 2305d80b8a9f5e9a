// extern "C": the ops of the decoder.
#include <cmath>

#include "../core/segments.h"
#include "../ops/ops.h"
#include "check.h"

using namespace kva;

int32_t kva_embed(kva_tensor* table, kva_tensor* ids, kva_tensor* out) {
  return run("embed", [&]() -> Context& {
    Tensor &t = get(table, "table"), &i = get(ids, "ids"), &y = get(out, "out");
    require_context(i, "ids", t.context);
    require_context(y, "out", t.context);
    require_float(t, "table");
    require_type(i, "ids", KVA_I32);
    require_type(y, "out", t.dtype);
    require_shape(i, "ids", 1, y.rows);
    require_shape(y, "out", i.columns, t.columns);
    embed(t.context, t, i, y);
    return t.context;
  });
}

int32_t kva_rmsnorm(kva_tensor* x, kva_tensor* weight, float eps, kva_tensor* out) {
  return run("rmsnorm", [&]() -> Context& {
    Tensor &in = get(x, "x"), &w = get(weight, "weight"), &y = get(out, "out");
    require_context(w, "weight", in.context);
    require_context(y, "out", in.context);
    require_float(in, "x");
    require_type(w, "weight", in.dtype);
    require_type(y, "out", in.dtype);
    require_shape(w, "weight", 1, w.columns);
    require_shape(y, "out", in.rows, in.columns);
    require(in.columns % w.columns == 0, "x has %d columns, they must be a multiple of the weight's %d", in.columns, w.columns);
    require(eps >= 0, "eps is %g, it must be at least 0", eps);
    rmsnorm(in.context, in, w, eps, y);
    return in.context;
  });
}

int32_t kva_linear(kva_tensor* x, kva_tensor* weight, kva_tensor* bias, int32_t accumulate, kva_tensor* out) {
  return run("linear", [&]() -> Context& {
    Tensor &in = get(x, "x"), &w = get(weight, "weight"), &y = get(out, "out");
    Matrix b = get_optional(bias);
    require_context(w, "weight", in.context);
    require_context(y, "out", in.context);
    require_float(in, "x");
    require_type(w, "weight", in.dtype);
    require(y.dtype == in.dtype || y.dtype == KVA_F32, "out is %s, it must be %s or f32", dtype_name(y.dtype), dtype_name(in.dtype));
    require(w.columns == in.columns, "weight has %d columns, x has %d", w.columns, in.columns);
    require_shape(y, "out", in.rows, w.rows);
    require(y.data != in.data, "out must not be x");
    if (b) {
      require_context(get(bias, "bias"), "bias", in.context);
      require_type(b, "bias", in.dtype);
      require_shape(b, "bias", 1, w.rows);
    }
    require(accumulate == 0 || accumulate == 1, "accumulate is %d, it must be 0 or 1", accumulate);
    linear(in.context, in, w, b, accumulate == 1, y);
    return in.context;
  });
}

int32_t kva_silu_mul(kva_tensor* x, kva_tensor* out) {
  return run("silu_mul", [&]() -> Context& {
    Tensor &in = get(x, "x"), &y = get(out, "out");
    require_context(y, "out", in.context);
    require_float(in, "x");
    require_type(y, "out", in.dtype);
    require(in.columns % 2 == 0, "x has %d columns, they must be even", in.columns);
    require_shape(y, "out", in.rows, in.columns / 2);
    silu_mul(in.context, in, y);
    return in.context;
  });
}

int32_t kva_linear_silu_mul(kva_tensor* x, kva_tensor* weight, kva_tensor* bias, kva_tensor* gate_up, kva_tensor* out) {
  return run("linear_silu_mul", [&]() -> Context& {
    Tensor &in = get(x, "x"), &w = get(weight, "weight"), &wide = get(gate_up, "gate_up"), &y = get(out, "out");
    Matrix b = get_optional(bias);
    require_context(w, "weight", in.context);
    require_context(wide, "gate_up", in.context);
    require_context(y, "out", in.context);
    require_float(in, "x");
    require_type(w, "weight", in.dtype);
    require_type(wide, "gate_up", in.dtype);
    require_type(y, "out", in.dtype);
    require(w.columns == in.columns, "weight has %d columns, x has %d", w.columns, in.columns);
    require(w.rows % 2 == 0, "weight has %d rows, they must be even", w.rows);
    require_shape(wide, "gate_up", in.rows, w.rows);
    require_shape(y, "out", in.rows, w.rows / 2);
    require(y.data != in.data && wide.data != in.data, "neither out nor gate_up may be x");
    if (b) {
      require_context(get(bias, "bias"), "bias", in.context);
      require_type(b, "bias", in.dtype);
      require_shape(b, "bias", 1, w.rows);
    }
    linear_silu_mul(in.context, in, w, b, wide, y);
    return in.context;
  });
}

int32_t kva_add(kva_tensor* x, kva_tensor* y, kva_tensor* out) {
  return run("add", [&]() -> Context& {
    Tensor &a = get(x, "x"), &b = get(y, "y"), &sum = get(out, "out");
    require_context(b, "y", a.context);
    require_context(sum, "out", a.context);
    require_float(a, "x");
    require_type(b, "y", a.dtype);
    require_type(sum, "out", a.dtype);
    require_shape(b, "y", a.rows, a.columns);
    require_shape(sum, "out", a.rows, a.columns);
    add(a.context, a, b, sum);
    return a.context;
  });
}

// rows of qkv, q and inv_freq for a cache of this shape
static void require_rope(const KvShape& shape, const Context& context, int32_t rows, const Tensor& qkv, const Tensor& q, const Tensor& inv_freq,
                         int32_t interleaved) {
  require_context(qkv, "qkv", context);
  require_context(q, "q", context);
  require_context(inv_freq, "inv_freq", context);
  require_float(qkv, "qkv");
  require_type(q, "q", qkv.dtype);
  require_type(inv_freq, "inv_freq", KVA_F32);
  require_shape(qkv, "qkv", rows, (shape.heads + 2 * int64_t(shape.kv_heads)) * shape.head_dim);
  require_shape(q, "q", rows, int64_t(shape.heads) * shape.head_dim);
  require(2 * int64_t(inv_freq.columns) <= shape.head_dim, "inv_freq has %d columns, at most half of headDim %d can be", inv_freq.columns,
          shape.head_dim);
  require(interleaved == 0 || interleaved == 1, "interleaved is %d, it must be 0 or 1", interleaved);
}

int32_t kva_rope_append(kva_kv* kv, int32_t layer, int32_t start, kva_tensor* qkv, kva_tensor* q, kva_tensor* inv_freq, int32_t interleaved,
                        float mscale) {
  return run("rope_append", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor &in = get(qkv, "qkv"), &queries = get(q, "q"), &frequencies = get(inv_freq, "inv_freq");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require_rope(cache.shape, cache.context, in.rows, in, queries, frequencies, interleaved);
    require_shape(frequencies, "inv_freq", 1, frequencies.columns);
    require(start >= 0 && start <= INT32_MAX - in.rows, "start is %d, positions [start, start + %d) must fit an i32", start, in.rows);
    require_plain(cache, layer);
    require_unbounded(cache, layer);
    int32_t length = cache.shared_length(layer);
    for (int32_t h = 0; h < cache.shape.kv_heads; ++h)
      require(in.rows <= cache.layer(layer)[h].cap - length, "layer %d holds %d rows and has room for %d, %d more need a reserve before", layer,
              length, cache.layer(layer)[h].cap, in.rows);
    rope_append(cache.context, cache, layer, length, start, in, queries, frequencies, interleaved == 1, mscale);
    for (int32_t h = 0; h < cache.shape.kv_heads; ++h) cache.layer(layer)[h].len += in.rows;
    cache.store_layer(layer);
    return cache.context;
  });
}

int32_t kva_rope_append_batch(kva_batch* batch, int32_t layer, kva_tensor* qkv, kva_tensor* q, kva_tensor* inv_freq, int32_t interleaved,
                              float mscale) {
  return run("rope_append_batch", [&]() -> Context& {
    Batch& b = get_filled(batch);
    Tensor &in = get(qkv, "qkv"), &queries = get(q, "q"), &frequencies = get(inv_freq, "inv_freq");
    require_layer(b.shape(), layer);
    require_rope(b.shape(), b.context, b.sequences(), in, queries, frequencies, interleaved);
    require(frequencies.rows == 1 || frequencies.rows == b.sequences(), "inv_freq has %d rows, it must have 1 or one of each of %d sequences",
            frequencies.rows, b.sequences());
    int32_t& before = b.context.recorded_appends(b, layer);
    b.context.condition([&b, layer, before = before] {
      for (int32_t s = 0; s < b.sequences(); ++s)
        for (int32_t h = 0; h < b.shape().kv_heads; ++h) {
          const KvHead& head = b.kvs[s]->layer(layer)[h];
          require(before < head.cap - head.len, "head %d of layer %d of sequence %d holds %d rows and has room for %d; one more needs a reserve before",
                  h, layer, s, head.len + before, head.cap);
          require(!keys_are_due(head) && !value_is_due(head), "head %d of layer %d of sequence %d has rows to quantise: a flush is due before", h,
                  layer, s);
        }
    });
    rope_append_batch(b.context, b, layer, in, queries, frequencies, interleaved == 1, mscale);
    b.context.effect([&b, layer] {
      for (Kv* kv : b.kvs)
        for (int32_t h = 0; h < b.shape().kv_heads; ++h) kv->layer(layer)[h].len += 1;
    });
    before += b.context.capturing() ? 1 : 0;
    return b.context;
  });
}

int32_t kva_attention_prefill(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* q, float scale, int32_t window, kva_tensor* out,
                              kva_tensor* lse) {
  return run("attention_prefill", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor &queries = get(q, "q"), &y = get(out, "out");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require_queries(cache.shape, cache.context, queries, queries.rows, y, scale, window);
    require_plain(cache, layer);
    Matrix l = get_result(lse, "lse", cache.context, cache.shape.heads, queries.rows);
    for (int32_t h = 0; h < cache.shape.kv_heads; ++h)
      require(first_row >= 0 && int64_t(first_row) + queries.rows <= cache.layer(layer)[h].len,
              "query rows [%d, %lld) must be rows of the cache, head %d of layer %d holds %d", first_row, (long long)first_row + queries.rows, h,
              layer, cache.layer(layer)[h].len);
    attention_prefill(cache.context, cache, layer, first_row, queries, scale, window, y, l);
    return cache.context;
  });
}

int32_t kva_attention_decode(kva_batch* batch, int32_t layer, kva_tensor* q, float scale, int32_t window, kva_tensor* out, kva_tensor* probs) {
  return run("attention_decode", [&]() -> Context& {
    Batch& b = get_filled(batch);
    Tensor &queries = get(q, "q"), &y = get(out, "out");
    require_layer(b.shape(), layer);
    require_queries(b.shape(), b.context, queries, b.sequences(), y, scale, window);
    Matrix p;
    if (probs != nullptr) {
      int32_t columns = get(probs, "probs").columns;
      p = get_result(probs, "probs", b.context, int64_t(b.sequences()) * b.shape().kv_heads, columns);
      b.context.condition([&b, layer, columns, before = b.context.recorded_appends(b, layer)] {
        for (Kv* kv : b.kvs)
          require(kv->longest(layer) + before <= columns, "probs has %d columns, a head of layer %d holds %d rows", columns, layer,
                  kv->longest(layer) + before);
      });
    }
    attention_decode(b.context, b, layer, queries, scale, window, y, p);
    return b.context;
  });
}

int32_t kva_sample(kva_batch* batch, kva_tensor* logits, float temperature, int32_t top_k, float top_p, uint32_t seed, kva_tensor* ids) {
  return run("sample", [&]() -> Context& {
    Batch& b = get_filled(batch);
    Tensor &x = get(logits, "logits"), &y = get(ids, "ids");
    require_context(x, "logits", b.context);
    require_context(y, "ids", b.context);
    require_type(x, "logits", KVA_F32);
    require_type(y, "ids", KVA_I32);
    require_shape(x, "logits", b.sequences(), x.columns);
    require_shape(y, "ids", 1, b.sequences());
    require(temperature >= 0 && std::isfinite(temperature), "temperature is %g, it must be at least 0", temperature);
    require(top_k >= 0, "top_k is %d, it must be at least 0", top_k);
    require(top_p > 0, "top_p is %g, it must be above 0", top_p);
    sample(b.context, b, x, temperature, top_k, top_p, seed, y);
    return b.context;
  });
}

int32_t kva_logprobs(kva_tensor* logits, kva_tensor* ids, kva_tensor* out) {
  return run("logprobs", [&]() -> Context& {
    Tensor &x = get(logits, "logits"), &i = get(ids, "ids"), &y = get(out, "out");
    require_context(i, "ids", x.context);
    require_context(y, "out", x.context);
    require_type(x, "logits", KVA_F32);
    require_type(i, "ids", KVA_I32);
    require_type(y, "out", KVA_F32);
    require_shape(i, "ids", 1, x.rows);
    require_shape(y, "out", 1, x.rows);
    logprobs(x.context, x, i, y);
    return x.context;
  });
}

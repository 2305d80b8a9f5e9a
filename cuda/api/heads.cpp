// extern "C": budgets of each head, scores over all heads, keys against their mean, expected attention.
#include <cmath>

#include "../ops/ops.h"
#include "check_batch.h"

using namespace kva;

int32_t kva_topk_counts(kva_tensor* x, int32_t k, kva_tensor* counts) {
  return run("topk_counts", [&]() -> Context& {
    Tensor &in = get(x, "x"), &out = get(counts, "counts");
    require_context(out, "counts", in.context);
    require_type(in, "x", KVA_F32);
    require_type(out, "counts", KVA_I32);
    require_shape(out, "counts", 1, in.rows);
    const int64_t elements = int64_t(in.rows) * in.columns;
    require(in.rows <= 1024, "x has %d rows, it may have 1024", in.rows);
    require(elements < INT32_MAX, "x has %lld elements, it may have %d", (long long)elements, INT32_MAX - 1);
    require(k >= 1 && k <= elements, "k is %d, x has %lld elements", k, (long long)elements);
    topk_counts(in.context, in, k, out);
    return in.context;
  });
}

int32_t kva_topk_each(kva_tensor* x, kva_tensor* counts, kva_tensor* index) {
  return run("topk_each", [&]() -> Context& {
    Tensor &in = get(x, "x"), &k = get(counts, "counts"), &out = get(index, "index");
    require_context(k, "counts", in.context);
    require_context(out, "index", in.context);
    require_type(in, "x", KVA_F32);
    require_type(k, "counts", KVA_I32);
    require_type(out, "index", KVA_I32);
    require_shape(k, "counts", 1, in.rows);
    require(out.columns <= in.columns, "index has %d columns, the row has %d", out.columns, in.columns);
    require_shape(out, "index", in.rows, out.columns);
    topk_each(in.context, in, k, out);
    return in.context;
  });
}

int32_t kva_fill_at(kva_tensor* x, kva_tensor* index, float value) {
  return run("fill_at", [&]() -> Context& {
    Tensor &out = get(x, "x"), &at = get(index, "index");
    require_context(at, "index", out.context);
    require_type(out, "x", KVA_F32);
    require_type(at, "index", KVA_I32);
    require_shape(at, "index", out.rows, at.columns);
    fill_at(out.context, out, at, value);
    return out.context;
  });
}

int32_t kva_multiply(kva_tensor* x, kva_tensor* y, kva_tensor* out) {
  return run("multiply", [&]() -> Context& {
    Tensor& in = get(x, "x");
    require_type(in, "x", KVA_F32);
    require_out(y, "y");
    require_out(out, "out");
    multiply(in.context, in, get_result(y, "y", in.context, in.rows, in.columns), get_result(out, "out", in.context, in.rows, in.columns));
    return in.context;
  });
}

int32_t kva_rows_mean(kva_tensor* x, kva_tensor* out) {
  return run("rows_mean", [&]() -> Context& {
    Tensor& in = get(x, "x");
    require_type(in, "x", KVA_F32);
    require_out(out, "out");
    Matrix mean = get_result(out, "out", in.context, in.rows, in.columns);
    rows_mean(in.context, in, mean);
    return in.context;
  });
}

int32_t kva_row_sums(kva_tensor* x, kva_tensor* out) {
  return run("row_sums", [&]() -> Context& {
    Tensor& in = get(x, "x");
    require_type(in, "x", KVA_F32);
    require_out(out, "out");
    Matrix sums = get_result(out, "out", in.context, in.rows, 1);
    row_sums(in.context, in, sums);
    return in.context;
  });
}

int32_t kva_kv_accumulate_shared(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t side,
                                 float factor, float decay) {
  return run("kv_accumulate_shared", [&]() -> Context& {
    Batch& b = get_range(batch, first_sequence, sequences, layer);
    Tensor& p = get(probs, "probs");
    require_side(b.shape(), side);
    require_context(p, "probs", b.context);
    require_type(p, "probs", KVA_F32);
    require_shape(p, "probs", int64_t(b.sequences()) * b.shape().kv_heads, p.columns);
    accumulate_shared(b.context, b, first_sequence, sequences, layer, p, side, factor, decay);
    return b.context;
  });
}

int32_t kva_kv_keep_at_most_each(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, const int32_t* rows,
                                 int32_t sinks) {
  return run("kv_keep_at_most_each", [&]() -> Context& {
    Batch& b = get_droppable(batch, first_sequence, sequences, layer);
    require_out(rows, "rows");
    require(sinks >= 0, "sinks is %d, it must be at least 0", sinks);
    const std::vector<int32_t> most(rows, rows + b.shape().kv_heads);
    for (int32_t h = 0; h < b.shape().kv_heads; ++h)
      require(most[h] >= sinks, "rows[%d] is %d and sinks is %d; sinks must be from 0 to rows", h, most[h], sinks);
    keep_at_most_each(b.context, b, first_sequence, sequences, layer, most.data(), sinks);
    b.context.effect([&b, first_sequence, sequences, layer, most] {
      for (int32_t s = first_sequence; s < first_sequence + sequences; ++s)
        for (int32_t h = 0; h < b.shape().kv_heads; ++h) {
          KvHead& head = b.kvs[s]->layer(layer)[h];
          if (live_rows(head) > most[h]) drop_one(head);
        }
    });
    return b.context;
  });
}

int32_t kva_key_similarity(kva_kv* kv, int32_t layer, kva_tensor* out) {
  return run("key_similarity", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require_plain(cache, layer);
    require_out(out, "out");
    const int32_t length = cache.shared_length(layer);
    require(length > 0, "layer %d holds no rows", layer);
    key_similarity(cache.context, cache, layer, get_result(out, "out", cache.context, cache.shape.kv_heads, length));
    return cache.context;
  });
}

int32_t kva_kv_note_similarity(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                               float factor) {
  return run("kv_note_similarity", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require(rows >= 1, "rows is %d, it must be at least 1", rows);
    note_similarity(b.context, b, first_sequence, sequences, layer, side, rows, factor);
    return b.context;
  });
}

int32_t kva_query_moments(kva_tensor* queries, int32_t heads, int32_t seen, kva_tensor* moments) {
  return run("query_moments", [&]() -> Context& {
    Tensor& q = get(queries, "queries");
    require_float(q, "queries");
    require(heads >= 1 && q.columns % heads == 0 && q.columns / heads <= most_head_dim,
            "heads is %d; the queries' %d columns must be a multiple of it, of heads of at most %d", heads, q.columns, most_head_dim);
    require(seen >= 0 && seen <= INT32_MAX - q.rows, "seen is %d rows, and %d more come", seen, q.rows);
    require_out(moments, "moments");
    const int64_t head_dim = q.columns / heads;
    Matrix m = get_result(moments, "moments", q.context, heads, head_dim + head_dim * head_dim);
    query_moments(q.context, q, seen, m);
    return q.context;
  });
}

int32_t kva_future_attention(kva_kv* kv, int32_t layer, kva_tensor* moments, int32_t seen, int32_t first_position, int32_t positions,
                               kva_tensor* inv_freq, int32_t interleaved, float mscale, float scale, int32_t first_row, int32_t covariance,
                               kva_tensor* out) {
  return run("future_attention", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    const KvShape& shape = cache.shape;
    cache.context.require_eager();
    require_layer(shape, layer);
    require_plain(cache, layer);
    Tensor& freq = get(inv_freq, "inv_freq");
    require_out(moments, "moments");
    require_out(out, "out");
    const int64_t head_dim = shape.head_dim;
    Matrix m = get_result(moments, "moments", cache.context, shape.heads, head_dim + head_dim * head_dim);
    require(seen >= 1, "seen is %d, it must be at least 1", seen);
    require(first_position >= 0 && positions >= 1 && positions <= (1 << 20) && first_position <= INT32_MAX - positions,
            "first_position is %d and positions is %d; they must be at least 0 and from 1 to %d", first_position, positions, 1 << 20);
    get_result(inv_freq, "inv_freq", cache.context, 1, freq.columns);
    require(2 * int64_t(freq.columns) <= head_dim, "inv_freq has %d columns, headDim is %d", freq.columns, shape.head_dim);
    require(std::isfinite(scale) && std::isfinite(mscale), "scale is %g and mscale is %g, they must be finite", scale, mscale);
    const int32_t length = cache.shared_length(layer);
    require(first_row >= 0 && first_row < length, "first_row is %d, layer %d holds %d rows", first_row, layer, length);
    Matrix y = get_result(out, "out", cache.context, shape.kv_heads, length - first_row);
    future_attention(cache.context, cache, layer, m, seen, {freq, first_position, positions, interleaved != 0, mscale}, scale, first_row,
                       covariance != 0, y);
    return cache.context;
  });
}

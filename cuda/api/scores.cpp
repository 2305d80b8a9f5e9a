// extern "C": scores of cache rows, and selection by them.
#include <cmath>

#include "../ops/ops.h"
#include "check_blocks.h"

using namespace kva;

int32_t kva_window_stats(kva_kv* kv, int32_t layer, kva_tensor* queries, float scale, int32_t reduce, kva_tensor* mean, kva_tensor* variance,
                         kva_tensor* maximum, kva_tensor* scalars) {
  return run("window_stats", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& q = get(queries, "queries");
    const KvShape& shape = cache.shape;
    cache.context.require_eager();
    require_layer(shape, layer);
    require_context(q, "queries", cache.context);
    require_float(q, "queries");
    require_shape(q, "queries", q.rows, int64_t(shape.heads) * shape.head_dim);
    require(std::isfinite(scale), "scale is %g, it must be finite", scale);
    require(reduce >= KVA_REDUCE_MEAN && reduce <= KVA_REDUCE_NONE, "reduce is %d, it must be 0 (mean), 1 (max), 2 (sum) or 3 (none)", reduce);
    require_plain(cache, layer);
    int32_t length = cache.shared_length(layer);
    require(q.rows < length, "the window has %d rows, layer %d holds %d; rows before the window are needed", q.rows, layer, length);
    int32_t rows = reduce == KVA_REDUCE_NONE ? shape.heads : shape.kv_heads, columns = length - q.rows;
    Matrix m = get_result(mean, "mean", cache.context, rows, columns), v = get_result(variance, "variance", cache.context, rows, columns);
    Matrix x = get_result(maximum, "maximum", cache.context, rows, columns), s = get_result(scalars, "scalars", cache.context, 1, 2);
    require(m || v || x || s, "mean, variance, maximum and scalars are all null; one must not be");
    window_stats(cache.context, cache, layer, q, scale, reduce, m, v, x, s);
    return cache.context;
  });
}

int32_t kva_row_norms(kva_kv* kv, int32_t layer, int32_t what, int32_t p, kva_tensor* out) {
  return run("row_norms", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& y = get(out, "out");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require(what == 0 || what == 1, "what is %d, it must be 0 (keys) or 1 (values)", what);
    require(p == 1 || p == 2, "p is %d, it must be 1 or 2", p);
    require_context(y, "out", cache.context);
    require_type(y, "out", KVA_F32);
    require_plain(cache, layer);
    require_shape(y, "out", cache.shape.kv_heads, cache.shared_length(layer));
    row_norms(cache.context, cache, layer, what, p, y);
    return cache.context;
  });
}

int32_t kva_pool(kva_tensor* x, int32_t kind, int32_t width, kva_tensor* out) {
  return run("pool", [&]() -> Context& {
    Tensor &in = get(x, "x"), &y = get(out, "out");
    require_context(y, "out", in.context);
    require_type(in, "x", KVA_F32);
    require_type(y, "out", KVA_F32);
    require_shape(y, "out", in.rows, in.columns);
    require(kind == KVA_POOL_MAX || kind == KVA_POOL_AVG, "kind is %d, it must be 0 (max) or 1 (avg)", kind);
    require(width >= 1 && width % 2 == 1, "width is %d, it must be odd", width);
    require(y.data != in.data, "out must not be x");
    pool(in.context, in, kind, width, y);
    return in.context;
  });
}

int32_t kva_combine(float a, kva_tensor* x, float b, kva_tensor* y, kva_tensor* out) {
  return run("combine", [&]() -> Context& {
    Tensor &first = get(x, "x"), &sum = get(out, "out");
    require_context(sum, "out", first.context);
    require_type(first, "x", KVA_F32);
    require_type(sum, "out", KVA_F32);
    require_shape(sum, "out", first.rows, first.columns);
    combine(first.context, a, first, b, get_result(y, "y", first.context, first.rows, first.columns), sum);
    return first.context;
  });
}

int32_t kva_topk(kva_tensor* x, int32_t k, kva_tensor* index) {
  return run("topk", [&]() -> Context& {
    Tensor &in = get(x, "x"), &out = get(index, "index");
    require_context(out, "index", in.context);
    require_type(in, "x", KVA_F32);
    require_type(out, "index", KVA_I32);
    require(k >= 1 && k <= in.columns, "k is %d, the row has %d", k, in.columns);
    require_shape(out, "index", in.rows, k);
    topk(in.context, in, k, out);
    return in.context;
  });
}

namespace {

Context& checked_column_sums(Kv& cache, int32_t layer, int32_t first_row, kva_tensor* queries, kva_tensor* lse, float scale, int32_t reduce,
                             const BlockSet& blocks, kva_tensor* out) {
  Tensor &q = get(queries, "queries"), &l = get(lse, "lse"), &y = get(out, "out");
  const KvShape& shape = cache.shape;
  cache.context.require_eager();
  require_layer(shape, layer);
  require_context(q, "queries", cache.context);
  require_float(q, "queries");
  require_shape(q, "queries", q.rows, int64_t(shape.heads) * shape.head_dim);
  get_result(lse, "lse", cache.context, shape.heads, q.rows);
  get_result(out, "out", cache.context, shape.kv_heads, y.columns);
  require_plain(cache, layer);
  int32_t length = cache.shared_length(layer);
  require(first_row >= 0 && int64_t(first_row) + q.rows <= length, "query rows [%d, %lld) must be rows of the cache, layer %d holds %d",
          first_row, (long long)first_row + q.rows, layer, length);
  require(first_row + q.rows <= y.columns, "out has %d columns, the queries see %d rows", y.columns, first_row + q.rows);
  require(std::isfinite(scale), "scale is %g, it must be finite", scale);
  require(reduce == KVA_REDUCE_MAX || reduce == KVA_REDUCE_SUM, "reduce is %d, it must be 1 (max) or 2 (sum)", reduce);
  column_sums(cache.context, cache, layer, first_row, q, l, scale, reduce, blocks, y);
  return cache.context;
}

}  // namespace

int32_t kva_column_sums(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* queries, kva_tensor* lse, float scale, int32_t reduce,
                        kva_tensor* out) {
  return run("column_sums", [&]() -> Context& {
    return checked_column_sums(get(kv, "kv"), layer, first_row, queries, lse, scale, reduce, BlockSet{}, out);
  });
}

int32_t kva_column_sums_blocks(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* queries, kva_tensor* lse, float scale, int32_t reduce,
                               int32_t block, int32_t first_block, kva_tensor* bits, const int32_t* kinds, kva_tensor* out) {
  return run("column_sums_blocks", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    const int32_t rows = get(queries, "queries").rows;
    const BlockSet set = get_read_set(bits, cache.context, cache.shape, first_row, rows, block, first_block, kinds);
    return checked_column_sums(cache, layer, first_row, queries, lse, scale, reduce, set, out);
  });
}

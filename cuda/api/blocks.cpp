// extern "C": block-sparse prefill: attention over sets of blocks, the scores that make them, the choice, the sets themselves.
#include <cmath>

#include "../ops/ops.h"
#include "check_blocks.h"

using namespace kva;

namespace {

// Optional bits with a row for each of `rows` and a bit for each of `columns`.
Matrix get_bits(kva_tensor* handle, const char* name, const Context& context, int32_t rows, int64_t columns) {
  if (handle == nullptr) return {};
  Tensor& x = get(handle, name);
  require_context(x, name, context);
  require_type(x, name, KVA_I32);
  require(x.rows == rows && x.columns >= words_for(columns), "%s is [%d, %d], it must be [%d, at least %d]", name, x.rows, x.columns, rows,
          words_for(columns));
  return x;
}

Matrix get_counts(kva_tensor* handle, const Context& context, int64_t count) {
  if (handle == nullptr) return {};
  Tensor& x = get(handle, "counts");
  require_context(x, "counts", context);
  require_type(x, "counts", KVA_I32);
  require_shape(x, "counts", 1, count);
  return x;
}

Tensor& get_scores(kva_tensor* handle, const char* name) {
  Tensor& x = get(handle, name);
  require_type(x, name, KVA_F32);
  return x;
}

void require_scale(float scale) { require(std::isfinite(scale), "scale is %g, it must be finite", scale); }
void require_block(int32_t block) { require(block >= 1, "block is %d, it must be 1 or more", block); }

}  // namespace

int32_t kva_attention_blocks(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* q, float scale, int32_t block, int32_t first_block,
                             kva_tensor* bits, const int32_t* kinds, kva_tensor* out, kva_tensor* lse) {
  return run("attention_blocks", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor &queries = get(q, "q"), &y = get(out, "out");
    const KvShape& shape = cache.shape;
    cache.context.require_eager();
    require_layer(shape, layer);
    require_context(queries, "q", cache.context);
    require_context(y, "out", cache.context);
    require_float(queries, "q");
    require_shape(queries, "q", queries.rows, int64_t(shape.heads) * shape.head_dim);
    require_type(y, "out", queries.dtype);
    require_shape(y, "out", queries.rows, queries.columns);
    Matrix sums = get_result(lse, "lse", cache.context, shape.heads, queries.rows);
    require_scale(scale);
    require_plain(cache, layer);
    const BlockSet set = get_read_set(bits, cache.context, shape, first_row, queries.rows, block, first_block, kinds);
    const int32_t length = cache.shared_length(layer);
    require(int64_t(first_row) + queries.rows <= length, "query rows [%d, %lld) must be rows of the cache, layer %d holds %d", first_row,
            (long long)first_row + queries.rows, layer, length);
    attention_blocks(cache.context, cache, layer, first_row, queries, scale, set, y, sums);
    return cache.context;
  });
}

int32_t kva_window_sums(kva_kv* kv, int32_t layer, kva_tensor* queries, float scale, int32_t block, kva_tensor* columns, kva_tensor* diagonals,
                        kva_tensor* column_blocks, kva_tensor* diagonal_blocks) {
  return run("window_sums", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& q = get(queries, "queries");
    const KvShape& shape = cache.shape;
    cache.context.require_eager();
    require_layer(shape, layer);
    require_context(q, "queries", cache.context);
    require_float(q, "queries");
    require_shape(q, "queries", q.rows, int64_t(shape.heads) * shape.head_dim);
    require_scale(scale);
    require_block(block);
    require_plain(cache, layer);
    const int32_t length = cache.shared_length(layer);
    require(q.rows >= 1 && q.rows <= 256 && q.rows <= length, "the window has %d rows, it must have 1 to 256 of the %d that layer %d holds", q.rows,
            length, layer);
    const int64_t blocks = blocks_for(length, block);
    Matrix outs[] = {get_result(columns, "columns", cache.context, shape.heads, length),
                     get_result(diagonals, "diagonals", cache.context, shape.heads, length),
                     get_result(column_blocks, "column_blocks", cache.context, shape.heads, blocks),
                     get_result(diagonal_blocks, "diagonal_blocks", cache.context, shape.heads, blocks)};
    require(outs[0] || outs[1] || outs[2] || outs[3], "columns, diagonals, column_blocks and diagonal_blocks are all null; one must not be");
    window_sums(cache.context, cache, layer, q, scale, block, outs[0], outs[1], outs[2], outs[3]);
    return cache.context;
  });
}

int32_t kva_block_mean(kva_tensor* x, int32_t block, kva_tensor* out) {
  return run("block_mean", [&]() -> Context& {
    Tensor &from = get(x, "x"), &to = get_scores(out, "out");
    require_context(to, "out", from.context);
    require_float(from, "x");
    require_block(block);
    require_shape(to, "out", blocks_for(from.rows, block), from.columns);
    block_mean(from.context, from, block, to);
    return from.context;
  });
}

int32_t kva_key_block_mean(kva_kv* kv, int32_t layer, int32_t block, kva_tensor* out) {
  return run("key_block_mean", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& to = get_scores(out, "out");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require_context(to, "out", cache.context);
    require_block(block);
    require_plain(cache, layer);
    require_shape(to, "out", blocks_for(cache.shared_length(layer), block), int64_t(cache.shape.kv_heads) * cache.shape.head_dim);
    key_block_mean(cache.context, cache, layer, block, to);
    return cache.context;
  });
}

int32_t kva_pooled_attention(kva_tensor* queries, kva_tensor* keys, int32_t heads, int32_t kv_heads, float scale, int32_t first_block,
                             kva_tensor* out) {
  return run("pooled_attention", [&]() -> Context& {
    Tensor &q = get_scores(queries, "queries"), &k = get_scores(keys, "keys"), &y = get_scores(out, "out");
    require_context(k, "keys", q.context);
    require_context(y, "out", q.context);
    require(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0, "%d heads cannot share %d KV heads", heads, kv_heads);
    require(q.columns % heads == 0, "queries has %d columns, which are not those of %d heads", q.columns, heads);
    require_shape(k, "keys", k.rows, int64_t(kv_heads) * (q.columns / heads));
    require_scale(scale);
    require(first_block >= -1, "first_block is %d, it must be -1 (all columns) or more", first_block);
    require_shape(y, "out", int64_t(heads) * q.rows, k.rows);
    pooled_attention(q.context, q, k, heads, kv_heads, scale, first_block, y);
    return q.context;
  });
}

int32_t kva_antidiagonal_scores(kva_kv* kv, int32_t layer, int32_t first_row, int32_t first_head, kva_tensor* queries, float scale,
                                int32_t stride, int32_t block, kva_tensor* out) {
  return run("antidiagonal_scores", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor &q = get(queries, "queries"), &y = get_scores(out, "out");
    const KvShape& shape = cache.shape;
    const int32_t group = shape.group();
    cache.context.require_eager();
    require_layer(shape, layer);
    require_context(q, "queries", cache.context);
    require_context(y, "out", cache.context);
    require_float(q, "queries");
    require_scale(scale);
    require_plain(cache, layer);
    const int32_t heads = q.columns / shape.head_dim, length = cache.shared_length(layer);
    require(q.columns % shape.head_dim == 0 && heads % group == 0, "queries has %d columns, which are not those of a multiple of %d heads of %d",
            q.columns, group, shape.head_dim);
    require(first_head >= 0 && first_head % group == 0 && int64_t(first_head) + heads <= shape.heads,
            "heads [%d, %lld) must be whole groups of %d of the %d", first_head, (long long)first_head + heads, group, shape.heads);
    require(stride >= 1 && block >= 1 && block % stride == 0 && block / stride <= 128,
            "block is %d and stride %d: block must be a multiple of stride, at most 128 times it", block, stride);
    require(first_row >= 0 && first_row % block == 0, "first_row is %d, it must be a multiple of block, %d", first_row, block);
    require(int64_t(first_row) + q.rows == length, "query rows [%d, %lld) must be the last ones of layer %d, which holds %d", first_row,
            (long long)first_row + q.rows, layer, length);
    require_shape(y, "out", heads * blocks_for(q.rows, block), blocks_for(length, block));
    antidiagonal_scores(cache.context, cache, layer, first_row, first_head, q, scale, stride, block, y);
    return cache.context;
  });
}

int32_t kva_cumulative(kva_tensor* x, const double* shares, int32_t groups, int32_t flat, int32_t inclusive, int32_t extra, int32_t extra_rows,
                       int32_t least, int32_t most, kva_tensor* forced, kva_tensor* gate, float threshold, kva_tensor* counts,
                       kva_tensor* bits) {
  return run("cumulative", [&]() -> Context& {
    Tensor& in = get_scores(x, "x");
    require_out(shares, "shares");
    require(groups >= 1 && in.rows % groups == 0, "x has %d rows, which are not those of %d groups", in.rows, groups);
    for (int32_t g = 0; g < groups; ++g) require(shares[g] >= 0 && shares[g] <= 1, "shares[%d] is %g, it must be within [0, 1]", g, shares[g]);
    require(flat == 0 || in.rows / groups * int64_t(in.columns) <= INT32_MAX, "a group has %lld columns in all, more than %d",
            (long long)(in.rows / groups) * in.columns, INT32_MAX);
    require(extra >= 0 && extra_rows >= 0 && least >= 0 && most >= 0, "extra is %d, extra_rows %d, least %d, most %d: none may be negative", extra,
            extra_rows, least, most);
    const Matrix f = get_bits(forced, "forced", in.context, in.rows, in.columns), to = get_bits(bits, "bits", in.context, in.rows, in.columns);
    const Matrix c = get_counts(counts, in.context, flat ? groups : in.rows);
    require(c || to, "counts and bits are both null; one must not be");
    const Cumulative how{shares, groups, flat != 0, inclusive != 0, extra, extra_rows, least, most, threshold};
    cumulative(in.context, in, how, f, get_result(gate, "gate", in.context, 1, groups), c, to);
    return in.context;
  });
}

int32_t kva_top_bits(kva_tensor* x, kva_tensor* counts, kva_tensor* forced, kva_tensor* bits) {
  return run("top_bits", [&]() -> Context& {
    Tensor& in = get_scores(x, "x");
    require_out(counts, "counts");
    require_out(bits, "bits");
    top_bits(in.context, in, get_counts(counts, in.context, in.rows), get_bits(forced, "forced", in.context, in.rows, in.columns),
             get_bits(bits, "bits", in.context, in.rows, in.columns));
    return in.context;
  });
}

int32_t kva_counts_divide(kva_tensor* counts, int32_t offset, int32_t divisor, int32_t least, int32_t most) {
  return run("counts_divide", [&]() -> Context& {
    Tensor& x = get(counts, "counts");
    get_counts(counts, x.context, x.columns);
    require(offset >= 0 && divisor >= 1, "offset is %d and divisor %d: they must be at least 0 and 1", offset, divisor);
    require(least >= 0 && most >= least, "least is %d and most %d: 0 <= least <= most must hold", least, most);
    counts_divide(x.context, x, offset, divisor, least, most);
    return x.context;
  });
}

int32_t kva_counts_where(kva_tensor* gate, float threshold, int32_t value, kva_tensor* counts) {
  return run("counts_where", [&]() -> Context& {
    Tensor& x = get(counts, "counts");
    require_out(gate, "gate");
    get_counts(counts, x.context, x.columns);
    counts_where(x.context, get_result(gate, "gate", x.context, 1, x.columns), threshold, value, x);
    return x.context;
  });
}

int32_t kva_js_distance(kva_tensor* p, kva_tensor* q, kva_tensor* out) {
  return run("js_distance", [&]() -> Context& {
    Tensor& a = get_scores(p, "p");
    require_out(q, "q");
    require_out(out, "out");
    js_distance(a.context, a, get_result(q, "q", a.context, a.rows, a.columns), get_result(out, "out", a.context, 1, a.rows));
    return a.context;
  });
}

int32_t kva_blocks_band(kva_tensor* bits, int32_t heads, int32_t first_block, int32_t sinks, int32_t recent) {
  return run("blocks_band", [&]() -> Context& {
    Context& context = get(bits, "bits").context;
    const BlockSet set = get_set(bits, "bits", context, heads, first_block);
    require(sinks >= 0 && recent >= 0, "sinks is %d and recent %d: neither may be negative", sinks, recent);
    blocks_band(context, set, sinks, recent);
    return context;
  });
}

int32_t kva_blocks_vertical_slash(kva_tensor* vertical, kva_tensor* slash, int32_t before, int32_t after, int32_t first_block, kva_tensor* bits) {
  return run("blocks_vertical_slash", [&]() -> Context& {
    Tensor& v = get(vertical, "vertical");
    require_out(slash, "slash");
    const BlockSet set = get_set(bits, "bits", v.context, v.rows, first_block);
    const int64_t columns = int64_t(first_block) + set.rows;
    require(before >= 0 && before <= 1 && after >= 0 && after <= 1, "before is %d and after %d: both must be 0 or 1", before, after);
    blocks_vertical_slash(v.context, get_bits(vertical, "vertical", v.context, set.heads, columns),
                          get_bits(slash, "slash", v.context, set.heads, columns), before, after, set);
    return v.context;
  });
}

int32_t kva_blocks_count(kva_tensor* bits, int32_t heads, int32_t first_block, kva_tensor* counts) {
  return run("blocks_count", [&]() -> Context& {
    Context& context = get(bits, "bits").context;
    const BlockSet set = get_set(bits, "bits", context, heads, first_block);
    require_out(counts, "counts");
    blocks_count(context, set, get_counts(counts, context, heads));
    return context;
  });
}

int32_t kva_blocks_thin(kva_tensor* bits, int32_t heads, int32_t first_block, float share) {
  return run("blocks_thin", [&]() -> Context& {
    Context& context = get(bits, "bits").context;
    const BlockSet set = get_set(bits, "bits", context, heads, first_block);
    require(share > 0 && share <= 1, "share is %g, it must be above 0 and at most 1", share);
    blocks_thin(context, set, share);
    return context;
  });
}

int32_t kva_blocks_to_csr(kva_tensor* bits, int32_t heads, int32_t first_block, kva_tensor* row_ptr, kva_tensor* col) {
  return run("blocks_to_csr", [&]() -> Context& {
    Tensor &x = get(bits, "bits"), &rows = get(row_ptr, "row_ptr"), &columns = get(col, "col");
    const BlockSet set = get_set(bits, "bits", x.context, heads, first_block);
    require_context(rows, "row_ptr", x.context);
    require_context(columns, "col", x.context);
    require_type(rows, "row_ptr", KVA_I32);
    require_type(columns, "col", KVA_I32);
    require_shape(rows, "row_ptr", 1, int64_t(x.rows) + 1);
    require_shape(columns, "col", 1, columns.columns);
    blocks_to_csr(x.context, set, rows, columns);
    return x.context;
  });
}

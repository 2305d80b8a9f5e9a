// extern "C": the cache of a sequence.
#include "../ops/ops.h"
#include "check.h"

using namespace kva;

static int32_t create(const char* op, kva_context* context, int32_t layers, int32_t first_layer, int32_t held_layers, int32_t heads,
                      int32_t kv_heads, int32_t head_dim, int32_t dtype, int32_t side_arrays, int32_t unrotated_rows, kva_kv** out) {
  return guard(op, [&] {
    Context& c = get(context, "context");
    require_out(out, "out");
    c.require_eager();
    require(layers >= 1 && layers <= 4096, "layers is %d, it must be from 1 to 4096", layers);
    require(kv_heads >= 1 && kv_heads <= 1024, "kvHeads is %d, it must be from 1 to 1024", kv_heads);
    require(heads >= kv_heads && heads <= 4096 && heads % kv_heads == 0, "heads is %d, it must be a multiple of kvHeads %d", heads, kv_heads);
    require(head_dim >= 1 && head_dim <= most_head_dim, "headDim is %d, it must be from 1 to %d", head_dim, most_head_dim);
    require(is_float(dtype), "dtype %d is not one of 0 (f32), 1 (f16), 2 (bf16)", dtype);
    require(side_arrays >= 0 && side_arrays <= max_side_arrays, "side_arrays is %d, it must be from 0 to %d", side_arrays, max_side_arrays);
    require(unrotated_rows >= KVA_EVERY_ROW, "unrotated_rows is %d, it must be at least 0, or -1 for every row", unrotated_rows);
    require(first_layer >= 0 && held_layers >= 1 && int64_t(first_layer) + held_layers <= layers, "layers [%d, %lld) must be some of the %d", first_layer,
            (long long)first_layer + held_layers, layers);
    *out = reinterpret_cast<kva_kv*>(
        new Kv(c, {layers, heads, kv_heads, head_dim, dtype, side_arrays, unrotated_rows}, first_layer, first_layer + held_layers));
  });
}

int32_t kva_kv_create(kva_context* context, int32_t layers, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t dtype,
                      int32_t side_arrays, int32_t unrotated_rows, kva_kv** out) {
  return create("kv_create", context, layers, 0, layers, heads, kv_heads, head_dim, dtype, side_arrays, unrotated_rows, out);
}

int32_t kva_kv_create_part(kva_context* context, int32_t layers, int32_t first_layer, int32_t held_layers, int32_t heads, int32_t kv_heads,
                           int32_t head_dim, int32_t dtype, int32_t side_arrays, int32_t unrotated_rows, kva_kv** out) {
  return create("kv_create_part", context, layers, first_layer, held_layers, heads, kv_heads, head_dim, dtype, side_arrays, unrotated_rows, out);
}

int32_t kva_kv_destroy(kva_kv* kv) {
  return guard("kv_destroy", [&] { delete reinterpret_cast<Kv*>(kv); });
}

int32_t kva_kv_reserve(kva_kv* kv, int32_t layer, int32_t rows) {
  return run("kv_reserve", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    if (layer != -1) require_layer(cache.shape, layer);
    require(rows >= 0, "rows is %d, it must be at least 0", rows);
    require(layer == -1 || (layer >= cache.first_layer && layer < cache.end_layer), "layer is %d, this part of the cache holds layers %d to %d",
            layer, cache.first_layer, cache.end_layer - 1);
    std::vector<int32_t> room(cache.shape.kv_heads, rows);
    for (int32_t l = layer == -1 ? cache.first_layer : layer; l < (layer == -1 ? cache.end_layer : layer + 1); ++l) cache.reserve(l, room);
    return cache.context;
  });
}

int32_t kva_kv_info(kva_kv* kv, int64_t* out) {
  return guard("kv_info", [&] {
    Kv& cache = get(kv, "kv");
    require_out(out, "out");
    int32_t longest = 0;
    for (const KvHead& head : cache.heads) longest = head.len > longest ? head.len : longest;
    out[0] = cache.held_bytes();
    out[1] = cache.allocated_bytes();
    out[2] = cache.position;
    out[3] = longest;
  });
}

int32_t kva_kv_lengths(kva_kv* kv, int32_t layer, int32_t* lengths) {
  return guard("kv_lengths", [&] {
    Kv& cache = get(kv, "kv");
    require_out(lengths, "lengths");
    require_layer(cache.shape, layer);
    for (int32_t h = 0; h < cache.shape.kv_heads; ++h) lengths[h] = cache.layer(layer)[h].len;
  });
}

int32_t kva_kv_positions(kva_kv* kv, int32_t layer, int32_t kv_head, int32_t* positions, int32_t capacity) {
  return guard("kv_positions", [&] {
    Kv& cache = get(kv, "kv");
    require_out(positions, "positions");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require_kv_head(cache.shape, kv_head);
    const KvHead& head = cache.layer(layer)[kv_head];
    require(capacity >= head.len, "there is room for %d positions, head %d of layer %d holds %d rows", capacity, kv_head, layer, head.len);
    int64_t bytes = head.len * int64_t(sizeof(int32_t));
    if (bytes > 0) cache.context.device->download(positions, bytes, head.pos, bytes, bytes, 1);
  });
}

int32_t kva_kv_seek(kva_kv* kv, int32_t position, uint32_t stream) {
  return run("kv_seek", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    require(position >= 0, "position is %d, it must be at least 0", position);
    cache.seek(position, stream);
    return cache.context;
  });
}

int32_t kva_kv_keep(kva_kv* kv, int32_t layer, kva_tensor* index, const int32_t* counts, int32_t first, int32_t last, int32_t spare) {
  return run("kv_keep", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    require_layer(cache.shape, layer);
    require(first >= 0 && last >= 0 && spare >= 0, "first is %d, last is %d, spare is %d; each must be at least 0", first, last, spare);
    Matrix chosen = get_optional(index);
    if (chosen) {
      require_context(get(index, "index"), "index", cache.context);
      require_type(chosen, "index", KVA_I32);
      require_shape(chosen, "index", cache.shape.kv_heads, chosen.columns);
    }
    require_plain(cache, layer);
    require_unbounded(cache, layer);
    cache.keep(layer, chosen, counts, first, last, spare);
    return cache.context;
  });
}

int32_t kva_kv_fork(kva_kv* kv, kva_kv** out) {
  return run("kv_fork", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    require_out(out, "out");
    *out = reinterpret_cast<kva_kv*>(cache.fork().release());
    return cache.context;
  });
}

// The rows of one head that `what` names, as a matrix like x must be.
static Matrix head_rows(Kv& cache, int32_t layer, int32_t kv_head, int32_t what, const Tensor& x, const char* name) {
  const KvShape& shape = cache.shape;
  cache.context.require_eager();
  require_context(x, name, cache.context);
  require_layer(shape, layer);
  require_kv_head(shape, kv_head);
  require(what >= 0 && what < 2 + shape.side_arrays, "what is %d, the cache has 0 (keys), 1 (values) and %d side arrays from 2 on", what,
          shape.side_arrays);
  const KvHead& head = cache.layer(layer)[kv_head];
  require(head.len > 0, "head %d of layer %d holds no rows", kv_head, layer);
  Matrix rows = what < 2 ? Matrix{shape.dtype, head.len, shape.head_dim, shape.head_dim, what == 0 ? head.k : head.v}
                         : Matrix{KVA_F32, 1, head.len, head.len, head.side[what - 2]};
  require_type(x, name, rows.dtype);
  require_shape(x, name, rows.rows, rows.columns);
  return rows;
}

int32_t kva_kv_read(kva_kv* kv, int32_t layer, int32_t kv_head, int32_t what, kva_tensor* out) {
  return run("kv_read", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& y = get(out, "out");
    Matrix rows = head_rows(cache, layer, kv_head, what, y, "out");
    if (what < 2 && cache.packs(layer))
      read_rows(cache.context, cache.shape, cache.layer(layer)[kv_head], what, y);
    else
      copy(cache.context, rows, y);
    return cache.context;
  });
}

int32_t kva_kv_write(kva_kv* kv, int32_t layer, int32_t kv_head, int32_t what, kva_tensor* from) {
  return run("kv_write", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& x = get(from, "from");
    Matrix rows = head_rows(cache, layer, kv_head, what, x, "from");
    if (what < 2) require_plain(cache, layer);
    if (what == 0) require_unbounded(cache, layer);
    copy(cache.context, x, rows);
    return cache.context;
  });
}

int32_t kva_kv_side(kva_kv* kv, int32_t layer, int32_t side, int32_t mode, kva_tensor* x) {
  return run("kv_side", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& matrix = get(x, "x");
    cache.context.require_eager();
    require_layer(cache.shape, layer);
    require_side(cache.shape, side);
    require(mode >= 0 && mode <= 2, "mode is %d, it must be 0 (read), 1 (write) or 2 (add)", mode);
    int32_t length = cache.shared_length(layer);
    require(length > 0, "layer %d holds no rows", layer);
    get_result(x, "x", cache.context, cache.shape.kv_heads, length);
    for (int32_t h = 0; h < cache.shape.kv_heads; ++h) {
      Matrix values{KVA_F32, 1, length, length, cache.layer(layer)[h].side[side]}, row{KVA_F32, 1, length, length, matrix.row<float>(h)};
      if (mode == 0) copy(cache.context, values, row);
      if (mode == 1) copy(cache.context, row, values);
      if (mode == 2) combine(cache.context, 1, values, 1, row, values);
    }
    return cache.context;
  });
}

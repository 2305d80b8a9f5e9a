// Splits rows of qkv: rotated queries to q, rotated keys and values to the cache.
#include <cstring>

#include "../core/cpu.h"
#include "../core/pages.h"
#include "kernels.h"
#include "rotation.h"
#include "segments.h"

namespace kva {
namespace {

// One head's floats, rotated and stored as dtype.
void put_rotated(const Rotation& rotation, const float* head, int32_t head_dim, int32_t dtype, void* to) {
  alignas(64) float turned[most_head_dim];
  memcpy(turned, head, head_dim * sizeof(float));
  rotation.turn(turned);
  kernels().narrow(dtype, turned, to, head_dim);
}

// One token: its cache row in head h is row_of(h).
template <class RowOf>
void put_row(const KvShape& shape, const Rotation& rotation, int32_t position, const char* qkv, int32_t dtype, char* q, KvHead* heads,
             RowOf row_of) {
  const Kernels& k = kernels();
  int64_t head_bytes = shape.head_dim * dtype_bytes(dtype), cache_bytes = shape.head_dim * dtype_bytes(shape.dtype);
  alignas(64) float head[most_head_dim];
  auto take = [&](int32_t index) { k.widen(dtype, qkv + index * head_bytes, head, shape.head_dim); };
  for (int32_t h = 0; h < shape.heads; ++h) {
    take(h);
    put_rotated(rotation, head, shape.head_dim, dtype, q + h * head_bytes);
  }
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    int32_t row = row_of(h);
    take(shape.heads + h);
    put_rotated(rotation, head, shape.head_dim, shape.dtype, static_cast<char*>(heads[h].k) + key_slot(heads[h], row) * cache_bytes);
    if (position < shape.unrotated_rows)
      k.narrow(shape.dtype, head, static_cast<char*>(heads[h].unrotated) + position * cache_bytes, shape.head_dim);
    if (heads[h].unrotated_k) k.narrow(shape.dtype, head, static_cast<char*>(heads[h].unrotated_k) + row * cache_bytes, shape.head_dim);
    take(shape.heads + shape.kv_heads + h);
    k.narrow(shape.dtype, head, static_cast<char*>(heads[h].v) + value_slot(heads[h], row) * cache_bytes, shape.head_dim);
    heads[h].pos[row] = position;
    for (int32_t a = 0; a < shape.side_arrays; ++a) heads[h].side[a][row] = 0;
  }
}

// The head's newest key joins the bounds of its page, where they are kept.
void join_page(const KvShape& shape, const KvHead& head) {
  if (head.page_rows == 0) return;
  const int32_t row = head.len - 1;
  with_float_type(shape.dtype, [&](auto type) {
    for (int32_t c = 0; c < shape.head_dim; ++c)
      PageBounds<HostNumber, decltype(type)>(head, shape.head_dim, row / head.page_rows, c).join(shape.head_dim, row % head.page_rows);
  });
}

}  // namespace

void rope_append(Context& context, Kv& kv, int32_t layer, int32_t start_row, int32_t start, Matrix qkv, Matrix q, Matrix inv_freq,
                 bool interleaved, float mscale) {
  KvShape shape = kv.shape;
  KvHead* heads = layer_heads(kv.table, layer);
  parallel_ranges(context, qkv.rows, 4, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      Rotation rotation(inv_freq.row<float>(0), inv_freq.columns, interleaved, start + int32_t(r), mscale);
      put_row(shape, rotation, start + int32_t(r), qkv.row<char>(0) + r * qkv.pitch(), qkv.dtype, q.row<char>(0) + r * q.pitch(), heads,
              [&](int32_t) { return start_row + int32_t(r); });
    }
  });
}

void rope_append_batch(Context& context, Batch& batch, int32_t layer, Matrix qkv, Matrix q, Matrix inv_freq, bool interleaved, float mscale) {
  KvShape shape = batch.shape();
  parallel(context, batch.sequences(), [=, table = batch.table](int64_t s, int32_t) {
    KvSeq* sequence = table[s];
    KvHead* heads = layer_heads(sequence, layer);
    Rotation rotation(inv_freq.row<float>(inv_freq.rows > 1 ? s : 0), inv_freq.columns, interleaved, sequence->position, mscale);
    put_row(shape, rotation, sequence->position, qkv.row<char>(0) + s * qkv.pitch(), qkv.dtype, q.row<char>(0) + s * q.pitch(), heads,
            [&](int32_t h) { return heads[h].len++; });
    for (int32_t h = 0; h < shape.kv_heads; ++h) join_page(shape, heads[h]);
  });
}

}  // namespace kva

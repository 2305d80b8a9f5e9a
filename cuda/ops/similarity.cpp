// Keys against the mean of their head's keys, each divided by its norm (KeyDiff): m = mean_i k_i / |k_i|, s_j = k_j . m / (|k_j| |m|).
#include <algorithm>
#include <cmath>

#include "cache_rows.h"
#include "kernels.h"

namespace kva {
namespace {

constexpr double least_norm = 1e-12;

// write(row, cosine) for each row of the head
template <class Write>
void similarities(const KvShape& shape, const KvHead& head, Write write) {
  const int64_t bytes = shape.head_dim * dtype_bytes(shape.dtype);
  float key[most_head_dim];
  double mean[most_head_dim] = {};
  auto load = [&](int32_t r) {
    kernels().widen(shape.dtype, static_cast<const char*>(head.k) + r * bytes, key, shape.head_dim);
    double square = 0;
    for (int32_t d = 0; d < shape.head_dim; ++d) square += double(key[d]) * key[d];
    return std::max(std::sqrt(square), least_norm);
  };
  for (int32_t r = 0; r < head.len; ++r) {
    const double norm = load(r);
    for (int32_t d = 0; d < shape.head_dim; ++d) mean[d] += key[d] / norm;
  }
  double square = 0;
  for (int32_t d = 0; d < shape.head_dim; ++d) {
    mean[d] /= head.len;
    square += mean[d] * mean[d];
  }
  const double mean_norm = std::max(std::sqrt(square), least_norm);
  for (int32_t r = 0; r < head.len; ++r) {
    const double norm = load(r);
    double product = 0;
    for (int32_t d = 0; d < shape.head_dim; ++d) product += key[d] * mean[d];
    write(r, float(product / (norm * mean_norm)));
  }
}

}  // namespace

void key_similarity(Context& context, Kv& kv, int32_t layer, Matrix out) {
  KvShape shape = kv.shape;
  KvHead* heads = layer_heads(kv.table, layer);
  parallel(context, shape.kv_heads, [=](int64_t h, int32_t) {
    float* to = out.row<float>(h);
    similarities(shape, heads[h], [&](int32_t r, float cosine) { to[r] = cosine; });
  });
}

void note_similarity(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                     float factor) {
  KvShape shape = batch.shape();
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t) {
    if (head.len >= rows) similarities(shape, head, [&](int32_t r, float cosine) { head.side[side][r] = factor * cosine; });
  });
}

}  // namespace kva

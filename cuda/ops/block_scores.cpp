// Means of blocks of rows, and the softmax of their products.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

// to[d] = mean of the `rows` rows that begin at `from`, pitch bytes apart
void mean_rows(int32_t dtype, const char* from, int64_t pitch, int32_t rows, int32_t columns, float* to, float* row) {
  std::fill_n(to, columns, 0.0f);
  for (int32_t r = 0; r < rows; ++r) {
    kernels().widen(dtype, from + r * pitch, row, columns);
    for (int32_t d = 0; d < columns; ++d) to[d] += row[d];
  }
  for (int32_t d = 0; d < columns; ++d) to[d] /= float(rows);
}

}  // namespace

void block_mean(Context& context, Matrix x, int32_t block, Matrix out) {
  parallel(context, out.rows, [=](int64_t c, int32_t) {
    std::vector<float> row(x.columns);
    const int64_t first = c * block;
    mean_rows(x.dtype, x.row<char>(0) + first * x.pitch(), x.pitch(), int32_t(std::min<int64_t>(block, x.rows - first)), x.columns,
              out.row<float>(c), row.data());
  });
}

void key_block_mean(Context& context, Kv& kv, int32_t layer, int32_t block, Matrix out) {
  const KvShape shape = kv.shape;
  const int32_t length = kv.shared_length(layer);
  const std::vector<KvHead> heads(kv.layer(layer), kv.layer(layer) + shape.kv_heads);
  parallel(context, int64_t(out.rows) * shape.kv_heads, [=](int64_t task, int32_t) {
    float row[most_head_dim];
    const int64_t head = task % shape.kv_heads, c = task / shape.kv_heads, first = c * block, bytes = shape.head_dim * dtype_bytes(shape.dtype);
    mean_rows(shape.dtype, static_cast<const char*>(heads[head].k) + first * bytes, bytes, int32_t(std::min<int64_t>(block, length - first)),
              shape.head_dim, out.row<float>(c) + head * shape.head_dim, row);
  });
}

void pooled_attention(Context& context, Matrix queries, Matrix keys, int32_t heads, int32_t kv_heads, float scale, int32_t first_block,
                      Matrix out) {
  const int32_t head_dim = queries.columns / heads, group = heads / kv_heads;
  parallel(context, out.rows, [=](int64_t task, int32_t) {
    const int64_t head = task / queries.rows, r = task % queries.rows;
    const int32_t seen = first_block < 0 ? keys.rows : int32_t(std::min<int64_t>(keys.rows, first_block + r + 1));
    const float* q = queries.row<float>(r) + head * head_dim;
    float *to = out.row<float>(task), top = -INFINITY, sum = 0;
    std::fill_n(to, keys.rows, 0.0f);
    for (int32_t c = 0; c < seen; ++c) {
      const float* k = keys.row<float>(c) + head / group * head_dim;
      float score = 0;
      for (int32_t d = 0; d < head_dim; ++d) score += q[d] * k[d];
      to[c] = score * scale;
      top = std::max(top, to[c]);
    }
    for (int32_t c = 0; c < seen; ++c) sum += to[c] = std::exp(to[c] - top);
    for (int32_t c = 0; c < seen; ++c) to[c] /= sum;
  });
}

}  // namespace kva

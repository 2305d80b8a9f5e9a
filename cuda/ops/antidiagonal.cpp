// XAttention's block scores: softmax over coarse columns of the sums along antidiagonals of stride x stride tiles, summed over blocks. A query
// block of a head is a task; a tile's antidiagonal is one product of a row of stride queries, turned round, with a row of stride keys.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

struct Antidiagonal {
  const Kernels& k;
  const KvShape shape;
  const int32_t first_row, first_head, stride, block;
  const float scale;
  const Matrix queries, out;

  int64_t width() const { return int64_t(stride) * shape.head_dim; }  // of a coarse row
  int32_t length() const { return first_row + queries.rows; }
  int32_t coarse() const { return (length() + stride - 1) / stride; }
  int32_t tile() const { return block / stride; }
  int32_t query_blocks() const { return (queries.rows + block - 1) / block; }
  int64_t floats() const {
    const int64_t keys = width() * key_block, columns = (coarse() + key_block - 1) / key_block * key_block;
    return (tile() * width() + keys + 2 * int64_t(tile()) * std::max<int64_t>(columns, key_block) + 15) / 16 * 16;
  }

  // Coarse columns [base, base + count) as load_keys leaves keys: [width, key_block], from rows of the cache.
  void load_columns(const KvHead& kv, int32_t base, int32_t count, float* keys) const {
    const int64_t row_bytes = shape.head_dim * dtype_bytes(shape.dtype);
    float row[most_head_dim];
    std::fill_n(keys, width() * key_block, 0.0f);
    for (int32_t j = 0; j < count * stride && base * stride + j < length(); ++j) {
      k.widen(shape.dtype, static_cast<const char*>(kv.k) + (int64_t(base) * stride + j) * row_bytes, row, shape.head_dim);
      float* to = keys + int64_t(j % stride) * shape.head_dim * key_block + j / stride;
      for (int32_t d = 0; d < shape.head_dim; ++d) to[int64_t(d) * key_block] = row[d];
    }
  }

  // Coarse rows of query block r, each its tokens from last to first.
  int32_t load_rows(int32_t head, int32_t r, float* q) const {
    const int32_t begin = r * block, tokens = std::min(block, queries.rows - begin), rows = (tokens + stride - 1) / stride;
    const int64_t bytes = shape.head_dim * dtype_bytes(queries.dtype);
    std::fill_n(q, rows * width(), 0.0f);
    for (int32_t t = 0; t < tokens; ++t)
      k.widen(queries.dtype, queries.row<char>(0) + (begin + t) * queries.pitch() + head * bytes,
              q + t / stride * width() + (stride - 1 - t % stride) * int64_t(shape.head_dim), shape.head_dim);
    return rows;
  }

  void run(const KvHead& kv, int32_t head, int32_t r, float* memory) const {
    float *q = memory, *keys = q + tile() * width(), *scores = keys + width() * key_block, *map = scores + tile() * key_block;
    const int32_t rows = load_rows(head, r, q), top = first_row / stride + r * tile(), end = top + rows;
    const int64_t map_stride = (coarse() + key_block - 1) / key_block * key_block;
    for (int32_t base = 0; base < end; base += key_block) {
      load_columns(kv, base, std::min(key_block, end - base), keys);
      k.scores(q, rows, keys, int32_t(width()), scale, scores);
      for (int32_t i = 0; i < rows; ++i) std::copy_n(scores + i * key_block, std::min(key_block, end - base), map + i * map_stride + base);
    }
    float* to = out.row<float>(int64_t(head) * query_blocks() + r);
    std::fill_n(to, out.columns, 0.0f);
    for (int32_t i = 0; i < rows; ++i) {
      float* row = map + i * map_stride;
      const int32_t seen = top + i + 1;
      const float most = *std::max_element(row, row + seen);
      k.exp_shifted(row, most, seen);
      double sum = 0;
      for (int32_t c = 0; c < seen; ++c) sum += row[c];
      for (int32_t c = 0; c < seen; ++c) to[c / tile()] += float(row[c] / sum);
    }
  }
};

}  // namespace

void antidiagonal_scores(Context& context, Kv& kv, int32_t layer, int32_t first_row, int32_t first_head, Matrix queries, float scale,
                         int32_t stride, int32_t block, Matrix out) {
  if (queries.rows == 0) return;
  const KvShape shape = kv.shape;
  const Antidiagonal op{kernels(), shape, first_row, first_head, stride, block, scale, queries, out};
  const int64_t floats = op.floats();
  float* memory = static_cast<float*>(context.scratch(cpu(context).pool.threads() * floats * int64_t(sizeof(float))));
  const std::vector<KvHead> kv_heads(kv.layer(layer), kv.layer(layer) + shape.kv_heads);
  const int32_t heads = queries.columns / shape.head_dim, blocks = op.query_blocks();
  parallel(context, int64_t(blocks) * heads, [=](int64_t task, int32_t worker) {
    const int32_t head = int32_t(task % heads), r = blocks - 1 - int32_t(task / heads);
    op.run(kv_heads[(first_head + head) / shape.group()], head, r, memory + worker * floats);
  });
}

}  // namespace kva

// Where the window's queries attend to: sums of their probabilities by key (columns) and by distance (diagonals), whole and by blocks.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

struct WindowSums {
  const Kernels& k;
  const KvShape shape;
  const float scale;
  const int32_t length, block;
  const Matrix queries, columns, diagonals, column_blocks, diagonal_blocks;

  struct Memory {
    float *q, *keys, *scores, *top, *sum, *column, *diagonal;
  };

  int64_t floats() const {
    const int64_t head_dim = shape.head_dim, w = queries.rows;
    return (head_dim * key_block + w * (key_block + head_dim + 2) + 2 * int64_t(length) + 15) / 16 * 16;
  }
  Memory carve(float* memory) const {
    auto take = [&](int64_t floats) { return std::exchange(memory, memory + floats); };
    Memory m{};
    m.keys = take(int64_t(shape.head_dim) * key_block);
    m.scores = take(int64_t(queries.rows) * key_block);
    m.q = take(int64_t(queries.rows) * shape.head_dim);
    m.top = take(queries.rows);
    m.sum = take(queries.rows);
    m.column = take(length);
    m.diagonal = take(length);
    return m;
  }

  // body(base, count): scores of keys [base, base + count) are in m.scores
  template <class Body>
  void each_block(const KvHead& head, const Memory& m, Body&& body) const {
    const int64_t row_bytes = shape.head_dim * dtype_bytes(shape.dtype);
    for (int32_t base = 0; base < length; base += key_block) {
      const int32_t count = std::min(key_block, length - base);
      k.load_keys(shape.dtype, static_cast<const char*>(head.k) + base * row_bytes, count, shape.head_dim, m.keys);
      k.scores(m.q, queries.rows, m.keys, shape.head_dim, scale, m.scores);
      body(base, count);
    }
  }

  void run(const KvHead& kv, int32_t head, const Memory& m) const {
    const int32_t w = queries.rows;
    const int64_t bytes = shape.head_dim * dtype_bytes(queries.dtype);
    for (int32_t i = 0; i < w; ++i)
      k.widen(queries.dtype, queries.row<char>(0) + i * queries.pitch() + head * bytes, m.q + int64_t(i) * shape.head_dim, shape.head_dim);
    std::fill_n(m.top, w, -INFINITY);
    std::fill_n(m.sum, w, 0.0f);
    std::fill_n(m.column, 2 * int64_t(length), 0.0f);
    each_block(kv, m, [&](int32_t base, int32_t count) {
      for (int32_t i = 0; i < w; ++i) {
        const int32_t end = std::min(count, length - w + i + 1 - base);
        if (end > 0) k.softmax(m.scores + int64_t(i) * key_block, 0, end, &m.top[i], &m.sum[i]);
      }
    });
    each_block(kv, m, [&](int32_t base, int32_t count) {
      for (int32_t i = 0; i < w; ++i) {
        const int32_t own = length - w + i, end = std::min(count, own + 1 - base);
        if (end <= 0) continue;
        float *row = m.scores + int64_t(i) * key_block, share = 1.0f / m.sum[i] / float(w);
        k.exp_shifted(row, m.top[i], end);
        for (int32_t j = 0; j < end; ++j) {
          m.column[base + j] += row[j] * share;
          m.diagonal[own - base - j] += row[j] * share;
        }
      }
    });
    if (columns) std::copy_n(m.column, length, columns.row<float>(head));
    if (diagonals) std::copy_n(m.diagonal, length, diagonals.row<float>(head));
    if (column_blocks) pool_blocks(column_blocks.row<float>(head), [&](int32_t j) { return m.column[j]; });
    if (diagonal_blocks)
      pool_blocks(diagonal_blocks.row<float>(head), [&](int32_t j) { return m.diagonal[length - 1 - j]; }, true);
  }

  // to[c] = sum of value(j) over block c; reversed: block c counted from the end
  template <class Value>
  void pool_blocks(float* to, Value&& value, bool reversed = false) const {
    const int32_t count = (length + block - 1) / block;
    for (int32_t c = 0; c < count; ++c) {
      float sum = 0;
      for (int32_t j = c * block; j < std::min(length, (c + 1) * block); ++j) sum += value(j);
      to[reversed ? count - 1 - c : c] = sum;
    }
  }
};

}  // namespace

void window_sums(Context& context, Kv& kv, int32_t layer, Matrix queries, float scale, int32_t block, Matrix columns, Matrix diagonals,
                 Matrix column_blocks, Matrix diagonal_blocks) {
  const KvShape shape = kv.shape;
  const WindowSums op{kernels(),     shape,   scale,     kv.shared_length(layer), block,
                      queries, columns, diagonals, column_blocks,           diagonal_blocks};
  const int64_t floats = op.floats();
  float* memory = static_cast<float*>(context.scratch(cpu(context).pool.threads() * floats * int64_t(sizeof(float))));
  const std::vector<KvHead> heads(kv.layer(layer), kv.layer(layer) + shape.kv_heads);
  parallel(context, shape.heads, [=](int64_t head, int32_t worker) {
    op.run(heads[head / shape.group()], int32_t(head), op.carve(memory + worker * floats));
  });
}

}  // namespace kva

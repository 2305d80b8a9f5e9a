// out = softmax(scale * q . k) * v over the key blocks that a set gives each query block: a query block of a head is a task, its keys are
// taken in pieces of key_block rows at the boundaries of attention_prefill, so that a set with every block gives the same bits.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

struct BlockAttention {
  const Kernels& k;
  const KvShape shape;
  const int32_t first_row;
  const float scale;
  const Matrix q, out, lse;
  const BlockSet blocks;

  struct Memory {
    float *q, *out, *maximum, *sum, *factors, *scores, *keys, *values;
  };

  int32_t width() const { return (shape.head_dim + k.lanes - 1) / k.lanes * k.lanes; }
  int64_t floats() const {
    const int64_t rows = blocks.block, columns = width();
    return 16 * ((rows * (shape.head_dim + columns + 3 + key_block) + key_block * (shape.head_dim + columns) + 15) / 16);
  }
  Memory carve(float* memory) const {
    const int64_t rows = blocks.block;
    auto take = [&](int64_t floats) { return std::exchange(memory, memory + floats); };
    Memory m{};
    m.scores = take(rows * key_block);
    m.keys = take(int64_t(shape.head_dim) * key_block);
    m.values = take(int64_t(key_block) * width());
    m.out = take(rows * width());
    m.maximum = take(rows);
    m.sum = take(rows);
    m.factors = take(rows);
    m.q = take(rows * shape.head_dim);
    return m;
  }

  static char* head_of(const Matrix& x, int64_t row, int64_t head, int32_t head_dim) {
    return x.row<char>(0) + row * x.pitch() + head * head_dim * dtype_bytes(x.dtype);
  }
  const char* cache_row(const void* from, int64_t row) const {
    return static_cast<const char*>(from) + row * shape.head_dim * dtype_bytes(shape.dtype);
  }

  void run(const KvHead& kv, int32_t head, int32_t query_block, const Memory& m) const {
    const int32_t begin = query_block * blocks.block - first_row, rows = std::min(blocks.block, q.rows - begin), columns = width();
    for (int32_t i = 0; i < rows; ++i)
      k.widen(q.dtype, head_of(q, begin + i, head, shape.head_dim), m.q + int64_t(i) * shape.head_dim, shape.head_dim);
    std::fill_n(m.out, int64_t(rows) * columns, 0.0f);
    std::fill_n(m.maximum, rows, -INFINITY);
    std::fill_n(m.sum, rows, 0.0f);

    const int32_t end = first_row + begin + rows;
    for (int32_t base = 0; base < end; base += key_block)
      if (blocks.has(head, query_block, base / blocks.block)) add(kv, base, std::min(key_block, end - base), first_row + begin, rows, m);

    for (int32_t i = 0; i < rows; ++i) {
      float* from = m.out + int64_t(i) * columns;
      const float share = m.sum[i] == 0 ? 0.0f : 1.0f / m.sum[i];
      for (int32_t d = 0; d < shape.head_dim; ++d) from[d] *= share;
      k.narrow(out.dtype, from, head_of(out, begin + i, head, shape.head_dim), shape.head_dim);
      if (lse) lse.row<float>(head)[begin + i] = m.maximum[i] + std::log(m.sum[i]);
    }
  }

  // keys [base, base + count) to the query rows that are cache rows top, top + 1, ...; rows above the diagonal see none of them
  void add(const KvHead& kv, int32_t base, int32_t count, int32_t top, int32_t rows, const Memory& m) const {
    const int32_t first = std::max(0, base - top), seeing = rows - first, columns = width();
    if (seeing <= 0) return;
    k.load_keys(shape.dtype, cache_row(kv.k, base), count, shape.head_dim, m.keys);
    k.load_values(shape.dtype, cache_row(kv.v, base), count, shape.head_dim, m.values);
    k.scores(m.q + int64_t(first) * shape.head_dim, seeing, m.keys, shape.head_dim, scale, m.scores);
    for (int32_t i = 0; i < seeing; ++i)
      m.factors[i] = k.softmax(m.scores + int64_t(i) * key_block, 0, std::min(count, top + first + i + 1 - base), &m.maximum[first + i],
                               &m.sum[first + i]);
    k.weigh(m.scores, seeing, m.factors, m.values, count, columns, m.out + int64_t(first) * columns);
  }
};

}  // namespace

void attention_blocks(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix q, float scale, const BlockSet& blocks, Matrix out,
                      Matrix lse) {
  if (q.rows == 0) return;
  const KvShape shape = kv.shape;
  const BlockAttention op{kernels(), shape, first_row, scale, q, out, lse, blocks};
  const int64_t floats = op.floats();
  const int32_t first = first_row / blocks.block, count = (q.rows + blocks.block - 1) / blocks.block;
  float* memory = static_cast<float*>(context.scratch(cpu(context).pool.threads() * floats * int64_t(sizeof(float))));
  const std::vector<KvHead> heads(kv.layer(layer), kv.layer(layer) + shape.kv_heads);
  parallel(context, int64_t(count) * shape.heads, [=](int64_t task, int32_t worker) {
    // Late blocks see most: they go first.
    const int32_t head = int32_t(task % shape.heads), query_block = first + count - 1 - int32_t(task / shape.heads);
    op.run(heads[head / shape.group()], head, query_block, op.carve(memory + worker * floats));
  });
}

}  // namespace kva

// What rows receive from queries: sums or maxima over query rows and the group's heads of exp(scale * q.k - lse), a block of keys a task.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

constexpr int32_t query_tile = 64;

struct ColumnSums {
  const Kernels& k;
  const KvShape shape;
  const int32_t first_row;
  const Matrix queries, lse, out;
  const float scale;
  const bool maximum;
  const BlockSet blocks;

  int64_t floats() const { return (int64_t(shape.head_dim) * (key_block + query_tile) + query_tile * key_block + 15) / 16 * 16; }

  // out[kv_head, base .. base + key_block)
  void run(const KvHead& head, int32_t kv_head, int32_t base, float* memory) const {
    const int32_t end = std::min(first_row + queries.rows, head.len), count = std::min(key_block, end - base);
    if (count <= 0) return;
    float *keys = memory, *q = keys + int64_t(shape.head_dim) * key_block, *scores = q + int64_t(shape.head_dim) * query_tile;
    k.load_keys(shape.dtype, static_cast<const char*>(head.k) + int64_t(base) * shape.head_dim * dtype_bytes(shape.dtype), count,
                shape.head_dim, keys);
    float* to = out.row<float>(kv_head) + base;
    const int32_t first = std::max(0, base - first_row);  // the first query row that sees a key of this block
    for (int32_t g = 0; g < shape.group(); ++g)
      for (int32_t tile = first; tile < queries.rows; tile += query_tile)
        if (reads(kv_head * shape.group() + g, tile, base)) add_tile(kv_head * shape.group() + g, tile, std::min(query_tile, queries.rows - tile), base, count, keys, q, scores, to);
  }

  // A tile of queries lies within a query block, and the keys of a task within a key block, since first_row is a multiple of the block.
  bool reads(int32_t head, int32_t tile, int32_t base) const {
    return blocks.bits == nullptr || blocks.has(head, (first_row + tile) / blocks.block, base / blocks.block);
  }

  void add_tile(int32_t head, int32_t tile, int32_t rows, int32_t base, int32_t count, const float* keys, float* q, float* scores,
                float* to) const {
    const int64_t bytes = shape.head_dim * dtype_bytes(queries.dtype);
    for (int32_t i = 0; i < rows; ++i)
      k.widen(queries.dtype, queries.row<char>(0) + (tile + i) * queries.pitch() + head * bytes, q + int64_t(i) * shape.head_dim,
              shape.head_dim);
    k.scores(q, rows, keys, shape.head_dim, scale, scores);
    for (int32_t i = 0; i < rows; ++i) {
      float* row = scores + int64_t(i) * key_block;
      const int32_t seen = std::min(count, first_row + tile + i + 1 - base);
      if (seen <= 0) continue;
      k.exp_shifted(row, lse.row<float>(head)[tile + i], seen);
      for (int32_t j = 0; j < seen; ++j) to[j] = maximum ? std::max(to[j], row[j]) : to[j] + row[j];
    }
  }
};

}  // namespace

void column_sums(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix queries, Matrix lse, float scale, int32_t reduce,
                 const BlockSet& blocks, Matrix out) {
  const KvShape shape = kv.shape;
  const ColumnSums sums{kernels(), shape, first_row, queries, lse, out, scale, reduce == KVA_REDUCE_MAX, blocks};
  const int64_t tasks = (first_row + queries.rows + key_block - 1) / key_block;
  float* memory = static_cast<float*>(context.scratch(sums.floats() * cpu(context).pool.threads() * int64_t(sizeof(float))));
  const std::vector<KvHead> heads(kv.layer(layer), kv.layer(layer) + shape.kv_heads);
  parallel(context, tasks * shape.kv_heads, [=](int64_t task, int32_t worker) {
    const int32_t head = int32_t(task % shape.kv_heads);
    sums.run(heads[head], head, int32_t(task / shape.kv_heads) * key_block, memory + worker * sums.floats());
  });
}

}  // namespace kva

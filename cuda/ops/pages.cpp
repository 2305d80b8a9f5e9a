// Pages of rows: bounds of their keys, what a query can score on them at most, and the choice of those that attention reads.
#include <algorithm>
#include <cmath>

#include "cache_rows.h"
#include "kernels.h"
#include "rank.h"

namespace kva {

void make_bounds(Context& context, Kv& kv, int32_t layer) {
  KvShape shape = kv.shape;
  KvHead* heads = layer_heads(kv.table, layer);
  constexpr int32_t run = 64;  // pages of a task
  const int32_t page_rows = kv.layer(layer)[0].page_rows, runs = kv.longest(layer) / (page_rows * run) + 1;
  parallel(context, int64_t(shape.kv_heads) * runs, [=](int64_t task, int32_t) {
    const KvHead& head = heads[task / runs];
    const int32_t first = int32_t(task % runs) * run, last = std::min(first + run, pages_of(head, head.len));
    const int64_t bytes = shape.head_dim * dtype_bytes(shape.dtype);
    alignas(64) float key[most_head_dim], least[most_head_dim], greatest[most_head_dim];
    for (int32_t page = first; page < last; ++page) {
      std::fill_n(least, shape.head_dim, INFINITY);
      std::fill_n(greatest, shape.head_dim, -INFINITY);
      for (int32_t row = page * page_rows; row < std::min(head.len, (page + 1) * page_rows); ++row) {
        kernels().widen(shape.dtype, static_cast<const char*>(head.k) + row * bytes, key, shape.head_dim);
        for (int32_t c = 0; c < shape.head_dim; ++c) {
          least[c] = key[c] < least[c] ? key[c] : least[c];
          greatest[c] = key[c] > greatest[c] ? key[c] : greatest[c];
        }
      }
      char* to = static_cast<char*>(head.bounds) + int64_t(page) * 2 * bytes;
      kernels().narrow(shape.dtype, least, to, shape.head_dim);
      kernels().narrow(shape.dtype, greatest, to + bytes, shape.head_dim);
    }
  });
}

void page_scores(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix q, int32_t reduce, Matrix scores) {
  KvShape shape = batch.shape();
  constexpr int32_t run = 256;  // pages of a task
  const int64_t runs = (int64_t(batch.splits) * split_rows + 16 * run - 1) / (16 * run);  // of the smallest pages
  parallel(context, int64_t(sequences) * shape.kv_heads * runs, [=, table = batch.table](int64_t task, int32_t) {
    const int64_t row = int64_t(first_sequence) * shape.kv_heads + task / runs, s = row / shape.kv_heads, h = row % shape.kv_heads;
    const KvHead& head = layer_heads(table[s], layer)[h];
    const int32_t first = int32_t(task % runs) * run;
    if (head.page_rows == 0 || first >= pages_of(head, head.len)) return;
    const int32_t group = shape.group(), dim = shape.head_dim, bytes = dim * int32_t(dtype_bytes(shape.dtype));
    alignas(64) float query[most_head_dim], least[most_head_dim], greatest[most_head_dim];
    float* out = scores.row<float>(row);
    for (int32_t g = 0; g < group; ++g) {
      kernels().widen(q.dtype, q.row<char>(0) + s * q.pitch() + (h * group + g) * dim * dtype_bytes(q.dtype), query, dim);
      for (int32_t page = first; page < std::min(first + run, pages_of(head, head.len)); ++page) {
        const char* bounds = static_cast<const char*>(head.bounds) + int64_t(page) * 2 * bytes;
        kernels().widen(shape.dtype, bounds, least, dim);
        kernels().widen(shape.dtype, bounds + bytes, greatest, dim);
        float sum = 0;
        for (int32_t c = 0; c < dim; ++c) sum += std::max(query[c] * least[c], query[c] * greatest[c]);
        if (reduce == KVA_REDUCE_MEAN) sum /= float(group);
        out[page] = g == 0 ? sum : reduce == KVA_REDUCE_MEAN ? out[page] + sum : std::max(out[page], sum);
      }
    }
  });
}

void choose_pages(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix scores, int32_t rows,
                  Matrix pages, Matrix counts) {
  Cpu& device = cpu(context);
  const int32_t kv_heads = batch.shape().kv_heads;
  device.enqueue([=, &context, &device, table = batch.table] {
    const int64_t bytes = scores.columns * int64_t(sizeof(uint64_t));
    char* scratch = static_cast<char*>(context.scratch(device.pool.threads() * bytes));
    device.pool.run(int64_t(sequences) * kv_heads, [=](int64_t task, int32_t worker) {
      const int64_t s = first_sequence + task / kv_heads, h = task % kv_heads, row = s * kv_heads + h;
      const KvHead& head = layer_heads(table[s], layer)[h];
      int32_t& count = counts.row<int32_t>(0)[row];
      count = -1;
      if (head.page_rows == 0 || head.len <= rows) return;
      count = rows / head.page_rows;
      const int32_t last = pages_of(head, head.len) - 1, others = count - 1;
      auto* ranks = reinterpret_cast<uint64_t*>(scratch + worker * bytes);
      rank_columns(scores.row<float>(row), last, ranks);
      std::nth_element(ranks, ranks + others, ranks + last);
      int32_t* to = pages.row<int32_t>(row);
      std::transform(ranks, ranks + others, to, rank_column);
      std::sort(to, to + others);
      to[others] = last;
    });
  });
}

}  // namespace kva

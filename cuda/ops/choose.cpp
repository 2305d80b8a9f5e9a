// Pooling of scores; the k best columns of each row, and how many of the k best of all each row has.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "ops.h"
#include "rank.h"

namespace kva {

void pool(Context& context, Matrix x, int32_t kind, int32_t width, Matrix out) {
  constexpr int64_t piece = 2048;
  int64_t pieces = (x.columns + piece - 1) / piece;
  parallel(context, x.rows * pieces, [=](int64_t task, int32_t) {
    const float* row = x.row<float>(task / pieces);
    float* to = out.row<float>(task / pieces);
    int64_t first = task % pieces * piece;
    for (int64_t i = first; i < std::min<int64_t>(x.columns, first + piece); ++i) {
      int64_t begin = std::max<int64_t>(0, i - width / 2), end = std::min<int64_t>(x.columns, i + width / 2 + 1);
      if (kind == KVA_POOL_MAX) {
        to[i] = *std::max_element(row + begin, row + end);
      } else {
        float sum = 0;
        for (int64_t j = begin; j < end; ++j) sum += row[j];
        to[i] = sum / float(width);
      }
    }
  });
}

void topk(Context& context, Matrix x, int32_t k, Matrix index) {
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device] {
    int64_t bytes = x.columns * int64_t(sizeof(uint64_t));
    char* scratch = static_cast<char*>(context.scratch(device.pool.threads() * bytes));
    device.pool.run(x.rows, [=](int64_t r, int32_t worker) {
      auto* ranks = reinterpret_cast<uint64_t*>(scratch + worker * bytes);
      rank_columns(x.row<float>(r), x.columns, ranks);
      if (k < x.columns) std::nth_element(ranks, ranks + k, ranks + x.columns);
      int32_t* to = index.row<int32_t>(r);
      std::transform(ranks, ranks + k, to, rank_column);
      std::sort(to, to + k);
    });
  });
}

void topk_each(Context& context, Matrix x, Matrix counts, Matrix index) {
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device] {
    int64_t bytes = x.columns * int64_t(sizeof(uint64_t));
    char* scratch = static_cast<char*>(context.scratch(device.pool.threads() * bytes));
    device.pool.run(x.rows, [=](int64_t r, int32_t worker) {
      const int32_t k = std::clamp(counts.row<int32_t>(0)[r], 0, index.columns);
      auto* ranks = reinterpret_cast<uint64_t*>(scratch + worker * bytes);
      rank_columns(x.row<float>(r), x.columns, ranks);
      if (k < x.columns) std::nth_element(ranks, ranks + k, ranks + x.columns);
      int32_t* to = index.row<int32_t>(r);
      std::transform(ranks, ranks + k, to, rank_column);
      std::sort(to, to + k);
    });
  });
}

void topk_counts(Context& context, Matrix x, int32_t k, Matrix counts) {
  cpu(context).enqueue([=, &context] {
    const int64_t elements = int64_t(x.rows) * x.columns;
    auto* ranks = static_cast<uint64_t*>(context.scratch(elements * int64_t(sizeof(uint64_t))));
    for (int32_t r = 0; r < x.rows; ++r)
      for (int32_t c = 0; c < x.columns; ++c) ranks[int64_t(c) * x.rows + r] = rank_of(x.row<float>(r)[c], uint32_t(c) * uint32_t(x.rows) + uint32_t(r));
    if (k < elements) std::nth_element(ranks, ranks + k, ranks + elements);
    int32_t* to = counts.row<int32_t>(0);
    std::fill_n(to, x.rows, 0);
    for (int32_t i = 0; i < k; ++i) to[uint32_t(rank_column(ranks[i])) % uint32_t(x.rows)] += 1;
  });
}

}  // namespace kva

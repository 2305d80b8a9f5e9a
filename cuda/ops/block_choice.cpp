// How many columns reach a share of a row, and which they are; numbers of blocks from numbers of columns; distance of distributions.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "block_weights.h"
#include "ops.h"
#include "rank.h"

namespace kva {
namespace {

// A row of scores, or the rows of a group one after the other: item i is column i % columns of row i / columns.
struct Items {
  const Matrix x, forced;
  const int32_t first_row, rows;

  int64_t count() const { return int64_t(rows) * x.columns; }
  float value(int64_t i) const { return x.row<float>(first_row + i / x.columns)[i % x.columns]; }
  bool is_forced(int64_t i) const {
    return forced && (forced.row<uint32_t>(first_row + i / x.columns)[i % x.columns / 32] >> (i % x.columns % 32) & 1);
  }
};

// The items by rank, forced ones first; `forced` counts them.
std::vector<uint64_t> ranked(const Items& items, int64_t& forced) {
  std::vector<uint64_t> ranks;
  ranks.reserve(items.count());
  for (int64_t i = 0; i < items.count(); ++i)
    if (items.is_forced(i)) ranks.push_back(rank_of(items.value(i), uint32_t(i)));
  forced = int64_t(ranks.size());
  for (int64_t i = 0; i < items.count(); ++i)
    if (!items.is_forced(i)) ranks.push_back(rank_of(items.value(i), uint32_t(i)));
  std::sort(ranks.begin() + forced, ranks.end());
  return ranks;
}

void mark(const Items& items, const std::vector<uint64_t>& ranks, int64_t count, Matrix bits) {
  for (int64_t n = 0; n < count; ++n) {
    const int64_t i = rank_column(ranks[n]), column = i % items.x.columns;
    bits.row<uint32_t>(items.first_row + i / items.x.columns)[column / 32] |= 1u << (column % 32);
  }
}

int64_t reaching(const Items& items, const std::vector<uint64_t>& ranks, int64_t forced, double share, bool inclusive) {
  uint64_t total = 0, sum = 0;
  for (int64_t i = 0; i < items.count(); ++i) total += block_weight(items.value(i));
  const uint64_t budget = block_budget(share, total, inclusive);
  const auto weight = [&](int64_t n) { return block_weight(items.value(rank_column(ranks[n]))); };
  int64_t count = 0;
  for (; count < forced; ++count) sum += weight(count);
  for (; count < items.count(); ++count) {
    const uint64_t with = sum + weight(count);
    if (inclusive ? sum >= budget : with > budget) break;
    sum = with;
  }
  return count;
}

}  // namespace

void cumulative(Context& context, Matrix x, const Cumulative& how, Matrix forced, Matrix gate, Matrix counts, Matrix bits) {
  const int32_t per_group = x.rows / how.groups, rows = how.flat ? per_group : 1;
  const std::vector<double> shares(how.shares, how.shares + how.groups);
  parallel(context, x.rows / rows, [=](int64_t task, int32_t) {
    const Items items{x, forced, int32_t(task) * rows, rows};
    const int32_t group = items.first_row / per_group;
    int64_t count = 0;
    if (!gate || gate.row<float>(0)[group] < how.threshold) {
      int64_t fixed;
      const std::vector<uint64_t> ranks = ranked(items, fixed);
      count = reaching(items, ranks, fixed, shares[group], how.inclusive);
      if (items.first_row % per_group < how.extra_rows) count += how.extra;
      count = block_count(count, fixed, items.count(), how.least, how.most);
      if (bits) mark(items, ranks, count, bits);
    }
    if (counts) counts.row<int32_t>(0)[task] = int32_t(count);
  });
}

void top_bits(Context& context, Matrix x, Matrix counts, Matrix forced, Matrix bits) {
  parallel(context, x.rows, [=](int64_t row, int32_t) {
    const Items items{x, forced, int32_t(row), 1};
    int64_t fixed;
    const std::vector<uint64_t> ranks = ranked(items, fixed);
    mark(items, ranks, block_count(counts.row<int32_t>(0)[row], fixed, items.count(), 0, 0), bits);
  });
}

void counts_divide(Context& context, Matrix counts, int32_t offset, int32_t divisor, int32_t least, int32_t most) {
  parallel_ranges(context, counts.columns, 4096, [=](int64_t begin, int64_t end) {
    int32_t* x = counts.row<int32_t>(0);
    for (int64_t i = begin; i < end; ++i) x[i] = int32_t(std::clamp<int64_t>((int64_t(x[i]) + offset) / divisor, least, most));
  });
}

void counts_where(Context& context, Matrix gate, float threshold, int32_t value, Matrix counts) {
  parallel_ranges(context, counts.columns, 4096, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (gate.row<float>(0)[i] < threshold) counts.row<int32_t>(0)[i] = value;
  });
}

void js_distance(Context& context, Matrix p, Matrix q, Matrix out) {
  parallel(context, p.rows, [=](int64_t r, int32_t) {
    double sum = 0;
    for (int32_t c = 0; c < p.columns; ++c) {
      const double a = p.row<float>(r)[c], b = q.row<float>(r)[c], mean = (a + b) / 2;
      if (a > 0) sum += a * std::log(a / mean);
      if (b > 0) sum += b * std::log(b / mean);
    }
    out.row<float>(0)[r] = float(std::sqrt(std::max(0.0, sum / 2)));
  });
}

}  // namespace kva

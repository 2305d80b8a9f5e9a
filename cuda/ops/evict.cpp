// Eviction and merging while decoding: many rows by side value, one by pooled probabilities, many by those pooled in order of rank; a row's value
// merged into those after it.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "cache_rows.h"
#include "kernels.h"
#include "philox.h"

namespace kva {
namespace {

int32_t lowest_row(const KvHead& head, int32_t side, int32_t newest) {
  auto value = [&](int32_t r) { return std::isnan(head.side[side][r]) ? -INFINITY : head.side[side][r]; };
  int32_t victim = -1;
  for (int32_t r = 0; r < head.len; ++r) {
    if (head.pos[r] > newest) continue;
    if (victim < 0 || value(r) < value(victim) || (value(r) == value(victim) && head.pos[r] < head.pos[victim])) victim = r;
  }
  return victim;
}

// The rows after it move up: order stays.
void remove_row(const CacheRows& cache, KvHead& head, int32_t row) {
  head.len -= 1;
  for (int32_t r = row; r < head.len; ++r) cache.move(head, r + 1, head, r, 1);
}

// weight of the merge: 1, 0 or the ratio itself
float merge_weight(float ratio, int32_t decision, float draw) {
  switch (decision) {
    case KVA_MERGE_BERNOULLI: return draw < ratio ? 1.0f : 0.0f;
    case KVA_MERGE_THRESHOLD: return ratio >= 1 ? 1.0f : 0.0f;
    case KVA_MERGE_EXPECTED: return ratio;
    default: return decision == KVA_MERGE_ALWAYS ? 1.0f : 0.0f;
  }
}

// Side values of the rows that a row's value may go to, or is measured against.
struct Later {
  float sum = 0;
  int32_t count = 0;
};

template <class Where>
Later sum_where(const KvHead& head, int32_t side, Where where) {
  Later later;
  for (int32_t r = 0; r < head.len; ++r)
    if (where(r)) later.sum += head.side[side][r], ++later.count;
  return later;
}

float merge_draw(const CacheRows& cache, const KvSeq& sequence, const KvHead& head, int32_t layer, int32_t from, int64_t table_row, uint32_t seed) {
  const uint32_t kv_head = uint32_t(table_row % cache.shape.kv_heads);
  return unit(philox(seed, uint32_t(layer), sequence.stream, uint32_t(head.pos[from]), kv_head, 0).word[0]);
}

float weight_of(const KvHead& head, int32_t from, int32_t side, const Later& later, int32_t decision, float draw) {
  const float ratio = later.count ? head.side[side][from] / (later.sum / float(later.count)) : 0;
  return merge_weight(std::isnan(ratio) ? 0 : std::min(std::max(ratio, 0.0f), 1.0f), decision, draw);
}

// The value of row `from`, times weight and divided, is added to those of the targets.
template <class IsTarget>
void add_value(const CacheRows& cache, KvHead& head, int32_t from, float weight, float divisor, IsTarget is_target) {
  const KvShape& shape = cache.shape;
  float added[most_head_dim], to[most_head_dim];
  kernels().widen(shape.dtype, static_cast<const char*>(head.v) + from * cache.key_bytes(), added, shape.head_dim);
  for (int32_t r = 0; r < head.len; ++r) {
    if (!is_target(r)) continue;
    char* value = static_cast<char*>(head.v) + r * cache.key_bytes();
    kernels().widen(shape.dtype, value, to, shape.head_dim);
    for (int32_t d = 0; d < shape.head_dim; ++d) to[d] += weight * added[d] / divisor;
    kernels().narrow(shape.dtype, to, value, shape.head_dim);
  }
}

}  // namespace

void drop_lowest_every(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                       int32_t recent, int32_t interval) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t) {
    if (head.len - rows < interval) return;
    while (head.len > rows) cache.drop(head, lowest_row(head, side, sequence.position - recent));
  });
}

void note_norms(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t p, float factor) {
  KvShape shape = batch.shape();
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t) {
    if (head.len == 0) return;
    float values[most_head_dim];
    const int64_t row = head.len - 1;
    kernels().widen(shape.dtype, static_cast<const char*>(head.k) + row * shape.head_dim * dtype_bytes(shape.dtype), values, shape.head_dim);
    double sum = 0;
    for (int32_t d = 0; d < shape.head_dim; ++d) sum += p == 1 ? std::fabs(values[d]) : double(values[d]) * values[d];
    head.side[side][row] = factor * float(p == 1 ? sum : std::sqrt(sum));
  });
}

void drop_pooled(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t rows,
                 int32_t recent, int32_t width) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t row) {
    const int32_t count = head.len - recent, half = width / 2;
    if (head.len <= rows || count < 1) return;
    const float* p = probs.row<float>(row);
    int32_t victim = 0;
    float least = INFINITY;
    for (int32_t r = 0; r < count; ++r) {
      float sum = 0;
      for (int32_t j = std::max(0, r - half); j <= std::min(count - 1, r + half); ++j) sum += p[j];
      if (sum < least) victim = r, least = sum;
    }
    remove_row(cache, head, victim);
  });
}

void merge_oldest(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                  int32_t sinks, int32_t targets, int32_t decision, uint32_t seed) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t row) {
    if (head.len <= rows) return;
    const int32_t oldest = int32_t(std::min_element(head.pos + sinks, head.pos + head.len) - head.pos);
    auto is_target = [&](int32_t r) { return r >= sinks && head.pos[r] > head.pos[oldest] && head.pos[r] - head.pos[oldest] <= targets; };
    const Later later = sum_where(head, side, is_target);
    const float weight = weight_of(head, oldest, side, later, decision, merge_draw(cache, sequence, head, layer, oldest, row, seed));
    if (weight > 0 && later.count > 0) add_value(cache, head, oldest, weight, float(later.count), is_target);
    cache.drop(head, oldest);
  });
}

void merge_recent(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                  int32_t recent, int32_t targets, int32_t decision, uint32_t seed) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t row) {
    if (head.len <= rows) return;
    const int32_t position = sequence.position - recent, from = int32_t(std::find(head.pos, head.pos + head.len, position) - head.pos);
    if (from == head.len) return;
    const Later later = sum_where(head, side, [&](int32_t r) { return head.pos[r] > position; });
    const float weight = weight_of(head, from, side, later, decision, merge_draw(cache, sequence, head, layer, from, row, seed));
    if (weight > 0) add_value(cache, head, from, weight, float(targets), [&](int32_t r) { return head.pos[r] > position && head.pos[r] - position <= targets; });
  });
}

void keep_ranked(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side, int32_t rows,
                 int32_t recent, int32_t width) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t row) {
    if (head.len <= rows) return;
    const int32_t newest = sequence.position - recent, half = width / 2;
    float* values = head.side[side];
    const int32_t* pos = head.pos;
    std::vector<int32_t> order;
    for (int32_t r = 0; r < head.len; ++r)
      if (pos[r] <= newest) order.push_back(r);
    const int32_t count = int32_t(order.size());
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      if (pos[a] == newest || pos[b] == newest) return pos[b] == newest && pos[a] != newest;
      return values[a] > values[b] || (values[a] == values[b] && pos[a] < pos[b]);
    });
    std::vector<float> pooled(head.len);
    for (int32_t at = 0; at < count; ++at) {
      float sum = 0;
      for (int32_t j = std::max(0, at - half); j <= std::min(count - 1, at + half); ++j) sum += probs.row<float>(row)[order[j]];
      pooled[order[at]] = sum / float(width);
    }
    for (int32_t r : order) values[r] = pooled[r];
    std::sort(order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return values[a] > values[b] || (values[a] == values[b] && pos[a] < pos[b]); });
    std::vector<int32_t> gone(order.begin() + std::min(count, rows - recent), order.end());
    std::sort(gone.begin(), gone.end(), std::greater<>());  // from the last row on: one that moves into a gap stays
    for (int32_t r : gone) cache.drop(head, r);
  });
}

void divide_ramp(Context& context, Matrix x, float start, float step, Matrix out) {
  parallel(context, x.rows, [=](int64_t r, int32_t) {
    const float* from = x.row<float>(r);
    float* to = out.row<float>(r);
    for (int32_t c = 0; c < x.columns; ++c) to[c] = from[c] / (start + step * float(c));
  });
}

}  // namespace kva

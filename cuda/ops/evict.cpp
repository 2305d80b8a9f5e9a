// Eviction and merging while decoding: many rows by side value, one by pooled probabilities, many by those pooled in order of rank; a row's value
// merged into those after it.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../core/segments.h"
#include "cache_rows.h"
#include "kernels.h"
#include "philox.h"

namespace kva {
namespace {

int32_t lowest_row(const KvHead& head, int32_t side, int32_t newest) {
  auto value = [&](int32_t r) { return std::isnan(head.side[side][r]) ? -INFINITY : head.side[side][r]; };
  int32_t victim = -1;
  for (int32_t r = 0; r < head.len; ++r) {
    if (head.pos[r] < 0 || head.pos[r] > newest) continue;
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

// The rows with positions in (position, position + distance], from row `first` on.
std::vector<int32_t> rows_after(const KvHead& head, int32_t first, int32_t position, int32_t distance) {
  std::vector<int32_t> rows;
  for (int32_t r = first; r < head.len; ++r)
    if (uint32_t(head.pos[r] - position - 1) < uint32_t(distance)) rows.push_back(r);
  return rows;
}

// Weight of the merge of row `from`: its side value against the mean of those of `later` rows; no rows: 0.
float weight_of(const KvShape& shape, const KvSeq& sequence, const KvHead& head, int32_t layer, int32_t from, int64_t table_row, int32_t side,
                const std::vector<int32_t>& later, int32_t decision, uint32_t seed) {
  if (later.empty()) return 0;
  float sum = 0;
  for (int32_t r : later) sum += head.side[side][r];
  const float ratio = head.side[side][from] / (sum / float(later.size()));
  const uint32_t kv_head = uint32_t(table_row % shape.kv_heads);
  const float draw = unit(philox(seed, uint32_t(layer), sequence.stream, uint32_t(head.pos[from]), kv_head, 0).word[0]);
  return merge_weight(std::isnan(ratio) ? 0 : std::min(std::max(ratio, 0.0f), 1.0f), decision, draw);
}

// The value of row `from`, times weight and divided, is added to those of the targets.
void add_value(const CacheRows& cache, KvHead& head, int32_t from, float weight, float divisor, const std::vector<int32_t>& targets) {
  const KvShape& shape = cache.shape;
  char* values = static_cast<char*>(head.v);
  float added[most_head_dim], to[most_head_dim];
  kernels().widen(shape.dtype, values + from * cache.key_bytes(), added, shape.head_dim);
  for (int32_t d = 0; d < shape.head_dim; ++d) added[d] = weight * added[d] / divisor;
  for (int32_t r : targets) {
    kernels().widen(shape.dtype, values + r * cache.key_bytes(), to, shape.head_dim);
    for (int32_t d = 0; d < shape.head_dim; ++d) to[d] += added[d];
    kernels().narrow(shape.dtype, to, values + r * cache.key_bytes(), shape.head_dim);
  }
}

}  // namespace

void drop_lowest_every(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                       int32_t recent, int32_t interval) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t) {
    if (live_rows(head) - rows < interval) return;
    while (live_rows(head) > rows) cache.drop(head, lowest_row(head, side, sequence.position - recent));
  });
}

void note_norms(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t p, float factor) {
  KvShape shape = batch.shape();
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t) {
    if (head.len == 0) return;
    float values[most_head_dim];
    const int64_t row = head.len - 1, slot = key_slot(head, head.len - 1);
    kernels().widen(shape.dtype, static_cast<const char*>(head.k) + slot * shape.head_dim * dtype_bytes(shape.dtype), values, shape.head_dim);
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
    const std::vector<int32_t> into = rows_after(head, sinks, head.pos[oldest], targets);
    const float weight = weight_of(cache.shape, sequence, head, layer, oldest, row, side, into, decision, seed);
    if (weight > 0) add_value(cache, head, oldest, weight, float(into.size()), into);
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
    const std::vector<int32_t> later = rows_after(head, 0, position, INT32_MAX);
    const float weight = weight_of(cache.shape, sequence, head, layer, from, row, side, later, decision, seed);
    if (weight > 0) add_value(cache, head, from, weight, float(targets), rows_after(head, 0, position, targets));
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

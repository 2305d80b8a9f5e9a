// Scores over all heads and budgets of each head: means and sums of rows, shared probabilities, as many rows in each head as it may hold.
#include <algorithm>
#include <vector>

#include "cache_rows.h"

namespace kva {

void fill_at(Context& context, Matrix x, Matrix index, float value) {
  parallel(context, x.rows, [=](int64_t r, int32_t) {
    for (int32_t i = 0; i < index.columns; ++i) {
      const int32_t c = index.row<int32_t>(r)[i];
      if (c >= 0 && c < x.columns) x.row<float>(r)[c] = value;
    }
  });
}

void multiply(Context& context, Matrix x, Matrix y, Matrix out) {
  parallel(context, x.rows, [=](int64_t r, int32_t) {
    for (int32_t c = 0; c < x.columns; ++c) out.row<float>(r)[c] = x.row<float>(r)[c] * y.row<float>(r)[c];
  });
}

void rows_mean(Context& context, Matrix x, Matrix out) {
  parallel_ranges(context, x.columns, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      float sum = 0;
      for (int32_t r = 0; r < x.rows; ++r) sum += x.row<float>(r)[c];
      for (int32_t r = 0; r < x.rows; ++r) out.row<float>(r)[c] = sum / float(x.rows);
    }
  });
}

void row_sums(Context& context, Matrix x, Matrix out) {
  parallel(context, x.rows, [=](int64_t r, int32_t) {
    double sum = 0;
    for (int32_t c = 0; c < x.columns; ++c) sum += x.row<float>(r)[c];
    out.row<float>(r)[0] = float(sum);
  });
}

void accumulate_shared(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side,
                       float factor, float decay) {
  const int32_t kv_heads = batch.shape().kv_heads;
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t row) {
    float* values = head.side[side];
    const int64_t first = row / kv_heads * kv_heads;
    for (int32_t r = 0; r < std::min(head.len, probs.columns); ++r) {
      float sum = 0;
      for (int32_t h = 0; h < kv_heads; ++h) sum += probs.row<float>(first + h)[r];
      values[r] = values[r] * decay + factor * (sum / float(kv_heads));
    }
  });
}

void keep_at_most_each(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, const int32_t* rows,
                       int32_t sinks) {
  CacheRows cache{batch.shape()};
  const int32_t kv_heads = batch.shape().kv_heads;
  const std::vector<int32_t> most(rows, rows + kv_heads);
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t row) {
    if (live_rows(head) > most[row % kv_heads]) cache.drop(head, oldest_row(head, sinks));
  });
}

}  // namespace kva

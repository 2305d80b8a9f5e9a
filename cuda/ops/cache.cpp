// Rows of the cache: keeping those named by index, dropping one by one, side values, turning the sinks' keys or every key.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cache_rows.h"
#include "kernels.h"
#include "ops.h"
#include "rotation.h"

namespace kva {

void keep_rows(Context& context, const KvShape& shape, const KvHead* from, const KvHead* to, Matrix index, const int32_t* counts, int32_t first,
               int32_t last) {
  for (int32_t h = 0; h < shape.kv_heads; ++h)
    for (int32_t i = 0, before = first - 1; i < counts[h]; ++i) {
      int32_t row = index.row<int32_t>(h)[i];
      require(row > before && row < from[h].len - last, "index[%d, %d] is %d; indices must ascend within [%d, %d)", h, i, row, first,
              from[h].len - last);
      before = row;
    }
  CacheRows rows{shape};
  parallel(context, shape.kv_heads, [=](int64_t h, int32_t) {
    rows.move(from[h], 0, to[h], 0, first);
    const int32_t* chosen = index ? index.row<int32_t>(h) : nullptr;
    for (int32_t i = 0, run; i < counts[h]; i += run) {
      for (run = 1; i + run < counts[h] && chosen[i + run] == chosen[i] + run;) ++run;
      rows.move(from[h], chosen[i], to[h], first + i, run);
    }
    rows.move(from[h], from[h].len - last, to[h], first + counts[h], last);
  });
}

void keep_at_most(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t sinks) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t) {
    if (live_rows(head) > rows) cache.drop(head, oldest_row(head, sinks));
  });
}

void drop_lowest(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                 int32_t recent) {
  CacheRows cache{batch.shape()};
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t) {
    if (live_rows(head) <= rows) return;
    auto value = [&](int32_t r) { return std::isnan(head.side[side][r]) ? -INFINITY : head.side[side][r]; };
    int32_t victim = -1;
    for (int32_t r = 0; r < head.len; ++r) {
      if (head.pos[r] < 0 || head.pos[r] > sequence.position - recent) continue;
      if (victim < 0 || value(r) < value(victim) || (value(r) == value(victim) && head.pos[r] < head.pos[victim])) victim = r;
    }
    if (victim >= 0) cache.drop(head, victim);
  });
}

void accumulate(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side,
                float factor, float decay) {
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq&, KvHead& head, int64_t row) {
    float* values = head.side[side];
    const float* added = probs.row<float>(row);
    for (int32_t r = 0; r < std::min(head.len, probs.columns); ++r) values[r] = values[r] * decay + factor * added[r];
  });
}

void rotate_sinks(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t sinks, Matrix inv_freq,
                  bool interleaved, float mscale) {
  KvShape shape = batch.shape();
  int64_t bytes = CacheRows{shape}.key_bytes();
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t row) {
    const float* frequencies = inv_freq.row<float>(inv_freq.rows > 1 ? row / shape.kv_heads : 0);
    int32_t dropped = sequence.position + 1 - head.len;
    alignas(64) float key[most_head_dim];
    for (int32_t r = 0; r < std::min(sinks, head.len); ++r) {
      if (head.pos[r] >= shape.unrotated_rows) continue;
      kernels().widen(shape.dtype, static_cast<const char*>(head.unrotated) + head.pos[r] * bytes, key, shape.head_dim);
      Rotation(frequencies, inv_freq.columns, interleaved, head.pos[r] + dropped, mscale).turn(key);
      kernels().narrow(shape.dtype, key, static_cast<char*>(head.k) + r * bytes, shape.head_dim);
    }
  });
}

void rotate_slots(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix inv_freq, bool interleaved,
                  float mscale) {
  KvShape shape = batch.shape();
  int64_t bytes = CacheRows{shape}.key_bytes();
  each_head(context, batch, first_sequence, sequences, layer, [=](const KvSeq& sequence, KvHead& head, int64_t row) {
    const float* frequencies = inv_freq.row<float>(inv_freq.rows > 1 ? row / shape.kv_heads : 0);
    std::vector<int32_t> order(head.len);  // rows by rank
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return head.pos[a] < head.pos[b]; });
    alignas(64) float key[most_head_dim];
    for (int32_t rank = 0; rank < head.len; ++rank) {
      const int64_t at = order[rank] * bytes;
      kernels().widen(shape.dtype, static_cast<const char*>(head.unrotated_k) + at, key, shape.head_dim);
      Rotation(frequencies, inv_freq.columns, interleaved, rank + sequence.position + 1 - head.len, mscale).turn(key);
      kernels().narrow(shape.dtype, key, static_cast<char*>(head.k) + at, shape.head_dim);
    }
  });
}

void advance(Context& context, Batch& batch) {
  cpu(context).enqueue([table = batch.table, sequences = batch.sequences()] {
    for (int32_t s = 0; s < sequences; ++s) table[s]->position += 1;
  });
}

}  // namespace kva

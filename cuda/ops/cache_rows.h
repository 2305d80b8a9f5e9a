// Rows of a head on the CPU: moving and dropping them, and a task for each head of a batch's layer.
#pragma once
#include <algorithm>
#include <cstring>

#include "../core/cpu.h"
#include "ops.h"

namespace kva {

struct CacheRows {
  KvShape shape;
  int64_t key_bytes() const { return shape.head_dim * dtype_bytes(shape.dtype); }

  // Rows [from_row, from_row + count) of one head to to_row of another, or of the same where they do not overlap.
  void move(const KvHead& from, int64_t from_row, const KvHead& to, int64_t to_row, int64_t count) const {
    if (count == 0) return;
    auto copy = [&](const void* from, void* to, int64_t bytes) {
      memcpy(static_cast<char*>(to) + to_row * bytes, static_cast<const char*>(from) + from_row * bytes, count * bytes);
    };
    copy(from.k, to.k, key_bytes());
    copy(from.v, to.v, key_bytes());
    if (from.unrotated_k) copy(from.unrotated_k, to.unrotated_k, key_bytes());
    copy(from.pos, to.pos, 4);
    for (int32_t a = 0; a < shape.side_arrays; ++a) copy(from.side[a], to.side[a], 4);
  }

  // The last row moves into the place of this one; among codes it is marked and stays.
  void drop(KvHead& head, int32_t row) const {
    if (marks_dropped(head)) {
      head.pos[row] = ~head.pos[row];
      head.dead += 1;
      return;
    }
    head.len -= 1;
    if (row != head.len) move(head, head.len, head, row, 1);
  }
};

// the row of the lowest position from row `sinks` on
inline int32_t oldest_row(const KvHead& head, int32_t sinks) {
  const auto older = [](int32_t a, int32_t b) { return uint32_t(a) < uint32_t(b); }; // marked ones are the largest
  return int32_t(std::min_element(head.pos + sinks, head.pos + head.len, older) - head.pos);
}

// body(sequence, head, table row of the head) for each head of the sequences' layer
template <class Body>
void each_head(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Body body) {
  int32_t kv_heads = batch.shape().kv_heads;
  parallel(context, int64_t(sequences) * kv_heads, [=, table = batch.table](int64_t task, int32_t) {
    int64_t s = first_sequence + task / kv_heads, h = task % kv_heads;
    body(*table[s], layer_heads(table[s], layer)[h], s * kv_heads + h);
  });
}

}  // namespace kva

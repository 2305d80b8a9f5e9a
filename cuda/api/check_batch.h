// What the decode-time changes of a batch check, and what they change in the host's account.
#pragma once
#include "check.h"

namespace kva {

// A batch whose rows can be moved and turned.
inline Batch& get_plain(kva_batch* handle, int32_t first, int32_t sequences, int32_t layer) {
  Batch& b = get_range(handle, first, sequences, layer);
  for (int32_t s = first; s < first + sequences; ++s) {
    require_plain(*b.kvs[s], layer);
    require_unbounded(*b.kvs[s], layer);
  }
  return b;
}

// A batch whose rows can be dropped one by one: among codes they are marked, and a flush closes their places.
inline Batch& get_droppable(kva_batch* handle, int32_t first, int32_t sequences, int32_t layer) {
  constexpr int32_t most_residual = 8192; // marked rows that a flush lists in fast memory
  Batch& b = get_range(handle, first, sequences, layer);
  for (int32_t s = first; s < first + sequences; ++s) {
    const int32_t residual = b.kvs[s]->layer(layer)[0].packing.residual;
    if (residual == 0) require_plain(*b.kvs[s], layer);
    require_unbounded(*b.kvs[s], layer);
    require(residual <= most_residual, "the residual of layer %d is %d; beside dropped rows it is at most %d", layer, residual, most_residual);
    if (residual > 0) b.kvs[s]->closes[layer] = true;
  }
  return b;
}

inline void drop_one(KvHead& head) {
  if (marks_dropped(head))
    head.dead += 1;
  else
    head.len -= 1;
}

// Heads with more than `rows` rows have one row less.
inline void drop_effect(Batch& b, int32_t first, int32_t sequences, int32_t layer, int32_t rows) {
  b.context.effect([&b, first, sequences, layer, rows] {
    for (int32_t s = first; s < first + sequences; ++s)
      for (int32_t h = 0; h < b.shape().kv_heads; ++h) {
        KvHead& head = b.kvs[s]->layer(layer)[h];
        if (live_rows(head) > rows) drop_one(head);
      }
  });
}

}  // namespace kva

// Scores as integers whose sums do not depend on the order of adding: how both backends decide what reaches a share.
#pragma once
#include <cmath>

#include "../core/kv.h"

namespace kva {

inline KVA_HOST_DEVICE uint64_t block_weight(float score) {
  const float within = score > 0 ? (score < 256.0f ? score : 256.0f) : 0.0f;  // NaN is 0
  return uint64_t(rint(double(within) * 0x1p40));
}

// What a sum has to reach (inclusive), or may not pass.
inline KVA_HOST_DEVICE uint64_t block_budget(double share, uint64_t total, bool inclusive) {
  const double budget = share * double(total);
  return uint64_t(inclusive ? ceil(budget) : floor(budget));
}

inline KVA_HOST_DEVICE int64_t block_count(int64_t count, int64_t forced, int64_t items, int64_t least, int64_t most) {
  if (count < least) count = least;
  if (most > 0 && count > most) count = most;
  if (count < forced) count = forced;
  return count < items ? count : items;
}

}  // namespace kva

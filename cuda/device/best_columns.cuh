// The best columns of a row, in order.
#pragma once
#include "select.cuh"

namespace kva::device {

// out[0 .. k) = the k of `columns` columns with the largest key(i), ascending; ties: the first ones. 1 <= k <= columns. A block has one row.
// The key of the k-th best by radix descent, then the chosen columns in order.
template <int Threads, class Key>
__device__ void write_best_columns(int columns, int k, Key key, int32_t* out, SelectShared& shared) {
  constexpr int kEach = 4; // neighbouring columns of a thread
  const Crossing crossing = find_crossing<Threads>(columns, k, key, [](int, uint32_t) { return uint64_t(1); }, shared);
  const int needed = static_cast<int>(crossing.remaining);
  int better = 0, ties = 0; // before this round's columns
  for (int base = 0; base < columns; base += Threads * kEach) {
    const int first = base + threadIdx.x * kEach;
    bool is_better[kEach], is_tie[kEach];
    uint32_t counts = 0; // better in the high half, ties in the low one
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint32_t bits = first + i < columns ? key(first + i) : 0;
      is_better[i] = first + i < columns && bits > crossing.key;
      is_tie[i] = first + i < columns && bits == crossing.key;
      counts += (is_better[i] ? 1u << 16 : 0u) + (is_tie[i] ? 1u : 0u);
    }
    uint32_t total;
    const uint32_t before = block_prefix<Threads>(counts, shared.warps, &total);
    int better_before = better + (before >> 16), ties_before = ties + (before & 0xffff);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (is_better[i] || (is_tie[i] && ties_before < needed)) out[better_before + min(ties_before, needed)] = first + i;
      better_before += is_better[i];
      ties_before += is_tie[i];
    }
    better += total >> 16;
    ties += total & 0xffff;
  }
}

}  // namespace kva::device

// What kernels share that drop rows of heads: the heads of a range of sequences, the choice of a row by a whole block, and its going.
#pragma once
#include "../core/cuda.h"
#include "cache_rows.cuh"
#include "early_launch.cuh"
#include "reduce.cuh"

namespace kva {

constexpr int kDropThreads = 512, kDropWarps = kDropThreads / 32;
constexpr uint64_t kNoRow = UINT64_MAX;

struct HeadArgs {
  KvSeq* const* sequences;
  int layer, head_dim, row_words, side_arrays;
};

inline HeadArgs head_args(Batch& batch, int32_t first_sequence, int32_t layer, int words) {
  return {batch.table + first_sequence, layer, batch.shape().head_dim, words, batch.shape().side_arrays};
}

// The smallest key of a block and its row, in every thread; -1 where no thread has one. May be used again at once.
struct Smallest {
  uint64_t keys[kDropWarps];
  int places[kDropWarps];

  __device__ int find(uint64_t key, int place) {
    const auto take = [&](uint64_t other_key, int other_place) {
      if (other_key >= key) return;
      key = other_key;
      place = other_place;
    };
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) take(__shfl_xor_sync(device::kAllLanes, key, offset), __shfl_xor_sync(device::kAllLanes, place, offset));
    if (threadIdx.x % 32 == 0) {
      keys[threadIdx.x / 32] = key;
      places[threadIdx.x / 32] = place;
    }
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < kDropWarps; ++warp) take(keys[warp], places[warp]);
    __syncthreads();
    return key == kNoRow ? -1 : place;
  }
};

// The last row moves into the place of `row`; `length` is that before. The whole block calls it.
template <class Word>
__device__ void drop_row(const device::RowArrays& arrays, int row, int length, const HeadArgs& args) {
  if (threadIdx.x < 32 && row != length - 1) device::copy_row<Word>(arrays, length - 1, arrays, row, args.row_words, args.side_arrays);
  __syncthreads();
}

}  // namespace kva

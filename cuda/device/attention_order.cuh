// The order of work of a launch with a set of blocks: in each section the query tiles that read most first, equal ones as they were.
#pragma once
#include "attention_tiles.cuh"

namespace kva::device {

constexpr int kOrderThreads = 1024, kOrderBins = 2048;

// counts[index]: key blocks that item `index` reads; a warp each. A query tile is a query block.
static __global__ void __launch_bounds__(256) attention_count_kernel(const AttentionShape shape, int32_t* counts) {
  const int index = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (index >= shape.items()) return;
  const AttentionItem item = attention_item(shape, index);
  const int diagonal = shape.first_row / shape.block + item.tile;
  int count = 0;
  for (BlockWalk walk(shape, item.head, item.tile); walk.word >= 0; --walk.word) {
    if (walk.word % 32 != lane) continue;
    count += __popc(walk.word == diagonal / 32 ? walk.ahead : walk.read());
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) count += __shfl_xor_sync(0xffffffffu, count, offset);
  if (lane == 0) counts[index] = count;
}

// One block per section: a counting sort, one warp ranking 32 items at a time so that equal ones stay in place.
static __global__ void __launch_bounds__(kOrderThreads) attention_order_kernel(const AttentionShape shape, const int32_t* counts, int32_t* order) {
  __shared__ int starts[kOrderBins];
  __shared__ uint16_t bins[kOrderThreads];
  const int per_section = shape.tiles * shape.section_heads * shape.group();
  const int first = blockIdx.x * per_section, items = min(per_section, shape.items() - first);
  const int most = shape.first_row / shape.block + shape.tiles;  // that an item may read
  const auto bin_of = [&](int at) { return int((most - counts[first + at]) * int64_t(kOrderBins - 1) / most); };
  for (int i = threadIdx.x; i < kOrderBins; i += kOrderThreads) starts[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < items; i += kOrderThreads) atomicAdd(&starts[bin_of(i)], 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    int before = 0;
    for (int at = threadIdx.x; at < kOrderBins; at += 32) {
      const int here = starts[at];
      int sum = here;
#pragma unroll
      for (int offset = 1; offset < 32; offset <<= 1) {
        const int below = __shfl_up_sync(0xffffffffu, sum, offset);
        if (int(threadIdx.x) >= offset) sum += below;
      }
      starts[at] = before + sum - here;
      before += __shfl_sync(0xffffffffu, sum, 31);
    }
  }
  for (int round = 0; round < items; round += kOrderThreads) {
    __syncthreads();  // the bins of the round before are read
    if (round + int(threadIdx.x) < items) bins[threadIdx.x] = uint16_t(bin_of(round + threadIdx.x));
    __syncthreads();
    if (threadIdx.x >= 32) continue;
    for (int at = threadIdx.x; at - int(threadIdx.x) < min(kOrderThreads, items - round); at += 32) {
      const bool inside = round + at < items;
      const int bin = inside ? bins[at] : -1;
      const unsigned same = __match_any_sync(0xffffffffu, bin), below = same & ((1u << threadIdx.x) - 1);
      const int start = inside ? starts[bin] : 0;
      __syncwarp();
      if (inside && below == 0) starts[bin] = start + __popc(same);
      if (inside) order[first + start + __popc(below)] = first + round + at;
      __syncwarp();
    }
  }
}

// order[i]: the i-th item to work on; order[items + index]: the blocks of item `index`
inline cudaError_t attention_order_launch(const AttentionShape& shape, int32_t* order, cudaStream_t stream) {
  const int sections = (shape.kv_heads + shape.section_heads - 1) / shape.section_heads;
  int32_t* counts = order + shape.items();
  attention_count_kernel<<<(shape.items() + 7) / 8, 256, 0, stream>>>(shape, counts);
  attention_order_kernel<<<sections, kOrderThreads, 0, stream>>>(shape, counts, order);
  return cudaGetLastError();
}

}  // namespace kva::device

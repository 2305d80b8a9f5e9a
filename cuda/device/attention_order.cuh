// The order of work of a launch with block lists: in each section the query tiles with the longest lists first, equal ones as they were.
#pragma once
#include "attention_tiles.cuh"

namespace kva::device {

constexpr int kOrderThreads = 1024, kOrderBins = 2048;

// One block per section: a counting sort by list length, one warp ranking 32 items at a time so that equal lengths stay in place.
template <int TileRows>
__global__ void __launch_bounds__(kOrderThreads) attention_order_kernel(const AttentionShape shape, int32_t* order) {
  __shared__ int starts[kOrderBins];
  __shared__ uint16_t bins[kOrderThreads];
  const int per_section = shape.tiles * shape.section_heads * shape.group();
  const int first = blockIdx.x * per_section, count = min(per_section, shape.items() - first);
  const int most = (shape.first_row + shape.rows) / shape.block + 1;  // no list is longer
  const auto bin_of = [&](int index) {
    const AttentionItem item = attention_item(shape, first + index);
    const int32_t* list = shape.lists + item.head * shape.list_stride + item.tile * TileRows / shape.block;
    const int length = min(max(list[1] - list[0], 0), most);
    return int((most - length) * int64_t(kOrderBins - 1) / most);  // long lists in low bins
  };
  for (int i = threadIdx.x; i < kOrderBins; i += kOrderThreads) starts[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kOrderThreads) atomicAdd(&starts[bin_of(i)], 1);
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
  for (int round = 0; round < count; round += kOrderThreads) {
    __syncthreads();  // the bins of the round before are read
    if (round + int(threadIdx.x) < count) bins[threadIdx.x] = uint16_t(bin_of(round + threadIdx.x));
    __syncthreads();
    if (threadIdx.x >= 32) continue;
    for (int at = threadIdx.x; at - int(threadIdx.x) < min(kOrderThreads, count - round); at += 32) {
      const bool inside = round + at < count;
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

template <int TileRows>
cudaError_t attention_order_launch(const AttentionShape& shape, int32_t* order, cudaStream_t stream) {
  const int sections = (shape.kv_heads + shape.section_heads - 1) / shape.section_heads;
  attention_order_kernel<TileRows><<<sections, kOrderThreads, 0, stream>>>(shape, order);
  return cudaGetLastError();
}

}  // namespace kva::device

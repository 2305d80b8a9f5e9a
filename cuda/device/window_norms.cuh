// Largest score and 1 / sum of 2^(score - largest) of each window query over the rows that it sees, in two kernels; the choice of a scorer.
#pragma once
#include "../core/cuda.h"
#include "reduce.cuh"
#include "window_scores.cuh"

namespace kva::device {

constexpr int kWindowThreads = 256;
constexpr int kWindowWarps = kWindowThreads / 32;
constexpr int kWindowRows = kWindowWarps * 16;  // of a block

// Pass 1: of each query the max and sum over a block's rows. Grid: row blocks, KV heads.
template <class Scorer>
__global__ void __launch_bounds__(kWindowThreads) window_sums_kernel(const WindowArgs args) {
  __shared__ float2 shared[2][kWindowWarps][8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
  const int first = blockIdx.x * kWindowRows + warp * 16, per_group = args.heads / args.kv_heads;
  const Scorer scorer(args, layer_heads(args.sequence, args.layer)[blockIdx.y].k, first);
  int turn = 0;
  for (int head = blockIdx.y * per_group; head < static_cast<int>(blockIdx.y + 1) * per_group; ++head)
    for (int query = 0; query < args.window; query += 8, turn ^= 1) {
      float scores[4];
      scorer.score(args, head, query, scores);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int last = args.length - args.window + query + quad * 2 + c; // the query's own row
        const float high = first + group <= last ? scores[c] : -INFINITY, low = first + group + 8 <= last ? scores[2 + c] : -INFINITY;
        float max = fmaxf(high, low);
#pragma unroll
        for (int offset = 4; offset <= 16; offset <<= 1) max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
        const float base = max == -INFINITY ? 0 : max;
        float sum = exp2f(high - base) + exp2f(low - base);
#pragma unroll
        for (int offset = 4; offset <= 16; offset <<= 1) sum += __shfl_xor_sync(kAllLanes, sum, offset);
        if (group == 0) shared[turn][warp][quad * 2 + c] = {max, sum};
      }
      __syncthreads(); // one is enough: the next turn writes the other half
      if (threadIdx.x < 8 && query + static_cast<int>(threadIdx.x) < args.window) {
        float2 all = {-INFINITY, 0};
        for (int w = 0; w < kWindowWarps; ++w) all.x = fmaxf(all.x, shared[turn][w][threadIdx.x].x);
        const float base = all.x == -INFINITY ? 0 : all.x;
        for (int w = 0; w < kWindowWarps; ++w) all.y += exp2f(shared[turn][w][threadIdx.x].x - base) * shared[turn][w][threadIdx.x].y;
        args.partial[int64_t(blockIdx.x) * args.heads * args.window + head * args.window + query + threadIdx.x] = all;
      }
    }
}

// max and sum of each query over the row blocks; a block has 32 queries, its warps share the row blocks
static __global__ void __launch_bounds__(kWindowThreads) window_norms_kernel(const WindowArgs args, int row_blocks) {
  __shared__ float2 shared[kWindowWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, queries = args.heads * args.window, query = blockIdx.x * 32 + lane;
  const auto merge = [](float2 a, float2 b) {
    const float max = fmaxf(a.x, b.x), base = max == -INFINITY ? 0 : max;
    return float2{max, a.y * exp2f(a.x - base) + b.y * exp2f(b.x - base)};
  };
  float2 all = {-INFINITY, 0};
  if (query < queries)
    for (int block = warp; block < row_blocks; block += kWindowWarps) all = merge(all, args.partial[int64_t(block) * queries + query]);
  shared[warp][lane] = all;
  __syncthreads();
  if (warp > 0 || query >= queries) return;
  for (int other = 1; other < kWindowWarps; ++other) all = merge(all, shared[other][lane]);
  args.norms[query] = {all.x, 1 / all.y};
}

// Calls body(scorer type tag) with the fastest scorer that takes these arguments.
template <class Scorer>
struct Tag {
  using type = Scorer;
};
template <class Body>
void with_scorer(int32_t cache_dtype, const WindowArgs& args, Body&& body) {
  with_device_type(cache_dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      const bool packs = reinterpret_cast<uintptr_t>(args.queries) % 16 == 0 && args.q_stride % 8 == 0 && args.q_dtype == cache_dtype;
      if (packs && args.head_dim == 64) return body(Tag<WindowMma<T, 64>>());
      if (packs && args.head_dim == 128) return body(Tag<WindowMma<T, 128>>());
    }
    body(Tag<WindowFma<T>>());
  });
}

}  // namespace kva::device

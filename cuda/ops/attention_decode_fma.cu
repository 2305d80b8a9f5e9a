// Decode attention of a split without tensor cores: every cache type and head size. A thread scores one row, then sums one column.
#include "../core/cuda.h"
#include "../device/attention_decode.cuh"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = split_rows;

// dot products of one key row with four queries that lie head_dim apart
template <int Width, class T>
__device__ __forceinline__ void score_row(float (&scores)[4], const T* key, const float* queries, int head_dim) {
  for (int column = 0; column < head_dim; column += Width) {
    const Pack<T, Width> pack = load_pack<Width>(key + column);
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const float k = widen(pack.at[i]);
#pragma unroll
      for (int g = 0; g < 4; ++g) scores[g] = fmaf(k, queries[g * head_dim + column + i], scores[g]);
    }
  }
}

template <class T, bool Paged>
__global__ void __launch_bounds__(kThreads) attention_decode_fma_kernel(const DecodeArgs args) {
  extern __shared__ float shared[];
  __shared__ float maxima[kDecodeHeads], sums[kDecodeHeads];
  float* scores = shared;                                // [kDecodeHeads][split_rows]
  float* queries = shared + kDecodeHeads * split_rows; // [kDecodeHeads][head_dim]
  wait_for_inputs();
  DecodeBlock block;
  if (!open_decode_block<Paged>(args, blockIdx.x, block)) return;
  const int rows = max(block.last - block.first, 0), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t q = block.sequence * args.q_stride + int64_t(block.first_head) * args.head_dim;
  for (int at = threadIdx.x; at < kDecodeHeads * args.head_dim; at += kThreads)
    queries[at] = at < block.heads * args.head_dim ? load_decode_query(args, q + at) : 0;
  __syncthreads();

  const int row = block.first + threadIdx.x;
  const bool present = row < block.last;
  if (present) {
    const T* key = static_cast<const T*>(block.keys) + int64_t(block.place(row)) * args.head_dim;
    const bool seen = block.sees(row), packs = args.head_dim % kPackWidth<T> == 0;
    for (int g = 0; g < block.heads; g += 4) {
      float dots[4] = {};
      if (packs)
        score_row<kPackWidth<T>>(dots, key, queries + g * args.head_dim, args.head_dim);
      else
        score_row<1>(dots, key, queries + g * args.head_dim, args.head_dim);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (g + i >= block.heads) break;
        const float score = seen ? dots[i] * args.scale : -INFINITY;
        scores[(g + i) * split_rows + threadIdx.x] = score;
        if (args.scores != nullptr) args.scores[block.head_row(args, g + i) * args.score_stride() + row] = score;
      }
    }
  }
  __syncthreads();

  for (int head = warp; head < block.heads; head += kThreads / 32) {
    float max = -INFINITY, sum = 0;
    for (int r = lane; r < rows; r += 32) max = fmaxf(max, scores[head * split_rows + r]);
    max = warp_max(max);
    const float base = max == -INFINITY ? 0 : max;
    for (int r = lane; r < rows; r += 32) {
      const float share = exp2f(scores[head * split_rows + r] - base);
      scores[head * split_rows + r] = share;
      sum += share;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      maxima[head] = max;
      sums[head] = sum;
    }
  }
  __syncthreads();

  for (int at = threadIdx.x; at < block.heads * args.head_dim; at += kThreads) {
    const int head = at / args.head_dim, column = at % args.head_dim;
    const T* value = static_cast<const T*>(block.values) + column;
    float out = 0;
#pragma unroll 4
    for (int r = 0; r < rows; ++r)
      out = fmaf(scores[head * split_rows + r], widen(value[int64_t(block.place(block.first + r)) * args.head_dim]), out);
    write_decode_split(args, block, head, column, out, maxima[head], sums[head]);
  }
}

}  // namespace

template <class T, bool Paged>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  const int64_t bytes = kDecodeHeads * (split_rows + args.head_dim) * int64_t(4);
  allow_shared<attention_decode_fma_kernel<T, Paged>>(bytes);
  launch_early(attention_decode_fma_kernel<T, Paged>, dim3(args.items()), kThreads, bytes, stream, args);
}

template <class T>
void attention_decode_fma_launch(const DecodeArgs& args, cudaStream_t stream) {
  args.pages != nullptr ? launch<T, true>(args, stream) : launch<T, false>(args, stream);
}

template void attention_decode_fma_launch<float>(const DecodeArgs&, cudaStream_t);
template void attention_decode_fma_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_fma_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

// Prefill attention in fp32 arithmetic alone (no tf32), tiled through shared memory: f32, and 16-bit types of any head size up to 256.
// floor: 4 * pairs * head_dim flops at the fp32 rate of the card (pairs: visible query-key pairs of all heads)
// measured (H100 80GB, 2026-11-24, f32, 4K rows, 32 heads of 128, causal): 11.3 TFLOP/s, 12.1 ms.
// gap: 6 x to the data sheet's 67 TFLOP/s: nothing overlaps the loads, and shared memory feeds 32 products for each 6 reads; for checks.
#include "../device/attention_tiles.cuh"
#include "../device/vec.cuh"
#include "../include/kvaccel.h"

namespace kva {
namespace {

using namespace device;

// Thread (x, y) of 16 x 8: query rows 4 y + {0..3}, keys x + 16 {0, 1}, output columns 64 c + 4 x + {0..3}.
constexpr int kThreads = 128, kTile = 32, kMaxColumns = 256, kScoreStride = kTile + 1;

// float4s from row to row in shared memory: odd, so that 16 rows are read at once without a conflict
__host__ __device__ int row_packs(int head_dim) { return (head_dim + 3) / 4 | 1; }

// Loads kTile rows from row `first` as fp32; rows from `end` on and columns past the head size become zeros.
template <class T>
__device__ void load_tile(float* to, const T* from, int64_t stride, int first, int end, int columns) {
  const int width = row_packs(columns) * 4;
  for (int i = threadIdx.x; i < kTile * width; i += kThreads) {
    const int row = i / width, column = i % width;
    to[i] = first + row < end && column < columns ? widen(from[(first + row) * stride + column]) : 0.0f;
  }
}

__device__ __forceinline__ float row_max(float value) {
#pragma unroll
  for (int offset = 8; offset > 0; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}
__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
  for (int offset = 8; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

__device__ __forceinline__ void multiply_keys(float (&scores)[4][2], const float* q, const float* k, int packs, int x, int y) {
  const float4 *q4 = reinterpret_cast<const float4*>(q), *k4 = reinterpret_cast<const float4*>(k);
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i][0] = scores[i][1] = 0;
  for (int pack = 0; pack < packs; ++pack) {
    float4 b[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) b[j] = k4[(x + 16 * j) * packs + pack];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 a = q4[(4 * y + i) * packs + pack];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        scores[i][j] = fmaf(a.x, b[j].x, scores[i][j]);
        scores[i][j] = fmaf(a.y, b[j].y, scores[i][j]);
        scores[i][j] = fmaf(a.z, b[j].z, scores[i][j]);
        scores[i][j] = fmaf(a.w, b[j].w, scores[i][j]);
      }
    }
  }
}

__device__ __forceinline__ void multiply_values(float (&sums)[4][16], const float* weights, const float* v, int packs, int x, int y) {
  const float4* v4 = reinterpret_cast<const float4*>(v);
  for (int key = 0; key < kTile; ++key) {
    float a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = weights[(4 * y + i) * kScoreStride + key];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (c * 16 + x >= packs) break;
      const float4 b = v4[key * packs + c * 16 + x];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[i][c * 4] = fmaf(a[i], b.x, sums[i][c * 4]);
        sums[i][c * 4 + 1] = fmaf(a[i], b.y, sums[i][c * 4 + 1]);
        sums[i][c * 4 + 2] = fmaf(a[i], b.z, sums[i][c * 4 + 2]);
        sums[i][c * 4 + 3] = fmaf(a[i], b.w, sums[i][c * 4 + 3]);
      }
    }
  }
}

// One CTA: 32 query rows of one head.
template <class T, bool Listed>
__global__ void __launch_bounds__(kThreads) attention_fma_kernel(const AttentionPointers<T> args) {
  extern __shared__ __align__(16) float memory[];
  const AttentionShape& shape = args.shape;
  const int columns = shape.head_dim, packs = row_packs(columns), x = threadIdx.x % 16, y = threadIdx.x / 16;
  float *q_tile = memory, *kv_tile = q_tile + kTile * packs * 4, *weights = kv_tile + kTile * packs * 4;
  const AttentionItem item = attention_item(shape, blockIdx.x);
  TileSteps<kTile, kTile, Listed> steps(shape, item);
  const int64_t kv = item.head / shape.group() * args.head_stride, head = int64_t(item.head) * columns;
  const int first = item.tile * kTile, end = shape.first_row + shape.rows;

  float sums[4][16] = {}, max[4], sum[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) max[i] = -INFINITY;
  load_tile(q_tile, args.q + head, args.q_stride, first, shape.rows, columns);

  for (int tile = steps.next(); tile >= 0; tile = steps.next()) {
    const int key = tile * kTile;
    __syncthreads();
    load_tile(kv_tile, args.k + kv, columns, key, end, columns);
    __syncthreads();
    float scores[4][2];
    multiply_keys(scores, q_tile, kv_tile, packs, x, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = shape.first_row + first + 4 * y + i;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int at = key + x + 16 * j;
        if (at > row || (shape.window > 0 && at <= row - shape.window)) scores[i][j] = -INFINITY;
      }
      const float top = fmaxf(max[i], row_max(fmaxf(scores[i][0], scores[i][1])));
      const float shift = top == -INFINITY ? 0 : top;  // a row that saw nothing yet
      const float factor = expf((max[i] - shift) * shape.scale);
      max[i] = top;
      sum[i] *= factor;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float weight = expf((scores[i][j] - shift) * shape.scale);
        weights[(4 * y + i) * kScoreStride + x + 16 * j] = weight;
        sum[i] += weight;
      }
#pragma unroll
      for (int c = 0; c < 16; ++c) sums[i][c] *= factor;
    }
    __syncthreads();
    load_tile(kv_tile, args.v + kv, columns, key, end, columns);
    __syncthreads();
    multiply_values(sums, weights, kv_tile, packs, x, y);
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first + 4 * y + i;
    const float total = row_sum(sum[i]), inverse = total > 0 ? 1 / total : 0;
    if (row >= shape.rows) continue;
    if (args.lse && x == 0) args.lse[item.head * args.lse_stride + row] = total > 0 ? max[i] * shape.scale + logf(total) : -INFINITY;
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      const int column = c / 4 * 64 + x * 4 + c % 4;
      if (column < columns) args.out[row * args.out_stride + head + column] = narrow<T>(sums[i][c] * inverse);
    }
  }
}

template <class T, bool Listed>
cudaError_t launch(const AttentionPrefill& a) {
  const int bytes = (2 * kTile * row_packs(a.head_dim) * 4 + kTile * kScoreStride) * int(sizeof(float));
  const auto kernel = attention_fma_kernel<T, Listed>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const AttentionPointers<T> args(a, kTile);
  kernel<<<args.shape.items(), kThreads, bytes, a.stream>>>(args);
  return cudaGetLastError();
}
template <class T>
cudaError_t launch(const AttentionPrefill& a) {
  return a.bits != nullptr ? launch<T, true>(a) : launch<T, false>(a);
}

}  // namespace

bool attention_prefill_fma_takes(const AttentionPrefill& a) {
  return (a.dtype == KVA_F32 || a.dtype == KVA_F16 || a.dtype == KVA_BF16) && a.head_dim <= kMaxColumns;
}

cudaError_t attention_prefill_fma_launch(const AttentionPrefill& attention) {
  switch (attention.dtype) {
    case KVA_F32: return launch<float>(attention);
    case KVA_F16: return launch<__half>(attention);
    default: return launch<__nv_bfloat16>(attention);
  }
}

}  // namespace kva

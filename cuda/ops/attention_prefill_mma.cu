// Prefill attention with mma.sync (sm_80 and up), FlashAttention-2 class: f16 and bf16, head sizes up to 256 that are multiples of 8.
// The head size is padded with zeros to 64, 128 or 256. Values arrive while scores are computed, the next keys during softmax and P V.
// floor: 4 * pairs * head_dim flops (pairs: visible query-key pairs of all heads) at the card's mma.sync rate.
// measured (H100 80GB, 2026-11-24, bf16, 16K rows, causal): 355 TFLOP/s at head size 128, 312 at 64, 285 at 256; PyTorch's flash 329 at 128.
// gap: half of the H100's matrix rate, which mma.sync does not reach and the Hopper kernel uses; not measured on sm_80, 86 and 89.
#include "../device/attention_tiles.cuh"
#include "../include/kvaccel.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 128, kTileKeys = 64;

// A tile in shared memory: rows of Width elements; 16-byte chunk c of row r lies at chunk c ^ (r & 7), so that neither the copies nor
// ldmatrix meet in a bank.
template <int Width>
__device__ __forceinline__ uint32_t chunk_offset(int row, int chunk) {
  return uint32_t(row * Width * 2 + ((chunk ^ (row & 7)) << 4));
}

// Copies Rows rows from row `first` of `from`; rows from `end` on and columns from `columns` on become zeros.
template <int Rows, int Width, class T>
__device__ __forceinline__ void copy_tile(uint32_t to, const T* from, int64_t stride, int first, int end, int columns) {
  constexpr int chunks = Width / 8;
  static_assert(Rows * chunks % kThreads == 0);
  const int chunk = threadIdx.x % chunks, start = threadIdx.x / chunks;
  const bool inside = chunk * 8 < columns;
#pragma unroll
  for (int r = 0; r < Rows; r += kThreads / chunks) {
    const int row = start + r;
    const bool valid = inside && first + row < end;
    copy_async(to + chunk_offset<Width>(row, chunk), from + (valid ? (first + row) * stride + chunk * 8 : 0), valid);
  }
}

// scores[m] = Q K^T of one warp: Blocks x 16 query rows, all keys of the tile
template <class T, int Width, int Blocks>
__device__ __forceinline__ void multiply_keys(float (&scores)[Blocks][kTileKeys / 2], uint32_t q, uint32_t k) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * Blocks * 16 + lane % 16;
  const int key = (lane & 7) + (lane >> 4) * 8, half = (lane >> 3) & 1;
#pragma unroll
  for (int m = 0; m < Blocks; ++m)
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) scores[m][i] = 0;
#pragma unroll
  for (int step = 0; step < Width / 16; ++step) {
    uint32_t a[Blocks][4];
#pragma unroll
    for (int m = 0; m < Blocks; ++m) load_matrices(a[m], q + chunk_offset<Width>(row + m * 16, step * 2 + (lane >> 4)));
#pragma unroll
    for (int pair = 0; pair < kTileKeys / 16; ++pair) {
      uint32_t b[4];
      load_matrices(b, k + chunk_offset<Width>(pair * 16 + key, step * 2 + half));
#pragma unroll
      for (int m = 0; m < Blocks; ++m) {
        mma(reinterpret_cast<float(&)[4]>(scores[m][pair * 8]), a[m], b[0], b[1], T{});
        mma(reinterpret_cast<float(&)[4]>(scores[m][pair * 8 + 4]), a[m], b[2], b[3], T{});
      }
    }
  }
}

// sums[m] += P V of one warp
template <class T, int Width, int Blocks>
__device__ __forceinline__ void multiply_values(float (&sums)[Blocks][Width / 2], const float (&scores)[Blocks][kTileKeys / 2],
                                                uint32_t v) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    uint32_t a[Blocks][4];
#pragma unroll
    for (int m = 0; m < Blocks; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[m][i] = pack_pair(scores[m][step * 8 + i * 2], scores[m][step * 8 + i * 2 + 1], T{});
#pragma unroll
    for (int pair = 0; pair < Width / 16; ++pair) {
      uint32_t b[4];
      load_matrices_transposed(b, v + chunk_offset<Width>(step * 16 + lane % 16, pair * 2 + (lane >> 4)));
#pragma unroll
      for (int m = 0; m < Blocks; ++m) {
        mma(reinterpret_cast<float(&)[4]>(sums[m][pair * 8]), a[m], b[0], b[1], T{});
        mma(reinterpret_cast<float(&)[4]>(sums[m][pair * 8 + 4]), a[m], b[2], b[3], T{});
      }
    }
  }
}

// One CTA: a query tile of 4 warps x Blocks x 16 rows of one head.
template <class T, int Width, int Blocks, bool Listed>
__global__ void __launch_bounds__(kThreads, Width <= 128 ? 2 : 1) attention_mma_kernel(const AttentionPointers<T> args) {
  constexpr int tile_rows = 4 * Blocks * 16;
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t q_tile = shared_address(memory), k_tile = q_tile + tile_rows * Width * 2, v_tile = k_tile + kTileKeys * Width * 2;
  const AttentionShape& shape = args.shape;
  const AttentionItem item = attention_item(shape, blockIdx.x);
  TileSteps<tile_rows, kTileKeys, Listed> steps(shape, item);
  int tile = steps.next();
  const int64_t kv = item.head / shape.group() * args.head_stride;
  const int end = shape.first_row + shape.rows, columns = shape.head_dim;
  const int lane = threadIdx.x % 32, first = item.tile * tile_rows;
  const int row = first + threadIdx.x / 32 * Blocks * 16 + lane / 4;  // the lane's first query row
  const float scale_log2 = shape.scale * 1.44269504088896341f;

  copy_tile<tile_rows, Width>(q_tile, args.q + int64_t(item.head) * columns, args.q_stride, first, shape.rows, columns);
  if (!Listed || tile >= 0) copy_tile<kTileKeys, Width>(k_tile, args.k + kv, columns, tile * kTileKeys, end, columns);
  copy_async_commit();

  float sums[Blocks][Width / 2], scores[Blocks][kTileKeys / 2];
  SoftmaxRows softmax[Blocks];
#pragma unroll
  for (int m = 0; m < Blocks; ++m) {
    softmax[m].reset();
#pragma unroll
    for (int i = 0; i < Width / 2; ++i) sums[m][i] = 0;
  }

  while (tile >= 0) {
    copy_async_wait<0>();
    __syncthreads();  // keys are there, and all warps are done with the last values
    copy_tile<kTileKeys, Width>(v_tile, args.v + kv, columns, tile * kTileKeys, end, columns);
    copy_async_commit();
    multiply_keys<T, Width, Blocks>(scores, q_tile, k_tile);
    copy_async_wait<0>();
    __syncthreads();  // values are there, and all warps are done with the keys
    const int following = steps.next();
    if (following >= 0) copy_tile<kTileKeys, Width>(k_tile, args.k + kv, columns, following * kTileKeys, end, columns);
    copy_async_commit();
#pragma unroll
    for (int m = 0; m < Blocks; ++m) {
      if (steps.walk.masked(tile)) mask_scores(scores[m], shape.first_row + row + m * 16, tile * kTileKeys + lane % 4 * 2, shape.window);
      float factor[2];
      softmax[m].update(scores[m], scale_log2, factor);
#pragma unroll
      for (int e = 0; e < Width / 2; ++e) sums[m][e] *= factor[e / 2 % 2];
    }
    multiply_values<T, Width, Blocks>(sums, scores, v_tile);
    tile = following;
  }

#pragma unroll
  for (int m = 0; m < Blocks; ++m) {
    float inverse[2], lse[2];
    softmax[m].finish(shape.scale, inverse, lse);
    T* to[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query = row + m * 16 + r * 8;
      to[r] = query < shape.rows ? args.out + query * args.out_stride + int64_t(item.head) * columns : nullptr;
      if (args.lse && lane % 4 == 0 && query < shape.rows) args.lse[item.head * args.lse_stride + query] = lse[r];
    }
    store_rows(sums[m], inverse, to, columns);
  }
}

template <class T, int Width, int Blocks, bool Listed>
cudaError_t launch(const AttentionPrefill& a) {
  constexpr int tile_rows = 4 * Blocks * 16, bytes = (tile_rows + 2 * kTileKeys) * Width * 2;
  const auto kernel = attention_mma_kernel<T, Width, Blocks, Listed>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const AttentionPointers<T> args(a, tile_rows);
  kernel<<<args.shape.items(), kThreads, bytes, a.stream>>>(args);
  return cudaGetLastError();
}

// A query tile lies in one block.
template <class T, int Width, int Blocks>
cudaError_t launch_set(const AttentionPrefill& a) {
  if (a.bits == nullptr) return launch<T, Width, Blocks, false>(a);
  return a.block == 64 ? launch<T, Width, 1, true>(a) : launch<T, Width, Blocks, true>(a);
}

template <class T>
cudaError_t launch_width(const AttentionPrefill& a) {
  if (a.head_dim <= 64) return launch_set<T, 64, 2>(a);
  if (a.head_dim <= 128) return launch_set<T, 128, 2>(a);
  return launch_set<T, 256, 1>(a);
}

}  // namespace

bool attention_prefill_mma_takes(const AttentionPrefill& a) {
  return (a.dtype == KVA_F16 || a.dtype == KVA_BF16) && a.head_dim <= 256 && attention_aligned(a);
}

cudaError_t attention_prefill_mma_launch(const AttentionPrefill& attention) {
  return attention.dtype == KVA_F16 ? launch_width<__half>(attention) : launch_width<__nv_bfloat16>(attention);
}

}  // namespace kva

// What rows receive from queries: sums or maxima over query rows and the group's heads of exp(scale * q.k - lse). A block has a tile of keys
// of a KV head and walks over the query tiles of the group's heads: no atomics, one order of sums. f16 and bf16 heads of 64 and 128 run on
// tensor cores: by column_sums_hopper.cu, or mma.sync with the keys in registers; all else in fp32, a thread one key.
#include "../core/cuda.h"
#include "../device/attention_tiles.cuh"
#include "../device/column_sums.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr float kLog2E = 1.44269504088896341f;

struct ColumnArgs {
  const void *queries, *keys;
  const float* lse;
  float* out;
  int64_t q_stride, lse_stride, out_stride, head_stride;
  int rows, first_row, group, head_dim;
  float scale;
  bool maximum;
  BlockSet blocks;
};

constexpr int kTileThreads = 256, kTileKeys = 256, kTileQueries = 64;  // a warp has 32 keys

template <class T, int HeadDim>
constexpr int tile_bytes = 2 * (kTileQueries * HeadDim * 2 + kTileQueries * 4);

// 16-byte chunk c of query r lies at chunk c ^ (r & 7), so that neither the copies nor ldmatrix meet in a bank.
template <int HeadDim>
__device__ __forceinline__ uint32_t chunk_offset(int row, int chunk) {
  return uint32_t(row * HeadDim * 2 + ((chunk ^ (row & 7)) << 4));
}

// The keys of a warp as the tensor cores' left operand: two blocks of 16.
template <class T, int HeadDim>
struct KeyFragments {
  uint32_t at[2][HeadDim / 16][4];

  __device__ __forceinline__ KeyFragments(const T* keys, int first, int end) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const T* row = keys + int64_t(min(first + m * 16 + lane / 4 + i % 2 * 8, end - 1)) * HeadDim + lane % 4 * 2 + i / 2 * 8;
#pragma unroll
        for (int step = 0; step < HeadDim / 16; ++step) at[m][step][i] = *reinterpret_cast<const uint32_t*>(row + step * 16);
      }
  }

  // scores[m][n]: keys of block m against queries [8 n, 8 n + 8) of the 16 from `query` on
  __device__ __forceinline__ void multiply(float (&scores)[2][2][4], uint32_t tile, int query) const {
    const int lane = threadIdx.x % 32, row = query + (lane & 7) + (lane >> 4) * 8, half = (lane >> 3) & 1;
#pragma unroll
    for (int i = 0; i < 16; ++i) scores[i / 8][i / 4 % 2][i % 4] = 0;
#pragma unroll
    for (int step = 0; step < HeadDim / 16; ++step) {
      uint32_t b[4];
      load_matrices(b, tile + chunk_offset<HeadDim>(row, step * 2 + half));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma(scores[m][0], at[m][step], b[0], b[1], T{});
        mma(scores[m][1], at[m][step], b[2], b[3], T{});
      }
    }
  }
};

template <bool Maximum>
__device__ __forceinline__ float join(float a, float b) {
  return Maximum ? fmaxf(a, b) : a + b;
}

// Whether the attention of the head's query rows from row `tile` on, of one query block, read the keys from `key` on, of one key block.
__device__ __forceinline__ bool reads(const ColumnArgs& args, int head, int tile, int key) {
  const BlockSet& blocks = args.blocks;
  return blocks.bits == nullptr || blocks.has(head, (args.first_row + tile) / blocks.block, key / blocks.block);
}

template <class T, int HeadDim, bool Maximum>
__global__ void __launch_bounds__(kTileThreads, 2) column_tiles_kernel(const ColumnArgs args) {
  extern __shared__ __align__(128) unsigned char memory[];
  constexpr int query_bytes = kTileQueries * HeadDim * 2, chunks = HeadDim / 8;
  const uint32_t tiles = shared_address(memory);
  float* shifts = reinterpret_cast<float*>(memory + 2 * query_bytes);  // log2(e) * lse of both buffers
  const int lane = threadIdx.x % 32, base = blockIdx.x * kTileKeys, first = base + threadIdx.x / 32 * 32, end = args.first_row + args.rows;
  const int start = max(0, base - args.first_row) / kTileQueries, per_head = (args.rows + kTileQueries - 1) / kTileQueries - start;
  const KeyFragments<T, HeadDim> keys(static_cast<const T*>(args.keys) + blockIdx.y * args.head_stride, first, end);
  const float scale = args.scale * kLog2E;

  const auto load = [&](int item, int buffer) {
    const int head = blockIdx.y * args.group + item / per_head, tile = (start + item % per_head) * kTileQueries;
    const T* from = static_cast<const T*>(args.queries) + int64_t(head) * HeadDim;
#pragma unroll
    for (int i = threadIdx.x; i < kTileQueries * chunks; i += kTileThreads) {
      const int row = i / chunks, chunk = i % chunks;
      const bool valid = tile + row < args.rows;
      copy_async(tiles + buffer * query_bytes + chunk_offset<HeadDim>(row, chunk), from + (valid ? (tile + row) * args.q_stride + chunk * 8 : 0), valid);
    }
    if (threadIdx.x < kTileQueries) {
      const int row = tile + threadIdx.x;
      shifts[buffer * kTileQueries + threadIdx.x] = row < args.rows ? kLog2E * args.lse[head * args.lse_stride + row] : INFINITY;
    }
    copy_async_commit();
  };

  float result[2][2] = {};
  const int items = per_head * args.group;
  load(0, 0);
  for (int item = 0; item < items; ++item) {
    const int buffer = item % 2, top = args.first_row + (start + item % per_head) * kTileQueries;
    copy_async_wait<0>();
    __syncthreads();  // the tile is there, and all warps are done with the other buffer
    if (item + 1 < items) load(item + 1, buffer ^ 1);
    const bool masked = top < first + 31;
    if (first >= end || !reads(args, blockIdx.y * args.group + item / per_head, top - args.first_row, first)) continue;
    float part[2][2] = {};
#pragma unroll
    for (int query = 0; query < kTileQueries; query += 16) {
      float scores[2][2][4];
      keys.multiply(scores, tiles + buffer * query_bytes, query);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 shift = *reinterpret_cast<const float2*>(shifts + buffer * kTileQueries + query + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float p = exp2_fast(fmaf(scores[m][n][i], scale, i % 2 ? -shift.y : -shift.x));
            if (masked && top + query + n * 8 + lane % 4 * 2 + i % 2 < first + m * 16 + lane / 4 + i / 2 * 8) p = 0;
            part[m][i / 2] = join<Maximum>(part[m][i / 2], p);
          }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) result[i / 2][i % 2] = join<Maximum>(result[i / 2][i % 2], part[i / 2][i % 2]);
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float value = result[i / 2][i % 2];
    value = join<Maximum>(value, __shfl_xor_sync(0xffffffffu, value, 1));
    value = join<Maximum>(value, __shfl_xor_sync(0xffffffffu, value, 2));
    const int key = first + i / 2 * 16 + lane / 4 + i % 2 * 8;
    if (lane % 4 != 0 || key >= end) continue;
    float* to = args.out + blockIdx.y * args.out_stride + key;
    *to = join<Maximum>(*to, value);
  }
}

constexpr int kKeys = 64, kQueries = 16;

template <class Q, class K>
__global__ void __launch_bounds__(kKeys) column_sums_kernel(const ColumnArgs args) {
  extern __shared__ float shared[];
  const int pitch = args.head_dim + 1, base = blockIdx.x * kKeys, key = base + threadIdx.x, end = args.first_row + args.rows;
  float *keys = shared, *q = keys + kKeys * pitch;
  const K* from = static_cast<const K*>(args.keys) + blockIdx.y * args.head_stride;
  for (int i = threadIdx.x; i < kKeys * args.head_dim; i += kKeys) {
    const int row = i / args.head_dim, column = i % args.head_dim;
    keys[row * pitch + column] = base + row < end ? widen(from[int64_t(base + row) * args.head_dim + column]) : 0.0f;
  }
  float* to = args.out + blockIdx.y * args.out_stride + key;
  float result = key < end ? *to : 0.0f;
  const int first = max(0, base - args.first_row);
  for (int g = 0; g < args.group; ++g) {
    const int head = blockIdx.y * args.group + g;
    for (int tile = first; tile < args.rows; tile += kQueries) {
      if (!reads(args, head, tile, base)) continue;
      const int rows = min(kQueries, args.rows - tile);
      __syncthreads();
      for (int i = threadIdx.x; i < rows * args.head_dim; i += kKeys) {
        const int row = i / args.head_dim, column = i % args.head_dim;
        q[i] = widen(static_cast<const Q*>(args.queries)[(tile + row) * args.q_stride + int64_t(head) * args.head_dim + column]);
      }
      __syncthreads();
      for (int i = 0; i < rows; ++i) {
        if (key > args.first_row + tile + i) continue;
        float score = 0;
        for (int d = 0; d < args.head_dim; ++d) score = fmaf(q[i * args.head_dim + d], keys[threadIdx.x * pitch + d], score);
        const float p = expf(score * args.scale - args.lse[head * args.lse_stride + tile + i]);
        result = args.maximum ? fmaxf(result, p) : result + p;
      }
    }
  }
  if (key < end) *to = result;
}

template <class T, int HeadDim, bool Maximum>
void launch_tiles(const ColumnArgs& args, int kv_heads, cudaStream_t stream) {
  allow_shared<column_tiles_kernel<T, HeadDim, Maximum>>(tile_bytes<T, HeadDim>);
  const dim3 blocks(divide_up(args.first_row + args.rows, kTileKeys), kv_heads);
  column_tiles_kernel<T, HeadDim, Maximum><<<blocks, kTileThreads, tile_bytes<T, HeadDim>, stream>>>(args);
}

template <class T, int HeadDim>
void launch_tiles(const ColumnArgs& args, int kv_heads, cudaStream_t stream) {
  args.maximum ? launch_tiles<T, HeadDim, true>(args, kv_heads, stream) : launch_tiles<T, HeadDim, false>(args, kv_heads, stream);
}

// Whether the kernel for sm_90a took it.
bool launch_hopper(const ColumnArgs& args, const KvShape& shape, int32_t dtype, cudaStream_t stream) {
  const ColumnSums sums = {args.queries,     args.keys, args.lse,      args.out,       args.q_stride, args.lse_stride, args.out_stride,
                           args.head_stride, args.rows, args.first_row, shape.kv_heads, args.group,    args.head_dim,   shape.dtype,
                           args.scale,       args.maximum, stream};
  if (dtype != shape.dtype || !column_sums_hopper_takes(sums)) return false;
  check_cuda(column_sums_hopper_launch(sums), "column_sums_hopper_launch");
  return true;
}

}  // namespace

void column_sums(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix queries, Matrix lse, float scale, int32_t reduce,
                 const BlockSet& blocks, Matrix out) {
  if (queries.rows == 0) return;
  const KvShape& shape = kv.shape;
  const KvHead* heads = kv.layer(layer);
  const int64_t element = dtype_bytes(shape.dtype);
  const int64_t head_stride = shape.kv_heads > 1 ? (static_cast<const char*>(heads[1].k) - static_cast<const char*>(heads[0].k)) / element : 0;
  const ColumnArgs args = {queries.data, heads[0].k,   lse.row<float>(0), out.row<float>(0), queries.stride, lse.stride,
                           out.stride,       head_stride,  queries.rows, first_row,         shape.group(),     shape.head_dim, scale,
                           reduce == KVA_REDUCE_MAX, blocks};
  const bool packs = reinterpret_cast<uintptr_t>(queries.data) % 16 == 0 && queries.stride % 8 == 0 && queries.dtype == shape.dtype;
  const dim3 grid(divide_up(first_row + queries.rows, kKeys), shape.kv_heads);
  const int64_t bytes = int64_t(kKeys * (shape.head_dim + 1) + kQueries * shape.head_dim) * 4;
  if (blocks.bits == nullptr && launch_hopper(args, shape, queries.dtype, stream_of(context))) return;
  with_device_type(shape.dtype, [&](auto k) {
    using K = decltype(k);
    if constexpr (sizeof(K) == 2) {
      if (packs && shape.head_dim == 64) return launch_tiles<K, 64>(args, shape.kv_heads, stream_of(context));
      if (packs && shape.head_dim == 128) return launch_tiles<K, 128>(args, shape.kv_heads, stream_of(context));
    }
    with_device_type(queries.dtype, [&](auto q) {
      allow_shared<column_sums_kernel<decltype(q), K>>(bytes);
      column_sums_kernel<decltype(q), K><<<grid, kKeys, bytes, stream_of(context)>>>(args);
    });
  });
  check_launch();
}

}  // namespace kva

// Means of blocks of rows, and the softmax of their products.
// floor: the queries and keys are read once at the rate of a copy; pooled scores take head_dim fp32 multiplications a pair of blocks.
// measured (H100 80GB, 2026-11-25, 128K rows, 32 heads): 0.95 ms, floor 0.5; 9.5 ms where a thread had a pooled score.
// gap: a thread sums one column of 2 bytes over a block's rows, which asks for a part of what a load could bring.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 128;

// A thread has a column of a block. Grid: columns, blocks.
template <class T>
__global__ void __launch_bounds__(kThreads) block_mean_kernel(const T* x, int64_t stride, int rows, int columns, int block, float* out,
                                                              int64_t out_stride) {
  const int column = blockIdx.x * kThreads + threadIdx.x, first = blockIdx.y * block, end = min(rows, first + block);
  if (column >= columns) return;
  float sum = 0;
  for (int r = first; r < end; ++r) sum += widen(x[r * stride + column]);
  out[blockIdx.y * out_stride + column] = sum / static_cast<float>(end - first);
}

// A thread has a channel of a block of a KV head. Grid: channels, blocks, KV heads.
template <class T>
__global__ void __launch_bounds__(kThreads) key_mean_kernel(KvSeq* sequence, int layer, int head_dim, int rows, int block, float* out,
                                                            int64_t out_stride) {
  const int column = blockIdx.x * kThreads + threadIdx.x, first = blockIdx.y * block, end = min(rows, first + block);
  if (column >= head_dim) return;
  const T* keys = static_cast<const T*>(layer_heads(sequence, layer)[blockIdx.z].k);
  float sum = 0;
  for (int r = first; r < end; ++r) sum += widen(keys[int64_t(r) * head_dim + column]);
  out[blockIdx.y * out_stride + blockIdx.z * head_dim + column] = sum / static_cast<float>(end - first);
}

struct PooledArgs {
  Matrix queries, keys, out;
  int heads, group, head_dim, first_block;
  float scale;
};

constexpr int kTile = 64, kDepth = 32, kTileThreads = 256;

// Scores of a tile of queries and keys of a head in fp32, a thread 4 x 4 of them; tiles right of the diagonal are left out.
__global__ void __launch_bounds__(kTileThreads) pooled_scores_kernel(const PooledArgs args) {
  __shared__ float q[kTile][kDepth + 1], k[kTile][kDepth + 1];
  const int first_row = blockIdx.y * kTile, first_column = blockIdx.x * kTile, head = blockIdx.z, x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int rows = args.queries.rows, columns = args.keys.rows;
  if (args.first_block >= 0 && first_column > args.first_block + min(first_row + kTile, rows) - 1) return;
  float sums[4][4] = {};
  for (int depth = 0; depth < args.head_dim; depth += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kDepth; i += kTileThreads) {
      const int at = i / kDepth, d = i % kDepth, row = min(first_row + at, rows - 1), column = min(first_column + at, columns - 1);
      const bool inside = depth + d < args.head_dim;
      q[at][d] = inside ? args.queries.row<float>(row)[int64_t(head) * args.head_dim + depth + d] : 0;
      k[at][d] = inside ? args.keys.row<float>(column)[int64_t(head / args.group) * args.head_dim + depth + d] : 0;
    }
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < kDepth; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(q[y + 16 * i][d], k[x + 16 * j][d], sums[i][j]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = first_row + y + 16 * i, column = first_column + x + 16 * j;
      if (row < rows && column < columns) args.out.row<float>(int64_t(head) * rows + row)[column] = sums[i][j] * args.scale;
    }
}

// Softmax of the scores of a row of a head, which a block has.
__global__ void __launch_bounds__(kThreads) pooled_softmax_kernel(const PooledArgs args) {
  __shared__ float shared[kThreads / 32];
  const int r = blockIdx.x % args.queries.rows, columns = args.keys.rows;
  const int seen = args.first_block < 0 ? columns : min(columns, args.first_block + r + 1);
  float *to = args.out.row<float>(blockIdx.x), top = -INFINITY, sum = 0;
  for (int c = threadIdx.x; c < seen; c += kThreads) top = fmaxf(top, to[c]);
  top = block_max<kThreads>(top, shared);
  for (int c = threadIdx.x; c < seen; c += kThreads) sum += to[c] = expf(to[c] - top);
  sum = block_sum<kThreads>(sum, shared);
  for (int c = threadIdx.x; c < columns; c += kThreads) to[c] = c < seen ? to[c] / sum : 0;
}

}  // namespace

void block_mean(Context& context, Matrix x, int32_t block, Matrix out) {
  if (x.count() == 0) return;
  with_device_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    block_mean_kernel<T><<<dim3(divide_up(x.columns, kThreads), out.rows), kThreads, 0, stream_of(context)>>>(
        x.row<T>(0), x.stride, x.rows, x.columns, block, out.row<float>(0), out.stride);
  });
  check_launch();
}

void key_block_mean(Context& context, Kv& kv, int32_t layer, int32_t block, Matrix out) {
  if (out.count() == 0) return;
  const KvShape& shape = kv.shape;
  with_device_type(shape.dtype, [&](auto type) {
    using T = decltype(type);
    key_mean_kernel<T><<<dim3(divide_up(shape.head_dim, kThreads), out.rows, shape.kv_heads), kThreads, 0, stream_of(context)>>>(
        kv.table, layer, shape.head_dim, kv.shared_length(layer), block, out.row<float>(0), out.stride);
  });
  check_launch();
}

void pooled_attention(Context& context, Matrix queries, Matrix keys, int32_t heads, int32_t kv_heads, float scale, int32_t first_block,
                      Matrix out) {
  if (out.count() == 0) return;
  const PooledArgs args = {queries, keys, out, heads, heads / kv_heads, queries.columns / heads, first_block, scale};
  const dim3 tiles(divide_up(keys.rows, kTile), divide_up(queries.rows, kTile), heads);
  pooled_scores_kernel<<<tiles, kTileThreads, 0, stream_of(context)>>>(args);
  check_launch();
  pooled_softmax_kernel<<<out.rows, kThreads, 0, stream_of(context)>>>(args);
  check_launch();
}

}  // namespace kva

// Means of blocks of rows, and the softmax of their products.
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

// a block has a row of a head
__global__ void __launch_bounds__(kThreads) pooled_kernel(const PooledArgs args) {
  __shared__ float shared[kThreads / 32];
  const int head = blockIdx.x / args.queries.rows, r = blockIdx.x % args.queries.rows, columns = args.keys.rows;
  const int seen = args.first_block < 0 ? columns : min(columns, args.first_block + r + 1);
  const float* q = args.queries.row<float>(r) + int64_t(head) * args.head_dim;
  float *to = args.out.row<float>(blockIdx.x), top = -INFINITY, sum = 0;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    if (c >= seen) {
      to[c] = 0;
      continue;
    }
    const float* k = args.keys.row<float>(c) + int64_t(head / args.group) * args.head_dim;
    float score = 0;
    for (int d = 0; d < args.head_dim; ++d) score = fmaf(q[d], k[d], score);
    to[c] = score * args.scale;
    top = fmaxf(top, to[c]);
  }
  top = block_max<kThreads>(top, shared);
  for (int c = threadIdx.x; c < seen; c += kThreads) sum += to[c] = expf(to[c] - top);
  sum = block_sum<kThreads>(sum, shared);
  for (int c = threadIdx.x; c < seen; c += kThreads) to[c] /= sum;
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
  pooled_kernel<<<out.rows, kThreads, 0, stream_of(context)>>>(args);
  check_launch();
}

}  // namespace kva

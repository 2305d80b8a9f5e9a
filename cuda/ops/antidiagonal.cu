// XAttention's block scores: one log-sum-exp for each coarse row and key block, then the rows' sums and the blocks' shares of them. The map of
// coarse rows and columns is never written.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int64_t kScratchBytes = 64 << 20;  // of log-sum-exps: query blocks are taken in runs that fit

struct AntidiagonalArgs {
  KvSeq* sequence;
  const void* queries;
  float* partial;  // [heads, query blocks of the run, tile, key blocks]
  float* out;
  int64_t q_stride, out_stride;
  int layer, first_head, group, head_dim, first_row, rows, stride, block;
  int first_block, run, query_blocks, key_blocks;  // query blocks [first_block, first_block + run) of this launch, of all; columns of out
  float scale;
  __device__ __forceinline__ int tile() const { return block / stride; }
  __device__ __forceinline__ float* part(int head, int r, int row) const {
    return partial + ((int64_t(head) * run + r) * tile() + row) * key_blocks;
  }
};

// X of coarse row `row` of the queries and coarse column `column` of the layer
template <class Q, class K>
__device__ float antidiagonal_sum(const AntidiagonalArgs& args, const Q* q, const K* k, int row, int column) {
  const int end = args.first_row + args.rows;
  float sum = 0;
  for (int i = 0; i < args.stride; ++i) {
    const int query = row * args.stride + args.stride - 1 - i, key = column * args.stride + i;
    if (query >= args.rows || key >= end) continue;
    const Q* a = q + query * args.q_stride;
    const K* b = k + int64_t(key) * args.head_dim;
    for (int d = 0; d < args.head_dim; ++d) sum = fmaf(widen(a[d]), widen(b[d]), sum);
  }
  return sum * args.scale;
}

// Grid: key blocks, query blocks of the run, heads. Shared: scores [tile, tile].
template <class Q, class K>
__global__ void __launch_bounds__(kThreads) antidiagonal_kernel(const AntidiagonalArgs args) {
  extern __shared__ float scores[];
  const int tile = args.tile(), c = blockIdx.x, r = args.first_block + blockIdx.y, head = blockIdx.z, diagonal = args.first_row / args.block + r;
  if (c > diagonal) return;
  const Q* q = static_cast<const Q*>(args.queries) + int64_t(head) * args.head_dim;
  const K* k = static_cast<const K*>(layer_heads(args.sequence, args.layer)[(args.first_head + head) / args.group].k);
  for (int i = threadIdx.x; i < tile * tile; i += kThreads) {
    const int row = r * tile + i / tile, column = c * tile + i % tile;
    const bool seen = column <= args.first_row / args.stride + row && row * args.stride < args.rows;
    scores[i] = seen ? antidiagonal_sum(args, q, k, row, column) : -INFINITY;
  }
  __syncthreads();
  for (int row = threadIdx.x; row < tile; row += kThreads) {
    float top = -INFINITY, sum = 0;
    for (int j = 0; j < tile; ++j) top = fmaxf(top, scores[row * tile + j]);
    for (int j = 0; j < tile; ++j) sum += top == -INFINITY ? 0 : expf(scores[row * tile + j] - top);
    args.part(head, blockIdx.y, row)[c] = sum > 0 ? top + logf(sum) : -INFINITY;
  }
}

// Grid: query blocks of the run, heads. Shared: the rows' log-sum-exps [tile].
__global__ void __launch_bounds__(kThreads) block_shares_kernel(const AntidiagonalArgs args) {
  extern __shared__ float sums[];
  const int tile = args.tile(), r = args.first_block + blockIdx.x, head = blockIdx.y, seen = args.first_row / args.block + r + 1;
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < tile; row += kThreads / 32) {
    const float* part = args.part(head, blockIdx.x, row);
    float top = -INFINITY, sum = 0;
    for (int c = lane; c < seen; c += 32) top = fmaxf(top, part[c]);
    top = warp_max(top);
    for (int c = lane; c < seen; c += 32) sum += top == -INFINITY ? 0 : expf(part[c] - top);
    sum = warp_sum(sum);
    if (lane == 0) sums[row] = sum > 0 ? top + logf(sum) : INFINITY;  // a coarse row past the end gives nothing
  }
  __syncthreads();
  float* to = args.out + (int64_t(head) * args.query_blocks + r) * args.out_stride;
  for (int c = threadIdx.x; c < args.key_blocks; c += kThreads) {
    float share = 0;
    for (int row = 0; c < seen && row < tile; ++row) share += expf(args.part(head, blockIdx.x, row)[c] - sums[row]);
    to[c] = share;
  }
}

}  // namespace

void antidiagonal_scores(Context& context, Kv& kv, int32_t layer, int32_t first_row, int32_t first_head, Matrix queries, float scale,
                         int32_t stride, int32_t block, Matrix out) {
  if (queries.rows == 0) return;
  const KvShape& shape = kv.shape;
  const cudaStream_t stream = stream_of(context);
  const int heads = queries.columns / shape.head_dim, tile = block / stride, query_blocks = divide_up(queries.rows, block);
  const int64_t row_bytes = int64_t(heads) * tile * out.columns * int64_t(sizeof(float));
  const int most = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(query_blocks, kScratchBytes / row_bytes)));
  AntidiagonalArgs args = {kv.table,  queries.data, nullptr,      out.row<float>(0), queries.stride, out.stride,
                           layer,     first_head,   shape.group(), shape.head_dim,    first_row,      queries.rows,
                           stride,    block,        0,            0,                 query_blocks,   out.columns,
                           scale};
  args.partial = static_cast<float*>(context.scratch(most * row_bytes));
  const int64_t bytes = int64_t(tile) * tile * sizeof(float);
  for (; args.first_block < query_blocks; args.first_block += most) {
    args.run = std::min(most, query_blocks - args.first_block);
    with_device_type(shape.dtype, [&](auto k) {
      with_device_type(queries.dtype, [&](auto q) {
        using Q = decltype(q);
        using K = decltype(k);
        allow_shared<antidiagonal_kernel<Q, K>>(bytes);
        antidiagonal_kernel<Q, K><<<dim3(out.columns, args.run, heads), kThreads, bytes, stream>>>(args);
      });
    });
    check_launch();
    block_shares_kernel<<<dim3(args.run, heads), kThreads, tile * sizeof(float), stream>>>(args);
    check_launch();
  }
}

}  // namespace kva

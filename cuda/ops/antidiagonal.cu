// XAttention's block scores: one log-sum-exp for each coarse row and key block, then the rows' sums and the blocks' shares of them. The map of
// coarse rows and columns is never written.
#include "../core/cuda.h"
#include "../device/antidiagonal.cuh"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int64_t kScratchBytes = 128 << 20;  // of log-sum-exps: query blocks are taken in runs that fit

struct AntidiagonalArgs {
  KvSeq* sequence;
  const void* queries;
  float* partial;  // [heads, query blocks of the run, tile, key blocks]
  float* out;
  int64_t q_stride, out_stride;
  int layer, first_head, group, head_dim, first_row, rows, stride, block;
  int first_block, run, query_blocks, key_blocks;  // query blocks [first_block, first_block + run) of this launch, of all; columns of out
  float scale;
  int ready_blocks, ready_rows;  // query blocks of the run, and coarse rows of the next one, whose log-sum-exps are there already
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

// Grid: key blocks, query blocks of the run that are not there, heads. Shared: scores [tile, tile].
template <class Q, class K>
__global__ void __launch_bounds__(kThreads) antidiagonal_kernel(const AntidiagonalArgs args) {
  extern __shared__ float scores[];
  const int tile = args.tile(), c = blockIdx.x, of_run = args.ready_blocks + blockIdx.y, r = args.first_block + of_run, head = blockIdx.z;
  const int diagonal = args.first_row / args.block + r;
  if (c > diagonal) return;
  const Q* q = static_cast<const Q*>(args.queries) + int64_t(head) * args.head_dim;
  const K* k = static_cast<const K*>(layer_heads(args.sequence, args.layer)[(args.first_head + head) / args.group].k);
  for (int i = args.ready_rows * tile + threadIdx.x; i < tile * tile; i += kThreads) {
    const int row = r * tile + i / tile, column = c * tile + i % tile;
    const bool seen = column <= args.first_row / args.stride + row && row * args.stride < args.rows;
    scores[i] = seen ? antidiagonal_sum(args, q, k, row, column) : -INFINITY;
  }
  __syncthreads();
  for (int row = args.ready_rows + threadIdx.x; row < tile; row += kThreads) {
    float top = -INFINITY, sum = 0;
    for (int j = 0; j < tile; ++j) top = fmaxf(top, scores[row * tile + j]);
    for (int j = 0; j < tile; ++j) sum += top == -INFINITY ? 0 : expf(scores[row * tile + j] - top);
    args.part(head, of_run, row)[c] = sum > 0 ? top + logf(sum) : -INFINITY;
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

// The log-sum-exps of a run of query blocks that are not there, by the plain kernel.
void launch_plain(AntidiagonalArgs args, int32_t dtype, int32_t q_dtype, int heads, cudaStream_t stream) {
  const int tile = args.block / args.stride;
  const int64_t bytes = int64_t(tile) * tile * sizeof(float);
  with_device_type(dtype, [&](auto k) {
    with_device_type(q_dtype, [&](auto q) {
      using Q = decltype(q);
      using K = decltype(k);
      allow_shared<antidiagonal_kernel<Q, K>>(bytes);
      antidiagonal_kernel<Q, K><<<dim3(args.key_blocks, args.run - args.ready_blocks, heads), kThreads, bytes, stream>>>(args);
    });
  });
  check_launch();
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
  const KvHead* kv_heads = kv.layer(layer) + first_head / shape.group();
  const auto distance_to = [&](int head) { return static_cast<const char*>(kv_heads[head].k) - static_cast<const char*>(kv_heads[0].k); };
  const int64_t distance = heads > shape.group() ? distance_to(1) : 0;
  bool fast = queries.dtype == shape.dtype;
  for (int head = 0; head < heads / shape.group(); ++head) fast = fast && distance_to(head) == head * distance;
  AntidiagonalRun coarse = {queries.data,   kv_heads[0].k,  queries.stride, distance / dtype_bytes(shape.dtype), queries.rows, first_row, heads,
                            shape.group(), shape.head_dim, stride,         block,                               shape.dtype,  scale,     0,
                            0,             args.partial,   out.columns,    stream};
  for (; args.first_block < query_blocks; args.first_block += most) {
    args.run = std::min(most, query_blocks - args.first_block);
    coarse.begin = args.first_block * tile;
    coarse.count = args.run * tile;
    if (fast && antidiagonal_hopper_takes(coarse)) {
      check_cuda(antidiagonal_hopper_launch(coarse), "antidiagonal_hopper_launch");
      if (queries.rows % stride != 0 && args.first_block + args.run == query_blocks) { // the last coarse row lacks tokens
        AntidiagonalArgs last = args;
        last.ready_blocks = args.run - 1;
        last.ready_rows = coarse.whole_rows() - (query_blocks - 1) * tile;
        launch_plain(last, shape.dtype, queries.dtype, heads, stream);
      }
    } else {
      launch_plain(args, shape.dtype, queries.dtype, heads, stream);
    }
    block_shares_kernel<<<dim3(args.run, heads), kThreads, tile * sizeof(float), stream>>>(args);
    check_launch();
  }
}

}  // namespace kva

// Where the window's queries attend to: sums of their probabilities by key (columns) and by distance (diagonals), whole and by blocks. One
// pass over the keys for each query's log-sum-exp, one for the sums of a tile of keys; a diagonal's tiles are added in order.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256, kKeys = 64;

struct WindowSumsArgs {
  KvSeq* sequence;
  const void* queries;
  int64_t q_stride;
  int layer, group, head_dim, length, window;
  float scale;
  float* lse;      // [heads, window]
  float* partial;  // [heads, tiles, window + kKeys - 1]: sums along the diagonals of a tile
  float *columns, *diagonals;  // [heads, length]
  int64_t column_stride, diagonal_stride;
  int tiles;
  __device__ __forceinline__ int width() const { return window + kKeys - 1; }
};

template <class Q, class K>
struct Scorer {
  const Q* q;
  const K* k;
  const WindowSumsArgs& args;
  __device__ Scorer(const WindowSumsArgs& args, int head)
      : q(static_cast<const Q*>(args.queries) + int64_t(head) * args.head_dim),
        k(static_cast<const K*>(layer_heads(args.sequence, args.layer)[head / args.group].k)),
        args(args) {}
  __device__ __forceinline__ float score(int i, int j) const {
    const Q* a = q + i * args.q_stride;
    const K* b = k + int64_t(j) * args.head_dim;
    float sum = 0;
    for (int d = 0; d < args.head_dim; ++d) sum = fmaf(widen(a[d]), widen(b[d]), sum);
    return sum * args.scale;
  }
};

// Grid: window queries, heads.
template <class Q, class K>
__global__ void __launch_bounds__(kThreads) window_lse_kernel(const WindowSumsArgs args) {
  __shared__ float shared[kThreads / 32];
  const Scorer<Q, K> scorer(args, blockIdx.y);
  const int end = args.length - args.window + blockIdx.x + 1;
  float top = -INFINITY, sum = 0;
  for (int j = threadIdx.x; j < end; j += kThreads) {
    const float score = scorer.score(blockIdx.x, j), before = top;
    top = fmaxf(top, score);
    sum = sum * expf(before - top) + expf(score - top);
  }
  const float most = block_max<kThreads>(top, shared);
  sum = block_sum<kThreads>(top == -INFINITY ? 0 : sum * expf(top - most), shared);
  if (threadIdx.x == 0) args.lse[blockIdx.y * args.window + blockIdx.x] = most + logf(sum);
}

// Grid: tiles of keys, heads. Shared: probabilities [window, kKeys].
template <class Q, class K>
__global__ void __launch_bounds__(kThreads) window_tile_kernel(const WindowSumsArgs args) {
  extern __shared__ float probs[];
  const Scorer<Q, K> scorer(args, blockIdx.y);
  const int base = blockIdx.x * kKeys, w = args.window;
  const float* lse = args.lse + blockIdx.y * w;
  for (int at = threadIdx.x; at < w * kKeys; at += kThreads) {
    const int i = at / kKeys, j = base + at % kKeys;
    probs[at] = j <= args.length - w + i ? expf(scorer.score(i, j) - lse[i]) : 0;
  }
  __syncthreads();
  if (threadIdx.x < kKeys && base + static_cast<int>(threadIdx.x) < args.length) {
    float sum = 0;
    for (int i = 0; i < w; ++i) sum += probs[i * kKeys + threadIdx.x];
    args.columns[blockIdx.y * args.column_stride + base + threadIdx.x] = sum / w;
  }
  float* to = args.partial + (int64_t(blockIdx.y) * args.tiles + blockIdx.x) * args.width();
  for (int d = threadIdx.x; d < args.width(); d += kThreads) {  // key - query = d - (w - 1)
    float sum = 0;
    for (int i = max(0, w - 1 - d); i < w && i + d - (w - 1) < kKeys; ++i) sum += probs[i * kKeys + i + d - (w - 1)];
    to[d] = sum;
  }
}

// A thread has an offset of a head.
__global__ void __launch_bounds__(kThreads) window_diagonals_kernel(const WindowSumsArgs args) {
  const int offset = blockIdx.x * kThreads + threadIdx.x, difference = args.length - args.window - offset;  // key - window query
  if (offset >= args.length) return;
  const float* from = args.partial + int64_t(blockIdx.y) * args.tiles * args.width();
  const int low = difference - (kKeys - 1), high = difference + args.window - 1;  // first keys of the tiles that the diagonal crosses
  float sum = 0;
  for (int tile = max(0, (low + kKeys - 1) / kKeys); tile < args.tiles && tile * kKeys <= high; ++tile)
    sum += from[int64_t(tile) * args.width() + difference - tile * kKeys + args.window - 1];
  args.diagonals[blockIdx.y * args.diagonal_stride + offset] = sum / args.window;
}

// out[c] = sum of x over block c; reversed: both counted from their ends. Grid: blocks, heads.
__global__ void __launch_bounds__(32) pool_blocks_kernel(const float* x, int64_t stride, int length, int block, bool reversed, float* out,
                                                         int64_t out_stride) {
  const float* row = x + blockIdx.y * stride;
  const int first = blockIdx.x * block, end = min(length, first + block);
  float sum = 0;
  for (int j = first + threadIdx.x; j < end; j += 32) sum += row[reversed ? length - 1 - j : j];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.y * out_stride + (reversed ? gridDim.x - 1 - blockIdx.x : blockIdx.x)] = sum;
}

void pool_blocks(const float* x, int64_t stride, int length, int block, bool reversed, Matrix out, cudaStream_t stream) {
  if (!out) return;
  pool_blocks_kernel<<<dim3(out.columns, out.rows), 32, 0, stream>>>(x, stride, length, block, reversed, out.row<float>(0), out.stride);
  check_launch();
}

}  // namespace

void window_sums(Context& context, Kv& kv, int32_t layer, Matrix queries, float scale, int32_t block, Matrix columns, Matrix diagonals,
                 Matrix column_blocks, Matrix diagonal_blocks) {
  const KvShape& shape = kv.shape;
  const cudaStream_t stream = stream_of(context);
  WindowSumsArgs args = {kv.table, queries.data, queries.stride, layer, shape.group(), shape.head_dim, kv.shared_length(layer), queries.rows, scale};
  args.tiles = divide_up(args.length, kKeys);
  const int64_t sums = int64_t(shape.heads) * args.length, partial = int64_t(shape.heads) * args.tiles * (args.window + kKeys - 1);
  float* scratch = static_cast<float*>(context.scratch((shape.heads * int64_t(args.window) + partial + 2 * sums) * int64_t(sizeof(float))));
  args.lse = scratch;
  args.partial = args.lse + shape.heads * int64_t(args.window);
  args.columns = columns ? columns.row<float>(0) : args.partial + partial;
  args.column_stride = columns ? columns.stride : args.length;
  args.diagonals = diagonals ? diagonals.row<float>(0) : args.partial + partial + sums;
  args.diagonal_stride = diagonals ? diagonals.stride : args.length;
  const int64_t bytes = int64_t(args.window) * kKeys * sizeof(float);
  with_device_type(shape.dtype, [&](auto k) {
    with_device_type(queries.dtype, [&](auto q) {
      using Q = decltype(q);
      using K = decltype(k);
      window_lse_kernel<Q, K><<<dim3(args.window, shape.heads), kThreads, 0, stream>>>(args);
      check_launch();
      allow_shared<window_tile_kernel<Q, K>>(bytes);
      window_tile_kernel<Q, K><<<dim3(args.tiles, shape.heads), kThreads, bytes, stream>>>(args);
      check_launch();
    });
  });
  window_diagonals_kernel<<<dim3(divide_up(args.length, kThreads), shape.heads), kThreads, 0, stream>>>(args);
  check_launch();
  pool_blocks(args.columns, args.column_stride, args.length, block, false, column_blocks, stream);
  pool_blocks(args.diagonals, args.diagonal_stride, args.length, block, true, diagonal_blocks, stream);
}

}  // namespace kva

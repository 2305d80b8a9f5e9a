// Where the window's queries attend to: sums of their probabilities by key (columns) and by distance (diagonals), whole and by blocks. Two
// passes over the keys for each query's norm, one for the sums of a tile of keys; a diagonal's tiles are added in order.
// floor: the keys are read twice at the rate of a copy; 4 * window * rows * heads * head_dim operations on tensor cores.
// measured (H100 80GB, 2026-11-25, bf16, 128 queries of 32 heads over 128K rows): 3.16 ms, floor 0.25.
// gap: each warp reads the queries for 16 keys alone; the diagonals of 16 x 8 probabilities go through shared memory, about 60 instructions
// for 8 matrix products.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/window_norms.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = kWindowThreads, kWarps = kWindowWarps, kKeys = kWindowRows;
constexpr float kLog2E = 1.4426950408889634f;

struct WindowSumsArgs {
  int length, window, tiles;
  float* partial;  // [heads, tiles, window + kKeys - 1]: sums along the diagonals of a tile
  float *columns, *diagonals;  // [heads, length]
  int64_t column_stride, diagonal_stride;
  __device__ __forceinline__ int width() const { return window + kKeys - 1; }
};

// One warp: sums along the diagonals of probabilities [16 keys, 8 queries], of which this lane holds p, to `diagonals` [window + 15], where
// key r and query i meet at r - i + window - 1.
__device__ __forceinline__ void add_diagonals(const float (&p)[4], float (&square)[16][9], float* diagonals, int first_query, int window) {
  const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4, t = lane - 7, at = t - first_query + window - 1;
  __syncwarp();  // the square before is read
#pragma unroll
  for (int i = 0; i < 4; ++i) square[group + i / 2 * 8][quad * 2 + i % 2] = p[i];
  __syncwarp();
  if (t > 15 || at < 0) return;
  float sum = 0;
#pragma unroll
  for (int c = 0; c < 8; ++c)
    if (t + c >= 0 && t + c < 16) sum += square[t + c][c];
  diagonals[at] += sum;
}

// Grid: tiles of keys, KV heads; a warp has 16 keys and takes the group's heads in turn. Shared: diagonals [kWarps, window + 15].
template <class Scorer>
__global__ void __launch_bounds__(kThreads) window_tile_kernel(const WindowArgs args, const WindowSumsArgs sums) {
  extern __shared__ float memory[];
  __shared__ float squares[kWarps][16][9];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4, own = args.window + 15;
  const int base = blockIdx.x * kKeys, first = base + warp * 16, per_group = args.heads / args.kv_heads;
  const Scorer scorer(args, layer_heads(args.sequence, args.layer)[blockIdx.y].k, first);
  for (int head = blockIdx.y * per_group; head < static_cast<int>(blockIdx.y + 1) * per_group; ++head) {
    for (int i = threadIdx.x; i < kWarps * own; i += kThreads) memory[i] = 0;
    __syncthreads();
    float columns[2] = {};
    for (int query = 0; query < args.window; query += 8) {
      float p[4];
      scorer.score(args, head, query, p);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int of = query + quad * 2 + i % 2, row = first + group + i / 2 * 8;
        const float2 norm = args.norms[head * args.window + min(of, args.window - 1)];
        p[i] = of < args.window && row <= args.length - args.window + of ? exp2f(p[i] - norm.x) * norm.y : 0;
        columns[i / 2] += p[i];
      }
      add_diagonals(p, squares[warp], memory + warp * own, query, args.window);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      columns[r] += __shfl_xor_sync(kAllLanes, columns[r], 1);
      columns[r] += __shfl_xor_sync(kAllLanes, columns[r], 2);
      const int row = first + group + r * 8;
      if (quad == 0 && row < args.length) sums.columns[head * sums.column_stride + row] = columns[r] / args.window;
    }
    __syncthreads();
    float* to = sums.partial + (int64_t(head) * sums.tiles + blockIdx.x) * sums.width();
    for (int d = threadIdx.x; d < sums.width(); d += kThreads) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w)
        if (d - w * 16 >= 0 && d - w * 16 < own) sum += memory[w * own + d - w * 16];
      to[d] = sum;
    }
    __syncthreads();
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
  const int length = kv.shared_length(layer), window = queries.rows, tiles = divide_up(length, kKeys);
  WindowArgs args = {kv.table, queries.data, queries.stride, queries.dtype, layer, shape.heads, shape.kv_heads, shape.head_dim, length, window, scale * kLog2E};
  WindowSumsArgs sums = {length, window, tiles};
  const int64_t rows = int64_t(shape.heads) * window, all = int64_t(shape.heads) * length;
  const int64_t norms = 2 * rows, queries_partial = 2 * rows * tiles, partial = int64_t(shape.heads) * tiles * (window + kKeys - 1);
  // the queries' partial sums are read before the tiles' are written
  float* scratch = static_cast<float*>(context.scratch((norms + std::max(queries_partial, partial) + 2 * all) * int64_t(sizeof(float))));
  args.norms = reinterpret_cast<float2*>(scratch);
  args.partial = reinterpret_cast<float2*>(scratch + norms);
  sums.partial = scratch + norms;
  float* own = scratch + norms + std::max(queries_partial, partial);
  sums.columns = columns ? columns.row<float>(0) : own;
  sums.column_stride = columns ? columns.stride : length;
  sums.diagonals = diagonals ? diagonals.row<float>(0) : own + all;
  sums.diagonal_stride = diagonals ? diagonals.stride : length;
  with_scorer(shape.dtype, args, [&](auto tag) {
    using Scorer = typename decltype(tag)::type;
    window_sums_kernel<Scorer><<<dim3(tiles, shape.kv_heads), kThreads, 0, stream>>>(args);
    check_launch();
    window_norms_kernel<<<divide_up(int(rows), 32), kThreads, 0, stream>>>(args, tiles);
    check_launch();
    const int64_t bytes = int64_t(kWarps) * (window + 15) * sizeof(float);
    window_tile_kernel<Scorer><<<dim3(tiles, shape.kv_heads), kThreads, bytes, stream>>>(args, sums);
    check_launch();
  });
  window_diagonals_kernel<<<dim3(divide_up(length, kThreads), shape.heads), kThreads, 0, stream>>>(sums);
  check_launch();
  pool_blocks(sums.columns, sums.column_stride, length, block, false, column_blocks, stream);
  pool_blocks(sums.diagonals, sums.diagonal_stride, length, block, true, diagonal_blocks, stream);
}

}  // namespace kva

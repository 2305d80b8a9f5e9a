// Scores of cache rows: how the window's queries attend to them (mean, variance, maximum, entropy), in two passes; norms of keys and values.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/window_norms.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = kWindowThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockRows = kWindowRows;
constexpr float kLog2E = 1.4426950408889634f;

struct StatsArgs {
  float* outs[3]; // mean, variance, maximum; NULL where not asked for
  int64_t strides[3];
  int reduce;
  float2* totals; // NULL, or [row blocks * kv_heads]: entropy, variance
};

// Of one query head over the window: mean, variance, maximum of the two rows of a lane; every lane of a quad gets them.
template <class Scorer>
__device__ __forceinline__ void window_columns(const WindowArgs& args, const Scorer& scorer, int head, bool with_entropy, float (&stats)[3][2],
                                               float (&entropy)[2]) {
  const int lane = threadIdx.x % 32, quad = lane % 4;
  float sum[2] = {}, shift[2], shifted[2] = {}, squares[2] = {}, max[2] = {-INFINITY, -INFINITY};
  for (int query = 0; query < args.window; query += 8) {
    float scores[4];
    scorer.score(args, head, query, scores);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i / 2, of = query + quad * 2 + i % 2;
      const float2 norm = args.norms[head * args.window + min(of, args.window - 1)];
      const float a = of < args.window ? exp2f(scores[i] - norm.x) * norm.y : 0;
      if (query == 0 && i % 2 == 0) shift[r] = __shfl_sync(kAllLanes, a, lane & ~3); // the first query's: squares are taken about it
      if (of >= args.window) continue;
      sum[r] += a;
      max[r] = fmaxf(max[r], a);
      shifted[r] += a - shift[r];
      squares[r] = fmaf(a - shift[r], a - shift[r], squares[r]);
      if (with_entropy) entropy[r] -= a * logf(a + 1e-10f);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int offset = 1; offset <= 2; offset <<= 1) {
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], offset);
      shifted[r] += __shfl_xor_sync(kAllLanes, shifted[r], offset);
      squares[r] += __shfl_xor_sync(kAllLanes, squares[r], offset);
      max[r] = fmaxf(max[r], __shfl_xor_sync(kAllLanes, max[r], offset));
    }
    stats[0][r] = sum[r] / args.window;
    stats[1][r] = args.window > 1 ? fmaxf(squares[r] - shifted[r] * shifted[r] / args.window, 0) / (args.window - 1) : 0;
    stats[2][r] = max[r];
  }
}

// Pass 2. Grid: row blocks, KV heads; rows before the window alone.
template <class Scorer>
__global__ void __launch_bounds__(kThreads) window_stats_kernel(const WindowArgs args, const StatsArgs stats_args) {
  __shared__ float shared[kWarps];
  const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4, rows = args.length - args.window;
  const int first = blockIdx.x * kBlockRows + threadIdx.x / 32 * 16, per_group = args.heads / args.kv_heads;
  const Scorer scorer(args, layer_heads(args.sequence, args.layer)[blockIdx.y].k, first);
  const auto write = [&](int out_row, const float (&stats)[3][2]) {
#pragma unroll
    for (int kind = 0; kind < 3; ++kind)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = first + group + r * 8;
        if (quad == 0 && row < rows && stats_args.outs[kind] != nullptr) stats_args.outs[kind][out_row * stats_args.strides[kind] + row] = stats[kind][r];
      }
  };

  float reduced[3][2] = {}, entropy = 0, variance = 0;
  for (int g = 0; g < per_group; ++g) {
    const int head = blockIdx.y * per_group + g;
    float stats[3][2], head_entropy[2] = {};
    window_columns(args, scorer, head, stats_args.totals != nullptr, stats, head_entropy);
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (first + group + r * 8 < rows) {
        entropy += head_entropy[r];
        if (quad == 0) variance += stats[1][r];
      }
    if (stats_args.reduce == KVA_REDUCE_NONE) write(head, stats);
#pragma unroll
    for (int kind = 0; kind < 3; ++kind)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        reduced[kind][r] = g == 0 ? stats[kind][r] : stats_args.reduce == KVA_REDUCE_MAX ? fmaxf(reduced[kind][r], stats[kind][r]) : reduced[kind][r] + stats[kind][r];
  }
  if (stats_args.reduce == KVA_REDUCE_MEAN)
#pragma unroll
    for (int i = 0; i < 6; ++i) reduced[i / 2][i % 2] /= per_group;
  if (stats_args.reduce != KVA_REDUCE_NONE) write(blockIdx.y, reduced);
  if (stats_args.totals == nullptr) return;
  entropy = block_sum<kThreads>(entropy, shared);
  variance = block_sum<kThreads>(variance, shared);
  if (threadIdx.x == 0) stats_args.totals[blockIdx.y * gridDim.x + blockIdx.x] = {entropy, variance};
}

__global__ void __launch_bounds__(kThreads) window_totals_kernel(const float2* totals, int count, float* scalars) {
  __shared__ float shared[kWarps];
  float entropy = 0, variance = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    entropy += totals[i].x;
    variance += totals[i].y;
  }
  entropy = block_sum<kThreads>(entropy, shared);
  variance = block_sum<kThreads>(variance, shared);
  if (threadIdx.x == 0) {
    scalars[0] = entropy;
    scalars[1] = variance;
  }
}

template <class T, int Width>
__global__ void __launch_bounds__(kThreads) row_norms_kernel(KvSeq* sequence, int layer, int what, int p, int head_dim, int rows, float* out, int64_t stride) {
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const KvHead* head = layer_heads(sequence, layer) + blockIdx.y;
  const T* x = static_cast<const T*>(what == 0 ? head->k : head->v) + int64_t(row) * head_dim;
  float sum = 0;
  for (int at = lane * Width; at < head_dim; at += 32 * Width) {
    const Pack<T, Width> pack = load_pack<Width>(x + at);
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const float value = widen(pack.at[i]);
      sum += p == 1 ? fabsf(value) : value * value;
    }
  }
  sum = warp_sum(sum);
  if (lane == 0) out[blockIdx.y * stride + row] = p == 1 ? sum : sqrtf(sum);
}

}  // namespace

void window_stats(Context& context, Kv& kv, int32_t layer, Matrix queries, float scale, int32_t reduce, Matrix mean, Matrix variance, Matrix maximum,
                  Matrix scalars) {
  const KvShape& shape = kv.shape;
  const cudaStream_t stream = stream_of(context);
  const int length = kv.layer(layer)[0].len, window = queries.rows;
  if (window == 0 || length <= window) return;
  const int sum_blocks = divide_up(length, kBlockRows), row_blocks = divide_up(length - window, kBlockRows), rows = shape.heads * window;
  WindowArgs args = {kv.table, queries.data, queries.stride, queries.dtype, layer, shape.heads, shape.kv_heads, shape.head_dim, length, window, scale * kLog2E};
  StatsArgs stats = {{static_cast<float*>(mean.data), static_cast<float*>(variance.data), static_cast<float*>(maximum.data)},
                     {mean.stride, variance.stride, maximum.stride},
                     reduce};
  const int64_t partial_bytes = int64_t(sum_blocks) * rows * sizeof(float2), totals_bytes = int64_t(row_blocks) * shape.kv_heads * sizeof(float2);
  char* scratch = static_cast<char*>(context.scratch(partial_bytes + totals_bytes + rows * int64_t(sizeof(float2))));
  args.partial = reinterpret_cast<float2*>(scratch);
  args.norms = reinterpret_cast<float2*>(scratch + partial_bytes + totals_bytes);
  stats.totals = scalars ? reinterpret_cast<float2*>(scratch + partial_bytes) : nullptr;

  with_scorer(shape.dtype, args, [&](auto tag) {
    using Scorer = typename decltype(tag)::type;
    window_sums_kernel<Scorer><<<dim3(sum_blocks, shape.kv_heads), kThreads, 0, stream>>>(args);
    check_launch();
    window_norms_kernel<<<divide_up(rows, 32), kThreads, 0, stream>>>(args, sum_blocks);
    check_launch();
    window_stats_kernel<Scorer><<<dim3(row_blocks, shape.kv_heads), kThreads, 0, stream>>>(args, stats);
    check_launch();
  });
  if (!scalars) return;
  window_totals_kernel<<<1, kThreads, 0, stream>>>(stats.totals, row_blocks * shape.kv_heads, scalars.row<float>(0));
  check_launch();
}

void row_norms(Context& context, Kv& kv, int32_t layer, int32_t what, int32_t p, Matrix out) {
  if (out.columns == 0) return;
  const KvShape& shape = kv.shape;
  const dim3 grid(divide_up(out.columns, kWarps), shape.kv_heads);
  with_device_type(shape.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int width = 8 / static_cast<int>(sizeof(T)); // 32 lanes of 8 bytes are one row of 128 16-bit elements
    const auto launch = [&](auto kernel) {
      kernel<<<grid, kThreads, 0, stream_of(context)>>>(kv.table, layer, what, p, shape.head_dim, out.columns, out.row<float>(0), out.stride);
    };
    shape.head_dim % width == 0 ? launch(row_norms_kernel<T, width>) : launch(row_norms_kernel<T, 1>);
  });
  check_launch();
}

}  // namespace kva

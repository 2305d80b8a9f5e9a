// Expected attention: moments of the prompt's queries, joined part by part, and what queries of those moments attend to at later positions.
// mu = R mean, S = R cov R^T with R the mean rotation; a[j] = softmax_j(scale mu.k_j + scale^2 / 2 k_j^T S k_j).
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/rotation.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256, kWarps = kThreads / 32, kEach = most_head_dim / 32;

template <class T>
struct Part {
  const T* queries;
  int64_t stride;
  int rows, head_dim;
  float* mean;     // [heads, headDim] of this part
  float* moments;  // [heads, headDim + headDim^2] so far
  int64_t moments_stride;
  float share, weight; // rows / (seen + rows), seen * share; seen 0: what moments holds is not read
  bool first;
};

// Grid: heads. A warp has a row at a time.
template <class T>
__global__ void __launch_bounds__(kThreads) part_mean_kernel(const Part<T> part) {
  __shared__ float sums[kWarps][most_head_dim];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const T* x = part.queries + int64_t(blockIdx.x) * part.head_dim;
  float sum[kEach] = {};
  for (int row = warp; row < part.rows; row += kWarps)
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (lane + 32 * i < part.head_dim) sum[i] += widen(x[row * part.stride + lane + 32 * i]);
#pragma unroll
  for (int i = 0; i < kEach; ++i) sums[warp][lane + 32 * i] = sum[i];
  __syncthreads();
  for (int d = threadIdx.x; d < part.head_dim; d += kThreads) {
    float all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all += sums[w][d];
    part.mean[int64_t(blockIdx.x) * part.head_dim + d] = all / static_cast<float>(part.rows);
  }
}

constexpr int kTile = 64, kStep = 16; // channels of a block's tile on either side, rows at a time

// Grid: tiles, heads. A thread has 4 x 4 of the tile's products: rows ty + 16 i, columns tx + 16 j.
template <class T>
__global__ void __launch_bounds__(kThreads) part_products_kernel(const Part<T> part) {
  __shared__ float left[kStep][kTile], right[kStep][kTile];
  const int n = part.head_dim, tiles = (n + kTile - 1) / kTile, head = blockIdx.y;
  const int first_a = blockIdx.x / tiles * kTile, first_b = blockIdx.x % tiles * kTile, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const T* x = part.queries + int64_t(head) * n;
  const float* mean = part.mean + int64_t(head) * n;
  float acc[4][4] = {};
  for (int base = 0; base < part.rows; base += kStep) {
    for (int at = threadIdx.x; at < kStep * kTile; at += kThreads) {
      const int r = at / kTile, a = first_a + at % kTile, b = first_b + at % kTile;
      const bool row = base + r < part.rows;
      left[r][at % kTile] = row && a < n ? widen(x[(base + r) * part.stride + a]) - mean[a] : 0;
      right[r][at % kTile] = row && b < n ? widen(x[(base + r) * part.stride + b]) - mean[b] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kStep; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(left[r][ty + 16 * i], right[r][tx + 16 * j], acc[i][j]);
    __syncthreads();
  }
  const float* before = part.moments + head * part.moments_stride;
  float* sum = part.moments + head * part.moments_stride + n;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int a = first_a + ty + 16 * i, b = first_b + tx + 16 * j;
      if (a >= n || b >= n) continue;
      float& to = sum[int64_t(a) * n + b];
      to = part.first ? acc[i][j] : to + (acc[i][j] + part.weight * (mean[a] - before[a]) * (mean[b] - before[b]));
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) join_mean_kernel(const Part<T> part) {
  float* mean = part.moments + blockIdx.x * part.moments_stride;
  for (int d = threadIdx.x; d < part.head_dim; d += kThreads) {
    const float own = part.mean[int64_t(blockIdx.x) * part.head_dim + d];
    mean[d] = part.first ? own : mean[d] + part.share * (own - mean[d]);
  }
}

struct TurnArgs {
  const float* moments;
  int64_t moments_stride;
  const float* inv_freq;
  float* out; // [heads, headDim + headDim^2]: scale * mu, scale^2 / 2 * S
  int head_dim, pairs, first_position, positions;
  float mscale, scale, covariance_scale;
  bool interleaved, covariance;
};

// Grid: heads.
__global__ void __launch_bounds__(kThreads) turn_moments_kernel(const TurnArgs args) {
  __shared__ float own[most_head_dim], other[most_head_dim];
  __shared__ int partner[most_head_dim];
  const int n = args.head_dim, lane = threadIdx.x % 32;
  for (int d = 2 * args.pairs + threadIdx.x; d < n; d += kThreads) {
    own[d] = 1;
    other[d] = 0;
    partner[d] = d;
  }
  for (int i = threadIdx.x / 32; i < args.pairs; i += kWarps) {
    float cosine = 0, sine = 0;
    for (int p = lane; p < args.positions; p += 32) {
      const Turn turn = turn_at(args.first_position + p, args.inv_freq[i], args.mscale);
      cosine += turn.cosine;
      sine += turn.sine;
    }
    cosine = warp_sum(cosine) / static_cast<float>(args.positions);
    sine = warp_sum(sine) / static_cast<float>(args.positions);
    if (lane > 0) continue;
    const int a = args.interleaved ? 2 * i : i, b = args.interleaved ? a + 1 : args.pairs + i;
    own[a] = own[b] = cosine;
    other[a] = -sine;
    other[b] = sine;
    partner[a] = b;
    partner[b] = a;
  }
  __syncthreads();
  const float *mean = args.moments + blockIdx.x * args.moments_stride, *sum = mean + n;
  float* to = args.out + int64_t(blockIdx.x) * (n + int64_t(n) * n);
  for (int d = threadIdx.x; d < n; d += kThreads) to[d] = args.scale * (own[d] * mean[d] + other[d] * mean[partner[d]]);
  if (!args.covariance) return;
  for (int i = threadIdx.x; i < n * n; i += kThreads) {
    const int a = i / n, b = i % n, pa = partner[a], pb = partner[b];
    const float value = own[a] * (own[b] * sum[a * n + b] + other[b] * sum[a * n + pb]) + other[a] * (own[b] * sum[pa * n + b] + other[b] * sum[pa * n + pb]);
    to[n + i] = args.covariance_scale * value;
  }
}

struct FormArgs {
  KvSeq* sequence;
  const float* moments; // as turn_moments writes them
  float* logits;        // [heads, rows]
  int layer, head_dim, width, group, first_row, rows;
  bool covariance;
};

// Grid: row tiles, heads. A warp has Rows rows of the tile, whose keys lie in shared memory `width` (headDim up to a multiple of 4) apart;
// its lanes share the columns of S.
template <class T, int Rows>
__global__ void __launch_bounds__(kThreads) form_kernel(const FormArgs args) {
  extern __shared__ float keys[];
  const int n = args.head_dim, head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * kWarps * Rows;
  const T* from = static_cast<const T*>(layer_heads(args.sequence, args.layer)[head / args.group].k) + int64_t(args.first_row + first) * n;
  for (int at = threadIdx.x; at < kWarps * Rows * args.width; at += kThreads) {
    const int r = at / args.width, d = at % args.width;
    keys[at] = first + r < args.rows && d < n ? widen(from[int64_t(r) * n + d]) : 0;
  }
  __syncthreads();
  const float *mean = args.moments + int64_t(head) * (n + int64_t(n) * n), *form = mean + n, *own = keys + warp * Rows * args.width;
  float value[Rows] = {};
  for (int column = lane; column < n; column += 32) {
    float product[Rows];
#pragma unroll
    for (int r = 0; r < Rows; ++r) product[r] = mean[column];
    for (int d = 0; d < n && args.covariance; d += 4) {
      float factor[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) factor[i] = d + i < n ? form[int64_t(d + i) * n + column] : 0;
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const float4 key = *reinterpret_cast<const float4*>(own + r * args.width + d);
        product[r] = fmaf(key.x, factor[0], fmaf(key.y, factor[1], fmaf(key.z, factor[2], fmaf(key.w, factor[3], product[r]))));
      }
    }
#pragma unroll
    for (int r = 0; r < Rows; ++r) value[r] = fmaf(product[r], own[r * args.width + column], value[r]);
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const float logit = warp_sum(value[r]);
    const int row = first + warp * Rows + r;
    if (lane == 0 && row < args.rows) args.logits[int64_t(head) * args.rows + row] = logit;
  }
}

constexpr int kNormThreads = 1024;
// norms[head] = maximum and sum of exponentials of a head's logits. Grid: heads.
__global__ void __launch_bounds__(kNormThreads) logit_norms_kernel(const float* logits, int rows, float2* norms) {
  __shared__ float shared[kNormThreads / 32];
  const float* row = logits + int64_t(blockIdx.x) * rows;
  float top = -INFINITY, sum = 0;
  for (int j = threadIdx.x; j < rows; j += kNormThreads) top = fmaxf(top, row[j]);
  top = block_max<kNormThreads>(top, shared);
  for (int j = threadIdx.x; j < rows; j += kNormThreads) sum += expf(row[j] - top);
  sum = block_sum<kNormThreads>(sum, shared);
  if (threadIdx.x == 0) norms[blockIdx.x] = {top, sum};
}

// Grid: row blocks, KV heads.
__global__ void __launch_bounds__(kThreads) group_mean_kernel(const float* logits, const float2* norms, int rows, int group, float* out, int64_t stride) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= rows) return;
  float sum = 0;
  for (int head = blockIdx.y * group; head < static_cast<int>(blockIdx.y + 1) * group; ++head)
    sum += expf(logits[int64_t(head) * rows + j] - norms[head].x) / norms[head].y;
  out[blockIdx.y * stride + j] = sum / static_cast<float>(group);
}

template <class T>
void launch_form(const FormArgs& args, int heads, cudaStream_t stream) {
  const auto launch = [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    const int64_t bytes = int64_t(kWarps) * kRows * args.width * sizeof(float);
    allow_shared<form_kernel<T, kRows>>(bytes);
    form_kernel<T, kRows><<<dim3(divide_up(args.rows, kWarps * kRows), heads), kThreads, bytes, stream>>>(args);
  };
  if (args.head_dim <= 128)
    launch(std::integral_constant<int, 8>());
  else
    launch(std::integral_constant<int, 2>());
}

}  // namespace

void query_moments(Context& context, Matrix queries, int32_t seen, Matrix moments) {
  if (queries.rows == 0) return;
  const int heads = moments.rows, head_dim = queries.columns / heads, tiles = divide_up(head_dim, kTile);
  float* mean = static_cast<float*>(context.scratch(int64_t(queries.columns) * sizeof(float)));
  const cudaStream_t stream = stream_of(context);
  with_device_type(queries.dtype, [&](auto type) {
    using T = decltype(type);
    const double share = double(queries.rows) / (double(seen) + queries.rows);
    const Part<T> part = {queries.row<T>(0),      queries.stride, queries.rows,        head_dim, mean, moments.row<float>(0), moments.stride,
                          static_cast<float>(share), static_cast<float>(seen * share), seen == 0};
    part_mean_kernel<T><<<heads, kThreads, 0, stream>>>(part);
    check_launch();
    part_products_kernel<T><<<dim3(tiles * tiles, heads), kThreads, 0, stream>>>(part);
    check_launch();
    join_mean_kernel<T><<<heads, kThreads, 0, stream>>>(part);
  });
  check_launch();
}

void future_attention(Context& context, Kv& kv, int32_t layer, Matrix moments, int32_t seen, const Future& future, float scale, int32_t first_row,
                        bool covariance, Matrix out) {
  const KvShape& shape = kv.shape;
  const int64_t n = shape.head_dim, turned = shape.heads * (n + n * n), logits = int64_t(shape.heads) * out.columns;
  float* scratch = static_cast<float*>(context.scratch((turned + logits) * int64_t(sizeof(float)) + shape.heads * int64_t(sizeof(float2)) + 16));
  const cudaStream_t stream = stream_of(context);
  const TurnArgs turn = {moments.row<float>(0),
                         moments.stride,
                         future.inv_freq.row<float>(0),
                         scratch,
                         shape.head_dim,
                         future.inv_freq.columns,
                         future.first_position,
                         future.positions,
                         future.mscale,
                         scale,
                         static_cast<float>(0.5 * double(scale) * scale / seen),
                         future.interleaved,
                         covariance};
  turn_moments_kernel<<<shape.heads, kThreads, 0, stream>>>(turn);
  check_launch();
  FormArgs form = {kv.table, scratch, scratch + turned, layer, shape.head_dim, (shape.head_dim + 3) / 4 * 4, shape.group(), first_row, out.columns, covariance};
  with_device_type(shape.dtype, [&](auto type) { launch_form<decltype(type)>(form, shape.heads, stream); });
  check_launch();
  auto* norms = reinterpret_cast<float2*>(scratch + (turned + logits + 1) / 2 * 2);
  logit_norms_kernel<<<shape.heads, kNormThreads, 0, stream>>>(form.logits, out.columns, norms);
  check_launch();
  group_mean_kernel<<<dim3(divide_up(out.columns, kThreads), shape.kv_heads), kThreads, 0, stream>>>(form.logits, norms, out.columns, shape.group(),
                                                                                                     out.row<float>(0), out.stride);
  check_launch();
}

}  // namespace kva

// out[r, n] = sum_k x[r, k] * weight[n, k] (+ bias[n]) (+ out[r, n]), at most 16 rows: the weights are read once, 16 bytes at a time, and the
// order of the sums depends on the depth k alone, so that a row has the same bits among 1 row or 16.
// floor: the bytes of the weights at copy bandwidth (3.0 TB/s): 145 us for a layer of the 8B shape, 5.0 ms for all of it.
// measured (H100 80GB, 2026-11-25, each kernel alone under Nsight Compute): 2.9 TB/s for 128256 features, 2.8 for 28672, 2.5 for 4096 from 14336,
// 2.2 and 2.1 for 6144 and 4096 from 4096; a whole decode step 5.91 ms, where linear_stream.cu, which takes these rows on Hopper, needs 5.53.
// gap: a layer's four products last 16 to 85 us each, of which the first loads and the last blocks take 3 to 5.
#include "../device/linear_rows.cuh"

#include <algorithm>
#include <type_traits>

#include "../device/early_launch.cuh"
#include "../device/mma.cuh"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kFeatures = 16; // of one block
constexpr int kDepth = 32;    // elements of k of one warp and round

// elements [k, k + 8) of a row of 16-bit elements, zeros past its end
template <bool Aligned, class T>
__device__ __forceinline__ uint4 load_eight(const T* row, int k, int in, bool streaming) {
  uint4 eight = {0, 0, 0, 0};
  if constexpr (Aligned) {
    if (k < in) eight = streaming ? load_streaming(row + k) : *reinterpret_cast<const uint4*>(row + k);
  } else {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(row);
    uint32_t* words = &eight.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = k + 2 * i < in ? from[k + 2 * i] : 0;
      const uint32_t high = k + 2 * i + 1 < in ? from[k + 2 * i + 1] : 0;
      words[i] = low | high << 16;
    }
  }
  return eight;
}

// The weights are the 16-row operand and go from memory to the tensor cores without shared memory: a lane's 16 bytes are two products'
// worth of its fragment once k is permuted alike in weights and x. The 8 warps take turns at k; their sums meet in shared memory.
template <class T, int Tiles, bool Aligned>
__global__ void __launch_bounds__(kThreads, Tiles == 1 ? 3 : 2) linear_rows_kernel(const LinearRows args) {
  constexpr int kUnroll = Aligned ? 2 : 1; // lines of 64 bytes of a row, one after the other: one stage is on its way while the other is multiplied
  constexpr int kStage = kWarps * kUnroll * kDepth;
  __shared__ float sums[kWarps][Tiles * 8 * kFeatures];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
  const int own = warp * kUnroll * kDepth + quad * 8;
  // a block's two times eight features follow one another, or are of the gate and, half of all features on, of what it multiplies
  const int end = args.gated ? args.features / 2 : args.features, first = blockIdx.x * (args.gated ? kFeatures / 2 : kFeatures);
  const int upper_feature = min(first + group, end - 1), lower_feature = args.gated ? end + upper_feature : min(first + group + 8, end - 1);
  const T* upper = static_cast<const T*>(args.weight) + upper_feature * args.weight_stride;
  const T* lower = static_cast<const T*>(args.weight) + lower_feature * args.weight_stride;

  uint4 a[2][kUnroll][2], b[2][kUnroll][Tiles];
  const auto load_weights = [&](int stage, int start) { // past the end nothing is read
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      a[stage][u][0] = load_eight<Aligned>(upper, start + own + u * kDepth, args.in, true);
      a[stage][u][1] = load_eight<Aligned>(lower, start + own + u * kDepth, args.in, true);
    }
  };
  load_weights(0, 0); // no kernel before this one in the stream that may still run writes weights
  load_weights(1, kStage);
  wait_for_inputs();

  const T* x[Tiles];
  int x_in[Tiles];
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
    const int row = tile * 8 + group;
    x[tile] = static_cast<const T*>(args.x) + (row < args.rows ? row : 0) * args.x_stride;
    x_in[tile] = row < args.rows ? args.in : 0;
  }
  const auto load_x = [&](int stage, int start) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) b[stage][u][tile] = load_eight<Aligned>(x[tile], start + own + u * kDepth, x_in[tile], false);
  };
  float acc[Tiles][4] = {};
  const auto multiply = [&](int stage) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        const uint4 high = a[stage][u][0], low = a[stage][u][1], columns = b[stage][u][tile];
        mma(acc[tile], {high.x, low.x, high.y, low.y}, columns.x, columns.y, T());
        mma(acc[tile], {high.z, low.z, high.w, low.w}, columns.z, columns.w, T());
      }
  };
  load_x(0, 0);
  load_x(1, kStage);
  for (int start = 0; start < args.in; start += 2 * kStage)
#pragma unroll
    for (int stage = 0; stage < 2; ++stage) {
      multiply(stage);
      load_weights(stage, start + (stage + 2) * kStage);
      load_x(stage, start + (stage + 2) * kStage);
    }

  let_next_start(); // not before: blocks that wait would take the places of this kernel's last ones, unevenly
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = tile * 8 + quad * 2 + i % 2, feature = group + i / 2 * 8;
      sums[warp][row * kFeatures + feature] = acc[tile][i];
    }
  __syncthreads();
  const auto total = [&](int at) {
    float sum = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) sum += sums[other][at];
    return sum;
  };
  for (int at = threadIdx.x; at < Tiles * 8 * kFeatures; at += kThreads) {
    const int row = at / kFeatures, feature = first + at % kFeatures;
    if (row >= args.rows || feature >= end) continue;
    if (!args.gated)
      write_out<T>(args, row, feature, total(at), read_out<T>(args, row, feature));
    else if (at % kFeatures < 8)
      write_gated<T>(args, row, feature, total(at), total(at + 8));
  }
}

template <bool Aligned>
__device__ __forceinline__ float4 load_four(const float* row, int k, int in) {
  float4 four = {0, 0, 0, 0};
  if constexpr (Aligned) {
    if (k < in) four = *reinterpret_cast<const float4*>(row + k);
  } else {
    if (k < in) four.x = row[k];
    if (k + 1 < in) four.y = row[k + 1];
    if (k + 2 < in) four.z = row[k + 2];
    if (k + 3 < in) four.w = row[k + 3];
  }
  return four;
}

// fp32 without tensor cores (they would round to tf32): a warp sums two features for up to Rows rows
template <int Rows, bool Aligned>
__global__ void __launch_bounds__(kThreads, 2) linear_rows_f32_kernel(const LinearRows args) {
  constexpr int kUnroll = Rows == 1 ? 4 : 2;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int feature = blockIdx.y * kFeatures + warp * 2, first_row = blockIdx.x * Rows;
  let_next_start();
  wait_for_inputs();
  const float* weight = static_cast<const float*>(args.weight);
  const float* w[2] = {weight + min(feature, args.features - 1) * args.weight_stride,
                       weight + min(feature + 1, args.features - 1) * args.weight_stride};
  const float* x = static_cast<const float*>(args.x);

  float acc[2][Rows] = {};
  for (int start = lane * 4; start < args.in; start += kUnroll * 128) {
    float4 a[kUnroll][2];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int f = 0; f < 2; ++f) a[u][f] = load_four<Aligned>(w[f], start + u * 128, args.in);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const int row = min(first_row + r, args.rows - 1);
        const float4 b = load_four<Aligned>(x + row * args.x_stride, start + u * 128, args.in);
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          acc[f][r] = fmaf(a[u][f].x, b.x, acc[f][r]);
          acc[f][r] = fmaf(a[u][f].y, b.y, acc[f][r]);
          acc[f][r] = fmaf(a[u][f].z, b.z, acc[f][r]);
          acc[f][r] = fmaf(a[u][f].w, b.w, acc[f][r]);
        }
      }
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r)
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const float sum = warp_sum(acc[f][r]);
      if (lane == 0 && first_row + r < args.rows && feature + f < args.features) {
        write_out<float>(args, first_row + r, feature + f, sum, read_out<float>(args, first_row + r, feature + f));
      }
    }
}

template <bool Aligned>
void launch_f32(const LinearRows& args, cudaStream_t stream) {
  const unsigned blocks = (args.features + kFeatures - 1) / kFeatures;
  if (args.rows == 1)
    launch_early(linear_rows_f32_kernel<1, Aligned>, dim3(1, blocks), kThreads, 0, stream, args);
  else
    launch_early(linear_rows_f32_kernel<8, Aligned>, dim3((args.rows + 7) / 8, blocks), kThreads, 0, stream, args);
}

template <class T, bool Aligned>
void launch_mma(const LinearRows& args, cudaStream_t stream) {
  const int each = args.gated ? 8 : kFeatures, features = args.gated ? args.features / 2 : args.features;
  const unsigned blocks = (features + each - 1) / each;
  if (args.rows <= 8)
    launch_early(linear_rows_kernel<T, 1, Aligned>, dim3(blocks), kThreads, 0, stream, args);
  else
    launch_early(linear_rows_kernel<T, 2, Aligned>, dim3(blocks), kThreads, 0, stream, args);
}

}  // namespace

template <class T>
void linear_rows_launch(const LinearRows& args, cudaStream_t stream) {
  const int width = kPackWidth<T>;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool packs = aligned(args.x) && aligned(args.weight) && args.x_stride % width == 0 && args.weight_stride % width == 0 && args.in % width == 0;
  if constexpr (std::is_same_v<T, float>) {
    packs ? launch_f32<true>(args, stream) : launch_f32<false>(args, stream);
  } else {
    packs ? launch_mma<T, true>(args, stream) : launch_mma<T, false>(args, stream);
  }
}

template void linear_rows_launch<float>(const LinearRows&, cudaStream_t);
template void linear_rows_launch<__half>(const LinearRows&, cudaStream_t);
template void linear_rows_launch<__nv_bfloat16>(const LinearRows&, cudaStream_t);

}  // namespace kva

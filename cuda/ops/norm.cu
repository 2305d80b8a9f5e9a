// out[r, g, i] = x[r, g, i] * weight[i] / sqrt(mean_i(x[r, g, i]^2) + eps); a block has one group of one row.
#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

struct NormArgs {
  const void *x, *weight;
  void* out;
  int64_t x_stride, out_stride;
  int groups, width;
  float eps;
};

// Kept packs of x stay in registers between the two passes; a wider group is read again.
template <class T, int Width, int Threads>
__global__ void __launch_bounds__(Threads) rmsnorm_kernel(const NormArgs args) {
  constexpr int kKept = 4;
  __shared__ float shared[Threads / 32];
  const int64_t row = blockIdx.x / args.groups, offset = int64_t(blockIdx.x % args.groups) * args.width;
  const T* x = static_cast<const T*>(args.x) + row * args.x_stride + offset;
  const T* weight = static_cast<const T*>(args.weight);
  T* out = static_cast<T*>(args.out) + row * args.out_stride + offset;

  let_next_start();
  Pack<T, Width> kept[kKept], weights[kKept];
#pragma unroll
  for (int n = 0; n < kKept; ++n) { // no kernel before this one in the stream that may still run writes weights
    const int at = (n * Threads + threadIdx.x) * Width;
    if (at < args.width) weights[n] = load_pack<Width>(weight + at);
  }
  wait_for_inputs();
  float sum = 0;
  const auto square = [&](const Pack<T, Width>& pack) {
#pragma unroll
    for (int i = 0; i < Width; ++i) sum = fmaf(widen(pack.at[i]), widen(pack.at[i]), sum);
  };
#pragma unroll
  for (int n = 0; n < kKept; ++n) {
    const int at = (n * Threads + threadIdx.x) * Width;
    if (at < args.width) {
      kept[n] = load_pack<Width>(x + at);
      square(kept[n]);
    }
  }
  for (int at = (kKept * Threads + threadIdx.x) * Width; at < args.width; at += Threads * Width) square(load_pack<Width>(x + at));
  const float factor = 1 / sqrtf(block_sum<Threads>(sum, shared) / args.width + args.eps);

  const auto write = [&](int at, Pack<T, Width> pack, const Pack<T, Width>& w) {
#pragma unroll
    for (int i = 0; i < Width; ++i) pack.at[i] = narrow<T>(widen(pack.at[i]) * factor * widen(w.at[i]));
    store_pack(out + at, pack);
  };
#pragma unroll
  for (int n = 0; n < kKept; ++n) {
    const int at = (n * Threads + threadIdx.x) * Width;
    if (at < args.width) write(at, kept[n], weights[n]);
  }
  for (int at = (kKept * Threads + threadIdx.x) * Width; at < args.width; at += Threads * Width)
    write(at, load_pack<Width>(x + at), load_pack<Width>(weight + at));
}

template <class T, int Width>
void launch(const NormArgs& args, int64_t blocks, cudaStream_t stream) {
  if (args.width <= 256)
    launch_early(rmsnorm_kernel<T, Width, 32>, dim3(blocks), 32, 0, stream, args);
  else
    launch_early(rmsnorm_kernel<T, Width, 256>, dim3(blocks), 256, 0, stream, args);
}

}  // namespace

void rmsnorm(Context& context, Matrix x, Matrix weight, float eps, Matrix out) {
  if (x.rows == 0 || x.columns == 0) return;
  const NormArgs args = {x.data, weight.data, out.data, x.stride, out.stride, x.columns / weight.columns, weight.columns, eps};
  const int64_t blocks = int64_t(x.rows) * args.groups;
  with_device_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const bool packs = takes_packs(x) && takes_packs(out) && takes_packs(weight) && weight.columns % kPackWidth<T> == 0;
    packs ? launch<T, kPackWidth<T>>(args, blocks, stream_of(context)) : launch<T, 1>(args, blocks, stream_of(context));
  });
}

}  // namespace kva

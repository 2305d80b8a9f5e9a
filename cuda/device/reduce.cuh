// Sums, maxima and prefix sums over a warp and a block; every thread gets the result, and its order never changes.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace kva::device {

constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

__device__ __forceinline__ float warp_min(float value) { return -warp_max(-value); }

// Threads is a multiple of 32; `shared` holds Threads / 32 values and may be used again at once.
template <int Threads>
__device__ __forceinline__ float block_sum(float value, float* shared) {
  const int warp = threadIdx.x / 32;
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) shared[warp] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int other = 0; other < Threads / 32; ++other) sum += shared[other];
  __syncthreads();
  return sum;
}

template <int Threads>
__device__ __forceinline__ float block_max(float value, float* shared) {
  const int warp = threadIdx.x / 32;
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) shared[warp] = value;
  __syncthreads();
  float max = shared[0];
#pragma unroll
  for (int other = 1; other < Threads / 32; ++other) max = fmaxf(max, shared[other]);
  __syncthreads();
  return max;
}

// sum of the values of the threads before this one; `total` is the sum of all
template <int Threads, class T>
__device__ __forceinline__ T block_prefix(T value, T* shared, T* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T inclusive = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const T below = __shfl_up_sync(kAllLanes, inclusive, offset);
    if (lane >= offset) inclusive += below;
  }
  if (lane == 31) shared[warp] = inclusive;
  __syncthreads();
  T before = 0, all = 0;
#pragma unroll
  for (int other = 0; other < Threads / 32; ++other) {
    if (other < warp) before += shared[other];
    all += shared[other];
  }
  __syncthreads();
  *total = all;
  return before + inclusive - value;
}

}  // namespace kva::device

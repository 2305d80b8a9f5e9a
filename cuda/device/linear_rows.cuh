// Linear layers of few rows: what the kernels of linear_rows.cu and linear_stream.cu take, and how they write a sum.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "../core/cuda.h"
#include "vec.cuh"

namespace kva {

constexpr int kLinearRowsMax = 16;
constexpr int kLinearStreamRows = 32;
constexpr int64_t kLinearWorkspaceBytes = int64_t(32) << 20; // of cuBLASLt, which takes more rows than these kernels

// out[r, n] = sum_k x[r, k] * weight[n, k] (+ bias[n]) (+ out[r, n]); strides in elements; x, weight and bias of one type
struct LinearRows {
  const void* x;
  const void* weight;
  const void* bias;
  void* out;
  int64_t x_stride, weight_stride, out_stride;
  int rows, in, features;
  bool accumulate, out_f32;
  bool gated; // out[r, n] = silu(a) * b, a and b being features n and features / 2 + n; of 16-bit types, without accumulate and out_f32
};

namespace device {

// what the sum of a row and feature is added to
template <class T>
__device__ __forceinline__ float read_out(const LinearRows& args, int row, int feature) {
  const int64_t at = row * args.out_stride + feature;
  if (!args.accumulate) return 0;
  return args.out_f32 ? static_cast<const float*>(args.out)[at] : widen(static_cast<const T*>(args.out)[at]);
}

template <class T>
__device__ __forceinline__ void write_out(const LinearRows& args, int row, int feature, float sum, float before) {
  if (args.bias != nullptr) sum += widen(static_cast<const T*>(args.bias)[feature]);
  if (args.accumulate) sum += before;
  const int64_t at = row * args.out_stride + feature;
  if (args.out_f32)
    static_cast<float*>(args.out)[at] = sum;
  else
    static_cast<T*>(args.out)[at] = narrow<T>(sum);
}

// feature of the gate's half
template <class T>
__device__ __forceinline__ void write_gated(const LinearRows& args, int row, int feature, float gate, float up) {
  if (args.bias != nullptr) {
    gate += widen(static_cast<const T*>(args.bias)[feature]);
    up += widen(static_cast<const T*>(args.bias)[args.features / 2 + feature]);
  }
  static_cast<T*>(args.out)[row * args.out_stride + feature] = narrow<T>(gate / (1 + expf(-gate)) * up);
}

}  // namespace device

// Up to 16 rows of any kind.
template <class T>
void linear_rows_launch(const LinearRows& args, cudaStream_t stream);

// Up to 32 rows, for types of 16 bits, where linear_stream_takes() says so.
template <class T>
bool linear_stream_takes(const LinearRows& args);
template <class T>
void linear_stream_launch(const LinearRows& args, const CudaDevice& device);

}  // namespace kva

// Linear layers of at most 16 rows: what the kernels of linear_rows.cu take.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace kva {

constexpr int kLinearRowsMax = 16;
constexpr int64_t kLinearWorkspaceBytes = int64_t(32) << 20; // of cuBLASLt, above that many rows

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

template <class T>
void linear_rows_launch(const LinearRows& args, cudaStream_t stream);

}  // namespace kva

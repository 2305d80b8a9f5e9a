// Column sums: what the kernels take.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace kva {

// out[g, j] = join(out[g, j], exp(scale * q[i, h] . k[g, j] - lse[h, i])) over the heads h of group g and the rows i with first_row + i >= j
struct ColumnSums {
  const void* queries;  // [rows, heads * head_dim], q_stride elements from row to row
  const void* keys;     // [kv_heads, first_row + rows, head_dim], rows dense, head_stride elements from head to head
  const float* lse;     // [heads, rows], lse_stride from head to head
  float* out;           // [kv_heads, first_row + rows], out_stride from head to head
  int64_t q_stride, lse_stride, out_stride, head_stride;
  int rows, first_row, kv_heads, group, head_dim, dtype;
  float scale;
  bool maximum;  // join is max; else +
  cudaStream_t stream;
};

bool column_sums_hopper_takes(const ColumnSums& args);  // sm_90a: f16 and bf16, heads of 64 and 128
cudaError_t column_sums_hopper_launch(const ColumnSums& args);

}  // namespace kva

// What XAttention's block scores hand to a kernel for tensor cores: a run of coarse rows of some heads against the coarse columns they see.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace kva {

struct AntidiagonalRun {
  const void* queries;  // [rows, heads * head_dim], q_stride elements from row to row
  const void* keys;     // [heads / group, first_row + rows, head_dim], rows dense, head_stride elements from head to head
  int64_t q_stride, head_stride;
  int rows, first_row, heads, group, head_dim, stride, block, dtype;
  float scale;
  int begin, count;  // coarse rows [begin, begin + count) of the queries
  float* lse;        // [heads, count, key_blocks]: ln of the sum of exp(score) over the coarse columns of a key block that the row sees, or -inf
  int key_blocks;
  cudaStream_t stream;

  // Those whose tokens are all there; the last one may not be such.
  __host__ __device__ int whole_rows() const { return rows / stride; }
  __host__ __device__ int first_coarse() const { return first_row / stride; }
};

// sm_90a: f16 and bf16, heads of 64 and 128, 4 to 32 coarse columns in a block. Rows of the run from whole_rows() on are written -inf.
bool antidiagonal_hopper_takes(const AntidiagonalRun& run);
cudaError_t antidiagonal_hopper_launch(const AntidiagonalRun& run);

}  // namespace kva

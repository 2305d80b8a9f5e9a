// Causal attention of the rows of one sequence over its cache: the arguments of a launch, and the three kernels that can serve it.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace kva {

// out[i, h, :] = sum_j softmax_j(scale * q[i, h, :] . k[g, j, :]) * v[g, j, :], g = h / (heads / kv_heads), j in
// [max(0, first_row + i - window + 1), first_row + i] (window 0: from 0). q, k, v, out of one type; sums and softmax in fp32; out may be q.
struct AttentionPrefill {
  const void* q;  // [rows, heads * head_dim], q_stride elements from row to row
  void* out;      // [rows, heads * head_dim], out_stride elements from row to row
  int64_t q_stride, out_stride;
  const void* k;  // [kv_heads, first_row + rows, head_dim]: rows dense, head_stride elements from head to head
  const void* v;
  int64_t head_stride;
  float* lse;  // NULL, or [heads, rows], lse_stride elements from head to head: natural log of the sum of exp(scale * q.k)
  int64_t lse_stride;
  int32_t* counter;  // one i32 of device memory for this launch alone; its value does not matter
  int rows, first_row, heads, kv_heads, head_dim, window, dtype;  // dtype: KVA_F32, KVA_F16, KVA_BF16; head_dim <= 256
  float scale;                                                    // > 0
  cudaStream_t stream;

  // A set of blocks, or bits NULL: of the rows above, query rows [b * block, (b + 1) * block) of head h see only those in the key blocks c
  // whose bit is set: bit c % 32 of word c / 32 at bits + (h * block_rows + b) * bits_stride. Bits past the diagonal mean nothing; heads in
  // `dense` (one bit each) see every block. A row that sees nothing gives 0 and -inf.
  const uint32_t* bits;
  int64_t bits_stride;
  int block_rows;
  int block;           // 64 or 128; first_row is a multiple of it
  int32_t* order;      // with bits: i32[2 * attention_items(rows, heads)] of device memory for this launch alone
  uint32_t dense[16];  // up to 512 heads
};

// items of work of a launch with a set of blocks
inline int64_t attention_items(int rows, int heads) { return int64_t(heads) * ((rows + 127) / 128); }

// Queues the fastest kernel that takes these arguments on the current device; never waits. Arguments that no kernel takes give
// cudaErrorInvalidValue.
cudaError_t attention_prefill_launch(const AttentionPrefill& attention);

// The kernels. Each *_takes tells whether its *_launch may be called on the current device.
bool attention_prefill_hopper_takes(const AttentionPrefill& attention);  // sm_90a: f16, bf16, head sizes 64 and 128
cudaError_t attention_prefill_hopper_launch(const AttentionPrefill& attention);
bool attention_prefill_mma_takes(const AttentionPrefill& attention);  // sm_80 and up: f16, bf16, head sizes that are multiples of 8
cudaError_t attention_prefill_mma_launch(const AttentionPrefill& attention);
bool attention_prefill_fma_takes(const AttentionPrefill& attention);  // every type and head size
cudaError_t attention_prefill_fma_launch(const AttentionPrefill& attention);

}  // namespace kva

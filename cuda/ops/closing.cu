// Rows that were dropped among codes: the places of as many as the residual holds are closed.
#include <algorithm>

#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/number.cuh"
#include "../device/reduce.cuh"
#include "ops.h"

namespace kva {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kDepth = 8;

struct Warp {
  static constexpr int32_t lanes = 32;
  const int32_t lane;
  __device__ void sync() const { __syncwarp(); }
  __device__ float min(float x) const { return device::warp_min(x); }
  __device__ float max(float x) const { return device::warp_max(x); }
};

// The first `count` rows of the head that are marked, ascending. The whole block calls it.
__device__ void find_marked(const KvHead& head, int count, int32_t* rows) {
  __shared__ int found[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int base = 0, total = 0; base < head.len && total < count; base += kThreads) {
    const int row = base + threadIdx.x;
    const bool marked = row < head.len && head.pos[row] < 0;
    const unsigned votes = __ballot_sync(device::kAllLanes, marked);
    if (lane == 0) found[warp] = __popc(votes);
    __syncthreads();
    int place = total + __popc(votes & ((1u << lane) - 1));
    for (int other = 0; other < kWarps; ++other) {
      place += other < warp ? found[other] : 0;
      total += found[other];
    }
    if (marked && place < count) rows[place] = row;
    __syncthreads(); // before found changes; rows are there
  }
}

// Rows [first, end) of x, each from its old place; all of a run are read before one is written. The whole block calls it.
__device__ void close_rows(uint32_t* x, int columns, int first, int end, const Removed& removed) {
  const int64_t last = int64_t(end) * columns;
  for (int64_t base = int64_t(first) * columns; base < last; base += kThreads * kDepth) {
    uint32_t words[kDepth];
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int64_t at = base + i * kThreads + threadIdx.x;
      if (at < last) words[i] = x[int64_t(removed.source(static_cast<int>(at / columns))) * columns + at % columns];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int64_t at = base + i * kThreads + threadIdx.x;
      if (at < last) x[at] = words[i];
    }
    __syncthreads();
  }
}

// A block has a head. Shared memory: the rows that go.
template <class T>
__global__ void __launch_bounds__(kThreads) close_dropped_kernel(KvSeq* const* sequences, int layer, int head_dim, int side_arrays) {
  extern __shared__ int32_t rows[];
  device::let_next_start();
  device::wait_for_inputs();
  KvHead* entry = layer_heads(sequences[blockIdx.y], layer) + blockIdx.x;
  const KvHead head = *entry;
  if (!closing_is_due(head)) return;
  const KvPacking& packing = head.packing;
  find_marked(head, packing.residual, rows);
  const Removed removed{rows, packing.residual};
  const KvHead to = closed(head);
  const Closing<DeviceNumber, T> closing{head, to, removed, head_dim};
  for (int at = threadIdx.x; at < 2 * head_dim; at += kThreads) at < head_dim ? closing.full_keys(at) : closing.full_values(at - head_dim);
  __syncthreads(); // rows that were codes are read
  const int words = words_of(key_channels(packing, head_dim), packing.key_bits);
  for (int word = threadIdx.x / 32; word < words; word += kWarps) closing.key_words(Warp{static_cast<int32_t>(threadIdx.x % 32)}, word);
  static_assert(sizeof(Scale) == sizeof(uint32_t));
  close_rows(head.packed_v, words_of(head_dim, packing.value_bits), rows[0], to.packed_values, removed);
  close_rows(reinterpret_cast<uint32_t*>(head.value_scales), head_dim / packing.value_group, rows[0], to.packed_values, removed);
  close_rows(reinterpret_cast<uint32_t*>(head.pos), 1, rows[0], to.len, removed);
  for (int a = 0; a < side_arrays; ++a) close_rows(reinterpret_cast<uint32_t*>(head.side[a]), 1, rows[0], to.len, removed);
  if (threadIdx.x == 0) *entry = to;
}

}  // namespace

void close_dropped(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer) {
  if (sequences == 0) return;
  const KvShape& shape = batch.shape();
  int32_t residual = 0;
  for (int32_t s = first_sequence; s < first_sequence + sequences; ++s) residual = std::max(residual, batch.kvs[s]->layer(layer)[0].packing.residual);
  with_device_type(shape.dtype, [&](auto type) {
    launch_early(close_dropped_kernel<decltype(type)>, dim3(shape.kv_heads, sequences), kThreads, residual * sizeof(int32_t), stream_of(context),
                 batch.table + first_sequence, layer, shape.head_dim, shape.side_arrays);
  });
}

}  // namespace kva

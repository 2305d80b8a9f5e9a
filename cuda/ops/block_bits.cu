// Sets of blocks: bands, vertical and slash lines, counting, thinning, lists. A thread has a word or a row of a set.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256, kScanThreads = 1024;

struct Place {
  int head, query_block;
};
__device__ __forceinline__ Place place_of(const BlockSet& set, int64_t row) {
  return {static_cast<int>(row / set.rows), set.first + static_cast<int>(row % set.rows)};
}
__device__ __forceinline__ int row_count(const BlockSet& set, const Place& at) {
  int count = 0;
  for (int w = 0; w <= at.query_block / 32; ++w) count += __popc(set.columns(at.head, at.query_block, w));
  return count;
}
inline int64_t rows_of(const BlockSet& set) { return int64_t(set.heads) * set.rows; }

__global__ void __launch_bounds__(kThreads) band_kernel(const BlockSet set, int sinks, int recent) {
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, row = i / set.words;
  if (row >= int64_t(set.heads) * set.rows) return;
  const int word = static_cast<int>(i % set.words);
  const_cast<uint32_t*>(set.bits)[row * set.stride + word] |= band_bits(word, place_of(set, row).query_block, sinks, recent);
}

__global__ void __launch_bounds__(kThreads) vertical_slash_kernel(const BlockSet set, const uint32_t* vertical, int64_t vertical_stride,
                                                                  const uint32_t* slash, int64_t slash_stride, int before, int after) {
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, row = i / set.words;
  if (row >= int64_t(set.heads) * set.rows) return;
  const int word = static_cast<int>(i % set.words), last = set.first + set.rows - 1;
  const Place at = place_of(set, row);
  if (word > at.query_block / 32) return;
  const uint32_t lines = vertical[at.head * vertical_stride + word] | slash_bits(slash + at.head * slash_stride, word, at.query_block, last, before, after);
  const_cast<uint32_t*>(set.bits)[row * set.stride + word] |= lines & bits_up_to(word, at.query_block);
}

// a block has a head
__global__ void __launch_bounds__(kThreads) count_kernel(const BlockSet set, int32_t* counts) {
  __shared__ int shared[kThreads / 32];
  int count = 0, total;
  for (int r = threadIdx.x; r < set.rows; r += kThreads) count += row_count(set, {static_cast<int>(blockIdx.x), set.first + r});
  block_prefix<kThreads>(count, shared, &total);
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads) thin_kernel(const BlockSet set, float share) {
  const int64_t row = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (row >= int64_t(set.heads) * set.rows) return;
  const Place at = place_of(set, row);
  const int64_t count = row_count(set, at), kept = thinned_count(count, at.query_block, share);
  int64_t i = 0;
  for (int w = 0; w < set.words; ++w)
    const_cast<uint32_t*>(set.bits)[row * set.stride + w] = thinned_bits(set.columns(at.head, at.query_block, w), i, count, kept);
}

// One block: row_ptr[i] = blocks of the rows before i.
__global__ void __launch_bounds__(kScanThreads) starts_kernel(const BlockSet set, int32_t* row_ptr) {
  __shared__ int shared[kScanThreads / 32];
  const int rows = set.heads * set.rows;
  int before = 0;
  for (int base = 0; base < rows; base += kScanThreads) {
    const int row = base + threadIdx.x, count = row < rows ? row_count(set, place_of(set, row)) : 0;
    int total;
    const int start = before + block_prefix<kScanThreads>(count, shared, &total);
    if (row < rows) row_ptr[row] = start;
    before += total;
  }
  if (threadIdx.x == 0) row_ptr[rows] = before;
}

__global__ void __launch_bounds__(kThreads) columns_kernel(const BlockSet set, const int32_t* row_ptr, int32_t* col, int capacity) {
  const int64_t row = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (row >= int64_t(set.heads) * set.rows) return;
  const Place place = place_of(set, row);
  int at = row_ptr[row];
  for (int w = 0; w <= place.query_block / 32; ++w)
    for (uint32_t bits = set.columns(place.head, place.query_block, w); bits != 0; bits &= bits - 1, ++at)
      if (at < capacity) col[at] = w * 32 + __ffs(bits) - 1;
}

}  // namespace

void blocks_band(Context& context, const BlockSet& blocks, int32_t sinks, int32_t recent) {
  band_kernel<<<divide_up(rows_of(blocks) * blocks.words, kThreads), kThreads, 0, stream_of(context)>>>(blocks, sinks, recent);
  check_launch();
}

void blocks_vertical_slash(Context& context, Matrix vertical, Matrix slash, int32_t before, int32_t after, const BlockSet& blocks) {
  vertical_slash_kernel<<<divide_up(rows_of(blocks) * blocks.words, kThreads), kThreads, 0, stream_of(context)>>>(
      blocks, vertical.row<uint32_t>(0), vertical.stride, slash.row<uint32_t>(0), slash.stride, before, after);
  check_launch();
}

void blocks_count(Context& context, const BlockSet& blocks, Matrix counts) {
  count_kernel<<<blocks.heads, kThreads, 0, stream_of(context)>>>(blocks, counts.row<int32_t>(0));
  check_launch();
}

void blocks_thin(Context& context, const BlockSet& blocks, float share) {
  thin_kernel<<<divide_up(rows_of(blocks), kThreads), kThreads, 0, stream_of(context)>>>(blocks, share);
  check_launch();
}

void blocks_to_csr(Context& context, const BlockSet& blocks, Matrix row_ptr, Matrix col) {
  const cudaStream_t stream = stream_of(context);
  starts_kernel<<<1, kScanThreads, 0, stream>>>(blocks, row_ptr.row<int32_t>(0));
  check_launch();
  columns_kernel<<<divide_up(rows_of(blocks), kThreads), kThreads, 0, stream>>>(blocks, row_ptr.row<int32_t>(0), col.row<int32_t>(0), col.columns);
  check_launch();
}

}  // namespace kva

// Pooling of scores; the k best columns of each row, and how many of the k best of all each row has.
#include "../core/cuda.h"
#include "../device/best_columns.cuh"
#include "../device/order.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kPoolThreads = 256;
constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kPoolThreads) pool_kernel(const float* x, int64_t x_stride, int columns, int half, bool maximum, float* out,
                                                            int64_t out_stride) {
  const int i = blockIdx.x * kPoolThreads + threadIdx.x;
  if (i >= columns) return;
  const float* row = x + blockIdx.y * x_stride;
  const int first = max(0, i - half), last = min(columns - 1, i + half);
  float value = maximum ? row[first] : 0;
  for (int j = first; j <= last; ++j) value = maximum ? (row[j] > value ? row[j] : value) : value + row[j];
  out[blockIdx.y * out_stride + i] = maximum ? value : value / static_cast<float>(2 * half + 1);
}

// counts: NULL, or the k of each row, taken within [0, k]
__global__ void __launch_bounds__(kThreads) topk_kernel(const float* x, int64_t x_stride, int columns, int k, const int32_t* counts, int32_t* index,
                                                        int64_t index_stride) {
  __shared__ SelectShared shared;
  if (counts != nullptr) k = max(0, min(counts[blockIdx.x], k));
  if (k == 0) return;
  const float* row = x + blockIdx.x * x_stride;
  write_best_columns<kThreads>(columns, k, [&](int i) { return ordered_bits(row[i]); }, index + blockIdx.x * index_stride, shared);
}

constexpr int kMostRows = 1024;

// One block: item i is row i % rows, column i / rows, so that ties are taken in the order of columns, then rows.
__global__ void __launch_bounds__(kThreads) topk_counts_kernel(const float* x, int64_t stride, int rows, int elements, int k, int32_t* counts) {
  __shared__ SelectShared shared;
  __shared__ int found[kMostRows];
  for (int r = threadIdx.x; r < rows; r += kThreads) found[r] = 0;
  const auto key = [&](int i) { return ordered_bits(x[(i % rows) * stride + i / rows]); };
  const Crossing crossing = find_crossing<kThreads>(elements, k, key, [](int, uint32_t) { return uint64_t(1); }, shared);
  const uint32_t needed = static_cast<uint32_t>(crossing.remaining);
  uint32_t ties = 0; // before this round's items
  for (int64_t base = 0; base < elements; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const uint32_t bits = i < elements ? key(static_cast<int>(i)) : 0;
    const bool better = i < elements && bits > crossing.key, tie = i < elements && bits == crossing.key;
    uint32_t total;
    const uint32_t before = block_prefix<kThreads>(tie ? 1u : 0u, shared.warps, &total);
    if (better || (tie && ties + before < needed)) atomicAdd(&found[i % rows], 1);
    ties += total;
  }
  __syncthreads();
  for (int r = threadIdx.x; r < rows; r += kThreads) counts[r] = found[r];
}

}  // namespace

void pool(Context& context, Matrix x, int32_t kind, int32_t width, Matrix out) {
  if (x.columns == 0) return;
  constexpr int most = 65535; // blocks in y
  for (int32_t row = 0; row < x.rows; row += most) {
    const dim3 grid(divide_up(x.columns, kPoolThreads), std::min(most, x.rows - row));
    pool_kernel<<<grid, kPoolThreads, 0, stream_of(context)>>>(x.row<float>(row), x.stride, x.columns, width / 2, kind == KVA_POOL_MAX,
                                                               out.row<float>(row), out.stride);
    check_launch();
  }
}

void topk(Context& context, Matrix x, int32_t k, Matrix index) {
  if (x.rows == 0 || k == 0) return;
  topk_kernel<<<x.rows, kThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, x.columns, k, nullptr, index.row<int32_t>(0), index.stride);
  check_launch();
}

void topk_each(Context& context, Matrix x, Matrix counts, Matrix index) {
  if (x.rows == 0 || index.columns == 0) return;
  topk_kernel<<<x.rows, kThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, x.columns, index.columns, counts.row<int32_t>(0),
                                                           index.row<int32_t>(0), index.stride);
  check_launch();
}

void topk_counts(Context& context, Matrix x, int32_t k, Matrix counts) {
  topk_counts_kernel<<<1, kThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, x.rows, x.rows * x.columns, k, counts.row<int32_t>(0));
  check_launch();
}

}  // namespace kva

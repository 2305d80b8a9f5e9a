// How many columns reach a share of a row, and which they are, by radix descent: a block has a row, or the rows of a group one after the
// other. Numbers of blocks from numbers of columns; distance of distributions.
// floor: 0.09 ms: scores of 1024 x 1024 blocks and 32 heads, read twice at the rate of a copy, for XAttention's choice at 128K.
// measured (H100 80GB, 2026-11-25): 2.2 ms for XAttention, 6.8 ms for FlexPrefill's two choices together.
// gap: a descent goes over a row four times and more, with barriers between; FlexPrefill gives the million entries of a head to one block.
#include "../core/cuda.h"
#include "../device/order.cuh"
#include "../device/reduce.cuh"
#include "../device/select.cuh"
#include "block_weights.h"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 1024, kSmallThreads = 256;
constexpr int kRowThreads = 128, kRowItems = 4096;  // few items: barriers of four warps are shorter than those of 32

// Item i is column i % columns of row i / columns.
struct Items {
  const float* x;
  const uint32_t* forced; // NULL: none
  uint32_t* bits;         // NULL: not wanted
  int64_t x_stride, forced_stride, bits_stride;
  int rows, columns;

  __device__ int count() const { return rows * columns; }
  // rows without gaps, as those of a whole map, need no division
  __device__ float value(int i) const { return x_stride == columns ? x[i] : x[i / columns * x_stride + i % columns]; }
  __device__ bool is_forced(int i) const {
    if (forced == nullptr) return false;
    const int column = i % columns;
    return (forced[i / columns * forced_stride + column / 32] >> (column % 32) & 1);
  }
};

struct ChoiceArgs {
  Matrix x, forced, gate, counts, bits;
  const double* shares;
  int groups, per_group, rows; // rows of a group, and of an item list
  bool inclusive;
  int extra, extra_rows, least, most;
  float threshold;
};

__device__ Items items_of(const ChoiceArgs& args, int first) {
  return {args.x.row<float>(first),
          args.forced ? args.forced.row<uint32_t>(first) : nullptr,
          args.bits ? args.bits.row<uint32_t>(first) : nullptr,
          args.x.stride,
          args.forced.stride,
          args.bits.stride,
          args.rows,
          args.x.columns};
}

// How many items the share takes, forced ones included.
template <int Threads>
__device__ int64_t reaching(const Items& items, int forced, double share, bool inclusive, SelectShared& shared) {
  uint64_t own = 0, own_forced = 0, total, forced_sum;
  for (int i = threadIdx.x; i < items.count(); i += Threads) {
    const uint64_t weight = block_weight(items.value(i));
    own += weight;
    if (items.is_forced(i)) own_forced += weight;
  }
  block_prefix<Threads>(own, shared.sums, &total);
  block_prefix<Threads>(own_forced, shared.sums, &forced_sum);
  const uint64_t budget = block_budget(share, total, inclusive), rest = total - forced_sum;
  if (inclusive ? budget <= forced_sum : budget < forced_sum) return forced;
  if (!inclusive && rest <= budget - forced_sum) return items.count();
  const uint64_t target = inclusive ? min(budget - forced_sum, rest) : budget - forced_sum + 1;
  if (target == 0) return forced;
  const auto key = [&](int i) { return ordered_bits(items.value(i)); };
  const auto weight = [&](int i, uint32_t) { return items.is_forced(i) ? uint64_t(0) : block_weight(items.value(i)); };
  const Crossing crossing = find_crossing<Threads>(items.count(), target, key, weight, shared);
  int better = 0, all;
  uint64_t unit = 0, most;
  for (int i = threadIdx.x; i < items.count(); i += Threads) {
    const uint32_t bits = key(i);
    if (bits > crossing.key && !items.is_forced(i)) ++better;
    if (bits == crossing.key) unit = block_weight(items.value(i));
  }
  block_prefix<Threads>(better, reinterpret_cast<int*>(shared.warps), &all);
  for (int offset = 16; offset > 0; offset >>= 1) unit = max(unit, __shfl_xor_sync(kAllLanes, unit, offset));
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = unit;
  __syncthreads();
  most = 0;
  for (int w = 0; w < Threads / 32; ++w) most = max(most, shared.sums[w]);
  __syncthreads();
  return forced + all + (inclusive ? (crossing.remaining + most - 1) / most : (crossing.remaining - 1) / most);
}

template <int Threads>
__device__ int count_forced(const Items& items, SelectShared& shared) {
  if (items.forced == nullptr) return 0;
  int own = 0, total;
  for (int i = threadIdx.x; i < items.count(); i += Threads) own += items.is_forced(i);
  block_prefix<Threads>(own, reinterpret_cast<int*>(shared.warps), &total);
  return total;
}

// Adds the forced items and the `others` best of the rest. A thread has words of bits; ties go to the first items.
template <int Threads>
__device__ void mark(const Items& items, int64_t others, SelectShared& shared) {
  const auto key = [&](int i) { return ordered_bits(items.value(i)); };
  const auto weight = [&](int i, uint32_t) { return items.is_forced(i) ? uint64_t(0) : uint64_t(1); };
  Crossing crossing = {0xffffffffu, 0};
  if (others > 0) crossing = find_crossing<Threads>(items.count(), others, key, weight, shared);
  const int words = (items.columns + 31) / 32;
  const bool any = others > 0;
  uint64_t ties = 0; // before this round's words
  for (int base = 0; base < items.rows * words; base += Threads) {
    const int at = base + threadIdx.x, row = at / words, word = at % words;
    const bool valid = at < items.rows * words;
    uint32_t chosen = 0, tied = 0;
    for (int i = 0; valid && i < 32 && word * 32 + i < items.columns; ++i) {
      const int item = row * items.columns + word * 32 + i;
      const bool is_forced = items.is_forced(item);
      const uint32_t bits = key(item);
      if (is_forced || (any && bits > crossing.key)) chosen |= 1u << i;
      if (any && !is_forced && bits == crossing.key) tied |= 1u << i;
    }
    uint64_t total;
    uint64_t before = ties + block_prefix<Threads>(static_cast<uint64_t>(__popc(tied)), shared.sums, &total);
    for (; tied != 0 && before < crossing.remaining; tied &= tied - 1, ++before) chosen |= tied & (~tied + 1);
    if (valid) items.bits[row * items.bits_stride + word] |= chosen;
    ties += total;
  }
}

template <int Threads>
__global__ void __launch_bounds__(Threads) cumulative_kernel(const ChoiceArgs args) {
  __shared__ SelectShared shared;
  const int first = blockIdx.x * args.rows, group = first / args.per_group;
  int64_t count = 0;
  if (!args.gate || args.gate.row<float>(0)[group] < args.threshold) {
    const Items items = items_of(args, first);
    const int forced = count_forced<Threads>(items, shared);
    count = reaching<Threads>(items, forced, args.shares[group], args.inclusive, shared);
    if (first % args.per_group < args.extra_rows) count += args.extra;
    count = block_count(count, forced, items.count(), args.least, args.most);
    if (args.bits) mark<Threads>(items, count - forced, shared);
  }
  if (args.counts && threadIdx.x == 0) args.counts.row<int32_t>(0)[blockIdx.x] = static_cast<int32_t>(count);
}

template <int Threads>
__global__ void __launch_bounds__(Threads) top_bits_kernel(const ChoiceArgs args) {
  __shared__ SelectShared shared;
  const Items items = items_of(args, blockIdx.x);
  const int forced = count_forced<Threads>(items, shared);
  mark<Threads>(items, block_count(args.counts.row<int32_t>(0)[blockIdx.x], forced, items.count(), 0, 0) - forced, shared);
}

__global__ void __launch_bounds__(kSmallThreads) divide_kernel(int32_t* counts, int n, int offset, int divisor, int least, int most) {
  const int i = blockIdx.x * kSmallThreads + threadIdx.x;
  if (i < n) counts[i] = static_cast<int32_t>(max(int64_t(least), min(int64_t(most), (int64_t(counts[i]) + offset) / divisor)));
}

__global__ void __launch_bounds__(kSmallThreads) where_kernel(const float* gate, float threshold, int value, int32_t* counts, int n) {
  const int i = blockIdx.x * kSmallThreads + threadIdx.x;
  if (i < n && gate[i] < threshold) counts[i] = value;
}

__global__ void __launch_bounds__(kSmallThreads) js_kernel(const float* p, int64_t p_stride, const float* q, int64_t q_stride, int columns, float* out) {
  __shared__ float shared[kSmallThreads / 32];
  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += kSmallThreads) {
    const float a = p[blockIdx.x * p_stride + c], b = q[blockIdx.x * q_stride + c], mean = (a + b) / 2;
    if (a > 0) sum += a * logf(a / mean);
    if (b > 0) sum += b * logf(b / mean);
  }
  sum = block_sum<kSmallThreads>(sum, shared);
  if (threadIdx.x == 0) out[blockIdx.x] = sqrtf(fmaxf(0, sum / 2));
}

}  // namespace

void cumulative(Context& context, Matrix x, const Cumulative& how, Matrix forced, Matrix gate, Matrix counts, Matrix bits) {
  const int per_group = x.rows / how.groups, rows = how.flat ? per_group : 1;
  double* shares = static_cast<double*>(context.scratch(how.groups * int64_t(sizeof(double))));
  cuda_device(context).store(shares, how.shares, how.groups * int64_t(sizeof(double)));
  const ChoiceArgs args = {x,    forced,       gate,      counts,         bits,      shares,   how.groups,   per_group,
                           rows, how.inclusive, how.extra, how.extra_rows, how.least, how.most, how.threshold};
  if (int64_t(rows) * x.columns <= kRowItems)
    cumulative_kernel<kRowThreads><<<x.rows / rows, kRowThreads, 0, stream_of(context)>>>(args);
  else
    cumulative_kernel<kThreads><<<x.rows / rows, kThreads, 0, stream_of(context)>>>(args);
  check_launch();
}

void top_bits(Context& context, Matrix x, Matrix counts, Matrix forced, Matrix bits) {
  ChoiceArgs args = {x, forced, {}, counts, bits};
  args.rows = 1;
  if (x.columns <= kRowItems)
    top_bits_kernel<kRowThreads><<<x.rows, kRowThreads, 0, stream_of(context)>>>(args);
  else
    top_bits_kernel<kThreads><<<x.rows, kThreads, 0, stream_of(context)>>>(args);
  check_launch();
}

void counts_divide(Context& context, Matrix counts, int32_t offset, int32_t divisor, int32_t least, int32_t most) {
  divide_kernel<<<divide_up(counts.columns, kSmallThreads), kSmallThreads, 0, stream_of(context)>>>(counts.row<int32_t>(0), counts.columns, offset,
                                                                                                    divisor, least, most);
  check_launch();
}

void counts_where(Context& context, Matrix gate, float threshold, int32_t value, Matrix counts) {
  where_kernel<<<divide_up(counts.columns, kSmallThreads), kSmallThreads, 0, stream_of(context)>>>(gate.row<float>(0), threshold, value,
                                                                                                   counts.row<int32_t>(0), counts.columns);
  check_launch();
}

void js_distance(Context& context, Matrix p, Matrix q, Matrix out) {
  js_kernel<<<p.rows, kSmallThreads, 0, stream_of(context)>>>(p.row<float>(0), p.stride, q.row<float>(0), q.stride, p.columns, out.row<float>(0));
  check_launch();
}

}  // namespace kva

// ids from logits: the largest, or a draw from the top_k and top_p share; log-probabilities of given ids. A block has one row.
#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/order.cuh"
#include "../device/reduce.cuh"
#include "../device/select.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr float kWeightOne = 1099511627776.0f; // 2^40: the weight of the largest logit; 2^22 of them fit 64 bits

__device__ __forceinline__ float shown(float logit) { return isnan(logit) ? -INFINITY : logit; }

// Smaller ranks come first: larger logit, then lower column.
__device__ __forceinline__ uint64_t rank_of(uint32_t key, int column) { return static_cast<uint64_t>(~key) << 32 | static_cast<uint32_t>(column); }

__device__ uint64_t first_rank(const float* logits, int columns, uint64_t* shared) {
  uint64_t best = UINT64_MAX;
#pragma unroll 8
  for (int i = threadIdx.x; i < columns; i += kThreads) best = min(best, rank_of(ordered_bits(shown(logits[i])), i));
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) best = min(best, __shfl_xor_sync(kAllLanes, best, offset));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared[0];
  for (int other = 1; other < kWarps; ++other) best = min(best, shared[other]);
  __syncthreads();
  return best;
}

// An item's share of the draw, and the rank that ends those taken so far.
struct Draw {
  const float* logits;
  int columns;
  float top, temperature;
  uint64_t last_rank = UINT64_MAX;
  uint64_t sum = 0; // of the weights up to last_rank

  __device__ uint32_t key(int i) const { return ordered_bits(shown(logits[i])); }
  __device__ uint64_t weight(int i) const {
    return static_cast<uint64_t>(rintf(expf((shown(logits[i]) - top) / temperature) * kWeightOne));
  }

  // Ends those taken at the first item whose running sum reaches target. weight(i, key) depends on the key alone.
  template <class Weight>
  __device__ void cut(uint64_t target, Weight weight, SelectShared& shared) {
    const auto taken = [&](int i, uint32_t k) { return rank_of(k, i) <= last_rank ? weight(i, k) : 0; };
    const Crossing crossing = find_crossing<kThreads>(columns, target, [&](int i) { return key(i); }, taken, shared);
    if (threadIdx.x == 0) shared.column = 0;
    __syncthreads();
    uint64_t seen = 0; // of the ties in the columns before
    for (int base = 0; base < columns && seen < crossing.remaining; base += kThreads) {
      const int i = base + threadIdx.x;
      const uint32_t k = i < columns ? key(i) : 0;
      const uint64_t w = i < columns && k == crossing.key ? taken(i, k) : 0;
      uint64_t total;
      const uint64_t before = seen + block_prefix<kThreads>(w, shared.sums, &total);
      if (w > 0 && before < crossing.remaining && crossing.remaining <= before + w) {
        shared.column = i;
        shared.before = target - crossing.remaining + before + w;
      }
      seen += total;
    }
    __syncthreads();
    last_rank = rank_of(crossing.key, shared.column);
    sum = shared.before;
    __syncthreads();
  }

  __device__ uint64_t total(uint64_t* shared) const {
    uint64_t own = 0, all;
    for (int i = threadIdx.x; i < columns; i += kThreads)
      if (rank_of(key(i), i) <= last_rank) own += weight(i);
    block_prefix<kThreads>(own, shared, &all);
    return all;
  }
};

struct SampleArgs {
  KvSeq* const* sequences;
  const float* logits;
  int64_t stride;
  int columns, top_k;
  float temperature, top_p;
  uint32_t seed;
  int32_t* ids;
};

__global__ void __launch_bounds__(kThreads) sample_kernel(const SampleArgs args) {
  __shared__ SelectShared shared;
  let_next_start();
  wait_for_inputs();
  const float* logits = args.logits + blockIdx.x * args.stride;
  const uint64_t first = first_rank(logits, args.columns, shared.sums);
  const float top = shown(logits[static_cast<uint32_t>(first)]);
  uint64_t chosen = first;
  if (args.temperature > 0 && !isinf(top)) {
    Draw draw = {logits, args.columns, top, args.temperature};
    const auto weight = [&](int i, uint32_t) { return draw.weight(i); };
    if (args.top_k > 0 && args.top_k < args.columns) draw.cut(args.top_k, [](int, uint32_t) { return uint64_t(1); }, shared);
    draw.sum = draw.total(shared.sums);
    if (args.top_p < 1) {
      const double wanted = ceil(static_cast<double>(args.top_p) * static_cast<double>(draw.sum));
      draw.cut(max(uint64_t(1), min(static_cast<uint64_t>(fmax(wanted, 0.0)), draw.sum)), weight, shared);
    }
    const KvSeq* sequence = args.sequences[blockIdx.x];
    const float random = unit(philox(args.seed, sequence->stream, static_cast<uint32_t>(sequence->position), 0, 0, 0).word[0]);
    const uint64_t passed = static_cast<uint64_t>(static_cast<double>(random) * static_cast<double>(draw.sum));
    draw.cut(min(passed + 1, draw.sum), weight, shared);
    chosen = draw.last_rank;
  }
  if (threadIdx.x == 0) args.ids[blockIdx.x] = static_cast<int32_t>(static_cast<uint32_t>(chosen));
}

__global__ void __launch_bounds__(kThreads) logprobs_kernel(const float* logits, int64_t stride, int columns, const int32_t* ids, float* out) {
  __shared__ float shared[kWarps];
  const float* row = logits + blockIdx.x * stride;
  const int id = ids[blockIdx.x];
  float top = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < columns; i += kThreads) top = fmaxf(top, row[i]);
  top = block_max<kThreads>(top, shared);
  for (int i = threadIdx.x; i < columns; i += kThreads) sum += expf(shown(row[i]) - top);
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) out[blockIdx.x] = id >= 0 && id < columns ? row[id] - top - logf(sum) : -INFINITY;
}

}  // namespace

void sample(Context& context, Batch& batch, Matrix logits, float temperature, int32_t top_k, float top_p, uint32_t seed, Matrix ids) {
  if (batch.sequences() == 0) return;
  const SampleArgs args = {batch.table, logits.row<float>(0), logits.stride, logits.columns, top_k, temperature, top_p, seed, ids.row<int32_t>(0)};
  launch_early(sample_kernel, dim3(batch.sequences()), kThreads, 0, stream_of(context), args);
}

void logprobs(Context& context, Matrix logits, Matrix ids, Matrix out) {
  if (logits.rows == 0) return;
  logprobs_kernel<<<logits.rows, kThreads, 0, stream_of(context)>>>(logits.row<float>(0), logits.stride, logits.columns, ids.row<int32_t>(0),
                                                                    out.row<float>(0));
  check_launch();
}

}  // namespace kva

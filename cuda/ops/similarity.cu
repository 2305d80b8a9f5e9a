// Keys against the mean of their head's keys, each divided by its norm (KeyDiff): m = mean_i k_i / |k_i|, s_j = k_j . m / (|k_j| |m|).
// A block has a head and reads its keys twice; a warp has a row at a time.
#include "../core/cuda.h"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 512, kWarps = kThreads / 32, kEach = most_head_dim / 32;
constexpr float kLeastNorm = 1e-12f;

struct SimilarityArgs {
  KvSeq* const* sequences; // NULL: the one below
  KvSeq* sequence;
  int layer, head_dim;
  float* out; // NULL: the side array
  int64_t out_stride;
  int side, rows; // heads with fewer rows stay as they are
  float factor;
};

template <class T>
__global__ void __launch_bounds__(kThreads) similarity_kernel(const SimilarityArgs args) {
  __shared__ float sums[kWarps][most_head_dim], mean[most_head_dim], shared[kWarps];
  KvSeq* sequence = args.sequences == nullptr ? args.sequence : args.sequences[blockIdx.y];
  const KvHead* head = layer_heads(sequence, args.layer) + blockIdx.x;
  const int length = head->len, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (length < args.rows || length == 0) return;
  const T* keys = static_cast<const T*>(head->k);
  float key[kEach];
  const auto load = [&](int row) {
    float square = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int d = lane + 32 * i;
      key[i] = d < args.head_dim ? widen(keys[int64_t(row) * args.head_dim + d]) : 0;
      square = fmaf(key[i], key[i], square);
    }
    return fmaxf(sqrtf(warp_sum(square)), kLeastNorm);
  };

  float sum[kEach] = {};
  for (int row = warp; row < length; row += kWarps) {
    const float inverse = 1 / load(row);
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum[i] = fmaf(key[i], inverse, sum[i]);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) sums[warp][lane + 32 * i] = sum[i];
  __syncthreads();
  float all = 0; // a thread has one channel: most_head_dim threads
#pragma unroll
  for (int w = 0; w < kWarps; ++w) all += sums[w][threadIdx.x];
  all /= static_cast<float>(length);
  mean[threadIdx.x] = all;
  const float mean_norm = fmaxf(sqrtf(block_sum<kThreads>(all * all, shared)), kLeastNorm);

  for (int row = warp; row < length; row += kWarps) {
    const float norm = load(row);
    float product = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) product = fmaf(key[i], mean[lane + 32 * i], product);
    product = warp_sum(product) / (norm * mean_norm);
    if (lane > 0) continue;
    if (args.out != nullptr)
      args.out[blockIdx.x * args.out_stride + row] = product;
    else
      head->side[args.side][row] = args.factor * product;
  }
}

static_assert(kThreads == most_head_dim, "a thread has a channel of the mean");

}  // namespace

void key_similarity(Context& context, Kv& kv, int32_t layer, Matrix out) {
  const KvShape& shape = kv.shape;
  SimilarityArgs args = {};
  args.sequence = kv.table;
  args.layer = layer;
  args.head_dim = shape.head_dim;
  args.out = out.row<float>(0);
  args.out_stride = out.stride;
  with_device_type(shape.dtype, [&](auto type) { similarity_kernel<decltype(type)><<<shape.kv_heads, kThreads, 0, stream_of(context)>>>(args); });
  check_launch();
}

void note_similarity(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                     float factor) {
  const KvShape& shape = batch.shape();
  SimilarityArgs args = {};
  args.sequences = batch.table + first_sequence;
  args.layer = layer;
  args.head_dim = shape.head_dim;
  args.side = side;
  args.rows = rows;
  args.factor = factor;
  with_device_type(shape.dtype, [&](auto type) {
    similarity_kernel<decltype(type)><<<dim3(shape.kv_heads, sequences), kThreads, 0, stream_of(context)>>>(args);
  });
  check_launch();
}

}  // namespace kva

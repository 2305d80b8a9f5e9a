// Pages of rows: bounds of their keys, what a query can score on them at most, and the choice of those that attention reads.
// floor: the bounds of every page at the rate of a copy: an eighth of the keys with pages of 16 rows, 11 us a layer at 128K rows and 8 KV heads.
// measured (H100 80GB, 2026-11-25): a step that reads 2048 rows of 128K takes 2.67 ms on 8 layers, one that reads 2048 rows of a short cache 1.9: scores,
// choice and bounds take 97 us a layer. At 32K 7.02 ms on 32 layers beside 6.1.
// gap: one block of a head chooses, and goes over the scores five times.
#include "../core/pages.h"

#include "../core/cuda.h"
#include "../device/best_columns.cuh"
#include "../device/early_launch.cuh"
#include "../device/number.cuh"
#include "../device/order.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChooseThreads = 1024;
constexpr int kBlockPages = 32; // of a block that scores
constexpr int kLeastPageRows = 16;
constexpr size_t kMostShared = 96 << 10; // of a block, on every device

// grid: pages, KV heads
template <class T>
__global__ void __launch_bounds__(kThreads) make_bounds_kernel(KvSeq* sequence, int layer, int head_dim) {
  const KvHead& head = layer_heads(sequence, layer)[blockIdx.y];
  const int pages = pages_of(head, head.len);
  for (int page = blockIdx.x; page < pages; page += gridDim.x)
    for (int c = threadIdx.x; c < head_dim; c += blockDim.x)
      PageBounds<DeviceNumber, T>(head, head_dim, page, c).make(head_dim, min(head.page_rows, head.len - page * head.page_rows));
}

struct ScoreArgs {
  KvSeq* const* sequences;
  const void* q;
  int64_t q_stride, scores_stride;
  float* scores;
  int q_dtype, layer, group, kv_heads, head_dim;
  bool maximum;
};

__device__ __forceinline__ float load_query(const ScoreArgs& args, int64_t at) {
  if (args.q_dtype == KVA_F32) return static_cast<const float*>(args.q)[at];
  if (args.q_dtype == KVA_F16) return widen(static_cast<const __half*>(args.q)[at]);
  return widen(static_cast<const __nv_bfloat16*>(args.q)[at]);
}

// A warp has a page at a time; grid: blocks of pages, KV heads, sequences.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads) page_scores_kernel(const ScoreArgs args) {
  extern __shared__ float queries[]; // [group, head_dim]
  wait_for_inputs();
  const int kv_head = blockIdx.y, sequence = blockIdx.z, lane = threadIdx.x % 32, first = blockIdx.x * kBlockPages;
  const KvHead& head = layer_heads(args.sequences[sequence], args.layer)[kv_head];
  if (head.page_rows == 0) return;
  const int end = min(first + kBlockPages, pages_of(head, head.len));
  if (first >= end) return;
  const int numbers = args.group * args.head_dim;
  for (int i = threadIdx.x; i < numbers; i += kThreads) queries[i] = load_query(args, sequence * args.q_stride + int64_t(kv_head) * numbers + i);
  __syncthreads();

  float* out = args.scores + (int64_t(sequence) * args.kv_heads + kv_head) * args.scores_stride;
  for (int page = first + threadIdx.x / 32; page < end; page += kWarps) {
    const T* least = static_cast<const T*>(head.bounds) + int64_t(page) * 2 * args.head_dim;
    float score = args.maximum ? -INFINITY : 0;
    for (int g = 0; g < args.group; ++g) {
      const float* query = queries + g * args.head_dim;
      float sum = 0;
      for (int c = lane * Width; c < args.head_dim; c += 32 * Width) {
        const Pack<T, Width> low = load_pack<Width>(least + c), high = load_pack<Width>(least + args.head_dim + c);
#pragma unroll
        for (int i = 0; i < Width; ++i) sum += fmaxf(query[c + i] * widen(low.at[i]), query[c + i] * widen(high.at[i]));
      }
      sum = warp_sum(sum);
      score = args.maximum ? fmaxf(score, sum) : score + sum;
    }
    if (lane == 0) out[page] = args.maximum ? score : score / args.group;
  }
}

// grid: KV heads, sequences
__global__ void __launch_bounds__(kChooseThreads) choose_pages_kernel(KvSeq* const* sequences, int layer, int rows, const float* scores,
                                                                      int64_t scores_stride, int32_t* pages, int64_t pages_stride, int32_t* counts) {
  __shared__ SelectShared shared;
  wait_for_inputs();
  const KvHead& head = layer_heads(sequences[blockIdx.y], layer)[blockIdx.x];
  const int64_t row = int64_t(blockIdx.y) * gridDim.x + blockIdx.x;
  const bool all = head.page_rows == 0 || head.len <= rows;
  const int count = all ? -1 : rows / head.page_rows;
  if (threadIdx.x == 0) counts[row] = count;
  if (all) return;
  const int last = pages_of(head, head.len) - 1;
  int32_t* to = pages + row * pages_stride;
  if (threadIdx.x == 0) to[count - 1] = last;
  const float* from = scores + row * scores_stride;
  if (count > 1) write_best_columns<kChooseThreads>(last, count - 1, [&](int i) { return ordered_bits(from[i]); }, to, shared);
}

}  // namespace

void make_bounds(Context& context, Kv& kv, int32_t layer) {
  int32_t pages = 0;
  for (int32_t h = 0; h < kv.shape.kv_heads; ++h) pages = std::max(pages, pages_of(kv.layer(layer)[h], kv.layer(layer)[h].len));
  if (pages == 0) return;
  const dim3 grid(std::min(pages, 65535), kv.shape.kv_heads);
  const int threads = std::min(kThreads, divide_up(kv.shape.head_dim, 32) * 32);
  with_device_type(kv.shape.dtype, [&](auto type) {
    make_bounds_kernel<decltype(type)><<<grid, threads, 0, stream_of(context)>>>(kv.table, layer, kv.shape.head_dim);
  });
  check_launch();
}

void page_scores(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix q, int32_t reduce, Matrix scores) {
  const KvShape& shape = batch.shape();
  require(sequences <= 65535, "%d sequences are more than 65535", sequences);
  if (batch.splits == 0) return;
  ScoreArgs args = {};
  args.sequences = batch.table + first_sequence;
  args.q = q.row<char>(0) + first_sequence * q.pitch();
  args.q_stride = q.stride;
  args.q_dtype = q.dtype;
  args.scores = scores.row<float>(int64_t(first_sequence) * shape.kv_heads);
  args.scores_stride = scores.stride;
  args.layer = layer;
  args.group = shape.group();
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.maximum = reduce == KVA_REDUCE_MAX;
  const dim3 grid(divide_up(batch.splits * split_rows / kLeastPageRows, kBlockPages), shape.kv_heads, sequences);
  const size_t shared = size_t(args.group) * args.head_dim * sizeof(float);
  if (shared > kMostShared)
    fail(KVA_E_UNSUPPORTED, "a group of %d query heads of %d channels is more than the %d numbers that fit", args.group, args.head_dim,
         int(kMostShared / sizeof(float)));
  with_device_type(shape.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int width = 4;
    if (args.head_dim % width == 0) {
      allow_shared<page_scores_kernel<T, width>>(shared);
      launch_early(page_scores_kernel<T, width>, grid, kThreads, shared, stream_of(context), args);
    } else {
      allow_shared<page_scores_kernel<T, 1>>(shared);
      launch_early(page_scores_kernel<T, 1>, grid, kThreads, shared, stream_of(context), args);
    }
  });
}

void choose_pages(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix scores, int32_t rows,
                  Matrix pages, Matrix counts) {
  const int32_t kv_heads = batch.shape().kv_heads, row = first_sequence * kv_heads;
  launch_early(choose_pages_kernel, dim3(kv_heads, sequences), kChooseThreads, 0, stream_of(context), batch.table + first_sequence, layer, rows,
               scores.row<float>(row), scores.stride, pages.row<int32_t>(row), pages.stride, counts.row<int32_t>(0) + row);
}

}  // namespace kva

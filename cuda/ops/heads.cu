// Scores over all heads and budgets of each head: means and sums of rows, shared probabilities, as many rows in each head as it may hold.
#include "../core/cuda.h"
#include "../device/drop_rows.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) fill_at_kernel(float* x, int64_t x_stride, int columns, const int32_t* index, int64_t index_stride, int count,
                                                           float value) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const int c = index[blockIdx.y * index_stride + i];
  if (c >= 0 && c < columns) x[blockIdx.y * x_stride + c] = value;
}

__global__ void __launch_bounds__(kThreads) multiply_kernel(const float* x, int64_t x_stride, const float* y, int64_t y_stride, float* out,
                                                            int64_t out_stride, int columns) {
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c < columns) out[blockIdx.y * out_stride + c] = x[blockIdx.y * x_stride + c] * y[blockIdx.y * y_stride + c];
}

__global__ void __launch_bounds__(kThreads) rows_mean_kernel(const float* x, int64_t x_stride, int rows, int columns, float* out, int64_t out_stride) {
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= columns) return;
  float sum = 0;
  for (int r = 0; r < rows; ++r) sum += x[r * x_stride + c];
  for (int r = 0; r < rows; ++r) out[r * out_stride + c] = sum / static_cast<float>(rows);
}

constexpr int kSumThreads = 1024;
__global__ void __launch_bounds__(kSumThreads) row_sums_kernel(const float* x, int64_t x_stride, int columns, float* out, int64_t out_stride) {
  __shared__ float shared[kSumThreads / 32];
  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += kSumThreads) sum += x[blockIdx.x * x_stride + c];
  sum = block_sum<kSumThreads>(sum, shared);
  if (threadIdx.x == 0) out[blockIdx.x * out_stride] = sum;
}

// Grid: row blocks, sequences. A thread has one row of all heads, whose numbers of rows may differ.
__global__ void __launch_bounds__(kThreads) accumulate_shared_kernel(KvSeq* const* sequences, int layer, const float* probs, int64_t stride, int columns,
                                                                     int kv_heads, int side, float factor, float decay) {
  let_next_start();
  wait_for_inputs();
  const KvHead* heads = layer_heads(sequences[blockIdx.y], layer);
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= columns) return;
  const float* p = probs + int64_t(blockIdx.y) * kv_heads * stride + row;
  float sum = 0;
  for (int h = 0; h < kv_heads; ++h) sum += p[h * stride];
  const float mean = sum / static_cast<float>(kv_heads);
  for (int h = 0; h < kv_heads; ++h) {
    if (row >= heads[h].len) continue;
    float* value = heads[h].side[side] + row;
    *value = __fadd_rn(__fmul_rn(*value, decay), __fmul_rn(factor, mean));
  }
}

constexpr int kMostHeads = 64; // of a launch: their limits are its arguments

struct KeepEachArgs {
  HeadArgs heads;
  int first_head, sinks;
  int rows[kMostHeads];
};

// The oldest row past the sinks makes room, if the head holds more than its rows: the last row moves into its place, but among codes it is marked.
template <class Word>
__global__ void __launch_bounds__(kDropThreads, 1) keep_each_kernel(const __grid_constant__ KeepEachArgs args) {
  __shared__ Smallest smallest;
  let_next_start();
  wait_for_inputs();
  KvHead* head = layer_heads(args.heads.sequences[blockIdx.y], args.heads.layer) + args.first_head + blockIdx.x;
  const RowArrays arrays(*head);
  const int length = head->len;
  const bool marks = marks_dropped(*head);
  if (live_rows(*head) <= args.rows[blockIdx.x]) return;
  uint64_t key = kNoRow;
  int place = -1;
#pragma unroll 4
  for (int row = args.sinks + threadIdx.x; row < length; row += kDropThreads) {
    const int position = arrays.pos[row];
    if (position < 0 || uint32_t(position) >= key) continue;
    key = uint32_t(position);
    place = row;
  }
  place = smallest.find(key, place);
  if (place < 0) return;
  if (!marks) drop_row<Word>(arrays, place, length, args.heads);
  if (threadIdx.x > 0) return;
  if (marks)
    mark_dropped(head, place);
  else
    head->len = length - 1;
}

}  // namespace

void fill_at(Context& context, Matrix x, Matrix index, float value) {
  if (index.columns == 0 || index.rows == 0) return;
  fill_at_kernel<<<dim3(divide_up(index.columns, kThreads), index.rows), kThreads, 0, stream_of(context)>>>(
      x.row<float>(0), x.stride, x.columns, index.row<int32_t>(0), index.stride, index.columns, value);
  check_launch();
}

void multiply(Context& context, Matrix x, Matrix y, Matrix out) {
  if (x.columns == 0 || x.rows == 0) return;
  multiply_kernel<<<dim3(divide_up(x.columns, kThreads), x.rows), kThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, y.row<float>(0), y.stride,
                                                                                                   out.row<float>(0), out.stride, x.columns);
  check_launch();
}

void rows_mean(Context& context, Matrix x, Matrix out) {
  if (x.columns == 0) return;
  rows_mean_kernel<<<divide_up(x.columns, kThreads), kThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, x.rows, x.columns, out.row<float>(0),
                                                                                       out.stride);
  check_launch();
}

void row_sums(Context& context, Matrix x, Matrix out) {
  if (x.rows == 0) return;
  row_sums_kernel<<<x.rows, kSumThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, x.columns, out.row<float>(0), out.stride);
  check_launch();
}

void accumulate_shared(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side,
                       float factor, float decay) {
  const int32_t kv_heads = batch.shape().kv_heads;
  const int64_t columns = std::min<int64_t>(probs.columns, int64_t(batch.splits) * split_rows);
  if (sequences == 0 || columns == 0) return;
  launch_early(accumulate_shared_kernel, dim3(divide_up(columns, kThreads), sequences), kThreads, 0, stream_of(context), batch.table + first_sequence,
               layer, probs.row<float>(int64_t(first_sequence) * kv_heads), probs.stride, static_cast<int>(columns), kv_heads, side, factor, decay);
}

void keep_at_most_each(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, const int32_t* rows,
                       int32_t sinks) {
  const KvShape& shape = batch.shape();
  for (int32_t begin = 0; begin < shape.kv_heads && sequences > 0; begin += kMostHeads) {
    const int32_t heads = std::min(kMostHeads, shape.kv_heads - begin);
    with_row_word(shape, [&](auto word, int words) {
      KeepEachArgs args = {head_args(batch, first_sequence, layer, words), begin, sinks, {}};
      std::copy_n(rows + begin, heads, args.rows);
      launch_early(keep_each_kernel<decltype(word)>, dim3(heads, sequences), kDropThreads, 0, stream_of(context), args);
    });
  }
}

}  // namespace kva

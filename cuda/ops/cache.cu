// The cache's rows: keeping some of them, in order; dropping one a step; adding to side arrays; rotating the sinks or every key; the position counters.
#include "../core/cuda.h"
#include "../device/drop_rows.cuh"
#include "../device/order.cuh"
#include "../device/reduce.cuh"
#include "../device/rotation.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

constexpr int kKeepHeads = 16; // of a launch: their addresses are its arguments

struct KeepArgs {
  RowArrays from[kKeepHeads], to[kKeepHeads];
  int length[kKeepHeads], count[kKeepHeads];
  const int32_t* index;
  int64_t index_stride;
  int first, last, row_words, side_arrays;
};

template <class Word>
__global__ void __launch_bounds__(kThreads) keep_rows_kernel(const __grid_constant__ KeepArgs args) {
  const int head = blockIdx.y, count = args.count[head], length = args.length[head], rows = args.first + count + args.last;
  for (int row = blockIdx.x * kWarps + threadIdx.x / 32; row < rows; row += gridDim.x * kWarps) {
    int source = row;
    if (row >= args.first + count)
      source = length - rows + row;
    else if (row >= args.first)
      source = max(args.first, min(args.index[head * args.index_stride + row - args.first], length - args.last - 1));
    copy_row<Word>(args.from[head], source, args.to[head], row, args.row_words, args.side_arrays);
  }
}

// A head's row with the smallest key, if it holds more than `rows`, makes room: the last row moves into its place, but among codes it is marked.
struct DropChoice {
  int rows;
  int sinks;        // by age: rows before this one stay
  int side, recent; // by side value: rows with position > counter - recent stay
};

template <class Word, bool BySide>
__global__ void __launch_bounds__(kDropThreads, 1) drop_row_kernel(const HeadArgs args, const DropChoice choice) {
  __shared__ Smallest smallest;
  let_next_start();
  wait_for_inputs();
  KvSeq* sequence = args.sequences[blockIdx.y];
  KvHead* head = layer_heads(sequence, args.layer) + blockIdx.x;
  const RowArrays arrays(*head);
  const int length = head->len, newest = sequence->position - choice.recent;
  const bool marks = marks_dropped(*head);
  if (live_rows(*head) <= choice.rows) return;

  const float* values = head->side[choice.side];
  uint64_t key = kNoRow;
  int place = -1;
#pragma unroll 4
  for (int row = (BySide ? 0 : choice.sinks) + threadIdx.x; row < length; row += kDropThreads) {
    const int position = arrays.pos[row]; // by age, a marked row is the youngest
    const uint64_t value = BySide ? ordered_bits(values[row]) : 0;
    const uint64_t candidate = BySide && (position < 0 || position > newest) ? kNoRow : value << 32 | static_cast<uint32_t>(position);
    if (candidate >= key) continue;
    key = candidate;
    place = row;
  }
  place = smallest.find(key, place);
  if (place < 0) return;
  if (!marks) drop_row<Word>(arrays, place, length, args);
  if (threadIdx.x > 0) return;
  if (marks)
    mark_dropped(head, place);
  else
    head->len = length - 1;
}

template <bool BySide>
void drop_one_row(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, const DropChoice& choice) {
  if (sequences == 0) return;
  with_row_word(batch.shape(), [&](auto word, int words) {
    launch_early(drop_row_kernel<decltype(word), BySide>, dim3(batch.shape().kv_heads, sequences), kDropThreads, 0, stream_of(context),
                 head_args(batch, first_sequence, layer, words), choice);
  });
}

__global__ void __launch_bounds__(kThreads) accumulate_kernel(KvSeq* const* sequences, int layer, const float* probs, int64_t stride, int columns, int side,
                                                              float factor, float decay) {
  let_next_start();
  wait_for_inputs();
  KvSeq* sequence = sequences[blockIdx.z];
  const KvHead* head = layer_heads(sequence, layer) + blockIdx.y;
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= min(head->len, columns)) return;
  const float prob = probs[(int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * stride + row];
  float* value = head->side[side] + row;
  *value = __fadd_rn(__fmul_rn(*value, decay), __fmul_rn(factor, prob));
}

struct TurnArgs {
  KvSeq* const* sequences;
  const float* inv_freq;
  int64_t inv_freq_stride; // 0: one row for all
  int layer, sinks, unrotated_rows, head_dim, pairs;
  float mscale;
  bool interleaved;
};

// Part i of a key, a pair or behind them a number of its own, from its unrotated form.
template <class T>
__device__ __forceinline__ void turn_part(const TurnArgs& args, const float* inv_freq, const T* from, T* to, int position, int i) {
  if (i >= args.pairs) {
    to[i + args.pairs] = from[i + args.pairs];
    return;
  }
  const int a = args.interleaved ? 2 * i : i, b = args.interleaved ? a + 1 : args.pairs + i;
  const Turn turn = turn_at(position, inv_freq[i], args.mscale);
  const float x = widen(from[a]), y = widen(from[b]);
  to[a] = narrow<T>(x * turn.cosine - y * turn.sine);
  to[b] = narrow<T>(x * turn.sine + y * turn.cosine);
}

template <class T>
__global__ void __launch_bounds__(kThreads) rotate_sinks_kernel(const TurnArgs args) {
  let_next_start();
  wait_for_inputs();
  KvSeq* sequence = args.sequences[blockIdx.y];
  const KvHead* head = layer_heads(sequence, args.layer) + blockIdx.x;
  const int dropped = sequence->position + 1 - head->len, rows = min(args.sinks, head->len), rest = args.head_dim - 2 * args.pairs;
  const float* inv_freq = args.inv_freq + blockIdx.y * args.inv_freq_stride;
  for (int at = threadIdx.x; at < rows * (args.pairs + rest); at += kThreads) {
    const int row = at / (args.pairs + rest), i = at % (args.pairs + rest), position = head->pos[row];
    if (position >= args.unrotated_rows) continue;
    const T* from = static_cast<const T*>(head->unrotated) + int64_t(position) * args.head_dim;
    turn_part(args, inv_freq, from, static_cast<T*>(head->k) + int64_t(row) * args.head_dim, position + dropped, i);
  }
}

// A warp for each row, of KV head blockIdx.y of sequence blockIdx.z.
template <class T>
__global__ void __launch_bounds__(kThreads) rotate_slots_kernel(const TurnArgs args) {
  wait_for_inputs();
  KvSeq* sequence = args.sequences[blockIdx.z];
  const KvHead* head = layer_heads(sequence, args.layer) + blockIdx.y;
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32, length = head->len;
  if (row >= length) return;
  int rank = 0;
  for (int other = lane; other < length; other += 32) rank += head->pos[other] < head->pos[row];
  rank = warp_sum(rank);
  const int64_t at = int64_t(row) * args.head_dim;
  for (int i = lane; i < args.head_dim - args.pairs; i += 32)
    turn_part(args, args.inv_freq + blockIdx.z * args.inv_freq_stride, static_cast<const T*>(head->unrotated_k) + at, static_cast<T*>(head->k) + at,
              rank + sequence->position + 1 - length, i);
}

TurnArgs turn_args(Batch& batch, int32_t first_sequence, int32_t layer, const Matrix& inv_freq, bool interleaved, float mscale) {
  TurnArgs args = {};
  args.sequences = batch.table + first_sequence;
  args.inv_freq = inv_freq.row<float>(inv_freq.rows > 1 ? first_sequence : 0);
  args.inv_freq_stride = inv_freq.rows > 1 ? inv_freq.stride : 0;
  args.layer = layer;
  args.head_dim = batch.shape().head_dim;
  args.pairs = inv_freq.columns;
  args.mscale = mscale;
  args.interleaved = interleaved;
  return args;
}

__global__ void advance_kernel(KvSeq* const* sequences, int count) {
  let_next_start();
  wait_for_inputs();
  const int s = blockIdx.x * blockDim.x + threadIdx.x;
  if (s < count) sequences[s]->position += 1;
}

}  // namespace

void keep_rows(Context& context, const KvShape& shape, const KvHead* from, const KvHead* to, Matrix index, const int32_t* counts, int32_t first,
               int32_t last) {
  for (int begin = 0; begin < shape.kv_heads; begin += kKeepHeads) {
    const int heads = std::min(kKeepHeads, shape.kv_heads - begin);
    KeepArgs args = {};
    int rows = 0;
    for (int h = 0; h < heads; ++h) {
      args.from[h] = RowArrays(from[begin + h]);
      args.to[h] = RowArrays(to[begin + h]);
      args.length[h] = from[begin + h].len;
      args.count[h] = index ? counts[begin + h] : 0;
      rows = std::max(rows, first + args.count[h] + last);
    }
    if (rows == 0) continue;
    args.index = index ? index.row<int32_t>(begin) : nullptr;
    args.index_stride = index.stride;
    args.first = first;
    args.last = last;
    args.side_arrays = shape.side_arrays;
    with_row_word(shape, [&](auto word, int words) {
      args.row_words = words;
      keep_rows_kernel<decltype(word)><<<dim3(divide_up(rows, kWarps), heads), kThreads, 0, stream_of(context)>>>(args);
    });
    check_launch();
  }
}

void keep_at_most(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t sinks) {
  drop_one_row<false>(context, batch, first_sequence, sequences, layer, {rows, sinks, 0, 0});
}

void drop_lowest(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side, int32_t recent) {
  drop_one_row<true>(context, batch, first_sequence, sequences, layer, {rows, 0, side, recent});
}

void accumulate(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side, float factor,
                float decay) {
  const int32_t kv_heads = batch.shape().kv_heads;
  const int64_t columns = std::min<int64_t>(probs.columns, int64_t(batch.splits) * split_rows);
  if (sequences == 0 || columns == 0) return;
  const dim3 grid(divide_up(columns, kThreads), kv_heads, sequences);
  launch_early(accumulate_kernel, grid, kThreads, 0, stream_of(context), batch.table + first_sequence, layer,
               probs.row<float>(int64_t(first_sequence) * kv_heads), probs.stride, static_cast<int>(columns), side, factor, decay);
}

void rotate_sinks(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t sinks, Matrix inv_freq,
                  bool interleaved, float mscale) {
  if (sequences == 0 || sinks == 0) return;
  const KvShape& shape = batch.shape();
  TurnArgs args = turn_args(batch, first_sequence, layer, inv_freq, interleaved, mscale);
  args.sinks = sinks;
  args.unrotated_rows = shape.unrotated_rows;
  with_device_type(shape.dtype, [&](auto type) {
    launch_early(rotate_sinks_kernel<decltype(type)>, dim3(shape.kv_heads, sequences), kThreads, 0, stream_of(context), args);
  });
}

void rotate_slots(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix inv_freq, bool interleaved,
                  float mscale) {
  const KvShape& shape = batch.shape();
  const int blocks = divide_up(batch.splits * split_rows, kWarps);
  if (sequences == 0 || blocks == 0) return;
  const TurnArgs args = turn_args(batch, first_sequence, layer, inv_freq, interleaved, mscale);
  with_device_type(shape.dtype, [&](auto type) {
    launch_early(rotate_slots_kernel<decltype(type)>, dim3(blocks, shape.kv_heads, sequences), kThreads, 0, stream_of(context), args);
  });
}

void advance(Context& context, Batch& batch) {
  const int32_t sequences = batch.sequences();
  if (sequences == 0) return;
  launch_early(advance_kernel, dim3(divide_up(sequences, 32)), 32, 0, stream_of(context), batch.table, sequences);
}

}  // namespace kva

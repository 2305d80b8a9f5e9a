// Eviction and merging while decoding: many rows by side value, one by pooled probabilities; a row's value merged into those after it.
#include "../core/cuda.h"
#include "../core/segments.h"
#include "../device/drop_rows.cuh"
#include "../device/order.cuh"
#include "../device/reduce.cuh"
#include "ops.h"
#include "philox.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = kDropThreads, kWarps = kDropWarps;

template <class Word>
__global__ void __launch_bounds__(kThreads, 1) drop_lowest_kernel(const HeadArgs args, int rows, int side, int recent, int interval) {
  __shared__ Smallest smallest;
  let_next_start();
  wait_for_inputs();
  KvSeq* sequence = args.sequences[blockIdx.y];
  KvHead* head = layer_heads(sequence, args.layer) + blockIdx.x;
  const int newest = sequence->position - recent;
  const bool marks = marks_dropped(*head);
  int length = head->len, live = live_rows(*head);
  if (live - rows < interval) return;
  const RowArrays arrays(*head);
  const float* values = head->side[side];
  for (; live > rows; --live) {
    uint64_t key = kNoRow;
    int place = -1;
#pragma unroll 4
    for (int row = threadIdx.x; row < length; row += kThreads) {
      const int position = arrays.pos[row];
      const uint64_t value = ordered_bits(values[row]);
      const uint64_t candidate = position < 0 || position > newest ? kNoRow : value << 32 | uint32_t(position);
      if (candidate >= key) continue;
      key = candidate;
      place = row;
    }
    place = smallest.find(key, place);
    if (place < 0) break;
    if (marks) {
      if (threadIdx.x == 0) mark_dropped(head, place);
      __syncthreads();
    } else {
      drop_row<Word>(arrays, place, length--, args);
    }
  }
  if (threadIdx.x == 0) head->len = length;
}

template <class T>
__global__ void __launch_bounds__(32) note_norms_kernel(const HeadArgs args, int side, int p, float factor) {
  let_next_start();
  wait_for_inputs();
  const KvHead* head = layer_heads(args.sequences[blockIdx.y], args.layer) + blockIdx.x;
  if (head->len == 0) return;
  const T* x = static_cast<const T*>(head->k) + int64_t(key_slot(*head, head->len - 1)) * args.head_dim;
  float sum = 0;
  for (int d = threadIdx.x; d < args.head_dim; d += 32) sum += p == 1 ? fabsf(widen(x[d])) : widen(x[d]) * widen(x[d]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) head->side[side][head->len - 1] = factor * (p == 1 ? sum : sqrtf(sum));
}

// victims[s * kvHeads + h]: the row that goes, -1 for none; the head's length falls at once, its rows move up afterwards.
__global__ void __launch_bounds__(kThreads) pooled_victim_kernel(const HeadArgs args, const float* probs, int64_t stride, int rows, int recent, int half,
                                                                 int* victims) {
  __shared__ Smallest smallest;
  let_next_start();
  wait_for_inputs();
  KvHead* head = layer_heads(args.sequences[blockIdx.y], args.layer) + blockIdx.x;
  const int length = head->len, count = length - recent, at = blockIdx.y * gridDim.x + blockIdx.x;
  const float* p = probs + at * stride;
  uint64_t key = kNoRow;
  int place = -1;
  for (int row = threadIdx.x; length > rows && row < count; row += kThreads) {
    float sum = 0;
    for (int j = max(0, row - half); j <= min(count - 1, row + half); ++j) sum += p[j];
    const uint64_t candidate = uint64_t(ordered_bits(sum)) << 32 | uint32_t(row);
    if (candidate >= key) continue;
    key = candidate;
    place = row;
  }
  place = smallest.find(key, place);
  if (threadIdx.x != 0) return;
  victims[at] = place;
  if (place >= 0) head->len = length - 1;
}

constexpr int kSliceWords = 2, kSliceRows = kThreads / kSliceWords, kDepth = 8;

// Elements [i + 1] become [i] for i from `first` to `end`, in the block's columns: Rows rows at once, each read by all before one is written.
template <int Rows, class Word>
__device__ void shift_up(Word* column, int64_t stride, int first, int end, int row, bool mine) {
  for (int base = first; base < end; base += Rows * kDepth) {
    Word words[kDepth];
#pragma unroll
    for (int i = 0; i < kDepth; ++i)
      if (mine && base + i * Rows + row < end) words[i] = column[(base + i * Rows + row + 1) * stride];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kDepth; ++i)
      if (mine && base + i * Rows + row < end) column[(base + i * Rows + row) * stride] = words[i];
    __syncthreads();
  }
}

// Grid: slices of the words of a row's key, value and, where it is kept, unrotated key (the last slice: positions and side arrays), KV heads,
// sequences. Order stays.
template <class Word>
__global__ void __launch_bounds__(kThreads, 1) shift_rows_kernel(const HeadArgs args, const int* victims) {
  wait_for_inputs();
  const int victim = victims[blockIdx.z * gridDim.y + blockIdx.y];
  if (victim < 0) return;
  const KvHead* head = layer_heads(args.sequences[blockIdx.z], args.layer) + blockIdx.y;
  if (blockIdx.x + 1 == gridDim.x) {
    shift_up<kThreads>(head->pos, 1, victim, head->len, threadIdx.x, true);
    for (int a = 0; a < args.side_arrays; ++a) shift_up<kThreads>(head->side[a], 1, victim, head->len, threadIdx.x, true);
    return;
  }
  const int word = blockIdx.x * kSliceWords + threadIdx.x % kSliceWords;
  const int part = word / args.row_words;
  Word* column = static_cast<Word*>(part == 0 ? head->k : part == 1 ? head->v : head->unrotated_k) + word % args.row_words;
  const bool mine = part < 2 || (part == 2 && head->unrotated_k != nullptr);
  shift_up<kSliceRows>(column, args.row_words, victim, head->len, threadIdx.x / kSliceWords, mine);
}

struct MergeArgs {
  int side, rows, sinks, targets, decision;
  uint32_t seed;
  int recent; // 0: the oldest row past the sinks merges into the targets there are, by their mean, and goes; else the row so far before the
              // newest one, as if all targets were there, by the mean of all later rows, and it stays
};

__device__ __forceinline__ float merge_weight(float ratio, int decision, float draw) {
  switch (decision) {
    case KVA_MERGE_BERNOULLI: return draw < ratio ? 1.0f : 0.0f;
    case KVA_MERGE_THRESHOLD: return ratio >= 1 ? 1.0f : 0.0f;
    case KVA_MERGE_EXPECTED: return ratio;
    default: return decision == KVA_MERGE_ALWAYS ? 1.0f : 0.0f;
  }
}

// Shared memory: the rows of the targets by distance from the row that merges, -1 where there is none.
template <class T, class Word>
__global__ void __launch_bounds__(kThreads, 1) merge_row_kernel(const HeadArgs args, const MergeArgs merge) {
  extern __shared__ int slots[];
  __shared__ Smallest smallest;
  __shared__ float sums[kWarps];
  let_next_start();
  wait_for_inputs();
  KvSeq* sequence = args.sequences[blockIdx.y];
  KvHead* head = layer_heads(sequence, args.layer) + blockIdx.x;
  const int length = head->len;
  if (length <= merge.rows) return;
  const RowArrays arrays(*head);
  const float* mass = head->side[merge.side];

  uint64_t key = kNoRow;
  int from = -1;
  const int wanted = sequence->position - merge.recent;
  for (int row = merge.sinks + threadIdx.x; row < length; row += kThreads) {
    const uint64_t candidate = uint32_t(arrays.pos[row]);
    if (candidate >= key || (merge.recent > 0 && arrays.pos[row] != wanted)) continue;
    key = candidate;
    from = row;
  }
  for (int i = threadIdx.x; i < merge.targets; i += kThreads) slots[i] = -1;
  from = smallest.find(key, from);
  if (from < 0) return;
  const int position = arrays.pos[from];
  float sum = 0, count = 0;
  for (int row = merge.sinks + threadIdx.x; row < length; row += kThreads) {
    const int distance = arrays.pos[row] - position;
    if (distance > 0 && distance <= merge.targets) slots[distance - 1] = row;
    if (merge.recent == 0 || distance <= 0) continue;
    sum += mass[row];
    count += 1;
  }
  __syncthreads();
  for (int i = threadIdx.x; merge.recent == 0 && i < merge.targets; i += kThreads) {
    if (slots[i] < 0) continue;
    sum += mass[slots[i]];
    count += 1;
  }
  sum = block_sum<kThreads>(sum, sums);
  count = block_sum<kThreads>(count, sums);

  float ratio = count > 0 ? mass[from] / (sum / count) : 0;
  ratio = isnan(ratio) ? 0 : fminf(fmaxf(ratio, 0), 1);
  const float draw = unit(philox(merge.seed, args.layer, sequence->stream, position, blockIdx.x, 0).word[0]);
  const float weight = merge_weight(ratio, merge.decision, draw);
  if (weight > 0 && count > 0) {
    T* values = static_cast<T*>(arrays.v);
    const float divisor = merge.recent > 0 ? float(merge.targets) : count;
    const T* own = values + int64_t(from) * args.head_dim;
    const int elements = merge.targets * args.head_dim;
    for (int base = threadIdx.x; base < elements; base += kThreads * kDepth) { // all of a run are read before one is written
      T* to[kDepth];
      float merged[kDepth];
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        const int at = base + i * kThreads, slot = at < elements ? slots[at / args.head_dim] : -1, d = at % args.head_dim;
        to[i] = slot < 0 ? nullptr : values + int64_t(slot) * args.head_dim + d;
        if (slot >= 0) merged[i] = __fadd_rn(widen(*to[i]), __fmul_rn(weight, widen(own[d])) / divisor);
      }
#pragma unroll
      for (int i = 0; i < kDepth; ++i)
        if (to[i] != nullptr) *to[i] = narrow<T>(merged[i]);
    }
  }
  if (merge.recent > 0) return;
  __syncthreads();
  drop_row<Word>(arrays, from, length, args);
  if (threadIdx.x == 0) head->len = length - 1;
}

void merge_row(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, const MergeArgs& merge) {
  const KvShape& shape = batch.shape();
  with_device_type(shape.dtype, [&](auto type) {
    with_row_word(shape, [&](auto word, int words) {
      launch_early(merge_row_kernel<decltype(type), decltype(word)>, dim3(shape.kv_heads, sequences), kThreads, merge.targets * sizeof(int),
                   stream_of(context), head_args(batch, first_sequence, layer, words), merge);
    });
  });
}

__global__ void __launch_bounds__(kThreads) divide_ramp_kernel(const float* x, int64_t x_stride, float start, float step, float* out, int64_t out_stride,
                                                               int columns) {
  const int column = blockIdx.x * kThreads + threadIdx.x;
  if (column < columns) out[blockIdx.y * out_stride + column] = x[blockIdx.y * x_stride + column] / __fadd_rn(start, __fmul_rn(step, float(column)));
}

}  // namespace

void drop_lowest_every(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                       int32_t recent, int32_t interval) {
  with_row_word(batch.shape(), [&](auto word, int words) {
    launch_early(drop_lowest_kernel<decltype(word)>, dim3(batch.shape().kv_heads, sequences), kThreads, 0, stream_of(context),
                 head_args(batch, first_sequence, layer, words), rows, side, recent, interval);
  });
}

void note_norms(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t p, float factor) {
  with_device_type(batch.shape().dtype, [&](auto type) {
    launch_early(note_norms_kernel<decltype(type)>, dim3(batch.shape().kv_heads, sequences), 32, 0, stream_of(context),
                 head_args(batch, first_sequence, layer, 0), side, p, factor);
  });
}

void drop_pooled(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t rows,
                 int32_t recent, int32_t width) {
  const int kv_heads = batch.shape().kv_heads;
  int* victims = static_cast<int*>(context.scratch(int64_t(sequences) * kv_heads * sizeof(int)));
  const cudaStream_t stream = stream_of(context);
  const bool unrotated = batch.shape().unrotates_every_row();
  with_row_word(batch.shape(), [&](auto word, int words) {
    const HeadArgs args = head_args(batch, first_sequence, layer, words);
    launch_early(pooled_victim_kernel, dim3(kv_heads, sequences), kThreads, 0, stream, args, probs.row<float>(int64_t(first_sequence) * kv_heads),
                 probs.stride, rows, recent, width / 2, victims);
    const dim3 slices(divide_up((unrotated ? 3 : 2) * words, kSliceWords) + 1, kv_heads, sequences);
    launch_early(shift_rows_kernel<decltype(word)>, slices, kThreads, 0, stream, args, victims);
  });
}

void merge_oldest(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                  int32_t sinks, int32_t targets, int32_t decision, uint32_t seed) {
  merge_row(context, batch, first_sequence, sequences, layer, {side, rows, sinks, targets, decision, seed, 0});
}

void merge_recent(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                  int32_t recent, int32_t targets, int32_t decision, uint32_t seed) {
  merge_row(context, batch, first_sequence, sequences, layer, {side, rows, 0, targets, decision, seed, recent});
}

void divide_ramp(Context& context, Matrix x, float start, float step, Matrix out) {
  divide_ramp_kernel<<<dim3(divide_up(x.columns, kThreads), x.rows), kThreads, 0, stream_of(context)>>>(x.row<float>(0), x.stride, start, step,
                                                                                                      out.row<float>(0), out.stride, x.columns);
  check_launch();
}

}  // namespace kva

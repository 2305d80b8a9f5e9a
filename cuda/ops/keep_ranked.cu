// Eviction while decoding by probabilities that are pooled in order of rank: candidates by falling value, means over their neighbours there.
#include "../device/drop_rows.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = kDropThreads, kWarps = kDropWarps;

struct RankArgs {
  const float* probs;
  int64_t probs_stride;
  int32_t* scratch; // [sequences * kvHeads, columns]
  int columns, side, rows, recent, width;
};

// What a block of the kernels below works on: a head that holds more than `rows` rows, those with pos <= newest being candidates.
struct RankedHead {
  const KvHead* head;
  const int32_t* pos;
  float* value;
  int32_t* scratch;
  const float* probs;
  int length, newest; // length 0: nothing to do

  __device__ RankedHead(const HeadArgs& args, const RankArgs& rank) {
    const KvSeq* sequence = args.sequences[blockIdx.z];
    const int64_t at = int64_t(blockIdx.z) * gridDim.y + blockIdx.y;
    head = layer_heads(args.sequences[blockIdx.z], args.layer) + blockIdx.y;
    pos = head->pos;
    value = head->side[rank.side];
    scratch = rank.scratch + at * rank.columns;
    probs = rank.probs + at * rank.probs_stride;
    length = head->len > rank.rows ? head->len : 0;
    newest = sequence->position - rank.recent;
  }

  // candidates before `row` by falling value, ties by position; the whole warp calls it, and each lane gets the number
  __device__ int rank_of(int row, bool newest_last) const {
    const float own = value[row];
    const int position = pos[row];
    int before = 0;
    for (int other = threadIdx.x % 32; other < length; other += 32) {
      const int at = pos[other];
      if (at > newest) continue;
      const bool higher = value[other] > own || (value[other] == own && at < position);
      before += newest_last && position == newest ? at < newest : (newest_last && at == newest ? false : higher);
    }
    return warp_sum(before);
  }
};

// scratch[i] = the i-th candidate; a warp for each row.
__global__ void __launch_bounds__(kThreads) rank_rows_kernel(const HeadArgs args, const RankArgs rank) {
  wait_for_inputs();
  const RankedHead head(args, rank);
  const int row = blockIdx.x * kWarps + threadIdx.x / 32;
  if (row >= head.length || head.pos[row] > head.newest) return;
  const int at = head.rank_of(row, true);
  if (threadIdx.x % 32 == 0) head.scratch[at] = row;
}

// Candidates' values become the means of probs over their neighbours by rank; a thread for each.
__global__ void __launch_bounds__(kThreads) pool_ranked_kernel(const HeadArgs args, const RankArgs rank) {
  __shared__ float shared[kWarps];
  wait_for_inputs();
  const RankedHead head(args, rank);
  if (head.length == 0) return;
  float own = 0;
  for (int row = threadIdx.x; row < head.length; row += kThreads) own += head.pos[row] <= head.newest ? 1 : 0;
  const int count = static_cast<int>(block_sum<kThreads>(own, shared)), at = blockIdx.x * kThreads + threadIdx.x, half = rank.width / 2;
  if (at >= count) return;
  float sum = 0;
  for (int j = max(0, at - half); j <= min(count - 1, at + half); ++j) sum += head.probs[head.scratch[j]];
  head.value[head.scratch[at]] = sum / float(rank.width);
}

// scratch[row] = 1 for rows that go; a warp for each row.
__global__ void __launch_bounds__(kThreads) mark_ranked_kernel(const HeadArgs args, const RankArgs rank) {
  wait_for_inputs();
  const RankedHead head(args, rank);
  const int row = blockIdx.x * kWarps + threadIdx.x / 32;
  if (row >= head.length) return;
  const bool candidate = head.pos[row] <= head.newest;
  const int before = candidate ? head.rank_of(row, false) : 0;
  if (threadIdx.x % 32 == 0) head.scratch[row] = candidate && before >= rank.rows - rank.recent ? 1 : 0;
}

// Marked rows go, from the last one on, so that one that moves into a gap is never marked.
template <class Word>
__global__ void __launch_bounds__(kThreads) drop_marked_kernel(const HeadArgs args, const RankArgs rank) {
  __shared__ Smallest smallest;
  let_next_start();
  wait_for_inputs();
  const RankedHead ranked(args, rank);
  if (ranked.length == 0) return;
  const RowArrays arrays(*ranked.head);
  int length = ranked.length;
  for (int end = length;;) {
    uint64_t key = kNoRow;
    int place = -1;
    for (int row = threadIdx.x; row < end; row += kThreads) {
      if (ranked.scratch[row] == 0) continue;
      key = UINT32_MAX - uint32_t(row);
      place = row;
    }
    place = smallest.find(key, place);
    if (place < 0) break;
    drop_row<Word>(arrays, place, length, args);
    length -= 1;
    end = place;
  }
  if (threadIdx.x == 0) layer_heads(args.sequences[blockIdx.z], args.layer)[blockIdx.y].len = length;
}

}  // namespace

void keep_ranked(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side, int32_t rows,
                 int32_t recent, int32_t width) {
  const int kv_heads = batch.shape().kv_heads, columns = std::min(probs.columns, batch.splits * split_rows);
  if (sequences == 0 || columns == 0) return;
  const cudaStream_t stream = stream_of(context);
  RankArgs rank = {probs.row<float>(int64_t(first_sequence) * kv_heads), probs.stride, nullptr, columns, side, rows, recent, width};
  rank.scratch = static_cast<int32_t*>(context.scratch(int64_t(sequences) * kv_heads * columns * sizeof(int32_t)));
  const dim3 by_warp(divide_up(columns, kWarps), kv_heads, sequences), by_thread(divide_up(columns, kThreads), kv_heads, sequences);
  with_row_word(batch.shape(), [&](auto word, int words) {
    const HeadArgs args = head_args(batch, first_sequence, layer, words);
    launch_early(rank_rows_kernel, by_warp, kThreads, 0, stream, args, rank);
    launch_early(pool_ranked_kernel, by_thread, kThreads, 0, stream, args, rank);
    launch_early(mark_ranked_kernel, by_warp, kThreads, 0, stream, args, rank);
    launch_early(drop_marked_kernel<decltype(word)>, dim3(1, kv_heads, sequences), kThreads, 0, stream, args, rank);
  });
}

}  // namespace kva

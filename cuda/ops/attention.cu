// Attention over the cache: prefill of one sequence; decode of a batch in splits, merged in their order, with optional probabilities.
#include "../core/cuda.h"
#include "../device/attention_decode.cuh"
#include "../device/attention_launches.cuh"
#include "../device/code_runs.cuh"
#include "../device/linear_rows.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr float kLog2E = 1.4426950408889634f;

struct ProbsArgs {
  float* out; // NULL, or [sequences * kv_heads, stride]
  int64_t stride;
  int columns;
  __host__ __device__ static int parts(const DecodeArgs& args, int threads) { // blocks of a query head
    return divide_up<int>(divide_up<int64_t>(args.score_stride(), threads), args.group());
  }
};

// probs[s * kvHeads + h, row] = mean over the group of 2^(score - max) / sum. The heads of a group share its rows: block (part, head, sequence)
// has Threads of them.
template <int Threads>
__device__ __forceinline__ void write_probabilities(const DecodeArgs& args, const ProbsArgs& probs, int part) {
  constexpr int kHeads = 8; // of the group at a time
  __shared__ float2 norms[kHeads];
  const int group = args.group(), kv_head = blockIdx.y / group, row = (part * group + blockIdx.y % group) * Threads + threadIdx.x;
  const int length = layer_heads(args.sequences[blockIdx.z], args.layer)[kv_head].len, rows = min(length, probs.columns);
  if (row - int(threadIdx.x) >= rows) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, splits = decode_partials(args, length, int64_t(blockIdx.z) * args.kv_heads + kv_head);
  const int64_t first_head = int64_t(blockIdx.z) * args.heads + kv_head * group;
  float prob = 0;
  for (int first = 0; first < group; first += kHeads) {
    const int heads = min(kHeads, group - first);
    float scores[kHeads];
#pragma unroll
    for (int i = 0; i < kHeads; ++i) scores[i] = i < heads && row < rows ? args.scores[(first_head + first + i) * args.score_stride() + row] : -INFINITY;
    __syncthreads(); // the norms before have been used
    for (int i = warp; i < heads; i += Threads / 32) {
      const float2* sums = args.partial_sums + (first_head + first + i) * args.partials;
      float max = -INFINITY, sum = 0;
      for (int split = lane; split < splits; split += 32) max = fmaxf(max, sums[split].x);
      max = warp_max(max);
      for (int split = lane; split < splits && max > -INFINITY; split += 32) sum = fmaf(exp2f(sums[split].x - max), sums[split].y, sum);
      sum = warp_sum(sum);
      if (lane == 0) norms[i] = {max, sum};
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kHeads; ++i)
      if (i < heads && scores[i] > -INFINITY) prob += exp2f(scores[i] - norms[i].x) / norms[i].y;
  }
  if (row < rows) probs.out[(int64_t(blockIdx.z) * args.kv_heads + kv_head) * probs.stride + row] = prob / group;
}

template <int Threads>
__global__ void __launch_bounds__(Threads) probabilities_kernel(const DecodeArgs args, const ProbsArgs probs) {
  wait_for_inputs();
  write_probabilities<Threads>(args, probs, blockIdx.x);
}

// out = sum over splits of 2^(max_s - max) * out_s, over the same sum of sums; a block has Columns of one query head, Threads / Columns splits at a
// time. What it reads first is asked for at once: the sums of all splits and the outs of the first Ahead times as many.
// Few splits are merged by few blocks, which leave room for those of the next kernel: they fetch their first weights meanwhile.
// measured (H100 80GB, 2026-11-25): 8.9 us for 513 splits of 32 heads, 16 us where 128 blocks did it; for short contexts 512 blocks instead of 128 made
// a step of 32 layers 0.26 ms slower.
// Blocks behind those of the columns write the probabilities, where they are wanted.
template <int Threads, int Columns, int Ahead>
__global__ void __launch_bounds__(Threads) merge_splits_kernel(const DecodeArgs args, const ProbsArgs probs) {
  constexpr int kRows = Threads / Columns, kChunk = Ahead * kRows, kWarps = Threads / 32;
  __shared__ float outs[kWarps][Columns], shared[kWarps], shares[kChunk];
  let_next_start();
  const int head = blockIdx.y, place = threadIdx.x % Columns, row = threadIdx.x / Columns, column = blockIdx.x * Columns + place;
  const int kv_head = head / args.group();
  const int64_t kv_row = int64_t(blockIdx.z) * args.kv_heads + kv_head;
  // the kernel before this one lets it start when it has its own inputs, of which these are
  const int rows = decode_rows(args, layer_heads(args.sequences[blockIdx.z], args.layer)[kv_head], kv_row);
  wait_for_inputs();
  const int parts = divide_up(args.head_dim, Columns);
  if (blockIdx.x >= parts) return write_probabilities<Threads>(args, probs, blockIdx.x - parts);
  const int splits = decode_partials(args, rows, kv_row);
  const int64_t at = int64_t(blockIdx.z) * args.heads + head;
  const float2* sums = args.partial_sums + at * args.partials;
  const float* partial = args.partial_out + at * args.partials * args.head_dim + column;
  const bool inside = column < args.head_dim;

  float values[Ahead];
#pragma unroll
  for (int i = 0; i < Ahead; ++i) {
    const int split = row + i * kRows;
    values[i] = inside && split < splits ? partial[int64_t(split) * args.head_dim] : 0;
  }
  float max = -INFINITY, sum = 0, out = 0;
  for (int i = threadIdx.x; i < splits; i += Threads) max = fmaxf(max, sums[i].x);
  max = block_max<Threads>(max, shared);
  const float base = max == -INFINITY ? 0 : max;
  for (int first = 0; first < splits; first += kChunk) {
    const int count = min(kChunk, splits - first);
    __syncthreads(); // the shares before have been used
    for (int i = threadIdx.x; i < kChunk; i += Threads) {
      const float2 mine = i < count ? sums[first + i] : float2{-INFINITY, 0};
      shares[i] = exp2f(mine.x - base);
      sum = fmaf(shares[i], mine.y, sum);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Ahead; ++i) { // a split without visible rows has written nothing
      const float share = shares[row + i * kRows];
      if (first > 0) values[i] = share > 0 && inside ? partial[int64_t(first + row + i * kRows) * args.head_dim] : 0;
      out = fmaf(share, share > 0 ? values[i] : 0, out);
    }
  }
  sum = block_sum<Threads>(sum, shared);
#pragma unroll
  for (int offset = Columns; offset < 32; offset *= 2) out += __shfl_xor_sync(kAllLanes, out, offset);
  if (threadIdx.x % 32 < Columns) outs[threadIdx.x / 32][place] = out;
  __syncthreads();
  if (threadIdx.x >= Columns || !inside) return;
  float total = 0;
#pragma unroll
  for (int other = 0; other < kWarps; ++other) total += outs[other][place];
  write_decode_out(args, blockIdx.z, head, column, sum > 0 ? total / sum : 0);
}

template <int Threads, int Columns, int Ahead>
void merge_splits(const DecodeArgs& args, const ProbsArgs& probs, cudaStream_t stream) {
  const int blocks = divide_up(args.head_dim, Columns) + (probs.out != nullptr ? ProbsArgs::parts(args, Threads) : 0);
  launch_early(merge_splits_kernel<Threads, Columns, Ahead>, dim3(blocks, args.heads, args.count), Threads, 0, stream, args, probs);
}

// Parts of the scratch, the same for every layer; with all of them, so that capturing finds room for any decode step.
int64_t place_scratch(DecodeArgs& args, int sequences, char* scratch) {
  int64_t bytes = 0;
  const auto take = [&](int64_t size) {
    char* part = scratch + bytes;
    bytes += divide_up(size, 128) * 128;
    return part;
  };
  const int64_t rows = int64_t(sequences) * args.heads;
  args.partials = args.splits + kSparePartials;
  args.partial_counts = reinterpret_cast<int32_t*>(take(int64_t(sequences) * args.kv_heads * 4));
  args.partial_sums = reinterpret_cast<float2*>(take(rows * args.partials * 8));
  args.partial_out = reinterpret_cast<float*>(take(rows * args.partials * args.head_dim * 4));
  args.scores = reinterpret_cast<float*>(take(rows * args.score_stride() * 4));
  return bytes;
}

bool on_tensor_cores(int32_t dtype, int32_t q_dtype, int32_t head_dim) {
  return dtype != KVA_F32 && q_dtype == dtype && (head_dim == 64 || head_dim == 128);
}

// of the first sequence, all KV heads alike
const KvPacking& packing_of(Batch& batch, int32_t layer) { return batch.kvs[0]->layer(layer)[0].packing; }

template <class Test>
bool every_packing(Batch& batch, int32_t layer, const Test& test) {
  return std::all_of(batch.kvs.begin(), batch.kvs.end(), [&](Kv* kv) { return test(kv->layer(layer)[0].packing); });
}

// whether attention_decode_codes_launch takes the layer of every sequence
bool all_codes(Batch& batch, int32_t layer, const Matrix& q) {
  const KvShape& shape = batch.shape();
  if (shape.dtype == KVA_F32 || q.dtype != shape.dtype || batch.splits <= 1) return false;
  if (reinterpret_cast<uintptr_t>(q.data) % 16 != 0 || q.stride % 8 != 0) return false;
  const KvPacking& first = packing_of(batch, layer);
  return takes_codes(first, shape.head_dim, shape.group()) && every_packing(batch, layer, [&](const KvPacking& packing) { return packing == first; });
}

// whether attention_decode_channels_launch does
bool all_channels(Batch& batch, int32_t layer, const Matrix& q) {
  return on_tensor_cores(batch.shape().dtype, q.dtype, batch.shape().head_dim) &&
         every_packing(batch, layer, [](const KvPacking& packing) { return packing.key_bits == 0 && packing.value_bits == 0; });
}

DecodeArgs decode_args(Context& context, const Batch& batch) {
  const KvShape& shape = batch.shape();
  DecodeArgs args = {};
  args.processors = cuda_device(context).processors;
  args.count = batch.sequences();
  args.sequences = batch.table;
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.splits = std::max(batch.splits, 1);
  return args;
}

void place_queries(DecodeArgs& args, int32_t layer, const Matrix& q, float scale, const Matrix& out) {
  args.q = q.data;
  args.out = out.data;
  args.q_stride = q.stride;
  args.out_stride = out.stride;
  args.q_dtype = q.dtype;
  args.layer = layer;
  args.scale = scale * kLog2E;
}

// rows in full precision
void attend_rows(const DecodeArgs& args, int32_t dtype, cudaStream_t stream) {
  with_device_type(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      if (on_tensor_cores(dtype, args.q_dtype, args.head_dim)) return attention_decode_mma_launch<T>(args, stream);
    }
    attention_decode_fma_launch<T>(args, stream);
  });
}

void attend_packed_rows(const DecodeArgs& args, Batch& batch, const Matrix& q, cudaStream_t stream) {
  with_device_type(batch.shape().dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      if (args.partial_counts != nullptr) return attention_decode_codes_launch<T>(args, packing_of(batch, args.layer), stream);
      if (all_channels(batch, args.layer, q)) return attention_decode_channels_launch<T>(args, stream);
    }
    attention_decode_segments_launch<T>(args, stream);
  });
}

void merge_all_splits(const DecodeArgs& args, const ProbsArgs& probs, cudaStream_t stream) {
  const int codes = 2 * args.processors / (args.kv_heads * args.count) + 2; // parts of a head, as many as it has blocks
  const int partials = args.partial_counts == nullptr ? args.splits : std::min(args.splits, codes);
  if (partials > 128)
    merge_splits<256, 8, 16>(args, probs, stream);
  else if (partials > 1)
    partials > 32 ? merge_splits<512, 32, 8>(args, probs, stream) : merge_splits<128, 32, 8>(args, probs, stream);
  else if (probs.out != nullptr)
    launch_early(probabilities_kernel<kThreads>, dim3(ProbsArgs::parts(args, kThreads), args.heads, args.count), kThreads, 0, stream, args, probs);
}

}  // namespace

void attention_decode_reserve(Context& context, Batch& batch) {
  if (batch.sequences() == 0) return;
  DecodeArgs args = decode_args(context, batch);
  const int64_t linear = batch.sequences() > kLinearRowsMax ? kLinearWorkspaceBytes : 0;
  context.scratch(std::max(place_scratch(args, batch.sequences(), nullptr), linear));
}

void attention_decode(Context& context, Batch& batch, int32_t layer, Matrix q, float scale, int32_t window, Matrix out, Matrix probs) {
  const int32_t sequences = batch.sequences();
  if (sequences == 0) return;
  const cudaStream_t stream = stream_of(context);
  const int32_t dtype = batch.shape().dtype;
  DecodeArgs args = decode_args(context, batch);
  place_scratch(args, sequences, static_cast<char*>(context.scratch(place_scratch(args, sequences, nullptr))));
  place_queries(args, layer, q, scale, out);
  args.window = window;
  if (!probs) args.scores = nullptr;
  const bool packs = std::any_of(batch.kvs.begin(), batch.kvs.end(), [layer](Kv* kv) { return kv->packs(layer); });
  if (!packs || !all_codes(batch, layer, q)) args.partial_counts = nullptr;
  const int32_t residual = packing_of(batch, layer).residual, full_runs = residual / kRunRows + 1;
  args.full_runs = residual > 0 && full_runs <= kMostFullRuns ? full_runs : 0;
  args.ahead = window == 0 && context.only_appended(batch, layer, 1);
  if (packs)
    attend_packed_rows(args, batch, q, stream);
  else
    attend_rows(args, dtype, stream);
  merge_all_splits(args, {static_cast<float*>(probs.data), probs.stride, probs.columns}, stream);
}

void attention_decode_pages(Context& context, Batch& batch, int32_t layer, Matrix q, float scale, int32_t most_rows, Matrix pages, Matrix counts,
                            Matrix out) {
  const int32_t sequences = batch.sequences();
  if (sequences == 0) return;
  const cudaStream_t stream = stream_of(context);
  DecodeArgs args = decode_args(context, batch);
  args.splits = std::min<int64_t>(args.splits, divide_up<int64_t>(most_rows, split_rows));
  place_scratch(args, sequences, static_cast<char*>(context.scratch(place_scratch(args, sequences, nullptr))));
  place_queries(args, layer, q, scale, out);
  args.scores = nullptr;
  args.partial_counts = nullptr;
  args.pages = pages.row<int32_t>(0);
  args.pages_stride = pages.stride;
  args.page_counts = counts.row<int32_t>(0);
  attend_rows(args, batch.shape().dtype, stream);
  merge_all_splits(args, {}, stream);
}

void attention_prefill(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix q, float scale, int32_t window, Matrix out,
                       Matrix lse) {
  each_prefill_launch(context, kv, layer, first_row, q, scale, window, out, lse, 0, [](const AttentionPrefill& attention, int) {
    check_cuda(attention_prefill_launch(attention), "attention_prefill_launch");
  });
}

}  // namespace kva

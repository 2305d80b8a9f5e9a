// Keys against the mean of their head's keys, each divided by its norm (KeyDiff): m = mean_i k_i / |k_i|, s_j = k_j . m / (|k_j| |m|).
// One kernel sums chunks of rows, the next one has every block add the chunks' sums and score rows; a warp has a row at a time.
// floor: the bytes of the keys at copy bandwidth, 0.7 us for 1024 rows, 8 KV heads of 128, bf16.
// measured (H100 80GB, 2026-11-25): these two and the drop behind them make a layer of a step 15 us longer at 1024 rows; 82 us with a block for a head.
// gap: three kernels that each follow the table of heads to its rows; a step has one after the other.
#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kPromptChunk = 256, kStepChunk = 64; // rows of a chunk: of a prompt, which has many, and of a decode step
constexpr int kMostBlocks = 32;                    // of a head: each adds all chunks' sums
constexpr float kLeastNorm = 1e-12f;

struct SimilarityArgs {
  KvSeq* const* sequences; // NULL: the one below
  KvSeq* sequence;
  int layer, head_dim;
  int chunk_rows, most_chunks;
  float* partial; // [sequences * kv_heads, most_chunks, head_dim]: sums of the chunks' keys, each divided by its norm
  float* out;     // NULL: the side array
  int64_t out_stride;
  int side, rows; // heads with fewer rows stay as they are
  float factor;

  __device__ KvSeq* sequence_of_block() const { return sequences == nullptr ? sequence : sequences[blockIdx.z]; }
  __device__ float* chunk_sums(int chunk) const {
    return partial + ((int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * most_chunks + chunk) * head_dim;
  }
};

// Some rows of a warp, kWarps apart: lane l has channels [(32 p + l) Width, + Width) of them for each p < Packs.
template <class T, int Width, int Packs>
struct WarpRows {
  static constexpr int count = Packs == 1 ? 8 : Packs == 4 ? 2 : 1;
  Pack<T, Width> at[count][Packs];

  static __device__ int channel(int p) { return (p * 32 + int(threadIdx.x) % 32) * Width; }

  // rows from `end` on are zeros
  __device__ __forceinline__ void load(const T* keys, int head_dim, int row, int end) {
#pragma unroll
    for (int r = 0; r < count; ++r)
#pragma unroll
      for (int p = 0; p < Packs; ++p) {
#pragma unroll
        for (int i = 0; i < Width; ++i) at[r][p].at[i] = narrow<T>(0);
        if (row + r * kWarps < end && channel(p) < head_dim) at[r][p] = load_pack<Width>(keys + int64_t(row + r * kWarps) * head_dim + channel(p));
      }
  }
  __device__ __forceinline__ float norm(int r) const {
    float square = 0;
#pragma unroll
    for (int p = 0; p < Packs; ++p)
#pragma unroll
      for (int i = 0; i < Width; ++i) square = fmaf(widen(at[r][p].at[i]), widen(at[r][p].at[i]), square);
    return fmaxf(sqrtf(warp_sum(square)), kLeastNorm);
  }
};

// The sums of all warps, in their order, to done(channel, sum), a thread for each channel. The whole block calls it.
template <int Width, int Packs, class Done>
__device__ __forceinline__ void add_warps(const float (&sum)[Packs][Width], int head_dim, Done&& done) {
  __shared__ float sums[kWarps][most_head_dim];
#pragma unroll
  for (int p = 0; p < Packs; ++p)
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const int channel = (p * 32 + int(threadIdx.x) % 32) * Width + i;
      if (channel < head_dim) sums[threadIdx.x / 32][channel] = sum[p][i];
    }
  __syncthreads();
  for (int channel = threadIdx.x; channel < head_dim; channel += kThreads) {
    float all = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) all += sums[warp][channel];
    done(channel, all);
  }
  __syncthreads();
}

// Grid of both: blocks of a head, KV heads, sequences.
template <class T, int Width, int Packs>
__global__ void __launch_bounds__(kThreads) sum_directions_kernel(const SimilarityArgs args) {
  let_next_start();
  wait_for_inputs();
  const KvHead* head = layer_heads(args.sequence_of_block(), args.layer) + blockIdx.y;
  const int length = head->len, chunks = divide_up(length, args.chunk_rows);
  if (length < args.rows) return;
  const T* keys = static_cast<const T*>(head->k);
  WarpRows<T, Width, Packs> rows;
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int first = chunk * args.chunk_rows, end = min(length, first + args.chunk_rows);
    float sum[Packs][Width] = {};
    for (int row = first + threadIdx.x / 32; row < end; row += rows.count * kWarps) {
      rows.load(keys, args.head_dim, row, end);
#pragma unroll
      for (int r = 0; r < rows.count; ++r) {
        const float inverse = 1 / rows.norm(r);
#pragma unroll
        for (int p = 0; p < Packs; ++p)
#pragma unroll
          for (int i = 0; i < Width; ++i) sum[p][i] = fmaf(widen(rows.at[r][p].at[i]), inverse, sum[p][i]);
      }
    }
    add_warps(sum, args.head_dim, [&](int channel, float all) { args.chunk_sums(chunk)[channel] = all; });
  }
}

template <class T, int Width, int Packs>
__global__ void __launch_bounds__(kThreads) similarity_kernel(const SimilarityArgs args) {
  __shared__ float shared[kWarps], shared_mean[most_head_dim];
  let_next_start();
  wait_for_inputs();
  const KvHead* head = layer_heads(args.sequence_of_block(), args.layer) + blockIdx.y;
  const int length = head->len, chunks = divide_up(length, args.chunk_rows), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (length < args.rows || blockIdx.x >= chunks) return;
  const T* keys = static_cast<const T*>(head->k);
  WarpRows<T, Width, Packs> rows;
  rows.load(keys, args.head_dim, blockIdx.x * args.chunk_rows + warp, length); // on their way while the mean is made

  float mean[Packs][Width] = {};
#pragma unroll 4
  for (int chunk = warp; chunk < chunks; chunk += kWarps) {
    const float* sums = args.chunk_sums(chunk);
#pragma unroll
    for (int p = 0; p < Packs; ++p) {
      const int channel = rows.channel(p);
      if (channel >= args.head_dim) continue;
      const Pack<float, Width> pack = load_pack<Width>(sums + channel);
#pragma unroll
      for (int i = 0; i < Width; ++i) mean[p][i] += pack.at[i];
    }
  }
  float square = 0;
  add_warps(mean, args.head_dim, [&](int channel, float all) {
    all /= static_cast<float>(length);
    shared_mean[channel] = all;
    square = fmaf(all, all, square);
  });
  const float mean_norm = fmaxf(sqrtf(block_sum<kThreads>(square, shared)), kLeastNorm);
#pragma unroll
  for (int p = 0; p < Packs; ++p)
#pragma unroll
    for (int i = 0; i < Width; ++i) mean[p][i] = rows.channel(p) < args.head_dim ? shared_mean[rows.channel(p) + i] : 0;

  float* out = args.out != nullptr ? args.out + blockIdx.y * args.out_stride : head->side[args.side];
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int first = chunk * args.chunk_rows + warp, end = min(length, (chunk + 1) * args.chunk_rows);
    for (int row = first; row < end; row += rows.count * kWarps) {
      if (chunk != blockIdx.x || row != first) rows.load(keys, args.head_dim, row, end);
#pragma unroll
      for (int r = 0; r < rows.count; ++r) {
        float product = 0;
#pragma unroll
        for (int p = 0; p < Packs; ++p)
#pragma unroll
          for (int i = 0; i < Width; ++i) product = fmaf(widen(rows.at[r][p].at[i]), mean[p][i], product);
        product = warp_sum(product) / (rows.norm(r) * mean_norm);
        if (lane == 0 && row + r * kWarps < end) out[row + r * kWarps] = args.factor * product;
      }
    }
  }
}

void launch(Context& context, const KvShape& shape, int32_t sequences, SimilarityArgs args) {
  if (sequences == 0 || args.most_chunks == 0) return;
  args.head_dim = shape.head_dim;
  args.partial = static_cast<float*>(context.scratch(int64_t(sequences) * shape.kv_heads * args.most_chunks * shape.head_dim * sizeof(float)));
  const dim3 grid(std::min(args.most_chunks, kMostBlocks), shape.kv_heads, sequences);
  const cudaStream_t stream = stream_of(context);
  with_device_type(shape.dtype, [&](auto type) {
    using T = decltype(type);
    const auto both = [&](auto sum, auto score) {
      launch_early(sum, grid, kThreads, 0, stream, args);
      launch_early(score, grid, kThreads, 0, stream, args);
    };
    if (shape.head_dim % 4 != 0)
      both(sum_directions_kernel<T, 1, most_head_dim / 32>, similarity_kernel<T, 1, most_head_dim / 32>);
    else if (shape.head_dim <= 128)
      both(sum_directions_kernel<T, 4, 1>, similarity_kernel<T, 4, 1>);
    else
      both(sum_directions_kernel<T, 4, most_head_dim / 128>, similarity_kernel<T, 4, most_head_dim / 128>);
  });
}

}  // namespace

void key_similarity(Context& context, Kv& kv, int32_t layer, Matrix out) {
  SimilarityArgs args = {};
  args.sequence = kv.table;
  args.layer = layer;
  args.chunk_rows = kPromptChunk;
  args.most_chunks = divide_up(kv.longest(layer), kPromptChunk);
  args.out = out.row<float>(0);
  args.out_stride = out.stride;
  args.factor = 1;
  launch(context, kv.shape, 1, args);
}

void note_similarity(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                     float factor) {
  SimilarityArgs args = {};
  args.sequences = batch.table + first_sequence;
  args.layer = layer;
  args.chunk_rows = kStepChunk;
  args.most_chunks = batch.splits * split_rows / kStepChunk;
  args.side = side;
  args.rows = rows;
  args.factor = factor;
  launch(context, batch.shape(), sequences, args);
}

}  // namespace kva

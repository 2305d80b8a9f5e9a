// Decode attention on the tensor cores, f16 and bf16, head sizes 64 and 128: the query heads of a group are rows of one product.
// A few blocks stay on each multiprocessor and go through the items; each warp's loads run ahead across the borders of items, so that memory
// never rests while an item begins or is merged.
// floor: the bytes of keys and values at copy bandwidth, 0.179 ms at 128K rows, 8 KV heads of 128, bf16.
// measured (H100 80GB, 2026-11-25): 0.194 ms alone under Nsight Compute, 0.214 with the merge of 513 splits and two launches; 0.067 at 32K (floor 0.045).
// gap: 8 % of the kernel, which keeps the memory at 84 % of its peak (2.8 TB/s); the merge takes 9 us, launches from the host the rest.
#include "../device/attention_decode.cuh"
#include "../device/mma.cuh"

#include "../core/cuda.h"

namespace kva {
namespace {

constexpr int kDecodeWarps = 4;
constexpr int kDecodeTile = 16;  // cache rows of one product
constexpr int kDecodeStages = 2; // tiles of keys and values in flight, of each warp

template <int HeadDim>
constexpr int kDecodeStageBytes = 2 * kDecodeTile * HeadDim * 2;
template <int HeadDim>
constexpr int kDecodeOutStride = HeadDim + 8; // floats: rows of one column fall into different banks

// after the tiles: sums [warp][kDecodeHeads], outs [warp][heads][kDecodeOutStride]
template <int HeadDim>
constexpr int decode_shared_bytes(int heads) {
  return kDecodeWarps * (kDecodeStages * kDecodeStageBytes<HeadDim> + kDecodeHeads * 8 + heads * kDecodeOutStride<HeadDim> * 4);
}

// A row of a tile is HeadDim / 8 packs of 16 bytes; pack p of row r lies at place p ^ (r % 8), so that eight rows of a column of packs
// fall into different banks.
template <int HeadDim>
__device__ __forceinline__ uint32_t tile_offset(int row, int pack) {
  return (row * (HeadDim / 8) + (pack ^ (row & 7))) * 16;
}

template <class T, int HeadDim>
__device__ __forceinline__ void load_decode_tile(uint32_t stage, const DecodeBlock& block, int first) {
  constexpr int kPacks = HeadDim / 8;
  const int lane = threadIdx.x % 32, place = block.place(first); // a tile lies in one page
#pragma unroll
  for (int i = 0; i < kDecodeTile * kPacks / 32; ++i) {
    const int at = i * 32 + lane, row = at / kPacks, pack = at % kPacks;
    const bool valid = first + row < block.last;
    const int64_t from = valid ? static_cast<int64_t>(place + row) * HeadDim + pack * 8 : 0;
    const uint32_t to = stage + tile_offset<HeadDim>(row, pack);
    device::copy_async(to, static_cast<const T*>(block.keys) + from, valid);
    device::copy_async(to + kDecodeTile * HeadDim * 2, static_cast<const T*>(block.values) + from, valid);
  }
}

// A warp's running softmax: row r of the 16 is query head r of the group. Lane l holds rows l/4 and l/4 + 8.
template <int HeadDim>
struct DecodeState {
  float out[HeadDim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}; // of scores in base-2 units
  float sum[2] = {0, 0};                 // of this lane's columns
};

template <class T, int HeadDim>
__device__ __forceinline__ void load_query_fragments(uint32_t (&query)[HeadDim / 16][4], const T* q, int heads) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const bool pairs = reinterpret_cast<uintptr_t>(q) % 4 == 0;
#pragma unroll
  for (int step = 0; step < HeadDim / 16; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int head = group + i % 2 * 8, column = step * 16 + quad * 2 + i / 2 * 8;
      uint32_t pair = 0;
      if (head < heads) {
        const uint16_t* from = reinterpret_cast<const uint16_t*>(q) + head * HeadDim + column;
        pair = pairs ? *reinterpret_cast<const uint32_t*>(from) : from[0] | static_cast<uint32_t>(from[1]) << 16;
      }
      query[step][i] = pair;
    }
}

// scores[n][i]: of lane l the heads l/4 + i/2 * 8 and rows n * 8 + 2(l%4) + i%2 of the tile
template <class T, int HeadDim>
__device__ __forceinline__ void score_decode_tile(float (&scores)[2][4], const uint32_t (&query)[HeadDim / 16][4], uint32_t keys) {
  const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int step = 0; step < HeadDim / 16; ++step) {
    uint32_t b[4];
    device::load_matrices(b, keys + tile_offset<HeadDim>(row, step * 2 + lane / 8 % 2));
    device::mma(scores[0], query[step], b[0], b[1], T());
    device::mma(scores[1], query[step], b[2], b[3], T());
  }
}

template <class T, int HeadDim>
__device__ __forceinline__ void attend_decode_tile(DecodeState<HeadDim>& state, float (&scores)[2][4], uint32_t values) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = fmaxf(fmaxf(scores[0][half * 2], scores[0][half * 2 + 1]), fmaxf(scores[1][half * 2], scores[1][half * 2 + 1]));
    max = fmaxf(max, __shfl_xor_sync(device::kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(device::kAllLanes, max, 2));
    max = fmaxf(max, state.max[half]);
    const float base = max == -INFINITY ? 0 : max; // all masked so far
    const float decay = exp2f(state.max[half] - base);
    state.max[half] = max;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = half * 2; i < half * 2 + 2; ++i) {
        scores[n][i] = exp2f(scores[n][i] - base);
        sum += scores[n][i];
      }
    state.sum[half] = state.sum[half] * decay + sum;
#pragma unroll
    for (int n = 0; n < HeadDim / 8; ++n) {
      state.out[n][half * 2] *= decay;
      state.out[n][half * 2 + 1] *= decay;
    }
  }
  const uint32_t probabilities[4] = {device::pack_pair(scores[0][0], scores[0][1], T()), device::pack_pair(scores[0][2], scores[0][3], T()),
                                     device::pack_pair(scores[1][0], scores[1][1], T()), device::pack_pair(scores[1][2], scores[1][3], T())};
  const int lane = threadIdx.x % 32, row = lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
  for (int n = 0; n < HeadDim / 8; n += 2) {
    uint32_t b[4];
    device::load_matrices_transposed(b, values + tile_offset<HeadDim>(row, n + lane / 16));
    device::mma(state.out[n], probabilities, b[0], b[1], T());
    device::mma(state.out[n + 1], probabilities, b[2], b[3], T());
  }
}

// the four warps' states of one split, merged in their order
template <class T, int HeadDim>
__device__ __forceinline__ void merge_decode_warps(const DecodeArgs& args, const DecodeBlock& block, DecodeState<HeadDim>& state, float2* sums,
                                                   float* outs, int rows) {
  constexpr int kStride = kDecodeOutStride<HeadDim>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(device::kAllLanes, sum, 1);
    sum += __shfl_xor_sync(device::kAllLanes, sum, 2);
    const int head = group + half * 8;
    if (head >= block.heads) continue;
    if (quad == 0) sums[warp * kDecodeHeads + head] = {state.max[half], sum};
    float* to = outs + (warp * rows + head) * kStride + quad * 2;
#pragma unroll
    for (int n = 0; n < HeadDim / 8; ++n) *reinterpret_cast<float2*>(to + n * 8) = {state.out[n][half * 2], state.out[n][half * 2 + 1]};
  }
  __syncthreads();
  for (int at = threadIdx.x; at < block.heads * HeadDim; at += kDecodeWarps * 32) {
    const int head = at / HeadDim, column = at % HeadDim;
    float max = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) max = fmaxf(max, sums[w * kDecodeHeads + head].x);
    const float base = max == -INFINITY ? 0 : max;
    float sum = 0, out = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float share = exp2f(sums[w * kDecodeHeads + head].x - base);
      sum += share * sums[w * kDecodeHeads + head].y;
      out += share * outs[(w * rows + head) * kStride + column];
    }
    write_decode_split(args, block, head, column, out, max, sum);
  }
  __syncthreads(); // before the next item's states are written
}

// A warp's own walk through the tiles of its block's items, ahead of the one that computes.
template <class T, int HeadDim, bool Paged>
struct DecodeLoader {
  const DecodeArgs& args;
  DecodeBlock block;
  int number, row;

  __device__ DecodeLoader(const DecodeArgs& args) : args(args), number(blockIdx.x) { open(); }

  __device__ void open() {
    block = decode_block<Paged>(args, number);
    row = block.first + threadIdx.x / 32 * kDecodeTile;
    if (number + int(gridDim.x) < args.items()) approach_decode_block(args, number + gridDim.x);
    if (block.positions != nullptr && !any_row_seen(block)) row = block.last;
  }

  // the next tile, or nothing after the last
  __device__ void load(uint32_t stage) {
    while (row >= block.last && number + int(gridDim.x) < args.items()) {
      number += gridDim.x;
      open();
    }
    if (row < block.last) {
      load_decode_tile<T, HeadDim>(stage, block, row);
      row += kDecodeWarps * kDecodeTile;
    }
    device::copy_async_commit();
  }

  // the same for every warp of the block
  static __device__ bool any_row_seen(const DecodeBlock& block) {
    bool seen = false;
    for (int row = block.first + threadIdx.x % 32; row < block.last; row += 32) seen = seen || block.sees(row);
    return __any_sync(device::kAllLanes, seen);
  }
};

template <class T, int HeadDim, bool Paged>
__global__ void __launch_bounds__(kDecodeWarps * 32, 3) attention_decode_mma_kernel(const DecodeArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4, rows = min(args.group(), kDecodeHeads);
  const uint32_t stages = device::shared_address(shared) + warp * kDecodeStages * kDecodeStageBytes<HeadDim>;
  float2* sums = reinterpret_cast<float2*>(shared + kDecodeWarps * kDecodeStages * kDecodeStageBytes<HeadDim>);
  float* outs = reinterpret_cast<float*>(sums + kDecodeWarps * kDecodeHeads);
  device::wait_for_inputs();

  DecodeLoader<T, HeadDim, Paged> loader(args);
#pragma unroll
  for (int stage = 0; stage < kDecodeStages; ++stage) loader.load(stages + stage * kDecodeStageBytes<HeadDim>);
  uint32_t stage = 0;
  for (int number = blockIdx.x; number < args.items(); number += gridDim.x) {
    const DecodeBlock block = decode_block<Paged>(args, number);
    if (args.splits > 1 && block.first >= block.last) continue; // with one split the item writes zeros
    uint32_t query[HeadDim / 16][4];
    const T* q = static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim;
    load_query_fragments<T, HeadDim>(query, q, block.heads);

    DecodeState<HeadDim> state;
    const bool hidden = block.positions != nullptr && !loader.any_row_seen(block); // then none of its tiles were loaded
    for (int first = block.first + warp * kDecodeTile; first < block.last; first += kDecodeWarps * kDecodeTile) {
      const uint32_t tile = stages + stage * kDecodeStageBytes<HeadDim>;
      float scores[2][4] = {};
      if (!hidden) {
        device::copy_async_wait<kDecodeStages - 1>();
        __syncwarp();
        score_decode_tile<T, HeadDim>(scores, query, tile);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = first + n * 8 + quad * 2 + i % 2, head = group + i / 2 * 8;
          scores[n][i] = row < block.last && block.sees(row) ? scores[n][i] * args.scale : -INFINITY;
          if (args.scores != nullptr && row < block.last && head < block.heads)
            args.scores[block.head_row(args, head) * args.score_stride() + row] = scores[n][i];
        }
      if (hidden) continue;
      attend_decode_tile<T, HeadDim>(state, scores, tile + kDecodeTile * HeadDim * 2);
      __syncwarp(); // every lane has read the tile
      loader.load(tile);
      stage = (stage + 1) % kDecodeStages;
    }
    merge_decode_warps<T, HeadDim>(args, block, state, sums, outs, rows);
  }
  device::copy_async_wait<0>();
  device::let_next_start();
}

template <class T, int HeadDim, bool Paged>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  constexpr int kMostShared = 227 << 10; // of a multiprocessor
  const int bytes = decode_shared_bytes<HeadDim>(std::min(args.group(), kDecodeHeads));
  allow_shared<attention_decode_mma_kernel<T, HeadDim, Paged>>(bytes);
  const int resident = args.processors * std::clamp(kMostShared / (bytes + 1024), 1, 3);
  const dim3 grid(std::min(args.items(), resident));
  launch_early(attention_decode_mma_kernel<T, HeadDim, Paged>, grid, kDecodeWarps * 32, bytes, stream, args);
}

}  // namespace

template <class T>
void attention_decode_mma_launch(const DecodeArgs& args, cudaStream_t stream) {
  if (args.pages != nullptr)
    args.head_dim == 64 ? launch<T, 64, true>(args, stream) : launch<T, 128, true>(args, stream);
  else
    args.head_dim == 64 ? launch<T, 64, false>(args, stream) : launch<T, 128, false>(args, stream);
}

template void attention_decode_mma_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_mma_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

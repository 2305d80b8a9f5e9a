// What the tensor-core kernels of decode attention share, f16 and bf16, head sizes 64 and 128: tiles of 16 rows in shared memory, a warp's softmax over
// them, the merge of a block's warps. The query heads of a group are rows of one product.
#pragma once
#include <algorithm>

#include "../core/cuda.h"
#include "attention_decode.cuh"
#include "mma.cuh"

namespace kva {

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

// Rows [place, place + 16) of HeadDim elements, those from `valid` on as zeros, from each of the arrays into a tile of its own.
template <int HeadDim, class... Elements>
__device__ __forceinline__ void load_decode_rows(uint32_t tile, int place, int valid, const Elements*... from) {
  constexpr int kPacks = HeadDim / 8;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kDecodeTile * kPacks / 32; ++i) {
    const int at = i * 32 + lane, row = at / kPacks, pack = at % kPacks;
    const int64_t offset = row < valid ? static_cast<int64_t>(place + row) * HeadDim + pack * 8 : 0;
    uint32_t to = tile + tile_offset<HeadDim>(row, pack);
    ((device::copy_async_once(to, from + offset, row < valid ? 16 : 0), to += kDecodeTile * HeadDim * 2), ...);
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

// The first 16 * steps channels of the keys; scores[n][i]: of lane l the heads l/4 + i/2 * 8 and rows n * 8 + 2(l%4) + i%2 of the tile
template <class T, int HeadDim>
__device__ __forceinline__ void score_decode_tile(float (&scores)[2][4], const uint32_t (&query)[HeadDim / 16][4], uint32_t keys,
                                                  int steps = HeadDim / 16) {
  const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int step = 0; step < HeadDim / 16; ++step) {
    if (step >= steps) break;
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

// Scores in base-2 units of the rows [first, last), -inf where a row is hidden or absent; copied out where they are asked for.
__device__ __forceinline__ void finish_decode_scores(const DecodeArgs& args, const DecodeBlock& block, int first, int last, float (&scores)[2][4]) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + n * 8 + quad * 2 + i % 2, head = group + i / 2 * 8;
      scores[n][i] = row < last && block.sees(row) ? scores[n][i] * args.scale : -INFINITY;
      if (args.scores != nullptr && row < last && head < block.heads)
        args.scores[block.head_row(args, head) * args.score_stride() + row] = scores[n][i];
    }
}

// the same for every warp of the block
__device__ __forceinline__ bool any_row_seen(const DecodeBlock& block) {
  bool seen = false;
  for (int row = block.first + threadIdx.x % 32; row < block.last; row += 32) seen = seen || block.sees(row);
  return __any_sync(device::kAllLanes, seen);
}

// The launch of a kernel whose blocks go through the items: as many as stay on the device at once.
template <auto Kernel, int HeadDim>
void launch_decode_tiles(const DecodeArgs& args, cudaStream_t stream) {
  constexpr int kMostShared = 227 << 10; // of a multiprocessor
  const int bytes = decode_shared_bytes<HeadDim>(std::min(args.group(), kDecodeHeads));
  allow_shared<Kernel>(bytes);
  const int resident = args.processors * std::clamp(kMostShared / (bytes + 1024), 1, 3);
  launch_early(Kernel, dim3(std::min(args.items(), resident)), kDecodeWarps * 32, bytes, stream, args);
}

}  // namespace kva

// Decode attention of splits whose rows are all codes of 2 or 4 bits, on the tensor cores: f16 and bf16, head sizes 64 and 128, groups of 32,
// up to 8 query heads for a KV head. A block goes through items; each of its 8 warps has the 32 rows of one group of keys and copies those of
// the next item while it computes.
// The affine map stays out of the products: sum_c q_c (code_c s_c + z_c) = sum_c (q_c s_c) code_c + sum_c q_c z_c, likewise for values. A code
// becomes a number by setting exponent bits above it: bias + code, exactly; bias times the sum of the rounded factors is taken off again.
// floor: 160 bytes a row and KV head at 4 bits and head size 128, 96 at 2, at copy bandwidth: 56 us at 128K rows and 8 KV heads.
// measured (H100 80GB, 2026-11-25): a decode step at 128K takes 5.4 ms more than one with 2048 rows, 168 us a layer, flush and tail included.
// gap: a warp's chain from scales to scores to sums is long and only 16 warps of a multiprocessor hide it: one instruction a cycle of four.
#pragma once
#include "../core/segments.h"
#include "attention_decode.cuh"
#include "mma.cuh"
#include "number.cuh"

namespace kva {

constexpr int kCodeWarps = split_rows / 32, kCodeHeads = 8, kCodeGroup = 32;

template <class T>
struct CodeNumber;
template <>
struct CodeNumber<__nv_bfloat16> {
  static constexpr float bias = 128;
  static constexpr uint32_t exponent = 0x43004300;
  static __device__ __forceinline__ float bounded(float x) { return x; }
};
template <>
struct CodeNumber<__half> {
  static constexpr float bias = 1024;
  static constexpr uint32_t exponent = 0x64006400;
  static __device__ __forceinline__ float bounded(float x) { return fminf(fmaxf(x, -65504.f), 65504.f); }
};

// whether the split's rows are all codes that this path takes
__device__ __forceinline__ bool all_codes(const KvHead& head, int first) {
  return first + split_rows <= min(head.packed_keys, head.packed_values);
}

// what the path takes of a layer; the same for all of its heads
inline __host__ __device__ bool takes_codes(const KvPacking& packing, int head_dim, int group) {
  return (packing.key_bits == 2 || packing.key_bits == 4) && (packing.value_bits == 2 || packing.value_bits == 4) && packing.channels == 0 &&
         packing.group == kCodeGroup && packing.value_group == kCodeGroup && (head_dim == 64 || head_dim == 128) && group <= kCodeHeads;
}

// One warp's 32 rows in shared memory. Codes of keys: as in memory, [words][32 rows], pieces of four rows of word w at place ^ 2 (w % 4). Codes of
// values: as in memory, [32 rows][words], the 16-byte pieces of a line of 128 bytes at place ^ 2 (row / 8). So no reads meet in a bank.
template <int HeadDim>
struct CodeStage {
  static constexpr int keys = 0, values = HeadDim * 16, key_scales = values + HeadDim * 16, value_scales = key_scales + HeadDim * 4;
  static constexpr int bytes = value_scales + HeadDim * 4; // of 4 bits; 2 bits leave room
  static constexpr int out_stride = HeadDim + 8;           // floats: the stage ends as the warp's sums, [kCodeHeads][out_stride]
  static_assert(kCodeHeads * out_stride * 4 <= bytes);
};

template <int HeadDim>
__device__ __forceinline__ void load_codes(uint32_t stage, const KvHead& head, int row) {
  using Stage = CodeStage<HeadDim>;
  const int lane = threadIdx.x % 32, run = row / 32;
  const int key_pieces = HeadDim * head.packing.key_bits / 4, value_pieces = HeadDim * head.packing.value_bits / 4; // of 16 bytes
  const char* keys = static_cast<const char*>(head.packed_k) + int64_t(run) * key_pieces * 16;
  for (int at = lane; at < key_pieces; at += 32) {
    const int word = at / 8, piece = at % 8 ^ word % 4 * 2;
    device::copy_async(stage + Stage::keys + (word * 8 + piece) * 16, keys + at * 16, true);
  }
  const char* values = reinterpret_cast<const char*>(head.packed_v) + int64_t(run) * value_pieces * 16;
  for (int at = lane; at < value_pieces; at += 32) {
    const int value_row = at * 32 / value_pieces, piece = at % 8 ^ value_row / 8 * 2;
    device::copy_async(stage + Stage::values + (at / 8 * 8 + piece) * 16, values + at * 16, true);
  }
  const char* key_scales = reinterpret_cast<const char*>(head.key_scales + int64_t(run) * HeadDim);
  const char* value_scales = reinterpret_cast<const char*>(head.value_scales + int64_t(row) * (HeadDim / kCodeGroup));
  if (lane < HeadDim / 4) {
    device::copy_async(stage + Stage::key_scales + lane * 16, key_scales + lane * 16, true);
    device::copy_async(stage + Stage::value_scales + lane * 16, value_scales + lane * 16, true);
  }
}

// One factor of the product with codes: packed for the tensor core, its offset and rounding added up.
template <class T>
__device__ __forceinline__ uint32_t scaled_pair(float a, float b, uint32_t scale_a, uint32_t scale_b, float& offset, float& rounded) {
  const auto low = [](uint32_t bits) { return DeviceNumber::from_half(static_cast<uint16_t>(bits)); };
  const auto high = [](uint32_t bits) { return DeviceNumber::from_half(static_cast<uint16_t>(bits >> 16)); };
  offset = fmaf(a, high(scale_a), fmaf(b, high(scale_b), offset));
  const uint32_t pair = device::pack_pair(CodeNumber<T>::bounded(a * low(scale_a)), CodeNumber<T>::bounded(b * low(scale_b)), T());
  const T* halves = reinterpret_cast<const T*>(&pair);
  rounded += device::widen(halves[0]) + device::widen(halves[1]);
  return pair;
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(device::kAllLanes, x, 1);
  return x + __shfl_xor_sync(device::kAllLanes, x, 2);
}

// Scores of the 32 rows for head lane / 4: of rows 8 (lane % 4) + t and + 4 + t at [t][0] and [t][1]. query: its numbers at the channels
// word * each + i and + each / 2 for the words lane % 4 + 4 j, as pairs [j][i].
template <class T, int HeadDim, int Bits>
__device__ __forceinline__ void score_run(float (&scores)[4][4], const uint32_t (&query)[HeadDim / 8], const unsigned char* stage) {
  using Stage = CodeStage<HeadDim>;
  constexpr int each = 32 / Bits, pairs = each / 2, words = HeadDim / each / 4; // words of a lane
  constexpr uint32_t mask = Bits == 4 ? 0x000f000f : 0x00030003;
  const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  float offset = 0, rounded = 0;
#pragma unroll
  for (int j = 0; j < words; ++j) {
    const int word = quad + 4 * j;
    const uint4* scales = reinterpret_cast<const uint4*>(stage + Stage::key_scales + word * each * 4);
    const uint4 codes = *reinterpret_cast<const uint4*>(stage + Stage::keys + (word * 8 + (group ^ word % 4 * 2)) * 16);
    const uint32_t row_codes[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < pairs; i += 4) {
      const uint4 first = scales[i / 4], second = scales[(i + pairs) / 4];
      const uint32_t low[4] = {first.x, first.y, first.z, first.w}, high[4] = {second.x, second.y, second.z, second.w};
      uint32_t factors[4];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const T* q = reinterpret_cast<const T*>(&query[j * pairs + i + p]);
        factors[p] = scaled_pair<T>(device::widen(q[0]), device::widen(q[1]), low[p], high[p], offset, rounded);
      }
#pragma unroll
      for (int p = 0; p < 4; p += 2) {
        const uint32_t a[4] = {factors[p], 0, factors[p + 1], 0};
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          const uint32_t b0 = (row_codes[t] >> ((i + p) * Bits) & mask) | CodeNumber<T>::exponent;
          const uint32_t b1 = (row_codes[t] >> ((i + p + 1) * Bits) & mask) | CodeNumber<T>::exponent;
          device::mma(scores[t], a, b0, b1, T());
        }
      }
    }
  }
  const float constant = quad_sum(offset - CodeNumber<T>::bias * rounded);
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    scores[t][0] += constant;
    scores[t][1] += constant;
  }
}

// Weighted sums of the 32 rows' values for head lane / 4, to out[channel].
template <class T, int HeadDim, int Bits>
__device__ __forceinline__ void weigh_run(const float (&shares)[4][4], const unsigned char* stage, float (&out)[HeadDim / 32][4][4], float (&constants)[HeadDim / 32]) {
  using Stage = CodeStage<HeadDim>;
  constexpr uint32_t mask = Bits == 4 ? 0x000f000f : 0x00030003;
  constexpr int row_pieces = HeadDim * Bits / 128, groups = HeadDim / kCodeGroup; // pieces of 16 bytes of a row
  const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const auto codes = [&](int row, int at) -> uint32_t { // of channels 32 at + 4 group + {0..3}
    const int byte = at * 4 * Bits + group * Bits / 2, place = row * row_pieces + byte / 16;
    const unsigned char* from = stage + Stage::values + (place / 8 * 8 + (place % 8 ^ quad * 2)) * 16 + byte % 16;
    return Bits == 4 ? *reinterpret_cast<const uint16_t*>(from) : *from;
  };
#pragma unroll
  for (int at = 0; at < groups; ++at) {
    float offset = 0, rounded = 0;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t factors[2], b[2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int t = step * 2 + r, row = quad * 8 + t;
        const uint32_t* scales = reinterpret_cast<const uint32_t*>(stage + Stage::value_scales) + row * groups + at;
        factors[r] = scaled_pair<T>(shares[t][0], shares[t][1], scales[0], scales[4 * groups], offset, rounded);
        const uint32_t two = codes(row, at) | codes(row + 4, at) << 16;
#pragma unroll
        for (int i = 0; i < 4; ++i) b[r][i] = (two >> (i * Bits) & mask) | CodeNumber<T>::exponent;
      }
      const uint32_t a[4] = {factors[0], 0, factors[1], 0};
#pragma unroll
      for (int i = 0; i < 4; ++i) device::mma(out[at][i], a, b[0][i], b[1][i], T());
    }
    constants[at] = quad_sum(offset - CodeNumber<T>::bias * rounded);
  }
}

template <class T, int HeadDim, int Bits>
__device__ __forceinline__ void load_code_queries(uint32_t (&query)[HeadDim / 8], const T* q, int heads) {
  constexpr int each = 32 / Bits, pairs = each / 2;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const uint16_t* from = reinterpret_cast<const uint16_t*>(q) + group * HeadDim;
#pragma unroll
  for (int n = 0; n < HeadDim / 8; ++n) {
    const int channel = (quad + n / pairs * 4) * each + n % pairs;
    query[n] = group < heads ? from[channel] | static_cast<uint32_t>(from[channel + pairs]) << 16 : 0;
  }
}

// the eight warps' sums of one split, merged in their order
template <int HeadDim>
__device__ __forceinline__ void merge_code_warps(const DecodeArgs& args, const DecodeBlock& block, const float2* sums, const unsigned char* stages, int stage) {
  using Stage = CodeStage<HeadDim>;
  for (int at = threadIdx.x; at < block.heads * HeadDim; at += kCodeWarps * 32) {
    const int head = at / HeadDim, column = at % HeadDim;
    float max = -INFINITY;
#pragma unroll
    for (int w = 0; w < kCodeWarps; ++w) max = fmaxf(max, sums[w * kCodeHeads + head].x);
    const float base = max == -INFINITY ? 0 : max;
    float sum = 0, out = 0;
#pragma unroll
    for (int w = 0; w < kCodeWarps; ++w) {
      const float share = exp2f(sums[w * kCodeHeads + head].x - base);
      const float* from = reinterpret_cast<const float*>(stages + (w * 2 + stage) * Stage::bytes) + head * Stage::out_stride;
      sum = fmaf(share, sums[w * kCodeHeads + head].y, sum);
      out = fmaf(share, from[column], out);
    }
    write_decode_split(args, block, head, column, out, max, sum);
  }
}

// Items first, first + step, ... below items(): those whose split is all codes.
template <class T, int HeadDim, int KeyBits, int ValueBits>
__device__ __forceinline__ void attend_codes(const DecodeArgs& args, int first_item, int step, unsigned char* shared) {
  using Stage = CodeStage<HeadDim>;
  float2* sums = reinterpret_cast<float2*>(shared + kCodeWarps * 2 * Stage::bytes); // [warp][kCodeHeads]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
  unsigned char* own = shared + warp * 2 * Stage::bytes;

  int loading = first_item; // the next item whose rows are copied
  const auto load_next = [&](int stage) {
    for (; loading < args.items(); loading += step) {
      const DecodeBlock block = decode_place(args, loading);
      const KvHead& head = layer_heads(args.sequences[block.sequence], args.layer)[block.kv_head];
      if (!all_codes(head, block.split * split_rows)) continue;
      load_codes<HeadDim>(device::shared_address(own + stage * Stage::bytes), head, block.split * split_rows + warp * 32);
      loading += step;
      break;
    }
    device::copy_async_commit();
    if (loading >= args.items()) return;
    const DecodeBlock after = decode_place(args, loading);
    const KvHead* head = layer_heads(args.sequences[after.sequence], args.layer) + after.kv_head;
    asm volatile("prefetch.global.L1 [%0];" ::"l"(&head->packing));
    asm volatile("prefetch.global.L1 [%0];" ::"l"(&head->value_scales));
  };
  load_next(0);
  int stage = 0;
  for (int number = first_item; number < args.items(); number += step) {
    const DecodeBlock block = decode_block(args, number);
    if (!all_codes(layer_heads(args.sequences[block.sequence], args.layer)[block.kv_head], block.first)) continue;
    load_next(stage ^ 1);
    uint32_t query[HeadDim / 8];
    load_code_queries<T, HeadDim, KeyBits>(query, static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim,
                                           block.heads);
    device::copy_async_wait<1>();
    __syncwarp();
    unsigned char* tile = own + stage * Stage::bytes;
    float scores[4][4] = {};
    score_run<T, HeadDim, KeyBits>(scores, query, tile);

    float max = -INFINITY, sum = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = block.first + warp * 32 + quad * 8 + i * 4 + t;
        scores[t][i] = block.sees(row) ? scores[t][i] * args.scale : -INFINITY;
        if (args.scores != nullptr && group < block.heads) args.scores[block.head_row(args, group) * args.score_stride() + row] = scores[t][i];
        max = fmaxf(max, scores[t][i]);
      }
    max = fmaxf(max, __shfl_xor_sync(device::kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(device::kAllLanes, max, 2));
    const float base = max == -INFINITY ? 0 : max;
#pragma unroll
    for (int t = 0; t < 4; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        scores[t][i] = exp2f(scores[t][i] - base);
        sum += scores[t][i];
      }
    sum = quad_sum(sum);
    if (quad == 0) sums[warp * kCodeHeads + group] = {max, sum};
    float out[HeadDim / 32][4][4] = {}, constants[HeadDim / 32];
    weigh_run<T, HeadDim, ValueBits>(scores, tile, out, constants);
    __syncwarp(); // every lane has read the stage
    float* to = reinterpret_cast<float*>(tile) + group * Stage::out_stride;
#pragma unroll
    for (int at = 0; at < HeadDim / 32; ++at)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        *reinterpret_cast<float4*>(to + at * 32 + quad * 8 + i * 4) = {out[at][0][i] + constants[at], out[at][1][i] + constants[at],
                                                                       out[at][2][i] + constants[at], out[at][3][i] + constants[at]};
    __syncthreads();
    merge_code_warps<HeadDim>(args, block, sums, shared, stage);
    __syncthreads(); // before the stage and the sums are written again
    stage ^= 1;
  }
  device::copy_async_wait<0>();
}

template <int HeadDim>
constexpr int code_shared_bytes() {
  return kCodeWarps * (2 * CodeStage<HeadDim>::bytes + kCodeHeads * 8);
}

}  // namespace kva

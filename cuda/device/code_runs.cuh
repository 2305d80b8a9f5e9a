// A run of 32 cache rows by one warp on the tensor cores: scores of up to 8 query heads, and their weighted sums of values, where keys and
// values are codes of 2 or 4 bits, in groups of 32, or numbers of 16 bits. Rows are the tensor core's rows, heads its columns: lane l has of
// the scores rows 4 (l / 4) + {0..3}, of the sums channels 32 n + 4 (l / 4) + {0..3}, of both the heads 2 (l % 4) + {0, 1}.
// The affine map of codes stays out of the products: sum_c q_c (code_c s_c + z_c) = sum_c (q_c s_c) code_c + sum_c q_c z_c, likewise for values.
// The codes of a byte up to one of them are an f16 number where they stand, a denormal one: sum_j code_j * 2^(Bits j - 24), exactly. That code is what
// such a number has more than the one before it, over its step, and this difference is left to the other factor (keys) or to the sums (values).
#pragma once
#include "../core/segments.h"
#include "code_loads.cuh"
#include "mma.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace kva {

constexpr int kRunHeads = 8, kCodeGroup = 32;

// whether it takes how a layer's rows are packed
inline __host__ __device__ bool takes_codes(const KvPacking& packing, int head_dim, int group) {
  return (packing.key_bits == 2 || packing.key_bits == 4) && (packing.value_bits == 2 || packing.value_bits == 4) && packing.channels == 0 &&
         packing.group == kCodeGroup && packing.value_group == kCodeGroup && (head_dim == 64 || head_dim == 128) && group <= kRunHeads;
}

constexpr float kCodeUnit = 1 << 24; // 1 / the number that code 1 is where it stands

template <int Bits>
struct Codes {
  static constexpr int each = 32 / Bits, pairs = each / 2, in_byte = 8 / Bits; // codes of a word; pairs of codes half a word apart

  static KVA_HOST_DEVICE constexpr int step(int i) { return i % in_byte * Bits; } // its exponent
  // the codes of a byte up to code i, of the lower and of the upper half word
  static __device__ __forceinline__ uint32_t pair(uint32_t word, int i) {
    const uint32_t bytes = i < in_byte ? word : __byte_perm(word, 0, 0x4341);
    return i == pairs - 1 ? bytes : bytes & ((1u << step(i) + Bits) - 1) * 0x10001u;
  }
  static KVA_HOST_DEVICE constexpr int query_place(int i) { return i / pairs * pairs + i % in_byte * 2 + i % pairs / in_byte; } // pairs of one step side by side
};

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

__device__ __forceinline__ uint32_t multiply_halves(uint32_t a, uint32_t b) {
  const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}
// a * b - c
__device__ __forceinline__ uint32_t multiply_subtract_halves(uint32_t a, uint32_t b, uint32_t c) {
  c ^= 0x80008000;
  const __half2 result = __hfma2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b), *reinterpret_cast<const __half2*>(&c));
  return *reinterpret_cast<const uint32_t*>(&result);
}

// A register of whatever is in it, for rows of a product that are not used.
__device__ __forceinline__ uint32_t any_register() {
  uint32_t value;
  asm("" : "=r"(value));
  return value;
}

// A lane's part of the query head lane / 4 lies in shared memory, four registers in a row, piece n at query[32 n].
// For products with codes: f16, [word][pair] of the words lane % 4 + 4 j, times a power of two that brings its largest number to [8, 16), so that
// factors neither overflow nor vanish, and less the step of the pair. Returns what scores are to be multiplied by.
template <class T, int HeadDim, int Bits>
__device__ __forceinline__ float load_code_query(uint4* query, const T* q, int heads) {
  using C = Codes<Bits>;
  constexpr int pieces = C::each / 8; // of 16 bytes of a word's channels
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  uint32_t from[HeadDim / 8]; // pairs of channels, word after word
#pragma unroll
  for (int n = 0; n < HeadDim / 32; ++n) {
    const int piece = (quad + n / pieces * 4) * pieces + n % pieces;
    const uint4 four = group < heads ? *reinterpret_cast<const uint4*>(q + group * HeadDim + piece * 8) : uint4{0, 0, 0, 0};
    from[n * 4] = four.x, from[n * 4 + 1] = four.y, from[n * 4 + 2] = four.z, from[n * 4 + 3] = four.w;
  }
  const auto number = [&](int n, int i) { // the two of a pair are half a word apart
    const int channel = n / C::pairs * C::each + n % C::pairs + i * C::pairs;
    const uint16_t bits = static_cast<uint16_t>(from[channel / 2] >> channel % 2 * 16);
    T element;
    memcpy(&element, &bits, sizeof(T));
    return device::widen(element);
  };
  float largest = 0;
#pragma unroll
  for (int n = 0; n < HeadDim / 8; ++n) largest = fmaxf(largest, fmaxf(fabsf(number(n, 0)), fabsf(number(n, 1))));
  largest = fmaxf(largest, __shfl_xor_sync(device::kAllLanes, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(device::kAllLanes, largest, 2));
  const int exponent = min(max(__float_as_int(largest) >> 23, 8), 228) - 127;
  const float factor = __int_as_float((130 - exponent) << 23);
  uint32_t placed[HeadDim / 8];
#pragma unroll
  for (int n = 0; n < HeadDim / 8; ++n) {
    const float stepped = factor / (1 << C::step(n));
    placed[C::query_place(n)] = device::pack_pair(number(n, 0) * stepped, number(n, 1) * stepped, __half());
  }
#pragma unroll
  for (int n = 0; n < HeadDim / 8; n += 4) query[n / 4 * 32] = {placed[n], placed[n + 1], placed[n + 2], placed[n + 3]};
  return __int_as_float((124 + exponent) << 23) * kCodeUnit;
}

template <class T, int HeadDim>
__device__ __forceinline__ void load_full_query(uint4* query, const T* q, int heads) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < HeadDim / 32; ++n)
    query[n * 32] = group < heads ? *reinterpret_cast<const uint4*>(q + group * HeadDim + n * 32 + quad * 8) : uint4{0, 0, 0, 0};
}

// scores[t][i] of row 4 (lane / 4) + 2 t + i / 2 and head 2 (lane % 4) + i % 2, without their scale; zeros[i]: what the zeros of the keys add to
// those of a head, less the factor of codes
template <int HeadDim, int Bits>
__device__ __forceinline__ void score_codes(float (&scores)[2][4], float (&zeros)[2], const uint4* query, const unsigned char* stage) {
  using Stage = CodeStage<HeadDim>;
  using C = Codes<Bits>;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  float sums[C::in_byte][4] = {}; // of each step
#pragma unroll
  for (int j = 0; j < HeadDim / C::each / 4; ++j) {
    const int word = quad + 4 * j;
    const uint4 codes = *reinterpret_cast<const uint4*>(stage + Stage::keys + (word * 8 + (group ^ quad * 2)) * 16);
    const uint32_t rows[4] = {codes.x, codes.y, codes.z, codes.w};
    uint32_t scales[C::each], q[C::pairs];
#pragma unroll
    for (int i = 0; i < C::each; i += 4) {
      const uint4 four = reinterpret_cast<const uint4*>(stage + Stage::key_scales + word * C::each * 4)[i / 4];
      scales[i] = four.x, scales[i + 1] = four.y, scales[i + 2] = four.z, scales[i + 3] = four.w;
    }
#pragma unroll
    for (int i = 0; i < C::pairs; i += 4) {
      const uint4 four = query[(j * C::pairs + i) / 4 * 32];
      q[i] = four.x, q[i + 1] = four.y, q[i + 2] = four.z, q[i + 3] = four.w;
    }
    uint32_t above[2] = {}; // queries times scales of the step above
#pragma unroll
    for (int i = C::in_byte - 1; i >= 0; --i) {
      const int other = i + C::in_byte; // of the same step
      const uint32_t a[4] = {high_halves(scales[i], scales[i + C::pairs]), any_register(), high_halves(scales[other], scales[other + C::pairs]), any_register()};
      device::mma(sums[i], a, q[2 * i], q[2 * i + 1], __half());
      uint32_t b[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int at = k == 0 ? i : other;
        const uint32_t scale = low_halves(scales[at], scales[at + C::pairs]), scaled = multiply_halves(q[2 * i + k], scale);
        b[k] = i == C::in_byte - 1 ? scaled : multiply_subtract_halves(q[2 * i + k], scale, above[k]);
        above[k] = scaled;
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const uint32_t a[4] = {C::pair(rows[2 * t], i), C::pair(rows[2 * t + 1], i), C::pair(rows[2 * t], other), C::pair(rows[2 * t + 1], other)};
        device::mma(scores[t], a, b[0], b[1], __half());
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    zeros[i] = 0;
#pragma unroll
    for (int step = 0; step < C::in_byte; ++step) zeros[i] = fmaf(sums[step][i], float(1 << C::step(step)), zeros[i]);
    zeros[i] *= 1 / kCodeUnit;
  }
}

// The same of keys in memory, row after row; those from `rows` on are not read.
template <class T, int HeadDim>
__device__ __forceinline__ void score_full(float (&scores)[2][4], const uint4* query, const T* keys, int rows) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < HeadDim / 32; half += 2) {
    uint4 from[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = group * 4 + r;
        from[n][r] = row < rows ? *reinterpret_cast<const uint4*>(keys + row * HeadDim + (half + n) * 32 + quad * 8) : uint4{0, 0, 0, 0};
      }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint4 q = query[(half + n) * 32];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const uint4 &upper = from[n][2 * t], &lower = from[n][2 * t + 1];
        const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
        device::mma(scores[t], first, q.x, q.y, T());
        device::mma(scores[t], second, q.z, q.w, T());
      }
    }
  }
}

// Shares as the second factor: [r] of rows 8 (lane % 4) + r and + r + 4 for head lane / 4.
template <class Element>
__device__ __forceinline__ void turn_shares(uint32_t (&turned)[4], const float (&shares)[2][4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const uint32_t pair = device::pack_pair(shares[r / 2][r % 2 * 2], shares[r / 2][r % 2 * 2 + 1], Element());
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned[r]) : "r"(pair));
  }
}

// Sums of share * zero over rows, in the odd ones of the upper eight rows of at[0]: groups of channels in turn. At head size 64 a row of the product
// is of two cache rows: the sums of the even ones in rows 1 and 3 of at[0], of the odd ones in rows 5 and 7 of at[1].
template <int HeadDim>
struct ZeroSums {
  static constexpr int parts = 128 / HeadDim;
  float at[parts][4] = {};

  __device__ __forceinline__ void add(const uint32_t (&turned)[4], const unsigned char* stage) {
    const int row = threadIdx.x % 8, matrix = threadIdx.x % 32 / 16; // those at odd places are not used
    const uint32_t from = device::shared_address(stage + CodeStage<HeadDim>::value_scales);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t scales[4];
      if (parts == 1 || half == 0) device::load_matrices_transposed(scales, from + CodeStage<HeadDim>::value_scale_place(row * (4 / parts) + matrix) + half * 32);
      if constexpr (parts == 1) {
        device::mma(at[0], scales, turned[half * 2], turned[half * 2 + 1], __half());
      } else if (half == 0) {
        device::mma(at[0], scales, turned[0], turned[2], __half());
        device::mma(at[1], scales, turned[1], turned[3], __half());
      }
    }
  }
  // of channels in group n, for the head 2 (lane % 4) + i
  __device__ __forceinline__ float sum(int n, int i) const {
    float sum = 0;
#pragma unroll
    for (int part = 0; part < parts; ++part)
      sum += __shfl_sync(device::kAllLanes, at[part][i], (part * 4 + 2 * n + 1) * 4 + threadIdx.x % 4);
    return sum;
  }
};

// out[n][h][i] += share * code * scale of channel 32 n + 4 (lane / 4) + 2 h + i / 2 and head 2 (lane % 4) + i % 2, for the rows whose values are
// codes; before divide_steps the code is all of its byte up to it, times 2^-24
template <int HeadDim, int Bits>
__device__ __forceinline__ void weigh_codes(float (&out)[HeadDim / 32][2][4], ZeroSums<HeadDim>& zeros, const float (&shares)[2][4],
                                            const unsigned char* stage) {
  using Stage = CodeStage<HeadDim>;
  using C = Codes<Bits>;
  constexpr int groups = HeadDim / kCodeGroup;
  const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const unsigned char* scales_from = stage + Stage::value_scales + Stage::value_scale_place(quad * (HeadDim / 16));
  uint32_t turned[4];
  turn_shares<__half>(turned, shares);
  zeros.add(turned, stage);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t scales[2][2][groups]; // [pair of rows][row of it]
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const unsigned char* from = scales_from + (step * 2 + r + i * 4) * groups * 4;
        if constexpr (groups == 4) {
          const uint4 four = *reinterpret_cast<const uint4*>(from);
          scales[r][i][0] = four.x, scales[r][i][1] = four.y, scales[r][i][2] = four.z, scales[r][i][3] = four.w;
        } else {
          const uint2 two = *reinterpret_cast<const uint2*>(from);
          scales[r][i][0] = two.x, scales[r][i][1] = two.y;
        }
      }
    uint32_t codes[groups][2]; // of a lane's four channels: of the row 8 (lane % 4) + 2 step + r, above them those of row + 4
    if constexpr (Bits == 4) {
      // half words as elements of matrices: rows 4 m + 2 step + {0, 1} of two groups
      const int m = lane % 8, r = lane / 8 % 2, n = lane / 16;
      const uint32_t from = device::shared_address(stage + Stage::values) + Stage::value_place(m * Stage::block + r * groups + n, 4);
#pragma unroll
      for (int at = 0; at < groups; at += 2) {
        uint32_t four[4];
        device::load_matrices_transposed(four, from + (step * 2 * groups + at) * 16);
        codes[at][0] = four[0], codes[at][1] = four[1], codes[at + 1][0] = four[2], codes[at + 1][1] = four[3];
      }
    } else {
      // bytes of words
      const uint32_t select = 0x4400 + group % 4 * 0x1111;
      const unsigned char* from = stage + Stage::values + Stage::value_place(quad * Stage::block, 2) + group / 4 * 4;
      const auto word = [&](int row, int at) { return *reinterpret_cast<const uint32_t*>(from + (row * groups + at) * 8); }; // rows of the lane's eight
#pragma unroll
      for (int at = 0; at < groups; ++at)
#pragma unroll
        for (int r = 0; r < 2; ++r) codes[at][r] = __byte_perm(word(step * 2 + r, at), word(step * 2 + r + 4, at), select);
    }
#pragma unroll
    for (int at = 0; at < groups; ++at) {
      uint32_t factors[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) factors[r] = multiply_halves(turned[step * 2 + r], low_halves(scales[r][0][at], scales[r][1][at]));
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t a[4] = {C::pair(codes[at][0], 2 * h), C::pair(codes[at][0], 2 * h + 1), C::pair(codes[at][1], 2 * h), C::pair(codes[at][1], 2 * h + 1)};
        device::mma(out[at][h], a, factors[0], factors[1], __half());
      }
    }
  }
}

template <int HeadDim, int Bits>
__device__ __forceinline__ void divide_steps(float (&out)[HeadDim / 32][2][4]) {
  using C = Codes<Bits>;
#pragma unroll
  for (int n = 0; n < HeadDim / 32; ++n)
#pragma unroll
    for (int channel = 3; channel >= 0; --channel)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& sum = out[n][channel / 2][channel % 2 * 2 + i];
        if (channel % C::in_byte > 0) sum -= out[n][(channel - 1) / 2][(channel - 1) % 2 * 2 + i];
        sum *= kCodeUnit / (1 << C::step(channel));
      }
}

// The same for the rows of [first, last) of the run, without steps; value(row) is where the value of row `row` of the run lies.
template <class T, int HeadDim, class Value>
__device__ __forceinline__ void weigh_full(float (&out)[HeadDim / 32][2][4], const float (&shares)[2][4], int first, int last, const Value& value) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  uint32_t turned[4];
  turn_shares<T>(turned, shares);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint2 from[4][HeadDim / 32]; // rows 2 step, + 4, + 1, + 5
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = quad * 8 + step * 2 + r / 2 + r % 2 * 4;
      const bool valid = row >= first && row < last;
      const T* at = valid ? value(row) + group * 4 : nullptr;
#pragma unroll
      for (int n = 0; n < HeadDim / 32; ++n) from[r][n] = valid ? *reinterpret_cast<const uint2*>(at + n * 32) : uint2{0, 0};
    }
#pragma unroll
    for (int n = 0; n < HeadDim / 32; ++n) {
      const uint32_t first_two[4] = {low_halves(from[0][n].x, from[1][n].x), high_halves(from[0][n].x, from[1][n].x),
                                     low_halves(from[2][n].x, from[3][n].x), high_halves(from[2][n].x, from[3][n].x)};
      const uint32_t second_two[4] = {low_halves(from[0][n].y, from[1][n].y), high_halves(from[0][n].y, from[1][n].y),
                                      low_halves(from[2][n].y, from[3][n].y), high_halves(from[2][n].y, from[3][n].y)};
      device::mma(out[n][0], first_two, turned[step * 2], turned[step * 2 + 1], T());
      device::mma(out[n][1], second_two, turned[step * 2], turned[step * 2 + 1], T());
    }
  }
}

}  // namespace kva

// A run of 32 cache rows by one warp on the tensor cores: scores of up to 8 query heads, and their weighted sums of values, where keys and
// values are codes of 2 or 4 bits, in groups of 32, or numbers of 16 bits. Rows are the tensor core's rows, heads its columns: lane l has of
// the scores rows 4 (l / 4) + {0..3}, of the sums channels 32 n + 4 (l / 4) + {0..3}, of both the heads 2 (l % 4) + {0, 1}.
// The affine map of codes stays out of the products: sum_c q_c (code_c s_c + z_c) = sum_c (q_c s_c) code_c + sum_c q_c z_c, likewise for values.
// A code becomes an f16 number where it stands, by setting exponent bits above it: 1024 + code * step, exactly, where step is 1 for the lowest of a
// byte, 2^Bits for the next. Products with constant matrices take the 1024 off and add the offsets, with the same rounded factors, so that no rounding is multiplied.
#pragma once
#include "../core/segments.h"
#include "mma.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace kva {

constexpr int kRunRows = 32, kRunHeads = 8, kCodeGroup = 32;

// whether it takes how a layer's rows are packed
inline __host__ __device__ bool takes_codes(const KvPacking& packing, int head_dim, int group) {
  return (packing.key_bits == 2 || packing.key_bits == 4) && (packing.value_bits == 2 || packing.value_bits == 4) && packing.channels == 0 &&
         packing.group == kCodeGroup && packing.value_group == kCodeGroup && (head_dim == 64 || head_dim == 128) && group <= kRunHeads;
}

// A run in shared memory. Codes of keys: as in the cache, [words][32 rows], the piece of rows 4 i.. of word w at place i ^ 2 (w % 4). Codes and
// scales of values: as in the cache, in lines of eight pieces of 16 bytes, those of rows 8 i.. at place ^ 2 i. So no reads meet in a bank.
template <int HeadDim>
struct CodeStage {
  static constexpr int keys = 0, values = HeadDim * 16, key_scales = values + HeadDim * 16, value_scales = key_scales + HeadDim * 4;
  static constexpr int bytes = value_scales + HeadDim * 4; // of 4 bits; 2 bits leave room
};

template <int HeadDim, int Bits>
__device__ __forceinline__ void load_key_codes(uint32_t stage, const KvHead& head, int run) {
  using Stage = CodeStage<HeadDim>;
  constexpr int pieces = HeadDim * Bits / 4; // of 16 bytes
  const int lane = threadIdx.x % 32, word = lane / 8, place = word * 8 + (lane % 8 ^ word * 2);
  const char* keys = static_cast<const char*>(head.packed_k) + (int64_t(run) * pieces + lane) * 16;
#pragma unroll
  for (int at = 0; at < pieces; at += 32) device::copy_async(stage + Stage::keys + (at + place) * 16, keys + at * 16, true);
  const char* scales = reinterpret_cast<const char*>(head.key_scales) + (int64_t(run) * (HeadDim / 4) + lane) * 16;
  if (lane < HeadDim / 4) device::copy_async(stage + Stage::key_scales + lane * 16, scales, true);
}

// The first `valid` rows' values of the run; scales of the others are zeros.
template <int HeadDim, int Bits>
__device__ __forceinline__ void load_value_codes(uint32_t stage, const KvHead& head, int run, int valid) {
  using Stage = CodeStage<HeadDim>;
  constexpr int pieces = HeadDim * Bits / 4;
  const int lane = threadIdx.x % 32;
  const char* values = reinterpret_cast<const char*>(head.packed_v) + (int64_t(run) * pieces + lane) * 16;
#pragma unroll
  for (int at = 0; at < pieces; at += 32) {
    const int row = (at + lane) * kRunRows / pieces, place = lane / 8 * 8 + (lane % 8 ^ row / 8 * 2);
    device::copy_async(stage + Stage::values + (at + place) * 16, values + at * 16, row < valid);
  }
  const char* scales = reinterpret_cast<const char*>(head.value_scales) + (int64_t(run) * (HeadDim / 4) + lane) * 16;
  const int bytes = min(max(valid * (HeadDim / 8) - lane * 16, 0), 16), place = lane / 8 * 8 + (lane % 8 ^ lane / 8 * 2);
  if (lane < HeadDim / 4) device::copy_async_bytes(stage + Stage::value_scales + place * 16, scales, bytes);
}

// Copies what is codes of the rows [row, row + 32).
template <int HeadDim>
__device__ __forceinline__ void load_codes(uint32_t stage, const KvHead& head, int row) {
  const int run = row / kRunRows;
  if (row < head.packed_keys)
    head.packing.key_bits == 4 ? load_key_codes<HeadDim, 4>(stage, head, run) : load_key_codes<HeadDim, 2>(stage, head, run);
  const int valid = head.packed_values - row;
  if (valid > 0)
    head.packing.value_bits == 4 ? load_value_codes<HeadDim, 4>(stage, head, run, valid) : load_value_codes<HeadDim, 2>(stage, head, run, valid);
}

template <int Bits>
struct Codes {
  static constexpr int each = 32 / Bits, pairs = each / 2, in_byte = 8 / Bits; // codes of a word; pairs of codes half a word apart
  static constexpr uint32_t exponent = 0x64006400, minus_bias = 0xe400e400;    // 1024

  static KVA_HOST_DEVICE constexpr int step(int i) { return i % in_byte * Bits; } // its exponent
  // code i of the lower and of the upper half word as two numbers 1024 + code * 2^step(i)
  static __device__ __forceinline__ uint32_t pair(uint32_t word, int i) {
    const uint32_t mask = ((1u << Bits) - 1 << step(i)) * 0x10001u;
    uint32_t numbers;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(numbers) : "r"(word >> i / in_byte * 8), "r"(mask), "r"(exponent));
    return numbers;
  }
};

KVA_HOST_DEVICE constexpr uint32_t power_pair(int exponent) { return uint32_t(15 + exponent << 10) * 0x10001u; } // 2^exponent as two f16 numbers

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

__device__ __forceinline__ uint32_t multiply_halves(uint32_t a, uint32_t b) {
  const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}

// d += a * b, where the upper eight rows of a are all one number, and the lower eight another
__device__ __forceinline__ void mma_constant(float (&d)[4], uint32_t upper, uint32_t lower, uint32_t b0, uint32_t b1) {
  const uint32_t a[4] = {upper, lower, upper, lower};
  device::mma(d, a, b0, b1, __half());
}

// A register of whatever is in it, for rows of a product that are not used.
__device__ __forceinline__ uint32_t any_register() {
  uint32_t value;
  asm("" : "=r"(value));
  return value;
}

// A lane's part of the query head lane / 4 lies in shared memory, four registers in a row, piece n at query[32 n].
// For products with codes: f16, [word][pair] of the words lane % 4 + 4 j, times a power of two that brings its largest number to [8, 16), so that
// factors neither overflow nor vanish. Returns what scores are to be multiplied by.
template <class T, int HeadDim, int Bits>
__device__ __forceinline__ float load_code_query(uint4* query, const T* q, int heads) {
  using C = Codes<Bits>;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  float numbers[HeadDim / 8][2], largest = 0;
#pragma unroll
  for (int n = 0; n < HeadDim / 8; ++n) {
    const int channel = (quad + n / C::pairs * 4) * C::each + n % C::pairs;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      numbers[n][i] = group < heads ? device::widen(q[group * HeadDim + channel + i * C::pairs]) : 0;
      largest = fmaxf(largest, fabsf(numbers[n][i]));
    }
  }
  largest = fmaxf(largest, __shfl_xor_sync(device::kAllLanes, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(device::kAllLanes, largest, 2));
  const int exponent = min(max(__float_as_int(largest) >> 23, 8), 252) - 127;
  const float factor = __int_as_float((130 - exponent) << 23);
#pragma unroll
  for (int n = 0; n < HeadDim / 8; n += 4) {
    const auto pair = [&](int at) { return device::pack_pair(numbers[n + at][0] * factor, numbers[n + at][1] * factor, __half()); };
    query[n / 4 * 32] = {pair(0), pair(1), pair(2), pair(3)};
  }
  return __int_as_float((124 + exponent) << 23);
}

template <class T, int HeadDim>
__device__ __forceinline__ void load_full_query(uint4* query, const T* q, int heads) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < HeadDim / 32; ++n)
    query[n * 32] = group < heads ? *reinterpret_cast<const uint4*>(q + group * HeadDim + n * 32 + quad * 8) : uint4{0, 0, 0, 0};
}

// scores[t][i] of row 4 (lane / 4) + 2 t + i / 2 and head 2 (lane % 4) + i % 2, without their scale
template <int HeadDim, int Bits>
__device__ __forceinline__ void score_codes(float (&scores)[2][4], const uint4* query, const unsigned char* stage) {
  using Stage = CodeStage<HeadDim>;
  using C = Codes<Bits>;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  float constant[4] = {};
#pragma unroll
  for (int j = 0; j < HeadDim / C::each / 4; ++j) {
    const int word = quad + 4 * j;
    const uint4* scales = reinterpret_cast<const uint4*>(stage + Stage::key_scales + word * C::each * 4);
    const uint4 codes = *reinterpret_cast<const uint4*>(stage + Stage::keys + (word * 8 + (group ^ word % 4 * 2)) * 16);
    const uint32_t rows[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < C::pairs; i += 4) {
      const uint4 first = scales[i / 4], second = scales[(i + C::pairs) / 4];
      const uint32_t low[4] = {first.x, first.y, first.z, first.w}, high[4] = {second.x, second.y, second.z, second.w};
      const uint4 four = query[(j * C::pairs + i) / 4 * 32];
      const uint32_t q[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int p = 0; p < 4; p += 2) {
        const uint32_t q0 = q[p], q1 = q[p + 1];
        const auto scaled = [&](uint32_t pair, int at) {
          const uint32_t factor = multiply_halves(pair, low_halves(low[at], high[at]));
          return C::step(i + at) == 0 ? factor : multiply_halves(factor, power_pair(-C::step(i + at)));
        };
        const uint32_t b0 = scaled(q0, p), b1 = scaled(q1, p + 1);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          const uint32_t a[4] = {C::pair(rows[2 * t], i + p), C::pair(rows[2 * t + 1], i + p), C::pair(rows[2 * t], i + p + 1),
                                 C::pair(rows[2 * t + 1], i + p + 1)};
          device::mma(scores[t], a, b0, b1, __half());
        }
        mma_constant(constant, C::minus_bias, C::minus_bias, b0, b1);
        const uint32_t zeros[4] = {high_halves(low[p], high[p]), any_register(), high_halves(low[p + 1], high[p + 1]), any_register()};
        device::mma(constant, zeros, q0, q1, __half());
      }
    }
  }
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[t][i] += constant[i % 2]; // of the upper eight rows, which are all alike
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

// out[n][h][i] += share * value of channel 32 n + 4 (lane / 4) + 2 h + i / 2 and head 2 (lane % 4) + i % 2, for the rows whose values are codes;
// times 2^step(2 h + i / 2), which divide_steps takes off
template <int HeadDim, int Bits>
__device__ __forceinline__ void weigh_codes(float (&out)[HeadDim / 32][2][4], const float (&shares)[2][4], const unsigned char* stage) {
  using Stage = CodeStage<HeadDim>;
  using C = Codes<Bits>;
  constexpr int groups = HeadDim / kCodeGroup, row_pieces = HeadDim * Bits / 128; // pieces of 16 bytes of a row
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  // a lane's four channels of a group: half a word, or a byte of one
  const uint32_t select = Bits == 4 ? (group % 2 == 0 ? 0x5410 : 0x7632) : 0x4400 + group % 4 * 0x1111;
  // where the lane's rows begin; what is fixed of a place is set by XOR within a line and by adding lines
  const int codes_base = quad * row_pieces * 128 + quad * 32 + group * Bits / 2 / 4 * 4;
  const auto word = [&](int row, int at) { // rows of the lane's eight
    const int place = row * row_pieces + at * Bits / 4;
    return *reinterpret_cast<const uint32_t*>(stage + Stage::values + (codes_base ^ place % 8 * 16) + place / 8 * 128 + at * 4 * Bits % 16);
  };
  const int scales_base = HeadDim == 128 ? quad * 128 + quad * 32 : quad / 2 * 128 + (quad % 2 * 64 ^ quad / 2 * 32);
  uint32_t turned[4];
  turn_shares<__half>(turned, shares);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t scales[2][2][groups]; // [pair of rows][row of it]
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int byte = (step * 2 + r + i * 4) * groups * 4;
        const unsigned char* from = stage + Stage::value_scales + (scales_base ^ byte / 16 * 16) + byte % 16;
        if constexpr (groups == 4) {
          const uint4 four = *reinterpret_cast<const uint4*>(from);
          scales[r][i][0] = four.x, scales[r][i][1] = four.y, scales[r][i][2] = four.z, scales[r][i][3] = four.w;
        } else {
          const uint2 two = *reinterpret_cast<const uint2*>(from);
          scales[r][i][0] = two.x, scales[r][i][1] = two.y;
        }
      }
#pragma unroll
    for (int at = 0; at < groups; ++at) {
      uint32_t codes[2], factors[2], offsets[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = step * 2 + r;
        codes[r] = __byte_perm(word(row, at), word(row + 4, at), select);
        factors[r] = multiply_halves(turned[step * 2 + r], low_halves(scales[r][0][at], scales[r][1][at]));
        offsets[r] = multiply_halves(turned[step * 2 + r], high_halves(scales[r][0][at], scales[r][1][at]));
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t a[4] = {C::pair(codes[0], 2 * h), C::pair(codes[0], 2 * h + 1), C::pair(codes[1], 2 * h), C::pair(codes[1], 2 * h + 1)};
        device::mma(out[at][h], a, factors[0], factors[1], __half());
        mma_constant(out[at][h], C::minus_bias, C::minus_bias, factors[0], factors[1]);
        mma_constant(out[at][h], power_pair(C::step(2 * h)), power_pair(C::step(2 * h + 1)), offsets[0], offsets[1]);
      }
    }
  }
}

template <int HeadDim, int Bits>
__device__ __forceinline__ void divide_steps(float (&out)[HeadDim / 32][2][4]) {
#pragma unroll
  for (int n = 0; n < HeadDim / 32; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 4; ++i) out[n][h][i] *= 1.f / (1 << Codes<Bits>::step(2 * h + i / 2));
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

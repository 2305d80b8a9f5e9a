// A run of 32 cache rows on its way to one warp: codes and their scales into shared memory, rows in full precision nearer.
#pragma once
#include "../core/segments.h"
#include "early_launch.cuh"
#include "mma.cuh"
#include "number.cuh"

namespace kva {

constexpr int kRunRows = 32;

// A run in shared memory, in pieces of 16 bytes, as in the cache but for places that keep reads out of each other's banks. Codes of keys: [words][32
// rows], the piece of rows 4 i.. of word w at place i ^ 2 (w % 4) of its line. Codes of values: a gap after each four rows, at 2 bits after each
// eight; scales of values: a gap after each line.
template <int HeadDim>
struct CodeStage {
  static constexpr int keys = 0, values = HeadDim * 16, key_scales = values + HeadDim * 16 + 128, value_scales = key_scales + HeadDim * 4;
  static constexpr int bytes = (value_scales + HeadDim / 32 * 144 + 127) / 128 * 128; // of 4 bits; 2 bits leave room
  static constexpr int block = HeadDim / 8; // pieces of values between gaps

  static KVA_HOST_DEVICE constexpr int gap(int bits) { return 64 / bits; }
  static KVA_HOST_DEVICE constexpr int value_place(int piece, int bits) { return piece * 16 + piece / block * gap(bits); }
  static KVA_HOST_DEVICE constexpr int value_scale_place(int piece) { return piece * 16 + piece / 8 * 16; }
};

// Where the codes of a head are; a warp's own lies in shared memory.
struct CodeSource {
  const char *keys = nullptr, *key_scales = nullptr, *values = nullptr, *value_scales = nullptr;

  __device__ CodeSource() {}
  __device__ explicit CodeSource(const KvHead& head)
      : keys(static_cast<const char*>(device::read_ahead(head.packed_k))), key_scales(reinterpret_cast<const char*>(device::read_ahead(head.key_scales))),
        values(reinterpret_cast<const char*>(device::read_ahead(head.packed_v))), value_scales(reinterpret_cast<const char*>(device::read_ahead(head.value_scales))) {}
};

template <int HeadDim, int Bits>
__device__ __forceinline__ void load_key_codes(uint32_t stage, const CodeSource& source, int run) {
  using Stage = CodeStage<HeadDim>;
  constexpr int pieces = HeadDim * Bits / 4;
  const int lane = threadIdx.x % 32, word = lane / 8, place = word * 8 + (lane % 8 ^ word * 2);
  const char* keys = source.keys + uint64_t(uint32_t(run * pieces + lane)) * 16;
#pragma unroll
  for (int at = 0; at < pieces; at += 32) device::copy_async_once(stage + Stage::keys + place * 16 + at * 16, keys + at * 16);
  if (lane < HeadDim / 4) device::copy_async_once(stage + Stage::key_scales + lane * 16, source.key_scales + uint64_t(uint32_t(run * (HeadDim / 4) + lane)) * 16);
}

// The values of a run; with Valid of its first `valid` rows, scales of the others are zeros.
template <int HeadDim, int Bits, bool Valid>
__device__ __forceinline__ void load_value_codes(uint32_t stage, const CodeSource& source, int run, int valid = kRunRows) {
  using Stage = CodeStage<HeadDim>;
  constexpr int pieces = HeadDim * Bits / 4;
  const int lane = threadIdx.x % 32;
  const char* values = source.values + uint64_t(uint32_t(run * pieces + lane)) * 16;
  const uint32_t place = stage + Stage::values + Stage::value_place(lane, Bits);
#pragma unroll
  for (int at = 0; at < pieces; at += 32) {
    if constexpr (Valid)
      device::copy_async_once(place + Stage::value_place(at, Bits), values + at * 16, (at + lane) * kRunRows / pieces < valid ? 16 : 0);
    else
      device::copy_async_once(place + Stage::value_place(at, Bits), values + at * 16);
  }
  const char* scales = source.value_scales + uint64_t(uint32_t(run * (HeadDim / 4) + lane)) * 16;
  const uint32_t scale_place = stage + Stage::value_scales + Stage::value_scale_place(lane);
  if (lane < HeadDim / 4) {
    if constexpr (Valid)
      device::copy_async_once(scale_place, scales, min(max(valid * (HeadDim / 8) - lane * 16, 0), 16));
    else
      device::copy_async_once(scale_place, scales);
  }
}

// Copies what is codes of a run.
template <int HeadDim, int KeyBits, int ValueBits>
__device__ __forceinline__ void load_codes(uint32_t stage, const CodeSource& source, int run, int packed_keys, int packed_values) {
  if (run * kRunRows < packed_keys) load_key_codes<HeadDim, KeyBits>(stage, source, run);
  const int valid = packed_values - run * kRunRows;
  if (valid > 0) load_value_codes<HeadDim, ValueBits, true>(stage, source, run, valid);
}

// Asks for what is in full precision of a run to come nearer.
template <class T, int HeadDim>
__device__ __forceinline__ void approach_full(const KvHead& head, int run) {
  const Segments<DeviceNumber, T> segments{head, HeadDim};
  const int row = run * kRunRows + int(threadIdx.x % 32);
  const auto approach = [](const T* from) {
#pragma unroll
    for (int at = 0; at < HeadDim; at += 64) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + at));
  };
  if (row >= head.len) return;
  if (row >= head.packed_keys) approach(segments.full_key(row));
  if (row >= head.packed_values) approach(segments.full_value(row));
}

}  // namespace kva

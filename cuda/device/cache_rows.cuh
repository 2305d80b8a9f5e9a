// What moves with a row of the cache, and the copy of a row by one warp.
#pragma once
#include "../core/kv.h"
#include "vec.cuh"

namespace kva::device {

// what moves with a row
struct RowArrays {
  void *k, *v;
  void* unrotated_k; // NULL where the cache keeps none by row
  int32_t* pos;
  float* side[max_side_arrays];
  RowArrays() = default;
  __host__ __device__ explicit RowArrays(const KvHead& head) : k(head.k), v(head.v), unrotated_k(head.unrotated_k), pos(head.pos) {
    for (int a = 0; a < max_side_arrays; ++a) side[a] = head.side[a];
  }
};

// one thread
__device__ __forceinline__ void mark_dropped(KvHead* head, int row) {
  head->pos[row] = ~head->pos[row];
  head->dead += 1;
}

// One warp; Word is what rows are copied by, row_words how many of them a key has.
template <class Word>
__device__ __forceinline__ void copy_row(const RowArrays& from, int64_t from_row, const RowArrays& to, int64_t to_row, int row_words, int side_arrays) {
  const int lane = threadIdx.x % 32;
  for (int at = lane; at < 2 * row_words; at += 32) {
    const bool key = at < row_words;
    const int word = key ? at : at - row_words;
    static_cast<Word*>(key ? to.k : to.v)[to_row * row_words + word] = static_cast<const Word*>(key ? from.k : from.v)[from_row * row_words + word];
  }
  for (int at = lane; to.unrotated_k != nullptr && at < row_words; at += 32)
    static_cast<Word*>(to.unrotated_k)[to_row * row_words + at] = static_cast<const Word*>(from.unrotated_k)[from_row * row_words + at];
  if (lane == 0) to.pos[to_row] = from.pos[from_row];
#pragma unroll
  for (int a = 0; a < max_side_arrays; ++a)
    if (lane == a + 1 && a < side_arrays) to.side[a][to_row] = from.side[a][from_row];
}

// Calls body(word, words of a row) with the widest word that rows are made of.
template <class Body>
void with_row_word(const KvShape& shape, Body&& body) {
  const int bytes = static_cast<int>(shape.head_dim * dtype_bytes(shape.dtype));
  if (bytes % 16 == 0)
    body(uint4(), bytes / 16);
  else
    body(uint16_t(), bytes / 2);
}

}  // namespace kva::device

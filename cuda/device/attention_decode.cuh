// Decode attention, common parts: what a launch takes, what one item of its work is. An item is one split of split_rows cache rows, one KV head
// (of its group up to 16 query heads) and one sequence; lengths and addresses are read from the tables, so that a graph survives growth.
// Where some pages of a head are read, its rows are those of these pages, numbered one after the other.
#pragma once
#include <cuda_runtime.h>

#include "../core/kv.h"
#include "early_launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace kva {

constexpr int kDecodeHeads = 16; // query heads of an item
constexpr int kMostFullRuns = 8;  // of codes, that DecodeArgs::full_runs tells of
constexpr int kSparePartials = 4; // of a query head, beyond its splits: those over codes begin anywhere

struct DecodeArgs {
  KvSeq* const* sequences;
  const void* q;
  void* out;
  int64_t q_stride, out_stride;
  int q_dtype; // of q and out
  int layer, heads, kv_heads, head_dim, splits, window, count; // count: sequences
  int processors; // of the device
  bool ahead;     // the kernel before this one in the stream appends to the layer, and no other one that may still run changes it
  float scale;          // with log2(e) in it: scores are in base-2 units
  const int32_t* pages;      // NULL, or [sequences * kv_heads, pages_stride]: the pages that are read, ascending, the last one of the head being last
  const int32_t* page_counts; // with pages: how many of each head; -1: all rows are read
  int64_t pages_stride;
  float* scores;        // NULL, or [sequences * heads, splits * split_rows]
  int partials;         // of a query head, that there is room for
  int full_runs;        // of codes: how many runs at a head's end have rows in full precision; 0 where that does not matter
  int32_t* partial_counts; // NULL: a partial result is of a split; or [sequences * kv_heads]: how many there are of a head that has rows
  float* partial_out;   // [sequences * heads, partials, head_dim]: sum of 2^(score - max) * v
  float2* partial_sums; // [sequences * heads, partials]: max, sum of 2^(score - max)

  __host__ __device__ int group() const { return heads / kv_heads; }
  __host__ __device__ int chunks() const { return (group() + kDecodeHeads - 1) / kDecodeHeads; }
  __host__ __device__ int items() const { return splits * kv_heads * chunks() * count; }
  __host__ __device__ int64_t score_stride() const { return int64_t(splits) * split_rows; }
};

struct DecodeBlock {
  const void *keys, *values;
  const int32_t* positions; // NULL: every row is seen
  int newest_hidden;        // rows at this position and before are hidden; that of a dropped row is negative
  int first, last;          // rows of the split
  int split, sequence, kv_head, first_head, heads;
  const int32_t* pages; // NULL: row r lies at r
  int page_shift;       // log2 of a page's rows

  __device__ int place(int row) const {
    return pages == nullptr ? row : (pages[row >> page_shift] << page_shift) + (row & ((1 << page_shift) - 1));
  }
  __device__ bool sees(int row) const { return positions == nullptr || positions[row] > newest_hidden; }
  __device__ int64_t head_row(const DecodeArgs& args, int head) const { return int64_t(sequence) * args.heads + first_head + head; }
};

// where item `number` is, without its rows: splits follow one another, then KV heads, then sequences
__device__ __forceinline__ DecodeBlock decode_place(const DecodeArgs& args, int number) {
  DecodeBlock block;
  const unsigned chunks = args.chunks(), rest = unsigned(number) / args.splits, row = rest / chunks, chunk = rest % chunks;
  block.split = number - rest * args.splits;
  block.sequence = row / args.kv_heads;
  block.kv_head = row % args.kv_heads;
  block.first_head = block.kv_head * args.group() + chunk * kDecodeHeads;
  block.heads = min(kDecodeHeads, args.group() - int(chunk) * kDecodeHeads);
  return block;
}

__device__ __forceinline__ const KvHead& head_of(const DecodeArgs& args, const DecodeBlock& block) {
  return layer_heads(args.sequences[block.sequence], args.layer)[block.kv_head];
}

// whether sees() has anything to look at in rows of the head
__device__ __forceinline__ bool hides_rows(const DecodeArgs& args, const KvHead& head) {
  return args.window > 0 || head.dead > 0;
}

__device__ __forceinline__ void set_hidden(const DecodeArgs& args, const KvHead& head, DecodeBlock& block) {
  block.positions = hides_rows(args, head) ? head.pos : nullptr;
  block.newest_hidden = args.window > 0 ? max(-1, args.sequences[block.sequence]->position - args.window) : -1;
}

// rows of a head that are read; row: that of the head in the lists of pages
__device__ __forceinline__ int decode_rows(const DecodeArgs& args, const KvHead& head, int64_t row) {
  const int count = args.pages == nullptr ? -1 : args.page_counts[row];
  return count < 0 ? head.len : head.len - (pages_of(head, head.len) - count) * head.page_rows; // the last page may be short
}

// how many partial results there are of it, where `rows` rows are read
__device__ __forceinline__ int decode_partials(const DecodeArgs& args, int rows, int64_t row) {
  if (args.partial_counts != nullptr) return rows > 0 ? args.partial_counts[row] : 0;
  return min((rows + split_rows - 1) / split_rows, args.splits);
}

template <bool Paged = false>
__device__ __forceinline__ DecodeBlock decode_block(const DecodeArgs& args, int number) {
  DecodeBlock block = decode_place(args, number);
  const KvHead& head = head_of(args, block);
  block.keys = head.k;
  block.values = head.v;
  set_hidden(args, head, block);
  block.first = block.split * split_rows;
  block.pages = nullptr;
  int rows = head.len;
  if constexpr (Paged) {
    const int64_t row = int64_t(block.sequence) * args.kv_heads + block.kv_head;
    rows = decode_rows(args, head, row);
    if (args.page_counts[row] >= 0) block.pages = args.pages + row * args.pages_stride;
    block.page_shift = __ffs(head.page_rows) - 1;
  }
  block.last = min(rows, block.first + split_rows);
  return block;
}

// asks for what decode_block will read of an item to come nearer
__device__ __forceinline__ void approach_decode_block(const DecodeArgs& args, int number) {
  const KvHead* head = &head_of(args, decode_place(args, number));
  asm volatile("prefetch.global.L1 [%0];" ::"l"(&head->k));
  asm volatile("prefetch.global.L1 [%0];" ::"l"(&head->len));
}

// An item that a whole block works on. False where there is nothing to do; every thread of the block calls it.
template <bool Paged = false>
__device__ __forceinline__ bool open_decode_block(const DecodeArgs& args, int number, DecodeBlock& block) {
  block = decode_block<Paged>(args, number);
  if (args.splits == 1) return true; // writes the result itself, zeros where there are no rows
  if (block.first >= block.last) return false;
  if (block.positions == nullptr) return true;

  bool seen = false;
  for (int row = block.first + threadIdx.x; row < block.last; row += blockDim.x) seen = seen || block.sees(row);
  if (__syncthreads_or(seen)) return true;
  for (int i = threadIdx.x; i < block.heads; i += blockDim.x)
    args.partial_sums[block.head_row(args, i) * args.partials + block.split] = {-INFINITY, 0};
  if (args.scores != nullptr)
    for (int i = 0; i < block.heads; ++i)
      for (int row = block.first + threadIdx.x; row < block.last; row += blockDim.x)
        args.scores[block.head_row(args, i) * args.score_stride() + row] = -INFINITY;
  return false;
}

__device__ __forceinline__ float load_decode_query(const DecodeArgs& args, int64_t at) {
  if (args.q_dtype == KVA_F32) return static_cast<const float*>(args.q)[at];
  if (args.q_dtype == KVA_F16) return device::widen(static_cast<const __half*>(args.q)[at]);
  return device::widen(static_cast<const __nv_bfloat16*>(args.q)[at]);
}

__device__ __forceinline__ void write_decode_out(const DecodeArgs& args, int64_t sequence, int head, int column, float value) {
  const int64_t at = sequence * args.out_stride + int64_t(head) * args.head_dim + column;
  if (args.q_dtype == KVA_F32)
    static_cast<float*>(args.out)[at] = value;
  else if (args.q_dtype == KVA_F16)
    static_cast<__half*>(args.out)[at] = device::narrow<__half>(value);
  else
    static_cast<__nv_bfloat16*>(args.out)[at] = device::narrow<__nv_bfloat16>(value);
}

// out is the sum of 2^(score - max) * v over the split, sum that of 2^(score - max)
__device__ __forceinline__ void write_decode_split(const DecodeArgs& args, const DecodeBlock& block, int head, int column, float out, float max,
                                                   float sum) {
  const int64_t row = block.head_row(args, head);
  if (args.splits == 1) {
    write_decode_out(args, block.sequence, block.first_head + head, column, sum > 0 ? out / sum : 0);
  } else {
    args.partial_out[(row * args.partials + block.split) * args.head_dim + column] = out;
  }
  if (column == 0) args.partial_sums[row * args.partials + block.split] = {max, sum};
}

// Each launches its kernel for every item.
template <class T>
void attention_decode_mma_launch(const DecodeArgs& args, cudaStream_t stream); // head sizes 64 and 128, q of the cache's type
template <class T>
void attention_decode_fma_launch(const DecodeArgs& args, cudaStream_t stream);
template <class T>
void attention_decode_codes_launch(const DecodeArgs& args, const KvPacking& packing, cudaStream_t stream); // that of all sequences, which takes_codes()
                                                                                                           // names; q of the cache's type, two splits or more
template <class T>
void attention_decode_channels_launch(const DecodeArgs& args, cudaStream_t stream); // no codes; head sizes 64 and 128, q of the cache's type
template <class T>
void attention_decode_segments_launch(const DecodeArgs& args, cudaStream_t stream); // packed rows of any kind

}  // namespace kva

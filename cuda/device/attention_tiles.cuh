// What the prefill attention kernels share: the order of work, the walk over KV tiles, the causal and window mask, the softmax of a
// score tile in tensor-core layout, and the store of an output tile.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "attention_prefill.cuh"
#include "mma.cuh"
#include "vec.cuh"

namespace kva::device {

// The part of the arguments that kernels read; 16-bit and 32-bit elements alike.
struct AttentionShape {
  int rows, first_row, heads, kv_heads, head_dim, window;
  int tiles;          // query tiles of a head
  int section_heads;  // KV heads whose query tiles are worked on together
  float scale;
  const uint32_t* bits;  // the set of blocks, or NULL
  int64_t bits_stride;
  int block_rows, block;
  uint32_t dense[16];
  __host__ __device__ int group() const { return heads / kv_heads; }
  __host__ __device__ int items() const { return tiles * heads; }
};

// KV heads are taken in sections whose keys and values fit in the second-level cache together.
inline AttentionShape attention_shape(const AttentionPrefill& a, int tile_rows, int element_bytes) {
  const int64_t head_bytes = int64_t(2) * (a.first_row + a.rows) * a.head_dim * element_bytes, cache_bytes = 32 << 20;
  const int64_t fitting = cache_bytes / head_bytes;
  const int section = fitting < 1 ? 1 : fitting < a.kv_heads ? int(fitting) : a.kv_heads;
  AttentionShape shape = {a.rows, a.first_row, a.heads, a.kv_heads, a.head_dim, a.window, (a.rows + tile_rows - 1) / tile_rows, section, a.scale, a.bits,
                          a.bits_stride, a.block_rows, a.block};
  for (int i = 0; i < 16; ++i) shape.dense[i] = a.dense[i];
  return shape;
}

// The arguments of a kernel that reads through plain pointers.
template <class T>
struct AttentionPointers {
  AttentionShape shape;
  const T *q, *k, *v;
  T* out;
  float* lse;
  int64_t q_stride, out_stride, head_stride, lse_stride;
  AttentionPointers(const AttentionPrefill& a, int tile_rows)
      : shape(attention_shape(a, tile_rows, sizeof(T))),
        q(static_cast<const T*>(a.q)),
        k(static_cast<const T*>(a.k)),
        v(static_cast<const T*>(a.v)),
        out(static_cast<T*>(a.out)),
        lse(a.lse),
        q_stride(a.q_stride),
        out_stride(a.out_stride),
        head_stride(a.head_stride),
        lse_stride(a.lse_stride) {}
};

// whether every row of every head starts at a multiple of 16 bytes, for 16-bit elements
inline bool attention_aligned(const AttentionPrefill& a) {
  const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  return (a.q_stride | a.out_stride | a.head_stride | a.head_dim) % 8 == 0 &&
         (address(a.q) | address(a.out) | address(a.k) | address(a.v)) % 16 == 0;
}

struct AttentionItem {
  int tile, head;
};

// Work item `index`: in each section the longest (last) query tiles come first, the query heads of a group side by side.
__device__ __forceinline__ AttentionItem attention_item(const AttentionShape& shape, int index) {
  const int group = shape.group(), per_section = shape.tiles * shape.section_heads * group;
  const int section = index / per_section, first = section * shape.section_heads;
  const int heads = min(shape.section_heads, shape.kv_heads - first) * group;
  const int rest = index - section * per_section;
  return {shape.tiles - 1 - rest / heads, first * group + rest % heads};
}

// The KV tiles that a query tile reads, from the diagonal leftwards: `at(0) ... at(count - 1)`, count >= 1.
struct TileWalk {
  int last, count;
  int mask_from, mask_below;  // tiles >= mask_from cross the diagonal or the end, tiles < mask_below the window's edge
  __device__ __forceinline__ int at(int i) const { return last - i; }
  __device__ __forceinline__ bool masked(int tile) const { return tile >= mask_from || tile < mask_below; }
};

template <int TileRows, int TileKeys>
__device__ __forceinline__ TileWalk tile_walk(const AttentionShape& shape, int tile) {
  const int top = shape.first_row + tile * TileRows;  // cache row of the tile's first query
  const int bottom = min(top + TileRows, shape.first_row + shape.rows) - 1;
  TileWalk walk;
  walk.last = bottom / TileKeys;
  walk.mask_from = (top + 1) / TileKeys;
  const int first = shape.window > 0 ? max(0, top - shape.window + 1) / TileKeys : 0;
  walk.count = walk.last - first + 1;
  walk.mask_below = shape.window > 0 ? (max(0, bottom - shape.window + 1) + TileKeys - 1) / TileKeys : 0;
  return walk;
}

// The key blocks of a query block's set, from the diagonal leftwards.
struct BlockWalk {
  const uint32_t* row;  // NULL: every block
  uint32_t ahead;       // of the word at hand
  int word;

  __device__ __forceinline__ BlockWalk(const AttentionShape& shape, int head, int query_block)
      : row(shape.dense[head / 32] >> (head % 32) & 1 ? nullptr : shape.bits + (int64_t(head) * shape.block_rows + query_block) * shape.bits_stride) {
    const int diagonal = shape.first_row / shape.block + query_block;
    word = diagonal / 32;
    ahead = read() & (~0u >> (31 - diagonal % 32));
  }
  __device__ __forceinline__ uint32_t read() const { return row != nullptr ? __ldg(row + word) : ~0u; }

  // -1: no more
  __device__ __forceinline__ int next() {
    while (ahead == 0) {
      if (word == 0) return -1;
      --word;
      ahead = read();
    }
    const int bit = 31 - __clz(ahead);
    ahead ^= 1u << bit;
    return word * 32 + bit;
  }
};

// The same KV tiles one after another, those of the set of blocks alone where there is one; TileRows and TileKeys divide the block.
template <int TileRows, int TileKeys, bool Listed>
struct TileSteps {
  TileWalk walk;
  BlockWalk blocks;
  int step = 0, block_tiles, block = 0;

  __device__ __forceinline__ TileSteps(const AttentionShape& shape, const AttentionItem& item)
      : walk(tile_walk<TileRows, TileKeys>(shape, item.tile)),
        blocks(shape, item.head, item.tile * TileRows / shape.block),
        block_tiles(shape.block / TileKeys) {}

  // -1: no more
  __device__ __forceinline__ int next() {
    if (step % block_tiles == 0) block = blocks.next();
    return block < 0 ? -1 : (block + 1) * block_tiles - 1 - step++ % block_tiles;
  }
};
template <int TileRows, int TileKeys>
struct TileSteps<TileRows, TileKeys, false> {
  TileWalk walk;
  int step = 0;
  __device__ __forceinline__ TileSteps(const AttentionShape& shape, const AttentionItem& item)
      : walk(tile_walk<TileRows, TileKeys>(shape, item.tile)) {}
  __device__ __forceinline__ int next() { return step < walk.count ? walk.at(step++) : -1; }
};

__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// Two rows (8 apart) of a tile of scores, as a lane of a tensor-core accumulator holds them: block b of 8 columns at [4 b, 4 b + 4),
// the first row's two columns, then the second's.
struct SoftmaxRows {
  float max[2], sum[2];  // the sum is of this lane's columns

  __device__ __forceinline__ void reset() {
    max[0] = max[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  // scores become exp2(scale * (score - max)); factor[r] is what earlier sums and outputs of row r are multiplied by. scale in log2.
  template <int Count>
  __device__ __forceinline__ void update(float (&scores)[Count], float scale, float (&factor)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = scores[2 * r];
#pragma unroll
      for (int i = 0; i < Count; i += 4) top = fmaxf(top, fmaxf(scores[i + 2 * r], scores[i + 2 * r + 1]));
      top = fmaxf(quad_max(top), max[r]);
      const float shift = top == -INFINITY ? 0 : top * scale;  // a row that saw nothing yet
      factor[r] = exp2_fast(max[r] * scale - shift);
      max[r] = top;
      float added = 0;
#pragma unroll
      for (int i = 0; i < Count; i += 4) {
        scores[i + 2 * r] = exp2_fast(scores[i + 2 * r] * scale - shift);
        scores[i + 2 * r + 1] = exp2_fast(scores[i + 2 * r + 1] * scale - shift);
        added += scores[i + 2 * r] + scores[i + 2 * r + 1];
      }
      sum[r] = sum[r] * factor[r] + added;
    }
  }

  // inverse[r] = 1 / sum, lse[r] = ln(sum exp(score)); scale is natural here. A row that saw nothing: 0 and -inf.
  __device__ __forceinline__ void finish(float scale, float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float total = quad_sum(sum[r]);
      inverse[r] = total > 0 ? 1 / total : 0;
      lse[r] = total > 0 ? max[r] * scale + logf(total) : -INFINITY;
    }
  }
};

// Scores of keys outside of (row - window, row] become -inf. `row` is the cache row of the lane's first row, the other is row + 8;
// `column` the cache row of its first key.
template <int Count>
__device__ __forceinline__ void mask_scores(float (&scores)[Count], int row, int column, int window) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int high = row + 8 * r - column, low = window > 0 ? high - window : -(1 << 30);
#pragma unroll
    for (int i = 0; i < Count; i += 4)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = i * 2 + e;
        if (key > high || key <= low) scores[i + 2 * r + e] = -INFINITY;
      }
  }
}

// The four lanes of a quad hold four 8-column blocks as two columns each; afterwards lane q holds the 16 bytes of block q.
__device__ __forceinline__ uint4 quad_transpose(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3, int lane) {
  const bool odd = lane & 1, high = lane & 2;
  const uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? w0 : w1, 1), b = __shfl_xor_sync(0xffffffffu, odd ? w2 : w3, 1);
  (odd ? w0 : w1) = a;
  (odd ? w2 : w3) = b;
  const uint32_t c = __shfl_xor_sync(0xffffffffu, high ? w0 : w2, 2), d = __shfl_xor_sync(0xffffffffu, high ? w1 : w3, 2);
  (high ? w0 : w2) = c;
  (high ? w1 : w3) = d;
  return {w0, w1, w2, w3};
}

// Stores a lane's two rows of an output tile: row pointers are NULL past the end, `columns` is the head size, a multiple of 8.
template <class T, int Count>
__device__ __forceinline__ void store_rows(const float (&tile)[Count], const float (&factor)[2], T* const (&to)[2], int columns) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int block = 0; block < Count / 4; block += 4) {
      uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * (block + i) + 2 * r;
        word[i] = pack_pair(tile[at] * factor[r], tile[at + 1] * factor[r], T{});
      }
      const uint4 chunk = quad_transpose(word[0], word[1], word[2], word[3], lane);
      if (to[r] && (block + lane) * 8 < columns) *reinterpret_cast<uint4*>(to[r] + (block + lane) * 8) = chunk;
    }
}

}  // namespace kva::device

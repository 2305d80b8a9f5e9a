// Sets of blocks, as kernels and the CPU read them: which key blocks each query block of a head reads.
#pragma once
#include "../core/kv.h"

namespace kva {

constexpr int32_t most_block_heads = 512;

// which heads read everything
struct HeadSet {
  uint32_t words[most_block_heads / 32];
  KVA_HOST_DEVICE bool has(int32_t head) const { return words[head / 32] >> (head % 32) & 1; }
};

// the bits of word `word` that are columns <= last
inline KVA_HOST_DEVICE uint32_t bits_up_to(int32_t word, int32_t last) {
  const int32_t count = last - word * 32 + 1;
  return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
}

struct BlockSet {
  const uint32_t* bits;  // [heads * rows, words], stride words from row to row; NULL: no set, everything is read
  int64_t stride;
  int32_t words;
  int32_t heads;
  int32_t rows;   // query blocks of a head
  int32_t first;  // number of the first of them
  int32_t block;  // rows of the cache in a block
  HeadSet dense;

  KVA_HOST_DEVICE const uint32_t* row(int32_t head, int32_t query_block) const {
    return bits + (int64_t(head) * rows + query_block - first) * stride;
  }
  // Columns of word `word` that query block query_block of the head reads, the diagonal being the last.
  KVA_HOST_DEVICE uint32_t columns(int32_t head, int32_t query_block, int32_t word) const {
    return (dense.has(head) ? ~0u : row(head, query_block)[word]) & bits_up_to(word, query_block);
  }
  KVA_HOST_DEVICE bool has(int32_t head, int32_t query_block, int32_t key_block) const {
    return dense.has(head) || (row(head, query_block)[key_block / 32] >> (key_block % 32) & 1);
  }
};

// Word `word` of query block R: columns c < sinks and c > R - recent, up to R.
inline KVA_HOST_DEVICE uint32_t band_bits(int32_t word, int32_t query_block, int32_t sinks, int32_t recent) {
  return (bits_up_to(word, sinks - 1) | ~bits_up_to(word, query_block - recent)) & bits_up_to(word, query_block);
}

// Word `word` of query block R: columns R - s with s in [o - before, o + after] for a bit o <= last of slash.
inline KVA_HOST_DEVICE uint32_t slash_bits(const uint32_t* slash, int32_t word, int32_t query_block, int32_t last, int32_t before,
                                            int32_t after) {
  uint32_t bits = 0;
  for (int32_t i = 0; i < 32 && word * 32 + i <= query_block; ++i)
    for (int32_t o = query_block - word * 32 - i - after; o <= query_block - word * 32 - i + before; ++o)
      if (o >= 0 && o <= last && (slash[o / 32] >> (o % 32) & 1)) bits |= 1u << i;
  return bits;
}

// How many of a query block's `count` key blocks stay.
inline KVA_HOST_DEVICE int64_t thinned_count(int64_t count, int32_t query_block, float share) {
  const int64_t wanted = int64_t(double(share) * (query_block + 1) + 0.5);
  return wanted < 1 ? (count < 1 ? count : 1) : wanted < count ? wanted : count;
}

// Those of bits, numbers i, i + 1, ... of a row, that stay; i moves on.
inline KVA_HOST_DEVICE uint32_t thinned_bits(uint32_t bits, int64_t& i, int64_t count, int64_t kept) {
  uint32_t staying = 0;
  for (uint32_t rest = bits; rest != 0; rest &= rest - 1, ++i)
    if ((i + 1) * kept / count > i * kept / count) staying |= rest & (~rest + 1);
  return staying;
}

}  // namespace kva

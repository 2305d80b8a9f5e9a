// Sets of blocks: bands, vertical and slash lines, counting, thinning, lists. A query block of a head is a task.
#include <algorithm>
#include <bit>
#include <cmath>

#include "../core/cpu.h"
#include "ops.h"

namespace kva {
namespace {

// body(head, query_block, words of the row)
template <class Body>
void each_row(Context& context, const BlockSet& set, Body body) {
  parallel_ranges(context, int64_t(set.heads) * set.rows, 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t head = int32_t(i / set.rows), query_block = set.first + int32_t(i % set.rows);
      body(head, query_block, const_cast<uint32_t*>(set.row(head, query_block)));
    }
  });
}

int32_t row_count(const BlockSet& set, int32_t head, int32_t query_block) {
  int32_t count = 0;
  for (int32_t w = 0; w < set.words; ++w) count += std::popcount(set.columns(head, query_block, w));
  return count;
}

}  // namespace

void blocks_band(Context& context, const BlockSet& blocks, int32_t sinks, int32_t recent) {
  each_row(context, blocks, [=](int32_t, int32_t query_block, uint32_t* row) {
    for (int32_t w = 0; w <= query_block / 32; ++w) row[w] |= band_bits(w, query_block, sinks, recent);
  });
}

void blocks_vertical_slash(Context& context, Matrix vertical, Matrix slash, int32_t before, int32_t after, const BlockSet& blocks) {
  const int32_t last = blocks.first + blocks.rows - 1;
  each_row(context, blocks, [=](int32_t head, int32_t query_block, uint32_t* row) {
    for (int32_t w = 0; w <= query_block / 32; ++w)
      row[w] |= (vertical.row<uint32_t>(head)[w] | slash_bits(slash.row<uint32_t>(head), w, query_block, last, before, after)) &
                bits_up_to(w, query_block);
  });
}

void blocks_count(Context& context, const BlockSet& blocks, Matrix counts) {
  parallel(context, blocks.heads, [=](int64_t head, int32_t) {
    int32_t count = 0;
    for (int32_t r = 0; r < blocks.rows; ++r) count += row_count(blocks, int32_t(head), blocks.first + r);
    counts.row<int32_t>(0)[head] = count;
  });
}

void blocks_thin(Context& context, const BlockSet& blocks, float share) {
  each_row(context, blocks, [=](int32_t head, int32_t query_block, uint32_t* row) {
    const int64_t count = row_count(blocks, head, query_block), kept = thinned_count(count, query_block, share);
    int64_t i = 0;
    for (int32_t w = 0; w < blocks.words; ++w) row[w] = thinned_bits(blocks.columns(head, query_block, w), i, count, kept);
  });
}

void blocks_to_csr(Context& context, const BlockSet& blocks, Matrix row_ptr, Matrix col) {
  cpu(context).enqueue([=] {
    int32_t at = 0, *starts = row_ptr.row<int32_t>(0);
    for (int32_t i = 0; i < blocks.heads * blocks.rows; ++i) {
      *starts++ = at;
      const int32_t head = i / blocks.rows, query_block = blocks.first + i % blocks.rows;
      for (int32_t w = 0; w < blocks.words; ++w)
        for (uint32_t bits = blocks.columns(head, query_block, w); bits != 0; bits &= bits - 1, ++at)
          if (at < col.columns) col.row<int32_t>(0)[at] = w * 32 + std::countr_zero(bits);
    }
    *starts = at;
  });
}

}  // namespace kva

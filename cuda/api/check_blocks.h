// Checks of sets of blocks.
#pragma once
#include "../ops/blocks.h"
#include "check.h"

namespace kva {

// words for `columns` bits
inline int32_t words_for(int64_t columns) { return int32_t((columns + 31) / 32); }
inline int64_t blocks_for(int64_t rows, int32_t block) { return (rows + block - 1) / block; }

// The set in `handle`: rows are those of `heads` heads; columns up to its last query block's fit.
inline BlockSet get_set(kva_tensor* handle, const char* name, const Context& context, int32_t heads, int32_t first_block) {
  Tensor& x = get(handle, name);
  require_context(x, name, context);
  require_type(x, name, KVA_I32);
  require(heads >= 1 && heads <= most_block_heads && x.rows % heads == 0 && x.rows > 0, "%s has %d rows, which are not those of %d heads (1 to %d)",
          name, x.rows, heads, most_block_heads);
  require(first_block >= 0, "first_block is %d, it must be 0 or more", first_block);
  BlockSet set{x.row<uint32_t>(0), x.stride, x.columns, heads, x.rows / heads, first_block, 0, {}};
  require(words_for(int64_t(first_block) + set.rows) <= x.columns, "%s has %d words a row, query block %d sees %d key blocks", name, x.columns,
          first_block + set.rows - 1, first_block + set.rows);
  return set;
}

// As above, where query rows [first_row, first_row + rows) read the set.
inline BlockSet get_read_set(kva_tensor* handle, const Context& context, const KvShape& shape, int32_t first_row, int32_t rows, int32_t block,
                      int32_t first_block, const int32_t* kinds) {
  require(block == 64 || block == 128, "block is %d, it must be 64 or 128", block);
  BlockSet set = get_set(handle, "bits", context, shape.heads, first_block);
  set.block = block;
  require(first_row >= 0 && first_row % block == 0, "first_row is %d, it must be a multiple of block, %d", first_row, block);
  const int64_t first = first_row / block, end = blocks_for(int64_t(first_row) + rows, block);
  require(first >= first_block && end <= int64_t(first_block) + set.rows, "bits has query blocks [%d, %lld), the queries are of [%lld, %lld)",
          first_block, (long long)first_block + set.rows, (long long)first, (long long)end);
  for (int32_t h = 0; kinds != nullptr && h < shape.heads; ++h) {
    require(kinds[h] == KVA_HEAD_BLOCKS || kinds[h] == KVA_HEAD_DENSE, "kinds[%d] is %d, it must be 0 (blocks) or 1 (dense)", h, kinds[h]);
    if (kinds[h] == KVA_HEAD_DENSE) set.dense.words[h / 32] |= 1u << (h % 32);
  }
  return set;
}

}  // namespace kva

// Prefill attention over sets of blocks: the arguments of its launches.
#include "../device/attention_launches.cuh"
#include "ops.h"

namespace kva {

void attention_blocks(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix q, float scale, const BlockSet& blocks, Matrix out,
                      Matrix lse) {
  const int64_t ints = 2 * attention_items(q.rows, kv.shape.heads);
  each_prefill_launch(context, kv, layer, first_row, q, scale, 0, out, lse, ints, [&](AttentionPrefill attention, int first_head) {
    attention.bits = blocks.row(first_head, first_row / blocks.block);
    attention.bits_stride = blocks.stride;
    attention.block_rows = blocks.rows;
    attention.block = blocks.block;
    attention.order = attention.counter + 1;
    for (int h = 0; h < attention.heads; ++h)
      if (blocks.dense.has(first_head + h)) attention.dense[h / 32] |= 1u << (h % 32);
    check_cuda(attention_prefill_launch(attention), "attention_prefill_launch");
  });
}

}  // namespace kva

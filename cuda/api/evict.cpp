// extern "C": eviction and merging while decoding, and scores divided by a ramp.
#include "../ops/ops.h"
#include "check_batch.h"

using namespace kva;

// Heads with at least rows + interval rows have `rows` left.
static void cut_effect(Batch& b, int32_t first, int32_t sequences, int32_t layer, int32_t rows, int32_t interval) {
  b.context.effect([&b, first, sequences, layer, rows, interval] {
    for (int32_t s = first; s < first + sequences; ++s)
      for (int32_t h = 0; h < b.shape().kv_heads; ++h) {
        KvHead& head = b.kvs[s]->layer(layer)[h];
        if (live_rows(head) - rows >= interval)
          for (int32_t left = live_rows(head); left > rows; --left) drop_one(head);
      }
  });
}

// Probabilities of the batch's current queries, a column for every row of a head that holds more than `rows`.
static Tensor& get_probs(kva_tensor* probs, Batch& b, int32_t first, int32_t sequences, int32_t layer, int32_t rows) {
  Tensor& p = get(probs, "probs");
  require_context(p, "probs", b.context);
  require_type(p, "probs", KVA_F32);
  require_shape(p, "probs", int64_t(b.sequences()) * b.shape().kv_heads, p.columns);
  b.context.condition([&b, columns = p.columns, first, sequences, layer, rows] {
    for (int32_t s = first; s < first + sequences; ++s) {
      const int32_t longest = b.kvs[s]->longest(layer);
      require(longest <= rows || longest <= columns, "probs has %d columns, a head holds %d rows", columns, longest);
    }
  });
  return p;
}

static void require_pooling(int32_t rows, int32_t recent, int32_t width) {
  require(recent >= 0 && rows >= recent, "rows is %d and recent is %d; recent must be from 0 to rows", rows, recent);
  require(width >= 1 && width % 2 == 1, "width is %d, it must be odd", width);
}

static void require_merge(int32_t targets, int32_t decision) {
  require(targets >= 1 && targets <= 4096, "targets is %d, it must be from 1 to 4096", targets);
  require(decision >= KVA_MERGE_BERNOULLI && decision <= KVA_MERGE_NEVER, "decision is %d, it must be from 0 to 4", decision);
}

int32_t kva_kv_drop_lowest_every(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                                 int32_t recent, int32_t interval) {
  return run("kv_drop_lowest_every", [&]() -> Context& {
    Batch& b = get_droppable(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require(recent >= 0 && rows >= recent, "rows is %d and recent is %d; recent must be from 0 to rows", rows, recent);
    require(interval >= 1, "interval is %d, it must be at least 1", interval);
    drop_lowest_every(b.context, b, first_sequence, sequences, layer, rows, side, recent, interval);
    cut_effect(b, first_sequence, sequences, layer, rows, interval);
    return b.context;
  });
}

int32_t kva_kv_note_norms(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t p, float factor) {
  return run("kv_note_norms", [&]() -> Context& {
    Batch& b = get_range(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require(p == 1 || p == 2, "p is %d, it must be 1 or 2", p);
    note_norms(b.context, b, first_sequence, sequences, layer, side, p, factor);
    return b.context;
  });
}

int32_t kva_kv_drop_pooled(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t rows,
                           int32_t recent, int32_t width) {
  return run("kv_drop_pooled", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    require_pooling(rows, recent, width);
    Tensor& p = get_probs(probs, b, first_sequence, sequences, layer, rows);
    drop_pooled(b.context, b, first_sequence, sequences, layer, p, rows, recent, width);
    drop_effect(b, first_sequence, sequences, layer, rows);
    return b.context;
  });
}

int32_t kva_kv_keep_ranked(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t side,
                           int32_t rows, int32_t recent, int32_t width) {
  return run("kv_keep_ranked", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require_pooling(rows, recent, width);
    Tensor& p = get_probs(probs, b, first_sequence, sequences, layer, rows);
    keep_ranked(b.context, b, first_sequence, sequences, layer, p, side, rows, recent, width);
    cut_effect(b, first_sequence, sequences, layer, rows, 1);
    return b.context;
  });
}

int32_t kva_kv_merge_oldest(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                            int32_t sinks, int32_t targets, int32_t decision, uint32_t seed) {
  return run("kv_merge_oldest", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require(sinks >= 0 && rows >= sinks, "rows is %d and sinks is %d; sinks must be from 0 to rows", rows, sinks);
    require_merge(targets, decision);
    merge_oldest(b.context, b, first_sequence, sequences, layer, side, rows, sinks, targets, decision, seed);
    drop_effect(b, first_sequence, sequences, layer, rows);
    return b.context;
  });
}

int32_t kva_kv_merge_recent(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                            int32_t recent, int32_t targets, int32_t decision, uint32_t seed) {
  return run("kv_merge_recent", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require(rows >= 0, "rows is %d, it must be at least 0", rows);
    require(recent >= 1, "recent is %d, it must be at least 1", recent);
    require_merge(targets, decision);
    merge_recent(b.context, b, first_sequence, sequences, layer, side, rows, recent, targets, decision, seed);
    return b.context;
  });
}

int32_t kva_divide_ramp(kva_tensor* x, float start, float step, kva_tensor* out) {
  return run("divide_ramp", [&]() -> Context& {
    Tensor &from = get(x, "x"), &to = get(out, "out");
    require_context(to, "out", from.context);
    require_type(from, "x", KVA_F32);
    require_type(to, "out", KVA_F32);
    require_shape(to, "out", from.rows, from.columns);
    divide_ramp(from.context, from, start, step, to);
    return from.context;
  });
}

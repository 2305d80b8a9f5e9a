// extern "C": batches of caches, and changes of their rows while decoding.
#include "../ops/ops.h"
#include "check_batch.h"

using namespace kva;

int32_t kva_batch_create(kva_context* context, int32_t max_sequences, kva_batch** out) {
  return guard("batch_create", [&] {
    Context& c = get(context, "context");
    require_out(out, "out");
    c.require_eager();
    require(max_sequences >= 1 && max_sequences <= 65536, "max_sequences is %d, it must be from 1 to 65536", max_sequences);
    *out = reinterpret_cast<kva_batch*>(new Batch(c, max_sequences));
  });
}

int32_t kva_batch_destroy(kva_batch* batch) {
  return guard("batch_destroy", [&] { delete reinterpret_cast<Batch*>(batch); });
}

int32_t kva_batch_set(kva_batch* batch, int32_t sequences, kva_kv* const* kvs) {
  return run("batch_set", [&]() -> Context& {
    Batch& b = get(batch, "batch");
    require(sequences >= 0 && sequences <= b.max_sequences, "sequences is %d, the batch has room for %d", sequences, b.max_sequences);
    if (sequences > 0) require_out(kvs, "kvs");
    b.set(reinterpret_cast<Kv* const*>(kvs), sequences);
    return b.context;
  });
}

int32_t kva_batch_reserve(kva_batch* batch, int32_t rows, int32_t* generation) {
  return run("batch_reserve", [&]() -> Context& {
    Batch& b = get_filled(batch);
    require_out(generation, "generation");
    require(rows >= 0, "rows is %d, it must be at least 0", rows);
    b.context.require_eager();
    b.reserve(rows);
    *generation = b.generation;
    return b.context;
  });
}

int32_t kva_batch_advance(kva_batch* batch) {
  return run("batch_advance", [&]() -> Context& {
    Batch& b = get_filled(batch);
    b.context.condition([&b] {
      for (Kv* kv : b.kvs) require(kv->position < INT32_MAX - 1, "a sequence is at position %d, the last one", kv->position);
    });
    advance(b.context, b);
    b.context.record_change(Context::every_layer);
    b.context.effect([&b] {
      for (Kv* kv : b.kvs) kv->position += 1;
    });
    return b.context;
  });
}

int32_t kva_kv_keep_at_most(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t sinks) {
  return run("kv_keep_at_most", [&]() -> Context& {
    Batch& b = get_droppable(batch, first_sequence, sequences, layer);
    require(sinks >= 0 && rows >= sinks, "rows is %d and sinks is %d; sinks must be from 0 to rows", rows, sinks);
    keep_at_most(b.context, b, first_sequence, sequences, layer, rows, sinks);
    drop_effect(b, first_sequence, sequences, layer, rows);
    return b.context;
  });
}

int32_t kva_kv_drop_lowest(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                           int32_t recent) {
  return run("kv_drop_lowest", [&]() -> Context& {
    Batch& b = get_droppable(batch, first_sequence, sequences, layer);
    require_side(b.shape(), side);
    require(recent >= 0 && rows >= recent, "rows is %d and recent is %d; recent must be from 0 to rows", rows, recent);
    drop_lowest(b.context, b, first_sequence, sequences, layer, rows, side, recent);
    drop_effect(b, first_sequence, sequences, layer, rows);
    return b.context;
  });
}

int32_t kva_kv_accumulate(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t side,
                          float factor, float decay) {
  return run("kv_accumulate", [&]() -> Context& {
    Batch& b = get_range(batch, first_sequence, sequences, layer);
    Tensor& p = get(probs, "probs");
    require_context(p, "probs", b.context);
    require_type(p, "probs", KVA_F32);
    require_shape(p, "probs", int64_t(b.sequences()) * b.shape().kv_heads, p.columns);
    require_side(b.shape(), side);
    accumulate(b.context, b, first_sequence, sequences, layer, p, side, factor, decay);
    return b.context;
  });
}

// Frequencies for sequences of the batch.
static Tensor& get_frequencies(kva_tensor* inv_freq, const Batch& b, int32_t interleaved) {
  Tensor& f = get(inv_freq, "inv_freq");
  require_context(f, "inv_freq", b.context);
  require_type(f, "inv_freq", KVA_F32);
  require(f.rows == 1 || f.rows == b.sequences(), "inv_freq has %d rows, it must have 1 or one of each of %d sequences", f.rows, b.sequences());
  require(2 * int64_t(f.columns) <= b.shape().head_dim, "inv_freq has %d columns, at most half of headDim %d can be", f.columns, b.shape().head_dim);
  require(interleaved == 0 || interleaved == 1, "interleaved is %d, it must be 0 or 1", interleaved);
  return f;
}

int32_t kva_kv_rotate_sinks(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t sinks, kva_tensor* inv_freq,
                            int32_t interleaved, float mscale) {
  return run("kv_rotate_sinks", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    Tensor& f = get_frequencies(inv_freq, b, interleaved);
    require(sinks >= 0 && sinks <= b.shape().unrotated_rows, "sinks is %d, the cache keeps %d unrotated keys", sinks, b.shape().unrotated_rows);
    rotate_sinks(b.context, b, first_sequence, sequences, layer, sinks, f, interleaved == 1, mscale);
    return b.context;
  });
}

int32_t kva_kv_rotate_slots(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* inv_freq, int32_t interleaved,
                            float mscale) {
  return run("kv_rotate_slots", [&]() -> Context& {
    Batch& b = get_plain(batch, first_sequence, sequences, layer);
    Tensor& f = get_frequencies(inv_freq, b, interleaved);
    require(b.shape().unrotates_every_row(), "the cache keeps %d unrotated keys, it must keep those of every row", b.shape().unrotated_rows);
    rotate_slots(b.context, b, first_sequence, sequences, layer, f, interleaved == 1, mscale);
    return b.context;
  });
}

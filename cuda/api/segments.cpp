// extern "C": quantised and channel-indexed rows.
#include <algorithm>
#include <numeric>

#include "../core/segments.h"
#include "../ops/ops.h"
#include "check.h"

using namespace kva;

int32_t kva_kv_quantize(kva_kv* kv, int32_t layer, int32_t key_bits, int32_t value_bits, int32_t group, int32_t residual, int32_t spare) {
  return run("kv_quantize", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    require_layer(cache.shape, layer);
    require((key_bits == 2 || key_bits == 4) && (value_bits == 2 || value_bits == 4), "key_bits is %d and value_bits is %d; each must be 2 or 4",
            key_bits, value_bits);
    require(group == 32 || group == 64 || group == 128, "group is %d, it must be 32, 64 or 128", group);
    require(residual > 0 && residual % group == 0, "residual is %d, it must be a multiple of the group %d", residual, group);
    require(spare >= 0, "spare is %d, it must be at least 0", spare);
    const KvPacking& before = cache.layer(layer)[0].packing;
    require(before.key_bits == 0, "layer %d is quantised already", layer);
    require_unbounded(cache, layer);
    cache.pack(layer, {key_bits, value_bits, group, std::gcd(group, cache.shape.head_dim), residual, before.channels}, {}, {}, spare);
    return cache.context;
  });
}

int32_t kva_kv_flush(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer) {
  return run("kv_flush", [&]() -> Context& {
    Batch& b = get_range(batch, first_sequence, sequences, layer);
    flush(b.context, b, first_sequence, sequences, layer);
    const auto closes = [&](Kv* kv) { return bool(kv->closes[layer]); };
    if (std::any_of(b.kvs.begin() + first_sequence, b.kvs.begin() + first_sequence + sequences, closes))
      close_dropped(b.context, b, first_sequence, sequences, layer);
    b.context.effect([&b, first_sequence, sequences, layer] {
      for (int32_t s = first_sequence; s < first_sequence + sequences; ++s)
        for (int32_t h = 0; h < b.shape().kv_heads; ++h) {
          KvHead& head = b.kvs[s]->layer(layer)[h];
          if (keys_are_due(head)) head.packed_keys += head.packing.residual;
          if (value_is_due(head)) head.packed_values += 1;
          if (closing_is_due(head)) head = closed(head);
        }
    });
    return b.context;
  });
}

int32_t kva_channel_scores(kva_kv* kv, int32_t layer, kva_tensor* queries, kva_tensor* out) {
  return run("channel_scores", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor &q = get(queries, "queries"), &y = get(out, "out");
    const KvShape& shape = cache.shape;
    cache.context.require_eager();
    require_layer(shape, layer);
    require_context(q, "queries", cache.context);
    require_float(q, "queries");
    require_shape(q, "queries", q.rows, int64_t(shape.heads) * shape.head_dim);
    get_result(out, "out", cache.context, shape.kv_heads, shape.head_dim);
    require_plain(cache, layer);
    for (int32_t h = 0; h < shape.kv_heads; ++h) require(cache.layer(layer)[h].len > 0, "head %d of layer %d holds no rows", h, layer);
    channel_scores(cache.context, cache, layer, q, y);
    return cache.context;
  });
}

int32_t kva_kv_keep_channels(kva_kv* kv, int32_t layer, kva_tensor* index, int32_t last, int32_t spare) {
  return run("kv_keep_channels", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    Tensor& chosen = get(index, "index");
    require_layer(cache.shape, layer);
    require_context(chosen, "index", cache.context);
    require_type(chosen, "index", KVA_I32);
    require_shape(chosen, "index", cache.shape.kv_heads, chosen.columns);
    require(chosen.columns <= cache.shape.head_dim, "index names %d channels of %d", chosen.columns, cache.shape.head_dim);
    require(last >= 0 && spare >= 0, "last is %d and spare is %d; each must be at least 0", last, spare);
    require_plain(cache, layer);
    require_unbounded(cache, layer);
    std::vector<int32_t> packed(cache.shape.kv_heads);
    for (int32_t h = 0; h < cache.shape.kv_heads; ++h) packed[h] = std::max(0, cache.layer(layer)[h].len - last);
    cache.pack(layer, {0, 0, 0, 0, 0, chosen.columns}, packed, chosen, spare);
    return cache.context;
  });
}

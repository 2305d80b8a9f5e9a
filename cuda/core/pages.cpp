// Storage for the bounds of a layer's pages.
#include "pages.h"

#include <algorithm>
#include <utility>

#include "../ops/ops.h"

namespace kva {

Kv::Storage Kv::carve_bounds(KvHead* heads) {
  const auto aligned = [&](int32_t h) { return (bounds_bytes(shape, heads[h], heads[h].cap) + 127) / 128 * 128; };
  int64_t bytes = 0;
  for (int32_t h = 0; h < shape.kv_heads; ++h) bytes += aligned(h);
  Storage storage;
  if (bytes > 0) storage = {context.allocate(KVA_MEMORY_CACHE, bytes), bytes};
  char* next = static_cast<char*>(storage.data);
  for (int32_t h = 0; h < shape.kv_heads; ++h) heads[h].bounds = std::exchange(next, next + aligned(h));
  return storage;
}

void Kv::replace_bounds(int32_t l, Storage storage) {
  context.release(bounds_[l].data);
  bytes_ += storage.bytes - bounds_[l].bytes;
  bounds_[l] = storage;
}

void Kv::bound_pages(int32_t l, int32_t page_rows) {
  context.require_eager();
  std::vector<KvHead> bounded(layer(l), layer(l) + shape.kv_heads);
  for (KvHead& head : bounded) head.page_rows = page_rows;
  replace_bounds(l, carve_bounds(bounded.data()));
  std::copy(bounded.begin(), bounded.end(), layer(l));
  store_layer(l);
  make_bounds(context, *this, l);
}

}  // namespace kva

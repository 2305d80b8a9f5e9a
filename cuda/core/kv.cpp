// The cache's storage and the host's account of it: growing, keeping, copying.
#include "kv.h"

#include <algorithm>
#include <utility>

#include "../ops/ops.h"
#include "pages.h"
#include "segments.h"

namespace kva {
namespace {

int64_t align(int64_t bytes) { return (bytes + 127) / 128 * 128; }

// Bytes of a head's parts, side arrays for each.
struct Parts {
  int64_t k, v, row, packed_k, key_scales, packed_v, value_scales, channels, unrotated_k;
  int64_t held(const KvShape& shape) const {
    return k + v + (1 + shape.side_arrays) * row + unrotated_k + packed_k + key_scales + packed_v + value_scales + channels;
  }
  int64_t aligned(const KvShape& shape) const {
    return align(k) + align(v) + (1 + shape.side_arrays) * align(row) + align(unrotated_k) + align(packed_k) + align(key_scales) +
           align(packed_v) + align(value_scales) + align(channels);
  }
};

// rows of them: keys and values packed, and in full precision
Parts parts_of(const KvShape& shape, const KvHead& head, int64_t rows, int64_t packed_keys, int64_t packed_values, int64_t keys, int64_t values) {
  const KvPacking& packing = head.packing;
  int64_t element = dtype_bytes(shape.dtype), row_bytes = shape.head_dim * element, channels = key_channels(packing, shape.head_dim);
  Parts parts{keys * row_bytes, values * row_bytes, rows * int64_t(4), 0, 0, 0, 0, packing.channels * int64_t(2),
              shape.unrotates_every_row() ? rows * row_bytes : 0};
  if (packing.key_bits > 0) {
    parts.packed_k = packed_keys * words_of(channels, packing.key_bits) * 4;
    parts.key_scales = packed_keys / packing.group * channels * int64_t(sizeof(Scale));
    parts.packed_v = packed_values * words_of(shape.head_dim, packing.value_bits) * 4;
    parts.value_scales = packed_values * (shape.head_dim / packing.value_group) * int64_t(sizeof(Scale));
  } else {
    parts.packed_k = packed_keys * compact_width(packing) * element;
  }
  return parts;
}

// what `head` holds
Parts used_by(const KvShape& shape, const KvHead& head) {
  return parts_of(shape, head, head.len, head.packed_keys, head.packed_values, head.len - head.packed_keys, head.len - head.packed_values);
}

// what `head` needs for rows to come, up to cap in all
Parts room_for(const KvShape& shape, const KvHead& head, int64_t cap) {
  if (int64_t residual = head.packing.residual)
    return parts_of(shape, head, cap, cap / residual * residual, std::max<int64_t>(0, cap - residual), std::min(cap, residual),
                    std::min(cap, residual + 1));
  return parts_of(shape, head, cap, head.packed_keys, 0, cap - head.packed_keys, cap);
}

}  // namespace

Kv::Kv(Context& context, const KvShape& shape, int32_t first_layer, int32_t end_layer)
    : context(context), shape(shape), first_layer(first_layer), end_layer(end_layer), layers_(shape.layers), bounds_(shape.layers) {
  int64_t count = int64_t(shape.layers) * shape.kv_heads, begin = int64_t(first_layer) * shape.kv_heads, end = int64_t(end_layer) * shape.kv_heads;
  heads.assign(count, KvHead{});
  closes.assign(shape.layers, false);
  int64_t head_bytes = align(int64_t(std::max(shape.unrotated_rows, 0)) * shape.head_dim * dtype_bytes(shape.dtype));
  try {
    if (shape.unrotated_rows > 0) {
      unrotated_ = {context.allocate(KVA_MEMORY_CACHE, (end - begin) * head_bytes), (end - begin) * head_bytes};
      bytes_ += unrotated_.bytes;
      for (int64_t i = begin; i < end; ++i) heads[i].unrotated = static_cast<char*>(unrotated_.data) + (i - begin) * head_bytes;
    }
    int64_t table_bytes = sizeof(KvSeq) + count * sizeof(KvHead);
    table = static_cast<KvSeq*>(context.allocate(KVA_MEMORY_SCRATCH, table_bytes));
    KvSeq sequence{0, 0, shape.layers, shape.kv_heads};
    context.device->store(table, &sequence, sizeof sequence);
    for (int32_t layer = 0; layer < shape.layers; ++layer) store_layer(layer);
  } catch (...) {
    context.release(table);
    context.release(unrotated_.data);
    throw;
  }
  context.live.kvs += 1;
}

Kv::~Kv() {
  for (Batch* batch : context.batches)
    if (std::find(batch->kvs.begin(), batch->kvs.end(), this) != batch->kvs.end()) batch->kvs.clear();
  for (Storage& storage : layers_) context.release(storage.data);
  for (Storage& storage : bounds_) context.release(storage.data);
  context.release(unrotated_.data);
  context.release(table);
  context.live.kvs -= 1;
}

int32_t Kv::longest(int32_t l) {
  int32_t rows = 0;
  for (int32_t h = 0; h < shape.kv_heads; ++h) rows = std::max(rows, layer(l)[h].len);
  return rows;
}

int32_t Kv::shared_length(int32_t l) {
  for (int32_t h = 1; h < shape.kv_heads; ++h)
    require(layer(l)[h].len == layer(l)[0].len, "the heads of layer %d hold different numbers of rows (%d in head 0, %d in head %d)", l,
            layer(l)[0].len, layer(l)[h].len, h);
  return layer(l)[0].len;
}

void Kv::store_layer(int32_t l) {
  auto* to = reinterpret_cast<KvHead*>(table + 1) + int64_t(l) * shape.kv_heads;
  context.device->store(to, layer(l), shape.kv_heads * sizeof(KvHead));
}

// Storage for capacity[h] rows in each head: sets pointers and capacities of `heads` [kvHeads], whose packing says how rows are stored.
Kv::Storage Kv::carve(const std::vector<int32_t>& capacity, KvHead* heads) {
  std::vector<Parts> parts;
  int64_t bytes = 0;
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    parts.push_back(room_for(shape, heads[h], capacity[h]));
    bytes += parts[h].aligned(shape);
  }
  Storage storage;
  if (bytes > 0) storage = {context.allocate(KVA_MEMORY_CACHE, bytes), bytes};
  char* next = static_cast<char*>(storage.data);
  auto take = [&](int64_t bytes) { return static_cast<void*>(std::exchange(next, next + align(bytes))); };
  for (int32_t h = 0; h < shape.kv_heads; ++h) heads[h].k = take(parts[h].k);
  for (int32_t h = 0; h < shape.kv_heads; ++h) heads[h].v = take(parts[h].v);
  for (int32_t h = 0; h < shape.kv_heads; ++h) heads[h].pos = static_cast<int32_t*>(take(parts[h].row));
  for (int32_t a = 0; a < shape.side_arrays; ++a)
    for (int32_t h = 0; h < shape.kv_heads; ++h) heads[h].side[a] = static_cast<float*>(take(parts[h].row));
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    heads[h].unrotated_k = parts[h].unrotated_k > 0 ? take(parts[h].unrotated_k) : nullptr;
    heads[h].packed_k = take(parts[h].packed_k);
    heads[h].key_scales = static_cast<Scale*>(take(parts[h].key_scales));
    heads[h].packed_v = static_cast<uint32_t*>(take(parts[h].packed_v));
    heads[h].value_scales = static_cast<Scale*>(take(parts[h].value_scales));
    heads[h].channels = parts[h].channels > 0 ? static_cast<uint16_t*>(take(parts[h].channels)) : nullptr;
    heads[h].cap = capacity[h];
  }
  return storage;
}

void Kv::replace(int32_t l, Storage storage, const std::vector<KvHead>& heads) {
  std::copy(heads.begin(), heads.end(), layer(l));
  store_layer(l);
  context.release(layers_[l].data);
  bytes_ += storage.bytes - layers_[l].bytes;
  layers_[l] = storage;
}

bool Kv::reserve(int32_t l, const std::vector<int32_t>& rows) {
  std::vector<KvHead> grown(layer(l), layer(l) + shape.kv_heads);
  std::vector<int32_t> capacity(shape.kv_heads);
  bool enough = true;
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    capacity[h] = std::max(grown[h].cap, rows[h]);
    enough = enough && capacity[h] == grown[h].cap;
  }
  if (enough) return false;
  context.require_eager();
  Storage storage = carve(capacity, grown.data()), bounds;
  try {
    bounds = carve_bounds(grown.data());
  } catch (...) {
    context.release(storage.data);
    throw;
  }
  for (int32_t h = 0; h < shape.kv_heads && layers_[l].bytes > 0; ++h) {
    const KvHead &from = layer(l)[h], &to = grown[h];
    Parts used = used_by(shape, from);
    if (from.packing.residual > 0) used.v = room_for(shape, from, from.cap).v;  // a ring, wherever its rows begin
    move(to.k, from.k, used.k);
    move(to.v, from.v, used.v);
    move(to.pos, from.pos, used.row);
    for (int32_t a = 0; a < shape.side_arrays; ++a) move(to.side[a], from.side[a], used.row);
    move(to.unrotated_k, from.unrotated_k, used.unrotated_k);
    move(to.packed_k, from.packed_k, used.packed_k);
    move(to.key_scales, from.key_scales, used.key_scales);
    move(to.packed_v, from.packed_v, used.packed_v);
    move(to.value_scales, from.value_scales, used.value_scales);
    move(to.channels, from.channels, used.channels);
    move(to.bounds, from.bounds, bounds_bytes(shape, from, from.len));
  }
  replace(l, storage, grown);
  replace_bounds(l, bounds);
  return true;
}

void Kv::pack(int32_t l, const KvPacking& packing, const std::vector<int32_t>& packed_keys, const Matrix& channels, int32_t spare) {
  context.require_eager();
  require(!shape.unrotates_every_row(), "the cache keeps the unrotated keys of every row: its rows cannot be packed");
  std::vector<KvHead> packed(layer(l), layer(l) + shape.kv_heads);
  std::vector<int32_t> capacity(shape.kv_heads);
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    KvHead& head = packed[h];
    require(spare <= INT32_MAX - head.len, "spare %d is too many rows", spare);
    head.packing = packing;
    head.packed_keys = packing.residual > 0 ? head.len - head.len % packing.residual : packed_keys[h];
    head.packed_values = packing.residual > 0 ? std::max(0, head.len - packing.residual) : 0;
    capacity[h] = head.len + spare;
  }
  Storage storage = carve(capacity, packed.data());
  try {
    for (int32_t h = 0; h < shape.kv_heads; ++h) {
      const KvHead &from = layer(l)[h], &to = packed[h];
      int64_t row_bytes = from.len * int64_t(4);
      move(to.pos, from.pos, row_bytes);
      for (int32_t a = 0; a < shape.side_arrays; ++a) move(to.side[a], from.side[a], row_bytes);
      if (!channels) move(to.channels, from.channels, packing.channels * int64_t(2));
    }
    pack_rows(context, shape, layer(l), packed.data(), channels);
  } catch (...) {
    context.release(storage.data);
    throw;
  }
  replace(l, storage, packed);
}

void Kv::move(void* to, const void* from, int64_t bytes) {
  if (bytes > 0) context.device->copy(to, bytes, from, bytes, bytes, 1);
}

void Kv::seek(int32_t to, uint32_t random_stream) {
  context.require_eager();
  position = to;
  stream = random_stream;
  KvSeq sequence{position, stream, shape.layers, shape.kv_heads};
  context.device->store(table, &sequence, sizeof sequence);
}

void Kv::keep(int32_t l, const Matrix& index, const int32_t* counts, int32_t first, int32_t last, int32_t spare) {
  context.require_eager();
  std::vector<KvHead> kept(layer(l), layer(l) + shape.kv_heads);
  std::vector<int32_t> chosen(shape.kv_heads, 0), capacity(shape.kv_heads);
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    if (index) chosen[h] = counts ? counts[h] : index.columns;
    int64_t rows = int64_t(first) + chosen[h] + last;
    require(chosen[h] >= 0 && (!index || chosen[h] <= index.columns), "counts[%d] is %d, the index has %d columns", h, chosen[h], index.columns);
    require(rows <= kept[h].len, "first %d, %d by index and last %d are %lld rows, head %d of layer %d holds %d", first, chosen[h], last,
            (long long)rows, h, l, kept[h].len);
    require(rows + spare <= INT32_MAX, "spare %d is too many rows", spare);
    capacity[h] = int32_t(rows) + spare;
    kept[h].len = int32_t(rows);
  }
  Storage storage = carve(capacity, kept.data());
  try {
    keep_rows(context, shape, layer(l), kept.data(), index, chosen.data(), first, last);
  } catch (...) {
    context.release(storage.data);
    throw;
  }
  replace(l, storage, kept);
}

std::unique_ptr<Kv> Kv::fork() {
  context.require_eager();
  auto copy = std::make_unique<Kv>(context, shape, first_layer, end_layer);
  copy->seek(position, stream);
  if (unrotated_.bytes > 0)
    context.device->copy(copy->unrotated_.data, unrotated_.bytes, unrotated_.data, unrotated_.bytes, unrotated_.bytes, 1);
  std::vector<int32_t> capacity(shape.kv_heads);
  for (int32_t l = first_layer; l < end_layer; ++l) {
    for (int32_t h = 0; h < shape.kv_heads; ++h) {
      const KvHead& from = layer(l)[h];
      KvHead& to = copy->layer(l)[h];
      capacity[h] = from.cap;
      to.packing = from.packing;
      to.packed_keys = from.packed_keys;
      to.packed_values = from.packed_values;
      to.page_rows = from.page_rows;
    }
    copy->reserve(l, capacity);
    move(copy->layers_[l].data, layers_[l].data, layers_[l].bytes);
    move(copy->bounds_[l].data, bounds_[l].data, bounds_[l].bytes);
    for (int32_t h = 0; h < shape.kv_heads; ++h) {
      copy->layer(l)[h].len = layer(l)[h].len;
      copy->layer(l)[h].dead = layer(l)[h].dead;
    }
    copy->closes[l] = closes[l];
    copy->store_layer(l);
  }
  return copy;
}

int64_t Kv::held_bytes() const {
  int64_t bytes = 0;
  for (const KvHead& head : heads) bytes += used_by(shape, head).held(shape) + bounds_bytes(shape, head, head.len);
  return bytes;
}

}  // namespace kva

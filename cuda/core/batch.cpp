// The sequences of a decode step: their tables side by side on the device, and room for the rows to come.
#include <algorithm>

#include "../ops/ops.h"
#include "kv.h"

namespace kva {
namespace {

// Growth by fewer rows than this would copy a long cache too often.
constexpr int32_t least_growth = 64;

}  // namespace

Batch::Batch(Context& context, int32_t max_sequences) : context(context), max_sequences(max_sequences) {
  kvs.reserve(max_sequences);
  context.batches.reserve(context.batches.size() + 1);
  table = static_cast<KvSeq**>(context.allocate(KVA_MEMORY_SCRATCH, max_sequences * int64_t(sizeof(KvSeq*))));
  context.batches.push_back(this);
  context.live.batches += 1;
}

Batch::~Batch() {
  context.release(table);
  std::erase(context.batches, this);
  context.live.batches -= 1;
}

void Batch::set(Kv* const* list, int32_t count) {
  context.require_eager();
  for (int32_t s = 0; s < count; ++s) {
    require(list[s] != nullptr, "sequence %d is null", s);
    require(&list[s]->context == &context, "sequence %d belongs to another context", s);
    require(list[s]->shape == (shape_.layers > 0 ? shape_ : list[0]->shape), "sequence %d has another shape than those before it", s);
    for (int32_t other = 0; other < s; ++other) require(list[other] != list[s], "sequences %d and %d are the same", other, s);
  }
  std::vector<KvSeq*> tables(count);
  for (int32_t s = 0; s < count; ++s) tables[s] = list[s]->table;
  if (count > 0) context.device->store(table, tables.data(), count * int64_t(sizeof(KvSeq*)));
  if (count != sequences()) generation += 1;
  kvs.assign(list, list + count);
  if (count > 0) shape_ = list[0]->shape;
  measure_splits();
}

void Batch::reserve(int32_t rows) {
  bool grown = false;
  for (Kv* kv : kvs) {
    std::vector<int32_t> room(kv->shape.kv_heads);
    for (int32_t l = kv->first_layer; l < kv->end_layer; ++l) {
      for (int32_t h = 0; h < kv->shape.kv_heads; ++h) {
        const KvHead& head = kv->layer(l)[h];
        require(rows <= INT32_MAX - least_growth - head.len, "%d more rows are too many for head %d of layer %d", rows, h, l);
        room[h] = head.len + rows <= head.cap ? head.cap : head.len + std::max(rows, least_growth);
      }
      grown = kv->reserve(l, room) || grown;
    }
  }
  if (grown) generation += 1;
  measure_splits();
}

void Batch::measure_splits() {
  int32_t capacity = 0;
  for (Kv* kv : kvs)
    for (const KvHead& head : kv->heads) capacity = std::max(capacity, head.cap);
  int32_t needed = capacity / split_rows + (capacity % split_rows > 0);
  if (needed > splits) {
    splits = needed;
    generation += 1;
  }
  if (!kvs.empty() && !context.capturing()) attention_decode_reserve(context, *this);
}

}  // namespace kva

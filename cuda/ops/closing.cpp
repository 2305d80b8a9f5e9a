// Rows that were dropped among codes: the places of as many as the residual holds are closed.
#include <vector>

#include "cache_rows.h"
#include "segments.h"

namespace kva {
namespace {

struct OneThread {
  static constexpr int32_t lanes = 1, lane = 0;
  void sync() const {}
  float min(float x) const { return x; }
  float max(float x) const { return x; }
};

template <class T>
void close_places(const KvShape& shape, KvHead& head) {
  std::vector<int32_t> rows;
  for (int32_t r = 0; int32_t(rows.size()) < head.packing.residual; ++r)
    if (head.pos[r] < 0) rows.push_back(r);
  const Removed removed{rows.data(), int32_t(rows.size())};
  const KvHead to = closed(head);
  const Closing<HostNumber, T> closing{head, to, removed, shape.head_dim};
  for (int32_t c = 0; c < shape.head_dim; ++c) {
    closing.full_keys(c);
    closing.full_values(c);
  }
  for (int32_t word = 0; word < words_of(key_channels(head.packing, shape.head_dim), head.packing.key_bits); ++word) closing.key_words(OneThread(), word);
  const auto close = [&](auto* x, int64_t columns, int32_t end) {
    for (int32_t r = rows[0]; r < end; ++r) std::copy_n(x + removed.source(r) * columns, columns, x + r * columns);
  };
  close(head.packed_v, words_of(shape.head_dim, head.packing.value_bits), to.packed_values);
  close(head.value_scales, shape.head_dim / head.packing.value_group, to.packed_values);
  close(head.pos, 1, to.len);
  for (int32_t a = 0; a < shape.side_arrays; ++a) close(head.side[a], 1, to.len);
  head = to;
}

}  // namespace

void close_dropped(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer) {
  each_head(context, batch, first_sequence, sequences, layer, [shape = batch.shape()](const KvSeq&, KvHead& head, int64_t) {
    if (closing_is_due(head)) with_float_type(shape.dtype, [&]<class T>(T) { close_places<T>(shape, head); });
  });
}

}  // namespace kva

// The cache of one sequence, ragged per layer and KV head, and the batch of a decode step: layout on the device, accounts on the host.
#pragma once
#include <vector>

#include "context.h"
#include "tensor.h"

namespace kva {

constexpr int32_t max_side_arrays = 4;
constexpr int32_t most_head_dim = 512;
constexpr int32_t split_rows = 256;  // decode attention splits a head's rows at multiples of this

// How a layer stores the rows that have left full precision; the same for all of its heads, all zero where none has.
struct KvPacking {
  int32_t key_bits, value_bits;  // 2 or 4; 0: not quantised
  int32_t group;                 // tokens of a group of keys
  int32_t value_group;           // channels of a group of values
  int32_t residual;              // R: the state after a flush is a function of the rows held, n: n - n % R keys and max(0, n - R) values are packed
  int32_t channels;              // that packed keys have; 0: all of headDim
  bool operator==(const KvPacking&) const = default;
};

// f16 bits of a group: code c stands for c * scale + zero
struct Scale {
  uint16_t scale, zero;
};

// One KV head of one layer. Row r: keys at k + key_slot * headDim, values at v + value_slot * headDim (elements of the cache's type),
// where both slots are r until rows are packed (segments.h).
// k and v of all heads, positions and side arrays are carved from one allocation per layer, bounds from another, each part 128-byte aligned.
struct KvHead {
  void* k;                       // rotated keys of the rows [packed_keys, len)
  void* v;                       // values of the rows [packed_values, len)
  int32_t* pos;                  // [cap], original positions
  float* side[max_side_arrays];  // [cap] each, where the cache has them
  void* unrotated;               // [unrotated_rows, headDim]: the unrotated key of position p at row p
  void* unrotated_k;             // [cap, headDim]: the unrotated key of each row, where the cache keeps those of every row; else NULL
  int32_t len;                   // rows held
  int32_t dead;                  // of them, dropped ones among codes: they hold their place, their position p is ~p, until a flush closes up
  int32_t cap;

  KvPacking packing;
  int32_t packed_keys;    // keys of rows [0, packed_keys) are in packed_k, as codes or, where key_bits is 0, as elements of fewer channels
  int32_t packed_values;  // values of rows [0, packed_values) are in packed_v, as codes
  void* packed_k;         // codes: words of 32 / bits channels, [rows / 32][words][32]; elements: [packed_keys, channels up to a multiple of 8]
  Scale* key_scales;      // [rows / group, key channels]
  uint32_t* packed_v;     // words of 32 / bits channels, [rows, words]
  Scale* value_scales;    // [rows, headDim / value_group]
  uint16_t* channels;     // [packing.channels], ascending: which ones the packed keys have

  int32_t page_rows;  // rows of a page whose bounds are kept; 0: none are
  void* bounds;       // [pages, 2, headDim] of the cache's type: of the keys in rows [p * page_rows, (p + 1) * page_rows) the least number of each
                      // channel, then the greatest; up to the rows held
};

// On the device: this head, then KvHead[layers * kv_heads]. Its address stays the same for the life of the cache.
struct KvSeq {
  int32_t position;  // the next token's
  uint32_t stream;   // of random numbers
  int32_t layers;
  int32_t kv_heads;
};

inline KVA_HOST_DEVICE int32_t live_rows(const KvHead& head) { return head.len - head.dead; }
// whether a dropped row is marked, for it shares scales with its neighbours
inline KVA_HOST_DEVICE bool marks_dropped(const KvHead& head) { return head.packing.residual > 0; }
// pages that `rows` rows of the head lie in
inline KVA_HOST_DEVICE int32_t pages_of(const KvHead& head, int32_t rows) { return rows / head.page_rows + (rows % head.page_rows > 0); }

inline KVA_HOST_DEVICE KvHead* layer_heads(KvSeq* sequence, int32_t layer) {
  return reinterpret_cast<KvHead*>(sequence + 1) + int64_t(layer) * sequence->kv_heads;
}

struct KvShape {
  int32_t layers, heads, kv_heads, head_dim, dtype, side_arrays;
  int32_t unrotated_rows;  // KVA_EVERY_ROW: of all rows, by row
  bool operator==(const KvShape&) const = default;
  int32_t group() const { return heads / kv_heads; }
  bool unrotates_every_row() const { return unrotated_rows == KVA_EVERY_ROW; }
};

struct Kv {
  Context& context;
  const KvShape shape;
  const int32_t first_layer, end_layer;  // those that may hold rows: the others are on other devices
  KvSeq* table = nullptr;                // device memory: what kernels read and change

  // The host's own account, changed by effects; equal to the table once all queued work has run.
  int32_t position = 0;
  uint32_t stream = 0;
  std::vector<KvHead> heads;  // [layers * kvHeads]; pointers are device memory
  std::vector<bool> closes;   // [layers]: rows among codes are dropped there, so that a flush has places to close

  Kv(Context& context, const KvShape& shape, int32_t first_layer, int32_t end_layer);
  ~Kv();
  Kv(const Kv&) = delete;
  Kv& operator=(const Kv&) = delete;

  KvHead* layer(int32_t layer) { return heads.data() + int64_t(layer) * shape.kv_heads; }
  int32_t longest(int32_t layer);
  int32_t shared_length(int32_t layer);  // fails where the layer's heads hold different numbers of rows
  bool packs(int32_t layer) { return Kv::layer(layer)[0].packing != KvPacking{}; }
  bool pages(int32_t layer) { return Kv::layer(layer)[0].page_rows > 0; }
  // New storage for the layer, where rows are packed as packing says; keys of rows [0, packed_keys[h]) where they are not quantised.
  void pack(int32_t layer, const KvPacking& packing, const std::vector<int32_t>& packed_keys, const Matrix& channels, int32_t spare);
  void bound_pages(int32_t layer, int32_t page_rows);  // storage for the bounds, which then hold for the rows held
  bool reserve(int32_t layer, const std::vector<int32_t>& rows);  // room for rows[h] in head h; true where storage changed
  void seek(int32_t position, uint32_t stream);
  void keep(int32_t layer, const Matrix& index, const int32_t* counts, int32_t first, int32_t last, int32_t spare);
  void store_layer(int32_t layer);  // queues the host's account of a layer into the table
  std::unique_ptr<Kv> fork();
  int64_t held_bytes() const;
  int64_t allocated_bytes() const { return bytes_; }

 private:
  struct Storage {
    void* data = nullptr;
    int64_t bytes = 0;
  };
  Storage carve(const std::vector<int32_t>& capacity, KvHead* heads);
  Storage carve_bounds(KvHead* heads);  // for each head's cap; nothing where it keeps none
  void replace(int32_t layer, Storage storage, const std::vector<KvHead>& heads);
  void replace_bounds(int32_t layer, Storage storage);
  void move(void* to, const void* from, int64_t bytes);  // queued

  std::vector<Storage> layers_, bounds_;
  Storage unrotated_;
  int64_t bytes_ = 0;  // of layers_, bounds_ and unrotated_
};

struct Batch {
  Context& context;
  const int32_t max_sequences;
  std::vector<Kv*> kvs;     // sequences = kvs.size()
  KvSeq** table = nullptr;  // device memory [max_sequences]: the tables of kvs, at one address for the life of the batch
  int32_t generation = 0;   // changes with the number of sequences, their storage, and splits
  int32_t splits = 0;       // most splits of split_rows rows that a head has, or had, room for

  Batch(Context& context, int32_t max_sequences);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  int32_t sequences() const { return int32_t(kvs.size()); }
  const KvShape& shape() const { return shape_; }  // that of every sequence, from the first set() on
  void set(Kv* const* kvs, int32_t sequences);
  void reserve(int32_t rows);

 private:
  KvShape shape_{};
  void measure_splits();
};

}  // namespace kva

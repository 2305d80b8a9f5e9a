// Splits rows of qkv: rotated queries to q, rotated keys, values and positions to the cache; a block has one row and some of its KV heads.
#include "../core/cuda.h"
#include "../core/pages.h"
#include "../core/segments.h"
#include "../device/early_launch.cuh"
#include "../device/number.cuh"
#include "../device/rotation.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;

struct RopeArgs {
  KvSeq* sequence;         // prefill
  KvSeq* const* sequences; // decode: one of each row; NULL in prefill
  const void* qkv;
  void* q;
  int64_t qkv_stride, q_stride;
  const float* inv_freq;
  int64_t inv_freq_stride; // 0: one row for all
  int layer, heads, kv_heads, head_dim, side_arrays, unrotated_rows, pairs, block_kv_heads, start_row, start;
  float mscale;
  bool interleaved;
  bool ahead; // positions and the layer's tables may be read before the inputs are there
};

template <class T, int Width>
struct Unit {
  Pack<T, Width> a, b;
};

// Unit u of a head: Width pairs. Pairs lie `pairs` apart, or side by side.
template <class T, int Width>
struct UnitPlace {
  int a, b;
  __device__ UnitPlace(const RopeArgs& args, int unit)
      : a(args.interleaved ? 2 * unit * Width : unit * Width), b(args.interleaved ? a + Width : args.pairs + a) {}
  __device__ Unit<T, Width> load(const T* head) const { return {load_pack<Width>(head + a), load_pack<Width>(head + b)}; }
  __device__ void store(T* head, const Unit<T, Width>& unit) const {
    store_pack(head + a, unit.a);
    store_pack(head + b, unit.b);
  }
};

template <class T, int Width>
__device__ __forceinline__ Unit<T, Width> turn_unit(const Unit<T, Width>& unit, const Turn* turns, bool interleaved) {
  Unit<T, Width> turned;
#pragma unroll
  for (int i = 0; i < Width; ++i) {
    const Turn turn = turns[i];
    const int first = 2 * i % Width, second = (2 * i + 1) % Width; // of a pair side by side, in pack 2 * i / Width
    const float x = widen(interleaved ? (2 * i < Width ? unit.a.at[first] : unit.b.at[first]) : unit.a.at[i]);
    const float y = widen(interleaved ? (2 * i + 1 < Width ? unit.a.at[second] : unit.b.at[second]) : unit.b.at[i]);
    const T u = narrow<T>(x * turn.cosine - y * turn.sine), v = narrow<T>(x * turn.sine + y * turn.cosine);
    if (!interleaved) {
      turned.a.at[i] = u;
      turned.b.at[i] = v;
    } else {
      (2 * i < Width ? turned.a : turned.b).at[first] = u;
      (2 * i + 1 < Width ? turned.a : turned.b).at[second] = v;
    }
  }
  return turned;
}

template <int Width, class T>
__device__ __forceinline__ void copy_packs(T* to, const T* from, int first, int end, int lane, int lanes) {
  for (int at = first + lane * Width; at < end; at += lanes * Width) store_pack(to + at, load_pack<Width>(from + at));
}

// The key that is to be the head's last row joins the bounds of its page. Every thread of the block calls it.
template <class T>
__device__ __forceinline__ void join_page(const KvHead& head, int head_dim) {
  const int row = head.len, page = row / head.page_rows;
  for (int c = threadIdx.x; c < head_dim; c += kThreads) PageBounds<DeviceNumber, T>(head, head_dim, page, c).join(head_dim, row - page * head.page_rows);
}

// Each group of 16 lanes takes a head at a time.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeArgs args) {
  constexpr int kLanes = 16;
  extern __shared__ Turn turns[]; // [pairs]
  const int row = blockIdx.y, first_kv = blockIdx.x * args.block_kv_heads, kv_heads = min(args.block_kv_heads, args.kv_heads - first_kv);
  let_next_start();
  if (!args.ahead) wait_for_inputs();
  KvSeq* sequence = args.sequences != nullptr ? args.sequences[row] : args.sequence;
  KvHead* table = layer_heads(sequence, args.layer) + first_kv;
  const int position = args.sequences != nullptr ? sequence->position : args.start + row;
  for (int i = threadIdx.x; i < args.pairs; i += kThreads) turns[i] = turn_at(position, args.inv_freq[row * args.inv_freq_stride + i], args.mscale);
  __syncthreads();

  const int group = args.heads / args.kv_heads, lane = threadIdx.x % kLanes, queries = kv_heads * group, units = args.pairs / Width;
  const T* qkv = static_cast<const T*>(args.qkv) + row * args.qkv_stride;
  T* q = static_cast<T*>(args.q) + row * args.q_stride;
  struct Place {
    const T* from = nullptr;
    T *to = nullptr, *unrotated = nullptr;
    bool turns = false;
  };
  const auto place_of = [&](int part) { // queries, keys, values
    Place place;
    const bool is_query = part < queries, is_key = !is_query && part < queries + kv_heads;
    place.turns = is_query || is_key;
    if (is_query) {
      const int64_t head = int64_t(first_kv * group + part) * args.head_dim;
      place.from = qkv + head;
      place.to = q + head;
    } else if (part < queries + 2 * kv_heads) {
      const int kv_head = (part - queries) % kv_heads;
      const KvHead& to = table[kv_head];
      const int cache_row = args.sequences != nullptr ? to.len : args.start_row + row;
      place.from = qkv + int64_t(args.heads + (is_key ? 0 : args.kv_heads) + first_kv + kv_head) * args.head_dim;
      place.to = static_cast<T*>(is_key ? to.k : to.v) + int64_t(is_key ? key_slot(to, cache_row) : value_slot(to, cache_row)) * args.head_dim;
      if (is_key && position < args.unrotated_rows) place.unrotated = static_cast<T*>(to.unrotated) + int64_t(position) * args.head_dim;
      if (is_key && to.unrotated_k != nullptr) place.unrotated = static_cast<T*>(to.unrotated_k) + int64_t(cache_row) * args.head_dim;
    }
    return place;
  };
  int part = threadIdx.x / kLanes;
  Place place = place_of(part);
  if (args.ahead) wait_for_inputs();
  while (part < queries + 2 * kv_heads) {
    const auto [from, to, unrotated, rotates] = place;
    if (!rotates) {
      copy_packs<Width>(to, from, 0, args.head_dim, lane, kLanes);
    } else {
      for (int u = lane; u < units; u += kLanes) {
        const UnitPlace<T, Width> at(args, u);
        const Unit<T, Width> unit = at.load(from);
        if (unrotated != nullptr) at.store(unrotated, unit);
        at.store(to, turn_unit<T, Width>(unit, turns + u * Width, args.interleaved));
      }
      copy_packs<Width>(to, from, 2 * args.pairs, args.head_dim, lane, kLanes);
      if (unrotated != nullptr) copy_packs<Width>(unrotated, from, 2 * args.pairs, args.head_dim, lane, kLanes);
    }
    part += kThreads / kLanes;
    place = place_of(part);
  }
  for (int kv_head = threadIdx.x; kv_head < kv_heads; kv_head += kThreads) {
    const int64_t cache_row = args.sequences != nullptr ? table[kv_head].len : args.start_row + row;
    table[kv_head].pos[cache_row] = position;
    for (int a = 0; a < args.side_arrays; ++a) table[kv_head].side[a][cache_row] = 0;
  }
  if (args.sequences == nullptr) return;
  __syncthreads(); // every thread has read the lengths, keys are written
  for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
    if (table[kv_head].page_rows == 0) continue;
    join_page<T>(table[kv_head], args.head_dim);
    __syncthreads();
  }
  for (int kv_head = threadIdx.x; kv_head < kv_heads; kv_head += kThreads) table[kv_head].len += 1;
}

void launch(Context& context, const KvShape& shape, RopeArgs args, const Matrix& qkv, const Matrix& q, const Matrix& inv_freq, bool interleaved,
            float mscale) {
  if (qkv.dtype != shape.dtype)
    fail(KVA_E_UNSUPPORTED, "qkv is %s and the cache is %s; on CUDA both must be of one type", dtype_name(qkv.dtype), dtype_name(shape.dtype));
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.side_arrays = shape.side_arrays;
  args.unrotated_rows = shape.unrotated_rows;
  args.pairs = inv_freq.columns;
  args.inv_freq = inv_freq.row<float>(0);
  args.inv_freq_stride = inv_freq.rows > 1 ? inv_freq.stride : 0;
  args.interleaved = interleaved;
  args.mscale = mscale;
  constexpr int most = 65535; // blocks in y
  with_device_type(qkv.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int width = kPackWidth<T>;
    const bool packs = takes_packs(qkv) && takes_packs(q) && shape.head_dim % width == 0 && args.pairs % width == 0;
    for (int32_t row = 0; row < qkv.rows; row += most) {
      RopeArgs part = args;
      part.qkv = qkv.row<T>(row);
      part.q = q.row<T>(row);
      part.qkv_stride = qkv.stride;
      part.q_stride = q.stride;
      part.start += row;
      part.start_row += row;
      const dim3 grid(divide_up(shape.kv_heads, args.block_kv_heads), std::min(most, qkv.rows - row));
      const size_t shared = args.pairs * sizeof(Turn);
      if (packs)
        launch_early(rope_kernel<T, width>, grid, kThreads, shared, stream_of(context), part);
      else
        launch_early(rope_kernel<T, 1>, grid, kThreads, shared, stream_of(context), part);
    }
  });
}

}  // namespace

void rope_append(Context& context, Kv& kv, int32_t layer, int32_t start_row, int32_t start, Matrix qkv, Matrix q, Matrix inv_freq,
                 bool interleaved, float mscale) {
  RopeArgs args = {};
  args.sequence = kv.table;
  args.layer = layer;
  args.start_row = start_row;
  args.start = start;
  args.block_kv_heads = kv.shape.kv_heads;
  launch(context, kv.shape, args, qkv, q, inv_freq, interleaved, mscale);
}

// A block for each KV head: its length goes up once its row is written.
void rope_append_batch(Context& context, Batch& batch, int32_t layer, Matrix qkv, Matrix q, Matrix inv_freq, bool interleaved, float mscale) {
  if (batch.sequences() == 0) return;
  require(batch.sequences() <= 65535, "%d sequences are more than 65535", batch.sequences());
  RopeArgs args = {};
  args.sequences = batch.table;
  args.layer = layer;
  args.block_kv_heads = 1;
  args.ahead = context.only_appended(batch, layer, 0);
  launch(context, batch.shape(), args, qkv, q, inv_freq, interleaved, mscale);
}

}  // namespace kva

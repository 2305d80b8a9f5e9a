// Prefill attention for sm_90a, FlashAttention-3 class: f16 and bf16, head sizes 64 and 128. One producer warp copies Q, K and V tiles
// into rings; warpgroups of 64 query rows take turns on the tensor cores, each overlapping its softmax with its own P V.
// floor: 4 * pairs * head_dim flops (pairs: visible query-key pairs of all heads) at the card's matrix rate, 682-721 TFLOP/s measured.
// measured (H100 80GB, 2026-11-24, bf16, 32 heads, 8 KV heads of 128, causal): 649 TFLOP/s at 16K rows, 641 at 64K, 636 at 128K.
// sets of random blocks (2026-11-25, 128K rows): 105.3, 43.6, 22.4, 12.2 ms at density 0.50, 0.20, 0.10, 0.05; dense 209.8: 1.00 to 1.08 of
// dense time * density (blocks are met in the second-level cache less often, and a short item has its first tile without overlap).
// gap: 3-12 %: the tensor pipe works in 79.5 % of the cycles at 16K (softmax, diagonal tiles, hand-overs), at a clock that power limits.
#include "../device/attention_order.cuh"
#include "../device/attention_tiles.cuh"
#include "../device/hopper.cuh"
#include "../device/hopper_tensor_map.cuh"
#include "../include/kvaccel.h"

namespace kva {
namespace {

using namespace device;

constexpr int kTileKeys = 128, kStages = 2;

struct Arguments {
  CUtensorMap q, k, v;
  AttentionShape shape;
  void* out;
  float* lse;
  int* counter;          // work items taken beyond the first of each CTA
  const int32_t* order;  // with a set of blocks: attention_order_launch's
  int64_t out_stride, lse_stride;
};

// Consumer warpgroups, and shared memory: tiles of [head_dim / 64, rows, 64] elements. With a set of blocks a tile is a block.
template <int HeadDim, bool Listed>
struct Layout {
  static constexpr int warpgroups = HeadDim == 64 && !Listed ? 3 : 2, threads = (warpgroups + 1) * 128, tile_rows = warpgroups * 64;
  static constexpr int q_bytes = tile_rows * HeadDim * 2, kv_bytes = kTileKeys * HeadDim * 2, alignment = 1024;
  static constexpr int bytes = q_bytes + 2 * kStages * kv_bytes + alignment;
  uint32_t q, k, v;
  __device__ explicit Layout(uint32_t memory) : q((memory + alignment - 1) & ~(alignment - 1)), k(q + q_bytes), v(k + kStages * kv_bytes) {}
};

// `full` turns when a tile has arrived, `empty` when every consumer warp is done with it.
struct Barriers {
  uint64_t q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  int item;         // the work item that belongs to the Q tile; -1: no more
  int count, last;  // of its set of blocks: how many key tiles, and the rightmost

  template <int Warps>
  __device__ __forceinline__ void init() {
    barrier_init(shared_address(&q_full), 1);
    barrier_init(shared_address(&q_empty), Warps);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared_address(&k_full[stage]), 1);
      barrier_init(shared_address(&v_full[stage]), 1);
      barrier_init(shared_address(&k_empty[stage]), Warps);
      barrier_init(shared_address(&v_empty[stage]), Warps);
    }
    barrier_init_fence();
  }
};

// One thread: takes work items and copies their tiles, keys one tile ahead of values.
template <int HeadDim, bool Listed>
__device__ __forceinline__ void produce(const Arguments& args, Barriers& barriers, const Layout<HeadDim, Listed>& tiles) {
  using Tiles = Layout<HeadDim, Listed>;
  const AttentionShape& shape = args.shape;
  const uint32_t q_full = shared_address(&barriers.q_full), q_empty = shared_address(&barriers.q_empty);
  const uint32_t k_full = shared_address(barriers.k_full), k_empty = shared_address(barriers.k_empty);
  const uint32_t v_full = shared_address(barriers.v_full), v_empty = shared_address(barriers.v_empty);
  Ring<1> q;
  Ring<kStages> k, v;
  const auto load = [](Ring<kStages>& ring, const CUtensorMap& map, uint32_t full, uint32_t empty, uint32_t to, int tile, int head) {
    barrier_wait(empty + ring.stage * 8, ring.pass ^ 1);
    barrier_arrive_expect(full + ring.stage * 8, Tiles::kv_bytes);
    copy_box(to + ring.stage * Tiles::kv_bytes, map, full + ring.stage * 8, 0, tile * kTileKeys, 0, head);
    ring.next();
  };
  for (int at = blockIdx.x; at < shape.items();) {
    const int next = gridDim.x + atomicAdd(args.counter, 1), index = Listed ? args.order[at] : at;
    const AttentionItem item = attention_item(shape, index);
    TileSteps<Tiles::tile_rows, kTileKeys, Listed> steps(shape, item);
    const int count = Listed ? args.order[shape.items() + index] : steps.walk.count;
    const int kv_head = item.head / shape.group();
    int tile = steps.next(), before = 0;
    barrier_wait(q_empty, q.pass ^ 1);
    barriers.item = index;
    if (Listed) {
      barriers.count = count;
      barriers.last = tile;
    }
    barrier_arrive_expect(q_full, Tiles::q_bytes);
    copy_box(tiles.q, args.q, q_full, 0, item.tile * Tiles::tile_rows, 0, item.head);
    q.next();
#pragma unroll 1
    for (int i = 0; i <= count; ++i) {
      const int following = steps.next();  // of a set: on its way while the ring is full
      if (i < count) load(k, args.k, k_full, k_empty, tiles.k, tile, kv_head);
      if (i > 0) load(v, args.v, v_full, v_empty, tiles.v, before, kv_head);
      before = tile;
      tile = following;
    }
    at = next;
  }
  barrier_wait(q_empty, q.pass ^ 1);
  barriers.item = -1;
  barrier_arrive(q_full);
}

// A warpgroup's work: query rows [64 * warpgroup, 64 * warpgroup + 64) of each tile.
template <class T, int HeadDim, bool Listed>
struct Consumer {
  using Tiles = Layout<HeadDim, Listed>;
  const Arguments& args;
  Barriers& barriers;
  const Tiles& tiles;
  const int warpgroup, lane;
  Ring<kStages> k, v;
  float scores[kTileKeys / 2], sums[HeadDim / 2], factor[2];
  uint32_t weights[kTileKeys / 4];
  SoftmaxRows softmax;

  __device__ __forceinline__ Consumer(const Arguments& args, Barriers& barriers, const Tiles& tiles, int warpgroup)
      : args(args), barriers(barriers), tiles(tiles), warpgroup(warpgroup), lane(threadIdx.x % 32) {}

  __device__ __forceinline__ void release(uint64_t& empty) const {
    if (lane == 0) barrier_arrive(shared_address(&empty));
  }

  // The warpgroups issue their products in turn: one computes while the others' softmax runs.
  __device__ __forceinline__ void begin_turn() const { named_sync(1 + warpgroup, 256); }
  __device__ __forceinline__ void end_turn() const { named_arrive(1 + (warpgroup + 1) % Tiles::warpgroups, 256); }

  __device__ __forceinline__ void issue_scores() {
    const uint64_t a = operand(tiles.q + warpgroup * 64 * 128), b = operand(tiles.k + k.stage * Tiles::kv_bytes);
    products_begin();
#pragma unroll
    for (int step = 0; step < HeadDim / 16; ++step) {
      const int block = step / 4, within = step % 4 * 32;
      multiply(scores, a + (block * Tiles::tile_rows * 128 + within) / 16, b + (block * kTileKeys * 128 + within) / 16, step > 0, T{});
    }
    products_commit();
  }

  __device__ __forceinline__ void issue_values() {
    const uint64_t b = operand_transposed(tiles.v + v.stage * Tiles::kv_bytes, kTileKeys * 128);
    products_begin();
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) multiply_transposed(sums, weights + 4 * step, b + step * 16 * 128 / 16, T{});
    products_commit();
  }

  template <bool Masked>
  __device__ __forceinline__ void update_softmax(int tile, int row) {
    if constexpr (Masked) mask_scores(scores, row, tile * kTileKeys + lane % 4 * 2, args.shape.window);
    softmax.update(scores, args.shape.scale * 1.44269504088896341f, factor);
  }

  __device__ __forceinline__ void keep_weights() {
#pragma unroll
    for (int i = 0; i < kTileKeys / 4; ++i) weights[i] = pack_pair(scores[2 * i], scores[2 * i + 1], T{});
  }

  __device__ __forceinline__ void scale_sums() {
    if (!__any_sync(0xffffffffu, factor[0] != 1 || factor[1] != 1)) return;  // no maximum moved: most tiles of a long row
#pragma unroll
    for (int i = 0; i < HeadDim / 2; ++i) sums[i] *= factor[i / 2 % 2];
  }

  // Scores of a tile of keys while the values of the tile before are summed.
  template <bool Masked>
  __device__ __forceinline__ void advance(int tile, int row, bool last) {
    barrier_wait(shared_address(&barriers.k_full[k.stage]), k.pass);
    begin_turn();
    issue_scores();
    barrier_wait(shared_address(&barriers.v_full[v.stage]), v.pass);
    issue_values();
    end_turn();
    products_wait<1>();
    pin(scores);
    release(barriers.k_empty[k.stage]);
    k.next();
    if (last) release(barriers.q_empty);
    update_softmax<Masked>(tile, row);
    products_wait<0>();
    pin(sums);
    release(barriers.v_empty[v.stage]);
    v.next();
    keep_weights();
    scale_sums();
  }

  // One query tile. Of a set of blocks only the rightmost tile can cross the diagonal or the end.
  __device__ __forceinline__ void attend(const TileWalk& walk, int row) {
    softmax.reset();
#pragma unroll
    for (int i = 0; i < HeadDim / 2; ++i) sums[i] = 0;
    if (Listed && walk.count == 0) return release(barriers.q_empty);
    barrier_wait(shared_address(&barriers.k_full[k.stage]), k.pass);
    issue_scores();
    products_wait<0>();
    pin(scores);
    release(barriers.k_empty[k.stage]);
    k.next();
    if (walk.count == 1) release(barriers.q_empty);
    update_softmax<true>(walk.last, row);
    keep_weights();
    for (int i = 1; i < walk.count; ++i) {
      const int tile = Listed ? 0 : walk.at(i);
      if (!Listed && walk.masked(tile))
        advance<true>(tile, row, i + 1 == walk.count);
      else
        advance<false>(tile, row, i + 1 == walk.count);
    }
    barrier_wait(shared_address(&barriers.v_full[v.stage]), v.pass);
    issue_values();
    products_wait<0>();
    pin(sums);
    release(barriers.v_empty[v.stage]);
    v.next();
  }

  __device__ __forceinline__ void store(int head, int query) {
    float inverse[2], lse[2];
    softmax.finish(args.shape.scale, inverse, lse);
    T* to[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = query + 8 * r;
      const bool inside = at < args.shape.rows;
      to[r] = inside ? static_cast<T*>(args.out) + at * args.out_stride + head * HeadDim : nullptr;
      if (args.lse && inside && lane % 4 == 0) args.lse[head * args.lse_stride + at] = lse[r];
    }
    store_rows(sums, inverse, to, HeadDim);
  }

  __device__ __forceinline__ void run() {
    const int own_row = warpgroup * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    if (warpgroup == Tiles::warpgroups - 1) end_turn();  // the first warpgroup begins
    Ring<1> q;
    for (;; q.next()) {
      barrier_wait(shared_address(&barriers.q_full), q.pass);
      const int index = __shfl_sync(0xffffffffu, lane == 0 ? barriers.item : 0, 0);  // lane 0 reads it and releases it
      if (index < 0) return;
      const AttentionItem item = attention_item(args.shape, index);
      const int query = item.tile * Tiles::tile_rows + own_row;
      TileWalk walk;
      if (Listed) {
        walk.count = __shfl_sync(0xffffffffu, lane == 0 ? barriers.count : 0, 0);
        walk.last = __shfl_sync(0xffffffffu, lane == 0 ? barriers.last : 0, 0);
      } else {
        walk = tile_walk<Tiles::tile_rows, kTileKeys>(args.shape, item.tile);
      }
      attend(walk, args.shape.first_row + query);
      store(item.head, query);
    }
  }
};

template <class T, int HeadDim, bool Listed>
__global__ void __launch_bounds__(Layout<HeadDim, Listed>::threads, 1) attention_hopper_kernel(const __grid_constant__ Arguments args) {
  static_assert(Layout<HeadDim, Listed>::bytes + sizeof(Barriers) <= 227 << 10);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ unsigned char memory[];
  __shared__ Barriers barriers;  // static, and in this body alone: attention_prefill_hopper_takes looks for it
  using Tiles = Layout<HeadDim, Listed>;
  // a producer that walks a set of blocks needs more than one that walks a range
  constexpr int kGiven = Tiles::warpgroups == 3 ? 32 : Listed ? 40 : 24, kTaken = Tiles::warpgroups == 3 ? 160 : Listed ? 232 : 240;
  static_assert(registers_suffice(Tiles::threads, kGiven, kTaken));
  const Tiles tiles(shared_address(memory));
  if (threadIdx.x == 0) barriers.init<4 * Tiles::warpgroups>();
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    give_registers<kGiven>();
    if (threadIdx.x == 0) {
      prefetch_map(args.q);
      prefetch_map(args.k);
      prefetch_map(args.v);
      produce(args, barriers, tiles);
    }
  } else {
    take_registers<kTaken>();
    Consumer<T, HeadDim, Listed>(args, barriers, tiles, warpgroup - 1).run();
  }
#endif
}

using Kernel = void (*)(Arguments);

struct Choice {
  Kernel kernel;
  int threads, tile_rows, bytes;
};
template <class T, int HeadDim, bool Listed>
Choice choice() {
  using Tiles = Layout<HeadDim, Listed>;
  return {attention_hopper_kernel<T, HeadDim, Listed>, Tiles::threads, Tiles::tile_rows, Tiles::bytes};
}
template <class T>
Choice choose(const AttentionPrefill& a) {
  if (a.bits != nullptr) return a.head_dim == 64 ? choice<T, 64, true>() : choice<T, 128, true>();
  return a.head_dim == 64 ? choice<T, 64, false>() : choice<T, 128, false>();
}
Choice choose(const AttentionPrefill& a) { return a.dtype == KVA_F16 ? choose<__half>(a) : choose<__nv_bfloat16>(a); }

cudaError_t encode(const AttentionPrefill& a, int tile_rows, Arguments* args) {
  const auto type = a.dtype == KVA_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const int64_t keys = int64_t(a.first_row) + a.rows;
  cudaError_t error = encode_heads(&args->q, type, a.q, a.heads, a.rows, a.head_dim, a.head_dim, a.q_stride, tile_rows);
  if (error == cudaSuccess) error = encode_heads(&args->k, type, a.k, a.kv_heads, keys, a.head_dim, a.head_stride, a.head_dim, kTileKeys);
  if (error == cudaSuccess) error = encode_heads(&args->v, type, a.v, a.kv_heads, keys, a.head_dim, a.head_stride, a.head_dim, kTileKeys);
  return error;
}

}  // namespace

bool attention_prefill_hopper_takes(const AttentionPrefill& a) {
  if ((a.dtype != KVA_F16 && a.dtype != KVA_BF16) || (a.head_dim != 64 && a.head_dim != 128) || !a.counter) return false;
  if (!attention_aligned(a)) return false;
  if (a.bits != nullptr && (a.block != kTileKeys || a.window > 0)) return false;
  return hopper_runs(choose(a).kernel, sizeof(Barriers));
}

cudaError_t attention_prefill_hopper_launch(const AttentionPrefill& a) {
  const Choice choice = choose(a);
  Arguments args = {};
  args.shape = attention_shape(a, choice.tile_rows, 2);
  args.out = a.out;
  args.lse = a.lse;
  args.counter = a.counter;
  args.order = a.order;
  args.out_stride = a.out_stride;
  args.lse_stride = a.lse_stride;
  int device = 0, processors = 0;
  cudaError_t error = encode(a, choice.tile_rows, &args);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(choice.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, choice.bytes);
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaMemsetAsync(a.counter, 0, sizeof(int32_t), a.stream);
  if (error == cudaSuccess && a.bits != nullptr) error = attention_order_launch(args.shape, a.order, a.stream);
  if (error != cudaSuccess) return error;
  const int items = args.shape.items();
  choice.kernel<<<items < processors ? items : processors, choice.threads, choice.bytes, a.stream>>>(args);
  return cudaGetLastError();
}

}  // namespace kva

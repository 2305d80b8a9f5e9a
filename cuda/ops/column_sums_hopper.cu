// Column sums for sm_90a: keys are the rows of the product, so that a lane sums its own two keys over all queries. One producer warp copies
// tiles of queries with their log-sum-exps; three warpgroups of 64 keys take turns on the tensor cores, two in their exponentials meanwhile.
// floor: half the operations of dense attention at the card's matrix rate; at head size 128 the exponentials (16 a cycle) take as long.
// measured (H100 80GB, 2026-11-26, bf16, 128K rows in ranges of 4096, 32 heads of 128): 121.7 ms, 0.58 of dense attention; floor 89.0.
// gap: both pipes would have to be busy all the time; dense attention keeps the tensor cores busy in 80 % of the cycles.
#include "../device/column_sums.cuh"
#include "../device/hopper.cuh"
#include "../device/hopper_tensor_map.cuh"
#include "../device/mma.cuh"
#include "../include/kvaccel.h"

namespace kva {
namespace {

using namespace device;

constexpr int kWarpgroups = 3, kThreads = (kWarpgroups + 1) * 128, kTileKeys = kWarpgroups * 64, kTileQueries = 128, kStages = 3, kKeyStages = 2;
[[maybe_unused]] constexpr float kLog2E = 1.44269504088896341f;

struct Arguments {
  CUtensorMap q, k;
  ColumnSums shape;
};

template <int HeadDim>
struct Layout {
  static constexpr int query_bytes = kTileQueries * HeadDim * 2, key_bytes = kTileKeys * HeadDim * 2;
  static constexpr int bytes = kStages * query_bytes + kKeyStages * key_bytes + 1024;
  uint32_t queries, keys;
  __device__ explicit Layout(uint32_t memory) : queries((memory + 1023) & ~1023u), keys(queries + kStages * query_bytes) {}
};

struct Barriers {
  uint64_t full[kStages], empty[kStages], key_full[kKeyStages], key_empty[kKeyStages];
  float shifts[kStages][kTileQueries];  // log2(e) * lse

  template <int Warps>
  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared_address(&full[stage]), 32);
      barrier_init(shared_address(&empty[stage]), 32 * Warps);
    }
    for (int stage = 0; stage < kKeyStages; ++stage) {
      barrier_init(shared_address(&key_full[stage]), 1);
      barrier_init(shared_address(&key_empty[stage]), Warps);
    }
    barrier_init_fence();
  }
};

// A tile of keys of a KV head, and the query tiles of the group's heads that see some of it. The keys that are seen most come first.
struct Item {
  int kv_head, base, first_tile, per_head;
  __device__ __forceinline__ Item(const ColumnSums& shape, int index) {
    const int tiles = key_tiles(shape);
    kv_head = index / tiles;
    base = index % tiles * kTileKeys;
    first_tile = max(0, base - shape.first_row) / kTileQueries;
    per_head = (shape.rows + kTileQueries - 1) / kTileQueries - first_tile;
  }
  __host__ __device__ static int key_tiles(const ColumnSums& shape) { return (shape.first_row + shape.rows + kTileKeys - 1) / kTileKeys; }
  __host__ __device__ static int count(const ColumnSums& shape) { return key_tiles(shape) * shape.kv_heads; }
};

// One warp. Rows past the end get an infinite shift: they add nothing.
template <int HeadDim>
__device__ __forceinline__ void produce(const Arguments& args, Barriers& barriers, const Layout<HeadDim>& tiles) {
  using Tiles = Layout<HeadDim>;
  const ColumnSums& shape = args.shape;
  const int lane = threadIdx.x;
  Ring<kStages> ring;
  Ring<kKeyStages> keys;
  for (int index = blockIdx.x; index < Item::count(shape); index += gridDim.x) {
    const Item item(shape, index);
    if (lane == 0) {
      const uint32_t full = shared_address(&barriers.key_full[keys.stage]);
      barrier_wait(shared_address(&barriers.key_empty[keys.stage]), keys.pass ^ 1);
      barrier_arrive_expect(full, Tiles::key_bytes);
      copy_box(tiles.keys + keys.stage * Tiles::key_bytes, args.k, full, 0, item.base, 0, item.kv_head);
    }
    keys.next();
    for (int g = 0; g < shape.group; ++g)
      for (int tile = item.first_tile; tile < item.first_tile + item.per_head; ++tile) {
        const int head = item.kv_head * shape.group + g;
        const uint32_t full = shared_address(&barriers.full[ring.stage]);
        float shift[kTileQueries / 32];
#pragma unroll
        for (int i = 0; i < kTileQueries / 32; ++i) {
          const int row = tile * kTileQueries + i * 32 + lane;
          shift[i] = row < shape.rows ? kLog2E * shape.lse[head * shape.lse_stride + row] : INFINITY;
        }
        barrier_wait(shared_address(&barriers.empty[ring.stage]), ring.pass ^ 1);
#pragma unroll
        for (int i = 0; i < kTileQueries / 32; ++i) barriers.shifts[ring.stage][i * 32 + lane] = shift[i];
        if (lane == 0) {
          barrier_arrive_expect(full, Tiles::query_bytes);
          copy_box(tiles.queries + ring.stage * Tiles::query_bytes, args.q, full, 0, tile * kTileQueries, 0, head);
        } else {
          barrier_arrive(full);
        }
        ring.next();
      }
  }
}

template <bool Maximum>
__device__ __forceinline__ float join(float a, float b) {
  return Maximum ? fmaxf(a, b) : a + b;
}

// A warpgroup's work: keys [64 * warpgroup, 64 * warpgroup + 64) of each tile.
template <class T, int HeadDim, bool Maximum>
struct Consumer {
  using Tiles = Layout<HeadDim>;
  const ColumnSums& shape;
  Barriers& barriers;
  const Tiles& tiles;
  const int warpgroup, lane;
  Ring<kStages> ring;
  float scores[kTileQueries / 2], result[2];

  __device__ __forceinline__ Consumer(const ColumnSums& shape, Barriers& barriers, const Tiles& tiles, int warpgroup)
      : shape(shape), barriers(barriers), tiles(tiles), warpgroup(warpgroup), lane(threadIdx.x % 32) {}

  __device__ __forceinline__ void multiply_tile(uint32_t keys) {
    const uint64_t a = operand(keys + warpgroup * 64 * 128), b = operand(tiles.queries + ring.stage * Tiles::query_bytes);
    named_sync(1 + warpgroup, 256);  // its turn
    products_begin();
#pragma unroll
    for (int step = 0; step < HeadDim / 16; ++step) {
      const int block = step / 4, within = step % 4 * 32;
      multiply(scores, a + (block * kTileKeys * 128 + within) / 16, b + (block * kTileQueries * 128 + within) / 16, step > 0, T{});
    }
    products_commit();
    named_arrive(1 + (warpgroup + 1) % kWarpgroups, 256);
    products_wait<0>();
    pin(scores);
  }

  // key, query: of the lane's first element; the other rows and columns follow the accumulator's layout
  template <bool Masked>
  __device__ __forceinline__ void add_tile(int key, int query, float scale) {
    const float* shifts = barriers.shifts[ring.stage] + lane % 4 * 2;
    float part[2] = {};
#pragma unroll
    for (int i = 0; i < kTileQueries / 2; i += 4) {
      const float2 shift = *reinterpret_cast<const float2*>(shifts + i * 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float p;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(p) : "f"(fmaf(scores[i + e], scale, e % 2 ? -shift.y : -shift.x)));
        if (Masked && query + i * 2 + e % 2 < key + e / 2 * 8) p = 0;
        part[e / 2] = join<Maximum>(part[e / 2], p);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) result[r] = join<Maximum>(result[r], part[r]);
  }

  __device__ __forceinline__ void run() {
    const int own_key = warpgroup * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4, end = shape.first_row + shape.rows;
    const float scale = shape.scale * kLog2E;
    if (warpgroup == kWarpgroups - 1) named_arrive(1, 256);  // the first warpgroup begins
    Ring<kKeyStages> keys;
    for (int index = blockIdx.x; index < Item::count(shape); index += gridDim.x) {
      const Item item(shape, index);
      const int key = item.base + own_key;
      result[0] = result[1] = 0;
      barrier_wait(shared_address(&barriers.key_full[keys.stage]), keys.pass);
      for (int g = 0; g < shape.group; ++g)
        for (int tile = item.first_tile; tile < item.first_tile + item.per_head; ++tile) {
          const int top = shape.first_row + tile * kTileQueries;
          barrier_wait(shared_address(&barriers.full[ring.stage]), ring.pass);
          multiply_tile(tiles.keys + keys.stage * Tiles::key_bytes);
          if (top < item.base + kTileKeys - 1)
            add_tile<true>(key, top + lane % 4 * 2, scale);
          else
            add_tile<false>(key, top, scale);
          barrier_arrive(shared_address(&barriers.empty[ring.stage]));  // every lane, for each has read shifts
          ring.next();
        }
      if (lane == 0) barrier_arrive(shared_address(&barriers.key_empty[keys.stage]));
      keys.next();
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float value = result[r];
        value = join<Maximum>(value, __shfl_xor_sync(0xffffffffu, value, 1));
        value = join<Maximum>(value, __shfl_xor_sync(0xffffffffu, value, 2));
        if (lane % 4 != 0 || key + 8 * r >= end) continue;
        float* to = shape.out + item.kv_head * shape.out_stride + key + 8 * r;
        *to = join<Maximum>(*to, value);
      }
    }
    if (warpgroup == 0) named_sync(1, 256);  // the last turn that was handed on
  }
};

template <class T, int HeadDim, bool Maximum>
__global__ void __launch_bounds__(kThreads, 1) column_sums_hopper_kernel(const __grid_constant__ Arguments args) {
  static_assert(Layout<HeadDim>::bytes + sizeof(Barriers) <= 227 << 10);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ unsigned char memory[];
  __shared__ Barriers barriers;  // static, and in this body alone: column_sums_hopper_takes looks for it
  constexpr int kGiven = 40, kTaken = 152;
  static_assert(registers_suffice(kThreads, kGiven, kTaken));
  static_assert(Layout<HeadDim>::bytes + sizeof(Barriers) <= 227 << 10);  // of a block
  const Layout<HeadDim> tiles(shared_address(memory));
  if (threadIdx.x == 0) barriers.init<4 * kWarpgroups>();
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    give_registers<kGiven>();
    if (threadIdx.x == 0) {
      prefetch_map(args.q);
      prefetch_map(args.k);
    }
    if (threadIdx.x < 32) produce(args, barriers, tiles);
  } else {
    take_registers<kTaken>();
    Consumer<T, HeadDim, Maximum>(args.shape, barriers, tiles, warpgroup - 1).run();
  }
#endif
}

using Kernel = void (*)(Arguments);

template <class T>
Kernel choose(const ColumnSums& args) {
  if (args.head_dim == 64) return args.maximum ? column_sums_hopper_kernel<T, 64, true> : column_sums_hopper_kernel<T, 64, false>;
  return args.maximum ? column_sums_hopper_kernel<T, 128, true> : column_sums_hopper_kernel<T, 128, false>;
}
Kernel kernel_of(const ColumnSums& args) { return args.dtype == KVA_F16 ? choose<__half>(args) : choose<__nv_bfloat16>(args); }

}  // namespace

bool column_sums_hopper_takes(const ColumnSums& args) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  if ((args.dtype != KVA_F16 && args.dtype != KVA_BF16) || (args.head_dim != 64 && args.head_dim != 128)) return false;
  if (!aligned(args.queries) || !aligned(args.keys) || (args.q_stride | args.head_stride) % 8 != 0) return false;
  return hopper_runs(kernel_of(args), sizeof(Barriers));
}

cudaError_t column_sums_hopper_launch(const ColumnSums& a) {
  Arguments args = {};
  args.shape = a;
  const auto type = a.dtype == KVA_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const int bytes = a.head_dim == 64 ? Layout<64>::bytes : Layout<128>::bytes, items = Item::count(a);
  const Kernel kernel = kernel_of(a);
  int device = 0, processors = 0;
  cudaError_t error =
      encode_heads(&args.q, type, a.queries, a.kv_heads * a.group, a.rows, a.head_dim, a.head_dim, a.q_stride, kTileQueries);
  if (error == cudaSuccess)
    error = encode_heads(&args.k, type, a.keys, a.kv_heads, int64_t(a.first_row) + a.rows, a.head_dim, a.head_stride, a.head_dim, kTileKeys);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  kernel<<<items < processors ? items : processors, kThreads, bytes, a.stream>>>(args);
  return cudaGetLastError();
}

}  // namespace kva

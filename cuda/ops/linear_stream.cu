// The sums of linear_rows.cu, bit by bit, for sm_90 and up and at most 32 rows: one block of each multiprocessor streams its share of the weights
// through a ring in shared memory, filled by the copy engine. A block lets the next kernel start when all its loads are on their way; the next one's
// block then fills its ring as soon as there is room, while the norm or the attention between them runs.
// floor: the bytes of the weights at copy bandwidth (3.0 TB/s): 145 us for a layer of the 8B shape, 5.0 ms for all of it.
// measured (H100 80GB, 2026-11-25, one row, back to back): 2.98 TB/s for the four of a layer (146 us), 3.06 for 28672 features, 2.97 for 4096 from 14336,
// 2.75 and 2.71 for 4096 and 6144 from 4096; a whole decode step 5.45 ms, 91 % of its floor. 32 rows: 2.54 TB/s.
// gap: none on the layer's own; in a step the norms, the rotation and the attention between them, 10 us a layer. Two rings of half the size on a
// multiprocessor, the next one's filled early, were slower (5.66 to 6.0 ms): what is filled before memory rests does not shorten its rest.
#include <algorithm>
#include <type_traits>

#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/hopper.cuh"
#include "../device/hopper_tensor_map.cuh"
#include "../device/linear_rows.cuh"
#include "../device/mma.cuh"

namespace kva {
namespace {

using namespace device;

constexpr int kWarps = 8, kSumming = kWarps * 32; // warps that multiply, their threads
constexpr int kThreads = kSumming + 32;           // and one that loads
constexpr int kBlock = 64;                        // elements of k of one warp in each round of all warps
constexpr int kMostStages = 12;
constexpr int kShared = 200 << 10; // of a block: one on a multiprocessor, and the small kernels between two of these beside it

// Tiles: of 8 rows of x; Pairs: of 8 and 8 features, the gate's and what it multiplies, or two runs of features one after the other; Blocks of k of
// a stage, one for each of as many warps
template <int Tiles, int Pairs, int Blocks>
struct Plan {
  enum : int { tiles = Tiles, pairs = Pairs, blocks = Blocks, turns = kWarps / Blocks };
  static constexpr int half = Pairs * 8, features = 2 * half, half_bytes = Blocks * half * kBlock * 2;
  static constexpr int sums_bytes = kWarps * 8 * features * 4; // of one tile of rows; there are two of them, in turns
  static constexpr int barriers = 2 * sums_bytes, stages_at = (barriers + kMostStages * 16 + 1023) / 1024 * 1024;
};

struct StreamArgs {
  CUtensorMap weight, x; // in boxes of half the features of a stage, and of all rows
  LinearRows linear;
  int stages, stage_bytes, loaded_bytes; // of a stage: its room, what comes into it
};

// a block's walk: its tiles of features, each along k
template <class P>
struct Walk {
  const LinearRows& args;
  int tile, k = 0; // k in blocks
  __device__ explicit Walk(const LinearRows& args) : args(args), tile(blockIdx.x) {}
  __device__ int first() const { return tile * (args.gated ? P::half : P::features); }
  __device__ int end() const { return args.gated ? args.features / 2 : args.features; }
  __device__ int second() const { return first() + (args.gated ? end() : P::half); } // of the second half of the tile
  __device__ bool done() const { return first() >= end(); }
  __device__ bool last() const { return (k + P::blocks) * kBlock >= args.in; } // of the tile
  __device__ void next() {
    if (last()) {
      k = 0;
      tile += gridDim.x;
    } else {
      k += P::blocks;
    }
  }
};

// Stages go round; each has a barrier for its being full and one for its being free again.
template <class P>
struct Stages {
  const uint32_t shared;
  const int count;
  int stage = 0;
  uint32_t pass = 0;
  __device__ Stages(uint32_t shared, int count) : shared(shared), count(count) {}
  __device__ uint32_t full() const { return shared + P::barriers + stage * 8; }
  __device__ uint32_t empty() const { return full() + kMostStages * 8; }
  __device__ int at(int bytes) const { return P::stages_at + stage * bytes; }
  __device__ void next() {
    if (++stage == count) {
      stage = 0;
      pass ^= 1;
    }
  }
};

// One thread loads. No kernel before this one in the stream that may still run writes weights.
template <class P>
__device__ __forceinline__ void load(const StreamArgs& args, uint32_t shared) {
  const auto load_weights = [&](const Walk<P>& walk, const Stages<P>& ring) {
    barrier_arrive_expect(ring.full(), args.loaded_bytes);
    const uint32_t to = shared + ring.at(args.stage_bytes);
    copy_box_once(to, args.weight, ring.full(), 0, walk.first(), walk.k);
    copy_box_once(to + P::half_bytes, args.weight, ring.full(), 0, walk.second(), walk.k);
  };
  const auto load_x = [&](const Walk<P>& walk, const Stages<P>& ring) {
    copy_box(shared + ring.at(args.stage_bytes) + 2 * P::half_bytes, args.x, ring.full(), 0, 0, walk.k);
  };
  Walk<P> walk(args.linear), behind(args.linear);
  Stages<P> ring(shared, args.stages), ring_behind = ring;
  for (; ring.pass == 0 && !walk.done(); ring.next(), walk.next()) load_weights(walk, ring);
  const bool more = !walk.done();
  if (!more) let_next_start();
  wait_for_inputs();
  asm volatile("fence.proxy.async;" ::: "memory"); // x was written by plain stores
  for (; ring_behind.pass == 0 && !behind.done(); ring_behind.next(), behind.next()) load_x(behind, ring_behind);
  for (; !walk.done(); ring.next(), walk.next()) {
    barrier_wait(ring.empty(), ring.pass ^ 1);
    load_weights(walk, ring);
    load_x(walk, ring);
  }
  if (more) let_next_start();
}

// Row of eight in shared memory that lane group i of a product has: neighbouring groups, whose lanes are served together, read other banks.
[[maybe_unused]] __device__ __forceinline__ int row_of_group(int group) { return group % 2 * 4 + group / 2; }

template <class T, class P>
__device__ __forceinline__ void sum(const StreamArgs& args, unsigned char* memory, uint32_t shared) {
  const LinearRows& linear = args.linear;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4, own = row_of_group(group);
  // what this thread will write of a tile: one element of each eight rows
  const int place = threadIdx.x % P::features, row = threadIdx.x / P::features;
  wait_for_inputs();

  // 16 bytes at element quad * 8 + u * 32 of a row of a swizzled block
  const auto eight = [&](uint32_t block, int row, int u) {
    const uint32_t at = block + row * kBlock * 2;
    return *reinterpret_cast<const uint4*>(memory + (at + ((u * 64 + quad * 16) ^ (at >> 3 & 0x70))));
  };
  Stages<P> ring(shared, args.stages);
  int buffer = 0;
  for (Walk<P> walk(linear); !walk.done();) {
    const int feature = walk.first() + place;
    const bool writes = row < 8 && feature < walk.end() && (!linear.gated || place < P::half);
    float before[P::tiles];
#pragma unroll
    for (int tile = 0; tile < P::tiles; ++tile) before[tile] = writes && tile * 8 + row < linear.rows ? read_out<T>(linear, tile * 8 + row, feature) : 0;

    float acc[P::pairs][P::tiles][4] = {};
    for (bool more = true; more; ring.next(), walk.next()) {
      more = !walk.last();
      barrier_wait(ring.full(), ring.pass);
      if (P::turns == 1 || walk.k / P::blocks % P::turns == warp / P::blocks) {
        const uint32_t at = ring.at(args.stage_bytes), weights = at + warp % P::blocks * P::half * kBlock * 2;
        const uint32_t x = at + 2 * P::half_bytes + warp % P::blocks * linear.rows * kBlock * 2;
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          uint4 columns[P::tiles];
#pragma unroll
          for (int tile = 0; tile < P::tiles; ++tile) columns[tile] = tile * 8 + own < linear.rows ? eight(x, tile * 8 + own, u) : uint4{0, 0, 0, 0};
#pragma unroll
          for (int pair = 0; pair < P::pairs; ++pair) {
            const uint4 high = eight(weights, pair * 8 + own, u), low = eight(weights + P::half_bytes, pair * 8 + own, u);
#pragma unroll
            for (int tile = 0; tile < P::tiles; ++tile) {
              mma(acc[pair][tile], {high.x, low.x, high.y, low.y}, columns[tile].x, columns[tile].y, T());
              mma(acc[pair][tile], {high.z, low.z, high.w, low.w}, columns[tile].z, columns[tile].w, T());
            }
          }
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(ring.empty());
    }

#pragma unroll
    for (int tile = 0; tile < P::tiles; ++tile) {
      if (tile * 8 >= linear.rows) break;
      float* sums = reinterpret_cast<float*>(memory) + buffer * (P::sums_bytes / 4);
      buffer ^= 1;
#pragma unroll
      for (int pair = 0; pair < P::pairs; ++pair)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums[(warp * 8 + row_of_group(quad * 2 + i % 2)) * P::features + i / 2 * P::half + pair * 8 + own] = acc[pair][tile][i];
      named_sync(1, kSumming); // who is here has read the sums before, whose place the next ones take
      const auto total = [&](int at) {
        float all = 0;
#pragma unroll
        for (int other = 0; other < kWarps; ++other) all += sums[(other * 8 + row) * P::features + at];
        return all;
      };
      const int at_row = tile * 8 + row;
      if (!writes || at_row >= linear.rows) continue;
      if (linear.gated)
        write_gated<T>(linear, at_row, feature, total(place), total(place + P::half));
      else
        write_out<T>(linear, at_row, feature, total(place), before[tile]);
    }
  }
}

template <class T, class P>
__global__ void __launch_bounds__(kThreads, 1) linear_stream_kernel(const __grid_constant__ StreamArgs args) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t shared = shared_address(memory);
  if (threadIdx.x == kSumming) {
    prefetch_map(args.weight);
    prefetch_map(args.x);
    for (Stages<P> ring(shared, args.stages); ring.pass == 0; ring.next()) {
      barrier_init(ring.full(), 1);
      barrier_init(ring.empty(), kWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kSumming) {
    sum<T, P>(args, memory, shared);
  } else {
    if (threadIdx.x == kSumming) load<P>(args, shared);
    __syncwarp(); // where the other lanes wait for the inputs, the loading one stands still with them
    wait_for_inputs();
  }
#endif
}

template <class T, class P>
void launch(const LinearRows& linear, const CudaDevice& device) {
  StreamArgs args = {};
  args.linear = linear;
  const CUtensorMapDataType type = std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  check_cuda(encode_matrix(&args.weight, type, linear.weight, linear.features, linear.in, linear.weight_stride, P::half, P::blocks), "the map of weights");
  check_cuda(encode_matrix(&args.x, type, linear.x, linear.rows, linear.in, linear.x_stride, linear.rows, P::blocks), "the map of x");
  args.loaded_bytes = 2 * P::half_bytes + P::blocks * linear.rows * kBlock * 2;
  args.stage_bytes = divide_up(args.loaded_bytes, 1024) * 1024;
  args.stages = std::min(kMostStages, (std::min(kShared, device.block_shared_bytes) - P::stages_at) / args.stage_bytes);
  const int bytes = P::stages_at + args.stages * args.stage_bytes;
  const int each = linear.gated ? P::half : P::features, features = linear.gated ? linear.features / 2 : linear.features;
  allow_shared<linear_stream_kernel<T, P>>(bytes);
  launch_early(linear_stream_kernel<T, P>, dim3(std::min(divide_up(features, each), device.processors)), kThreads, bytes, device.stream, args);
}

// a build without code or PTX of sm_90 runs what it has, in which these kernels are empty
template <class T>
bool compiled() {
  static const bool value = [] {
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, linear_stream_kernel<T, Plan<1, 2, 8>>) == cudaSuccess && attributes.ptxVersion >= 90;
  }();
  return value;
}

}  // namespace

template <class T>
bool linear_stream_takes(const LinearRows& args) {
  const auto packs = [](const void* pointer, int64_t stride) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0; };
  return args.rows <= kLinearStreamRows && args.in % kBlock == 0 && packs(args.x, args.x_stride) && packs(args.weight, args.weight_stride) && starts_early() &&
         compiled<T>();
}

template <class T>
void linear_stream_launch(const LinearRows& args, const CudaDevice& device) {
  if (args.rows <= 8)
    launch<T, Plan<1, 2, 8>>(args, device);
  else if (args.rows <= 16)
    launch<T, Plan<2, 2, 4>>(args, device);
  else
    launch<T, Plan<4, 2, 4>>(args, device);
}

template bool linear_stream_takes<__half>(const LinearRows&);
template bool linear_stream_takes<__nv_bfloat16>(const LinearRows&);
template void linear_stream_launch<__half>(const LinearRows&, const CudaDevice&);
template void linear_stream_launch<__nv_bfloat16>(const LinearRows&, const CudaDevice&);

}  // namespace kva

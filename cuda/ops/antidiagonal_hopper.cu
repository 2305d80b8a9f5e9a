// XAttention's log-sum-exps of coarse rows over key blocks, for sm_90a: a product of coarse rows (stride tokens, last to first) and coarse columns,
// 128 x 256 a tile, stride * head_dim deep. One producer warp copies operands by tensor maps that walk the tokens of coarse rows, two
// warpgroups multiply and reduce: the map of scores is never stored.
// floor: stride * head_dim multiplications for each visible pair of coarse rows at the card's matrix rate: 1 / (2 stride) of dense attention.
// measured (H100 80GB, 2026-11-25, bf16, 128K rows, 32 heads of 128, stride 16), with the sums over blocks: 7.8 ms, floor 5.4.
// gap: a tile reads 12 bytes from the second-level cache for each thousand operations, so 5.5 TB/s of it allow 470 TFLOP/s; the
// exponentials of a tile are not overlapped with the next product.
#include "../device/antidiagonal.cuh"
#include "../device/hopper.cuh"
#include "../device/hopper_tensor_map.cuh"
#include "../device/mma.cuh"
#include "../include/kvaccel.h"

namespace kva {
namespace {

using namespace device;

constexpr int kTileRows = 128, kTileColumns = 256, kStages = 4, kThreads = 384, kRowTiles = 8;
constexpr int kRowBytes = kTileRows * 128, kColumnBytes = kTileColumns * 128, kStageBytes = kRowBytes + kColumnBytes;
constexpr int kSharedBytes = kStages * kStageBytes + 1024;

struct Arguments {
  CUtensorMap q, k;
  AntidiagonalRun run;
};

struct Barriers {
  uint64_t full[kStages], empty[kStages];
};

struct Tile {
  int head, row, column;  // row: of the run
};

// Tiles in an order in which those at work at a time share operands in the second-level cache: kRowTiles tiles of rows of a group of heads
// go through the columns together. Those right of the diagonal are skipped.
struct Tiles {
  const AntidiagonalRun& run;
  int rows, sections, section = 0, begin = 0, end = 0, at;

  __device__ explicit Tiles(const AntidiagonalRun& run)
      : run(run),
        rows((run.count + kTileRows - 1) / kTileRows),
        sections((rows + kRowTiles - 1) / kRowTiles * (run.heads / run.group)),
        at(blockIdx.x) {
    end = section_items();
  }
  __device__ int first_tile() const { return section / (run.heads / run.group) * kRowTiles; }
  __device__ int section_tiles() const { return min(kRowTiles, rows - first_tile()); }
  __device__ int last_column(int row_tile) const {
    return (run.first_coarse() + run.begin + min((row_tile + 1) * kTileRows, run.count) - 1) / kTileColumns;
  }
  __device__ int section_items() const { return section_tiles() * run.group * (last_column(first_tile() + section_tiles() - 1) + 1); }

  __device__ bool next(Tile* tile) {
    for (;; at += gridDim.x) {
      while (at >= end) {
        if (++section >= sections) return false;
        begin = end;
        end += section_items();
      }
      const int together = section_tiles() * run.group, within = (at - begin) % together, column = (at - begin) / together;
      const int row_tile = first_tile() + within / run.group;
      if (column > last_column(row_tile)) continue;
      *tile = {section % (run.heads / run.group) * run.group + within % run.group, row_tile * kTileRows, column * kTileColumns};
      at += gridDim.x;
      return true;
    }
  }
};

[[maybe_unused]] __device__ __forceinline__ void produce(const Arguments& args, Barriers& barriers, uint32_t stages) {
  const AntidiagonalRun& run = args.run;
  Ring<kStages> ring;
  Tiles tiles(run);
  for (Tile tile; tiles.next(&tile);)
    for (int token = 0; token < run.stride; ++token)
      for (int chunk = 0; chunk < run.head_dim / 64; ++chunk) {
        const uint32_t full = shared_address(&barriers.full[ring.stage]), to = stages + ring.stage * kStageBytes;
        barrier_wait(shared_address(&barriers.empty[ring.stage]), ring.pass ^ 1);
        barrier_arrive_expect(full, kStageBytes);
        copy_box(to, args.q, full, 0, run.stride - 1 - token, run.begin + tile.row, chunk, tile.head);
        copy_box(to + kRowBytes, args.k, full, 0, token, tile.column, chunk, tile.head / run.group);
        ring.next();
      }
}

// Values of four lanes, one after another in each lane's `part`: afterwards lane q of a quad holds the quad's sum of part[q].
[[maybe_unused]] __device__ __forceinline__ float scatter_sums(const float (&part)[4], int quad) {
  const bool high = quad & 2, odd = quad & 1;
  float a = high ? part[2] : part[0], b = high ? part[3] : part[1];
  a += __shfl_xor_sync(0xffffffffu, high ? part[0] : part[2], 2);
  b += __shfl_xor_sync(0xffffffffu, high ? part[1] : part[3], 2);
  const float other = __shfl_xor_sync(0xffffffffu, odd ? a : b, 1);
  return (odd ? b : a) + other;
}

// Writes the tile of a warpgroup: lane l has rows l/4 and l/4 + 8 of each warp's 16, columns 8 i + 2(l%4) + {0, 1}. Sums are taken about the
// largest score of the row and tile: a block 126 powers of two below it counts as nothing. BlockColumns: coarse columns of a key block.
template <int BlockColumns>
__device__ __forceinline__ void store(const AntidiagonalRun& run, const Tile& tile, int row, float (&scores)[128]) {
  const int lane = threadIdx.x % 32, quad = lane % 4;
  const float scale = run.scale * 1.4426950408889634f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int at = row + 8 * r, seen = run.first_coarse() + run.begin + at - tile.column - quad * 2;  // columns 8 i + e <= seen are visible
    const bool whole = run.begin + at < run.whole_rows();
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < 128; i += 4)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[i + 2 * r + e];
        if (i * 2 + e > seen || !whole) score = -INFINITY;
        top = fmaxf(top, score);
      }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale;
    const float shift = top == -INFINITY ? 0 : top;
    constexpr int tile_blocks = kTileColumns / BlockColumns;
    const int first = tile.column / kTileColumns * tile_blocks, blocks = at < run.count ? run.key_blocks - first : 0;
    float* to = run.lse + (int64_t(tile.head) * run.count + at) * run.key_blocks + first;
    const auto write = [&](int block, float sum) {
      if (block < blocks) to[block] = (shift + __log2f(sum)) * 0.6931471805599453f;
    };
    const auto weight = [&](int i) {
      float value;
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(fmaf(scores[i], scale, -shift)));
      return value;
    };
    const auto group = [&](int i) { return weight(4 * i + 2 * r) + weight(4 * i + 2 * r + 1); };  // this lane's part of 8 columns
    if constexpr (BlockColumns == 4) {
#pragma unroll
      for (int i = 0; i < 32; i += 2) {
        const float even = group(i), uneven = group(i + 1), other = __shfl_xor_sync(0xffffffffu, quad & 1 ? even : uneven, 1);
        write(2 * (i + quad % 2) + quad / 2, (quad & 1 ? uneven : even) + other);
      }
    } else {
      constexpr int each = BlockColumns / 8;
#pragma unroll
      for (int i = 0; i < 32; i += 4 * each) {
        float part[4] = {};
#pragma unroll
        for (int b = 0; b < 4 * each; ++b) part[b / each] += group(i + b);
        write(i / each + quad, scatter_sums(part, quad));
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void consume(const AntidiagonalRun& run, Barriers& barriers, uint32_t stages, int warpgroup) {
  const int lane = threadIdx.x % 32, own_row = warpgroup * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
  const int steps = run.stride * run.head_dim / 64;
  Ring<kStages> ring;
  Tiles tiles(run);
  float scores[128];
  for (Tile tile; tiles.next(&tile);) {
    int before = 0;
    for (int step = 0; step < steps; ++step) {
      barrier_wait(shared_address(&barriers.full[ring.stage]), ring.pass);
      const uint32_t from = stages + ring.stage * kStageBytes;
      const uint64_t a = operand(from + warpgroup * 64 * 128), b = operand(from + kRowBytes);
      products_begin();
#pragma unroll
      for (int part = 0; part < 4; ++part) multiply(scores, a + part * 32 / 16, b + part * 32 / 16, step > 0 || part > 0, T{});
      products_commit();
      if (step > 0) {
        products_wait<1>();
        if (lane == 0) barrier_arrive(shared_address(&barriers.empty[before]));
      }
      before = ring.stage;
      ring.next();
    }
    products_wait<0>();
    pin(scores);
    if (lane == 0) barrier_arrive(shared_address(&barriers.empty[before]));
    switch (run.block / run.stride) {
      case 4: store<4>(run, tile, tile.row + own_row, scores); break;
      case 8: store<8>(run, tile, tile.row + own_row, scores); break;
      case 16: store<16>(run, tile, tile.row + own_row, scores); break;
      default: store<32>(run, tile, tile.row + own_row, scores);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) antidiagonal_hopper_kernel(const __grid_constant__ Arguments args) {
  static_assert(kSharedBytes + sizeof(Barriers) <= 227 << 10);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ unsigned char memory[];
  __shared__ Barriers barriers;  // static, and in this body alone: antidiagonal_hopper_takes looks for it
  constexpr int kGiven = 24, kTaken = 240;
  static_assert(registers_suffice(kThreads, kGiven, kTaken));
  const uint32_t stages = (shared_address(memory) + 1023) & ~1023u;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared_address(&barriers.full[stage]), 1);
      barrier_init(shared_address(&barriers.empty[stage]), 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    give_registers<kGiven>();
    if (threadIdx.x == 0) {
      prefetch_map(args.q);
      prefetch_map(args.k);
      produce(args, barriers, stages);
    }
  } else {
    take_registers<kTaken>();
    consume<T>(args.run, barriers, stages, warpgroup - 1);
  }
#endif
}

using Kernel = void (*)(Arguments);
Kernel kernel_of(const AntidiagonalRun& run) {
  return run.dtype == KVA_F16 ? antidiagonal_hopper_kernel<__half> : antidiagonal_hopper_kernel<__nv_bfloat16>;
}

}  // namespace

bool antidiagonal_hopper_takes(const AntidiagonalRun& run) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const int columns = run.block / run.stride;
  if ((run.dtype != KVA_F16 && run.dtype != KVA_BF16) || (run.head_dim != 64 && run.head_dim != 128)) return false;
  if (columns < 4 || columns > 32 || (columns & (columns - 1)) != 0 || run.block % run.stride != 0 || run.begin >= run.whole_rows()) return false;
  if (!aligned(run.queries) || !aligned(run.keys) || (run.q_stride | run.head_stride) % 8 != 0) return false;
  return hopper_runs(kernel_of(run), sizeof(Barriers));
}

cudaError_t antidiagonal_hopper_launch(const AntidiagonalRun& run) {
  Arguments args = {};
  args.run = run;
  const auto type = run.dtype == KVA_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const Kernel kernel = kernel_of(run);
  const int kv_heads = run.heads / run.group, keys = run.first_row + run.rows;
  int device = 0, processors = 0;
  cudaError_t error = encode_runs(&args.q, type, run.queries, run.heads, run.rows, run.head_dim, run.head_dim, run.q_stride, run.stride, kTileRows);
  if (error == cudaSuccess)
    error = encode_runs(&args.k, type, run.keys, kv_heads, keys, run.head_dim, run.head_stride, run.head_dim, run.stride, kTileColumns);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  kernel<<<processors, kThreads, kSharedBytes, run.stream>>>(args);
  return cudaGetLastError();
}

}  // namespace kva

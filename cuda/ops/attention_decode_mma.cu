// Decode attention on the tensor cores, f16 and bf16, head sizes 64 and 128: the query heads of a group are rows of one product.
// A few blocks stay on each multiprocessor and go through the items; each warp's loads run ahead across the borders of items, so that memory
// never rests while an item begins or is merged. In a recorded step the first ones are asked for before the new row is there.
// floor: the bytes of keys and values at copy bandwidth, 0.179 ms at 128K rows, 8 KV heads of 128, bf16.
// measured (H100 80GB, 2026-11-26), in a graph with the merge of 513 splits: 0.207 ms, 0.063 at 32K (floor 0.045); within a step 124K rows more take
// 0.183 ms, 95 % of copy bandwidth.
// gap: the merge takes 7 to 9 us, the cold start of the first tiles 3 to 5, which the rotation covers in a step.
#include "../core/cuda.h"
#include "../device/attention_decode_tiles.cuh"

namespace kva {
namespace {

// A warp's own walk through the tiles of its block's items, ahead of the one that computes.
template <class T, int HeadDim, bool Paged>
struct DecodeLoader {
  const DecodeArgs& args;
  DecodeBlock block;
  int number, row, loaded = 0; // tiles on their way before the walk began

  __device__ DecodeLoader(const DecodeArgs& args) : args(args), number(blockIdx.x) {}

  // The first tiles, before the inputs are there: those whose rows are, in a head that hides none.
  __device__ void load_ahead(uint32_t stages) {
    const DecodeBlock place = decode_place(args, number);
    const KvHead& head = head_of(args, place);
    static_assert(kDecodeStages * kDecodeWarps * kDecodeTile <= split_rows);
    const int first = place.split * split_rows, end = device::read_ahead(head.len) - 1; // the length may have the new row in it already
    if (device::read_ahead(head.dead) > 0) return;
    const T *keys = static_cast<const T*>(device::read_ahead(head.k)), *values = static_cast<const T*>(device::read_ahead(head.v));
    for (; loaded < kDecodeStages && first + tile_row(loaded) + kDecodeTile <= end; ++loaded) {
      load_decode_rows<HeadDim>(stages + loaded * kDecodeStageBytes<HeadDim>, first + tile_row(loaded), kDecodeTile, keys, values);
      device::copy_async_commit();
    }
  }

  // the walk begins, behind those
  __device__ void begin(uint32_t stages) {
    open();
    if (loaded > 0) row = block.first + tile_row(loaded);
    for (int stage = loaded; stage < kDecodeStages; ++stage) load(stages + stage * kDecodeStageBytes<HeadDim>);
  }

  // of this warp's tile `tile` of an item
  static __device__ int tile_row(int tile) { return (tile * kDecodeWarps + threadIdx.x / 32) * kDecodeTile; }

  __device__ void open() {
    block = decode_block<Paged>(args, number);
    row = block.first + tile_row(0);
    if (number + int(gridDim.x) < args.items()) approach_decode_block(args, number + gridDim.x);
    if (block.positions != nullptr && !any_row_seen(block)) row = block.last;
  }

  // the next tile, or nothing after the last
  __device__ void load(uint32_t stage) {
    while (row >= block.last && number + int(gridDim.x) < args.items()) {
      number += gridDim.x;
      open();
    }
    if (row < block.last) {
      const int place = block.place(row); // a tile lies in one page
      load_decode_rows<HeadDim>(stage, place, block.last - row, static_cast<const T*>(block.keys), static_cast<const T*>(block.values));
      row += kDecodeWarps * kDecodeTile;
    }
    device::copy_async_commit();
  }
};

template <class T, int HeadDim, bool Paged>
__global__ void __launch_bounds__(kDecodeWarps * 32, 3) attention_decode_mma_kernel(const DecodeArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, rows = min(args.group(), kDecodeHeads);
  const uint32_t stages = device::shared_address(shared) + warp * kDecodeStages * kDecodeStageBytes<HeadDim>;
  float2* sums = reinterpret_cast<float2*>(shared + kDecodeWarps * kDecodeStages * kDecodeStageBytes<HeadDim>);
  float* outs = reinterpret_cast<float*>(sums + kDecodeWarps * kDecodeHeads);
  DecodeLoader<T, HeadDim, Paged> loader(args);
  if (!Paged && args.ahead) loader.load_ahead(stages);
  device::wait_for_inputs();

  uint32_t stage = 0;
  for (int number = blockIdx.x; number < args.items(); number += gridDim.x) {
    const DecodeBlock block = decode_block<Paged>(args, number);
    uint32_t query[HeadDim / 16][4];
    const T* q = static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim;
    load_query_fragments<T, HeadDim>(query, q, block.heads); // before the first tiles, which would be in their way
    if (number == blockIdx.x) loader.begin(stages);
    if (args.splits > 1 && block.first >= block.last) continue; // with one split the item writes zeros

    DecodeState<HeadDim> state;
    const bool hidden = block.positions != nullptr && !any_row_seen(block); // then none of its tiles were loaded
    for (int first = block.first + warp * kDecodeTile; first < block.last; first += kDecodeWarps * kDecodeTile) {
      const uint32_t tile = stages + stage * kDecodeStageBytes<HeadDim>;
      float scores[2][4] = {};
      if (!hidden) {
        device::copy_async_wait<kDecodeStages - 1>();
        __syncwarp();
        score_decode_tile<T, HeadDim>(scores, query, tile);
      }
      finish_decode_scores(args, block, first, block.last, scores);
      if (hidden) continue;
      attend_decode_tile<T, HeadDim>(state, scores, tile + kDecodeTile * HeadDim * 2);
      __syncwarp(); // every lane has read the tile
      loader.load(tile);
      stage = (stage + 1) % kDecodeStages;
    }
    merge_decode_warps<T, HeadDim>(args, block, state, sums, outs, rows);
  }
  device::copy_async_wait<0>();
  device::let_next_start();
}

template <class T, int HeadDim, bool Paged>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  launch_decode_tiles<attention_decode_mma_kernel<T, HeadDim, Paged>, HeadDim>(args, stream);
}

}  // namespace

template <class T>
void attention_decode_mma_launch(const DecodeArgs& args, cudaStream_t stream) {
  if (args.pages != nullptr)
    args.head_dim == 64 ? launch<T, 64, true>(args, stream) : launch<T, 128, true>(args, stream);
  else
    args.head_dim == 64 ? launch<T, 64, false>(args, stream) : launch<T, 128, false>(args, stream);
}

template void attention_decode_mma_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_mma_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

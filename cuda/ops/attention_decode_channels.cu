// Decode attention over rows whose keys have fewer channels but for the newest ones, which have all, on the tensor cores: f16 and bf16, head sizes 64
// and 128. The tiles and the way through the items are those of attention_decode_mma.cu, to the bit where a head has whole keys alone; a tile has
// keys of one kind, and the queries are gathered by the head's list of channels, up to a multiple of 16 that zeros fill.
// floor: the bytes of 80 key channels of 128 and the values at copy bandwidth, 0.146 ms at 128K rows, 8 KV heads, bf16.
// measured (H100 80GB, 2026-11-25): a step of 8 layers 3.16 ms beside 3.37 with whole keys at 128K rows, 2.19 beside 2.23 at 32K; 4.45 and 2.49 on the
// general kernel; 3.34 and 2.26 where each warp gathered the queries for itself.
// gap: of the 33 us that fewer bytes save in a layer at 128K rows 26 arrive: an item begins with the list of channels, then the queries that it names.
#include "../core/cuda.h"
#include "../core/segments.h"
#include "../device/attention_decode_tiles.cuh"

namespace kva {
namespace {

// The tiles of one warp in an item: rows with fewer channels, then whole ones.
struct ChannelWalk {
  int row, end, last; // the tile's first row; the end of its kind of rows; the end of the item
  bool packed;

  __device__ ChannelWalk(const DecodeBlock& block, int packed_keys)
      : row(block.first + int(threadIdx.x) / 32 * kDecodeTile),
        end(min(max(packed_keys, block.first), block.last)),
        last(block.last),
        packed(true) {
    settle();
  }
  __device__ void settle() {
    if (!packed || row < end) return;
    packed = false;
    row = end + threadIdx.x / 32 * kDecodeTile;
    end = last;
  }
  __device__ bool more() const { return row < end; }
  __device__ void next() {
    row += kDecodeWarps * kDecodeTile;
    settle();
  }
};

// Rows of `packs` packs each, one behind the other, inverse = 65536 / packs rounded up; the rows from `valid` on, and the pack that makes a number of packs even, are zeros.
template <class T, int HeadDim>
__device__ __forceinline__ void load_short_rows(uint32_t tile, const T* rows, int packs, int inverse, int valid) {
  const int lane = threadIdx.x % 32, count = kDecodeTile * packs;
#pragma unroll
  for (int i = 0; i < HeadDim / 16; ++i) {
    if (2 * i >= packs) break;
    const int at = i * 32 + lane;
    const bool inside = at < count;
    const int row = inside ? at * inverse >> 16 : at - count, pack = inside ? at - row * packs : packs;
    const bool read = inside && row < valid;
    device::copy_async_once(tile + tile_offset<HeadDim>(row, pack), read ? rows + at * 8 : rows, read ? 16 : 0);
  }
}

// The queries of the packed channels, zeros behind them, as rows of a tile: the block gathers them.
template <class T, int HeadDim>
__device__ __forceinline__ void gather_queries(unsigned char* tile, const T* q, int heads, const KvPacking& packing, const uint16_t* channels) {
  const int column = threadIdx.x;
  if (column >= (packing.channels + 15) / 16 * 16) return;
  const bool inside = column < packing.channels;
  const uint16_t* from = reinterpret_cast<const uint16_t*>(q) + (inside ? channels[column] : 0);
#pragma unroll 4
  for (int head = 0; head < heads; ++head)
    *reinterpret_cast<uint16_t*>(tile + tile_offset<HeadDim>(head, column / 8) + column % 8 * 2) = inside ? from[head * HeadDim] : 0;
}

// The fragments of that tile; rows of heads that are not there repeat the last one.
template <int HeadDim>
__device__ __forceinline__ void read_query_fragments(uint32_t (&query)[HeadDim / 16][4], const unsigned char* tile, int heads, int steps) {
  const int lane = threadIdx.x % 32, row = min(lane % 16, heads - 1);
#pragma unroll
  for (int step = 0; step < HeadDim / 16; ++step)
    if (step < steps) device::load_matrices(query[step], device::shared_address(tile) + tile_offset<HeadDim>(row, step * 2 + lane / 16));
}

// A warp's own walk through the tiles of its block's items, ahead of the one that computes.
template <class T, int HeadDim>
struct ChannelLoader {
  const DecodeArgs& args;
  int number;
  const T *keys, *short_keys, *values; // of row 0; of the whole keys of what would be row 0
  int packs, inverse;                  // of a short key; 65536 / packs, rounded up
  ChannelWalk walk;

  __device__ ChannelLoader(const DecodeArgs& args) : args(args), number(blockIdx.x), walk(open()) {}

  __device__ ChannelWalk open() {
    DecodeBlock block = decode_block(args, number);
    const KvHead& head = head_of(args, block);
    packs = compact_width(head.packing) / 8;
    inverse = packs > 0 ? (65536 + packs - 1) / packs : 0;
    keys = static_cast<const T*>(head.k) - int64_t(head.packed_keys) * HeadDim;
    short_keys = static_cast<const T*>(head.packed_k);
    values = static_cast<const T*>(head.v);
    if (number + int(gridDim.x) < args.items()) approach(number + gridDim.x);
    if (block.positions != nullptr && !any_row_seen(block)) block.last = block.first;
    return ChannelWalk(block, head.packed_keys);
  }

  // asks for what is read of an item first
  __device__ void approach(int item) {
    approach_decode_block(args, item);
    const KvHead& head = head_of(args, decode_place(args, item));
    asm volatile("prefetch.global.L1 [%0];" ::"l"(&head.channels));
  }

  // the next tile, or nothing after the last
  __device__ void load(uint32_t stage) {
    while (!walk.more() && number + int(gridDim.x) < args.items()) {
      number += gridDim.x;
      walk = open();
    }
    if (walk.more()) {
      const int valid = walk.end - walk.row;
      if (walk.packed) {
        load_short_rows<T, HeadDim>(stage, short_keys + int64_t(walk.row) * packs * 8, packs, inverse, valid);
        load_decode_rows<HeadDim>(stage + kDecodeTile * HeadDim * 2, walk.row, valid, values);
      } else {
        load_decode_rows<HeadDim>(stage, walk.row, valid, keys, values);
      }
      walk.next();
    }
    device::copy_async_commit();
  }
};

template <class T, int HeadDim>
__global__ void __launch_bounds__(kDecodeWarps * 32, 3) attention_decode_channels_kernel(const DecodeArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, rows = min(args.group(), kDecodeHeads);
  const uint32_t stages = device::shared_address(shared) + warp * kDecodeStages * kDecodeStageBytes<HeadDim>;
  float2* sums = reinterpret_cast<float2*>(shared + kDecodeWarps * kDecodeStages * kDecodeStageBytes<HeadDim>);
  float* outs = reinterpret_cast<float*>(sums + kDecodeWarps * kDecodeHeads);
  device::wait_for_inputs();

  ChannelLoader<T, HeadDim> loader(args);
#pragma unroll
  for (int stage = 0; stage < kDecodeStages; ++stage) loader.load(stages + stage * kDecodeStageBytes<HeadDim>);
  uint32_t stage = 0;
  for (int number = blockIdx.x; number < args.items(); number += gridDim.x) {
    const DecodeBlock block = decode_block(args, number);
    if (args.splits > 1 && block.first >= block.last) continue; // with one split the item writes zeros
    const KvHead& head = head_of(args, block);
    const T* q = static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim;
    uint32_t query[HeadDim / 16][4];
    int steps = 0; // of 16 channels; 0: no queries are there
    const bool hidden = block.positions != nullptr && !any_row_seen(block); // then none of its tiles were loaded

    DecodeState<HeadDim> state;
    if (block.first < head.packed_keys) {
      unsigned char* queries = reinterpret_cast<unsigned char*>(outs);
      steps = (head.packing.channels + 15) / 16;
      gather_queries<T, HeadDim>(queries, q, block.heads, head.packing, head.channels);
      __syncthreads();
      read_query_fragments<HeadDim>(query, queries, block.heads, steps);
      __syncthreads(); // before sums take the place
    }
    bool whole = false;
    for (ChannelWalk walk(block, head.packed_keys); walk.more(); walk.next()) {
      const uint32_t tile = stages + stage * kDecodeStageBytes<HeadDim>;
      float scores[2][4] = {};
      if (!hidden) {
        if (!walk.packed && !whole) {
          load_query_fragments<T, HeadDim>(query, q, block.heads);
          steps = HeadDim / 16;
          whole = true;
        }
        device::copy_async_wait<kDecodeStages - 1>();
        __syncwarp();
        score_decode_tile<T, HeadDim>(scores, query, tile, steps);
      }
      finish_decode_scores(args, block, walk.row, walk.end, scores);
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

}  // namespace

template <class T>
void attention_decode_channels_launch(const DecodeArgs& args, cudaStream_t stream) {
  if (args.head_dim == 64)
    launch_decode_tiles<attention_decode_channels_kernel<T, 64>, 64>(args, stream);
  else
    launch_decode_tiles<attention_decode_channels_kernel<T, 128>, 128>(args, stream);
}

template void attention_decode_channels_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_channels_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

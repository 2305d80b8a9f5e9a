// Decode attention over rows that are codes of 2 or 4 bits but for the newest, on the tensor cores: f16 and bf16, head sizes 64 and 128, groups
// of 32, up to 8 query heads for a KV head. The runs of 32 rows of all heads, one after the other, are shared out evenly among the blocks; the part
// of a head that a block has is a partial result. A warp goes through each eighth of its runs, with those of the next run on their way.
// floor: 160 bytes a row and KV head at 4 bits and head size 128, 96 at 2, at copy bandwidth: 56 us at 128K rows and 8 KV heads.
// measured (H100 80GB, 2026-11-25), 4 query heads for a KV head, 8 KV heads: 75 us at 128K rows, 78 with the merge; 30 and 33 at 32K, 19 and 22 at 4K (13 and
// 17 where a warp or a team of warps had splits of 256 rows); 16 sequences of 4K 56 and 60. 420 instructions for a run of 5 KB.
// gap: a block has its queries 7 to 9 us after it has begun, for they are asked for behind every warp's first run; a block that goes from one head to the
// next, or that has a head's rows in full precision, ends last.
#include "../core/cuda.h"
#include "../device/attention_decode.cuh"
#include "../device/code_runs.cuh"
#include "../device/number.cuh"

namespace kva {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kResident = 2; // of a block; blocks of a multiprocessor
constexpr float kHeadroom = 2, kSlack = 4; // the share of the largest score is 2^2, later ones are up to 2^6: times a scale of values below 1024

template <int HeadDim>
struct CodeShared {
  static constexpr int out_stride = HeadDim + 8; // floats of a head: heads fall into different banks
  static constexpr int stages = kWarps * 2 * CodeStage<HeadDim>::bytes, query_bytes = HeadDim * 16; // [HeadDim / 32][lane] pieces of 16 bytes
  static constexpr int sums = stages, places = sums + kWarps * kRunHeads * 8; // [warp][head]: max, sum; [warp]: where its sums of values lie
  static constexpr int code_query = places + kWarps * 4 + 96, full_query = code_query + query_bytes, factors = full_query + query_bytes;
  static constexpr int sources = factors + kRunHeads * 4, bytes = sources + kWarps * int(sizeof(CodeSource)); // [warp]
  static_assert(kRunHeads * out_stride * 4 <= CodeStage<HeadDim>::bytes && code_query % 128 == 0);
};

__device__ __forceinline__ int runs_of(const KvHead& head) { return (head.len + kRunRows - 1) / kRunRows; }

__device__ __forceinline__ const KvHead& head_of(const DecodeArgs& args, int row) { // row: of all KV heads of the batch
  return layer_heads(args.sequences[unsigned(row) / unsigned(args.kv_heads)], args.layer)[unsigned(row) % unsigned(args.kv_heads)];
}

// How many blocks share `total` runs: each has a run for every warp, and where that costs little, equally long heads have blocks of their own, for a
// block that goes from one head to the next ends late.
__device__ __forceinline__ int blocks_of(int64_t total, int heads, int most) {
  const int needed = min(int64_t(most), max(int64_t(1), total / kWarps)), aligned = needed / heads * heads;
  return aligned > 0 && (needed < most || aligned >= most - most / 16) ? aligned : needed;
}

// The block's part of all runs, head after head: runs [first, last) of a head, then `left` ones of those that follow.
struct Part {
  int row, first = 0, last = 0, left = 0;
  int place = 0; // of this part of the head among the parts of that head

  // the part of block blockIdx.x of at most `most` blocks, before its first head; `shared` has room for kWarps + 2 ints
  __device__ Part(const DecodeArgs& args, int most, int* shared) {
    const int heads = args.count * args.kv_heads;
    const auto each_head = [&](const auto& body) {
      int total = 0;
      for (int base = 0; base < heads; base += kThreads) {
        const int at = base + threadIdx.x, runs = at < heads ? runs_of(head_of(args, at)) : 0;
        int sum;
        const int before = total + device::block_prefix<kThreads>(runs, shared, &sum);
        body(at, before, runs);
        total += sum;
      }
      return total;
    };
    const int64_t total = each_head([](int, int, int) {}), blocks = blocks_of(total, heads, most);
    row = heads;
    if (blockIdx.x >= blocks || total == 0) return;
    const int begin = total * blockIdx.x / blocks, end = total * (blockIdx.x + 1) / blocks;
    each_head([&](int at, int before, int runs) {
      if (begin < before || begin >= before + runs) return;
      shared[kWarps] = at;
      shared[kWarps + 1] = before;
    });
    __syncthreads();
    row = shared[kWarps] - 1;
    const int before = shared[kWarps + 1];
    first_ = begin - before;
    left = end - begin;
    place = blockIdx.x - ((int64_t(before) + 1) * blocks - 1) / total;
  }

  // on to the next head's; false where there is none
  __device__ __forceinline__ bool next(const DecodeArgs& args) {
    if (left == 0) return false;
    int runs;
    do runs = runs_of(head_of(args, ++row));
    while (runs == 0);
    if (last > 0) place = 0;
    first = first_;
    last = min(runs, first + left);
    left -= last - first;
    first_ = 0;
    return true;
  }

 private:
  int first_ = 0;
};

// A warp's own walk through its runs, one ahead of the one that it computes.
template <int HeadDim>
struct RunLoader {
  const DecodeArgs& args;
  Part part;
  CodeSource& source; // of the part's head
  int run = 0;        // the next one

  __device__ RunLoader(const DecodeArgs& args, const Part& part, CodeSource& source) : args(args), part(part), source(source) {}

  __device__ __forceinline__ void load(uint32_t stage) {
    while (run >= part.last && part.next(args)) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) source = CodeSource(head_of(args, part.row));
      __syncwarp();
      run = part.first + threadIdx.x / 32;
    }
    if (run < part.last) load_codes<HeadDim>(stage, head_of(args, part.row), run);
    run += kWarps;
    device::copy_async_commit();
  }

  // of a head of which the run before was codes, too, one that is nothing else
  template <int KeyBits, int ValueBits>
  __device__ __forceinline__ void load_whole(uint32_t stage) {
    const CodeSource from = source;
    load_key_codes<HeadDim, KeyBits>(stage, from, run);
    load_value_codes<HeadDim, ValueBits, false>(stage, from, run);
    run += kWarps;
    device::copy_async_commit();
  }
};

template <int HeadDim>
struct RunState {
  float out[HeadDim / 32][2][4] = {};
  ZeroSums<HeadDim> zeros;
  float base[2] = {kNone, kNone}; // kHeadroom below the largest score in base-2 units, of the heads 2 (lane % 4) + {0, 1}
  float sum[2] = {0, 0};          // of this lane's rows

  static constexpr float kNone = -1e30f; // below every score

  // scores * scale + offset become shares, where scale >= 0; the maxima follow only where a share would be above 2^(kHeadroom + kSlack)
  __device__ __forceinline__ void add(float (&scores)[2][4], const float (&scale)[2], const float (&offset)[2]) {
    float top[2];
    bool over = false;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = fmaf(fmaxf(fmaxf(scores[0][i], scores[0][i + 2]), fmaxf(scores[1][i], scores[1][i + 2])), scale[i], offset[i]);
      over = over || top[i] > base[i] + (kHeadroom + kSlack);
    }
    if (__any_sync(device::kAllLanes, over)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) top[i] = fmaxf(top[i], __shfl_xor_sync(device::kAllLanes, top[i], lanes));
        top[i] = fmaxf(top[i] - kHeadroom, base[i]);
        const float decay = device::exp2_fast(base[i] - top[i]);
        base[i] = top[i];
        sum[i] *= decay;
#pragma unroll
        for (int n = 0; n < HeadDim / 32; ++n)
#pragma unroll
          for (int at = 0; at < 4; ++at) out[n][at / 2][at % 2 * 2 + i] *= decay;
#pragma unroll
        for (int part = 0; part < zeros.parts; ++part) zeros.at[part][i] *= decay;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float shift = offset[i % 2] - base[i % 2];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        scores[t][i] = device::exp2_fast(fmaf(scores[t][i], scale[i % 2], shift));
        sum[i % 2] += scores[t][i];
      }
    }
  }

  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) sum[i] += __shfl_xor_sync(device::kAllLanes, sum[i], lanes);
      if (base[i] == kNone) base[i] = -INFINITY;
#pragma unroll
      for (int n = 0; n < HeadDim / 32; ++n) {
        const float zero = zeros.sum(n, i);
#pragma unroll
        for (int at = 0; at < 4; ++at) out[n][at / 2][at % 2 * 2 + i] += zero;
      }
    }
  }

  // heads to at(head)[channel]
  template <class At>
  __device__ __forceinline__ void write(int heads, const At& at) const {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (quad * 2 + i >= heads) break;
      float* to = at(quad * 2 + i) + group * 4;
#pragma unroll
      for (int n = 0; n < HeadDim / 32; ++n)
        *reinterpret_cast<float4*>(to + n * 32) = {out[n][0][i], out[n][0][i + 2], out[n][1][i], out[n][1][i + 2]};
    }
  }
};

// -inf where a row is hidden or absent; scores, in base-2 units, are copied out where they are asked for
__device__ __forceinline__ void finish_scores(const DecodeArgs& args, DecodeBlock& block, const KvHead& head, int row, float (&scores)[2][4]) {
  set_hidden(args, head, block);
  const int quad = threadIdx.x % 4, first = row + threadIdx.x % 32 / 4 * 4;
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + t * 2 + i / 2, at_head = quad * 2 + i % 2;
      if (row >= block.last || !block.sees(row)) scores[t][i] = -INFINITY;
      if (args.scores != nullptr && row < block.last && at_head < block.heads)
        args.scores[block.head_row(args, at_head) * args.score_stride() + row] = scores[t][i];
    }
}

// the warps' states of one part of a head, merged in their order; `place` is a free stage of this warp
template <int HeadDim>
__device__ __forceinline__ void merge_warps(const DecodeArgs& args, const DecodeBlock& block, int part, const RunState<HeadDim>& state,
                                            unsigned char* shared, int place) {
  using Shared = CodeShared<HeadDim>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float2* sums = reinterpret_cast<float2*>(shared + Shared::sums);
  int* places = reinterpret_cast<int*>(shared + Shared::places);
  state.write(block.heads, [&](int head) { return reinterpret_cast<float*>(shared + place) + head * Shared::out_stride; });
  if (lane == 0) places[warp] = place;
  if (lane < 4) {
    sums[warp * kRunHeads + lane * 2] = {state.base[0], state.sum[0]};
    sums[warp * kRunHeads + lane * 2 + 1] = {state.base[1], state.sum[1]};
  }
  __syncthreads();
  for (int at = threadIdx.x; at < block.heads * HeadDim; at += kThreads) {
    const int head = at / HeadDim, column = at % HeadDim;
    float max = -INFINITY, sum = 0, out = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, sums[w * kRunHeads + head].x);
    const float base = max == -INFINITY ? 0 : max;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share = exp2f(sums[w * kRunHeads + head].x - base);
      sum = fmaf(share, sums[w * kRunHeads + head].y, sum);
      out = fmaf(share, reinterpret_cast<const float*>(shared + places[w])[head * Shared::out_stride + column], out);
    }
    const int64_t to = block.head_row(args, head) * args.partials + part;
    args.partial_out[to * HeadDim + column] = out;
    if (column == 0) args.partial_sums[to] = {max, sum};
  }
  __syncthreads(); // before the states are written again
}

// body(bits of keys, bits of values), as constants
template <class Body>
__device__ __forceinline__ void with_bits(int key_bits, int value_bits, const Body& body) {
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  if (key_bits == 4)
    value_bits == 4 ? body(Four(), Four()) : body(Four(), Two());
  else
    value_bits == 4 ? body(Two(), Four()) : body(Two(), Two());
}

template <class T, int HeadDim>
__global__ void __launch_bounds__(kThreads, kResident) attention_decode_codes_kernel(const DecodeArgs args, const int most) {
  using Stage = CodeStage<HeadDim>;
  using Shared = CodeShared<HeadDim>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = threadIdx.x % 4;
  uint4* code_query = reinterpret_cast<uint4*>(shared + Shared::code_query) + lane;
  uint4* full_query = reinterpret_cast<uint4*>(shared + Shared::full_query) + lane;
  float* factors = reinterpret_cast<float*>(shared + Shared::factors); // of the scores of codes, for each head
  unsigned char* own = shared + warp * 2 * Stage::bytes;
  device::wait_for_inputs();

  Part part(args, most, reinterpret_cast<int*>(shared + Shared::sums));
  RunLoader<HeadDim> loader(args, part, reinterpret_cast<CodeSource*>(shared + Shared::sources)[warp]);
  loader.load(device::shared_address(own));
  int stage = 0; // of the next run
  while (part.next(args)) {
    const KvHead& head = head_of(args, part.row);
    const int packed_keys = head.packed_keys, packed_values = head.packed_values, key_bits = head.packing.key_bits, value_bits = head.packing.value_bits;
    const Segments<DeviceNumber, T> segments{head, HeadDim};
    DecodeBlock block;
    block.sequence = part.row / args.kv_heads;
    block.kv_head = part.row % args.kv_heads;
    block.heads = args.group();
    block.first_head = block.kv_head * block.heads;
    block.last = head.len;

    const T* q = static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim;
    if (warp == 0) {
      const float factor = key_bits == 4 ? load_code_query<T, HeadDim, 4>(code_query, q, block.heads) : load_code_query<T, HeadDim, 2>(code_query, q, block.heads);
      if (quad == 0) factors[lane / 4] = factor;
    } else if (warp == 1) {
      load_full_query<T, HeadDim>(full_query, q, block.heads);
    }
    __syncthreads();
    const float code_scale[2] = {args.scale * factors[quad * 2], args.scale * factors[quad * 2 + 1]};
    const bool plain = !hides_rows(args, head) && args.scores == nullptr && args.scale >= 0;
    RunState<HeadDim> state;
    bool stepped = true; // sums of values with the steps of codes in them
    const auto divide = [&] {
      if (stepped) value_bits == 4 ? divide_steps<HeadDim, 4>(state.out) : divide_steps<HeadDim, 2>(state.out);
      stepped = false;
    };
    int run = part.first + warp;
    const int whole = plain ? min(part.last, min(packed_keys, packed_values) / kRunRows) : 0; // runs before this one are codes alone, all seen
    with_bits(key_bits, value_bits, [&](auto of_key, auto of_value) {
      constexpr int KeyBits = decltype(of_key)::value, ValueBits = decltype(of_value)::value;
      for (; run < whole; run += kWarps) {
        const uint32_t next = device::shared_address(own + (stage ^ 1) * Stage::bytes);
        run + kWarps < whole ? loader.template load_whole<KeyBits, ValueBits>(next) : loader.load(next);
        device::copy_async_wait<1>();
        __syncwarp();
        const unsigned char* tile = own + stage * Stage::bytes;
        float scores[2][4] = {}, zeros[2];
        score_codes<HeadDim, KeyBits>(scores, zeros, code_query, tile);
        state.add(scores, code_scale, {zeros[0] * code_scale[0], zeros[1] * code_scale[1]});
        weigh_codes<HeadDim, ValueBits>(state.out, state.zeros, scores, tile);
        __syncwarp(); // every lane has read the stage
        stage ^= 1;
      }
    });
    for (; run < part.last; run += kWarps) {
      loader.load(device::shared_address(own + (stage ^ 1) * Stage::bytes));
      device::copy_async_wait<1>();
      __syncwarp();
      const unsigned char* tile = own + stage * Stage::bytes;
      const int row = run * kRunRows;
      float scores[2][4] = {}, zeros[2] = {0, 0}, scale[2];
      if (row < packed_keys) {
        key_bits == 4 ? score_codes<HeadDim, 4>(scores, zeros, code_query, tile) : score_codes<HeadDim, 2>(scores, zeros, code_query, tile);
        scale[0] = code_scale[0], scale[1] = code_scale[1];
      } else {
        score_full<T, HeadDim>(scores, full_query, segments.full_key(row), block.last - row);
        scale[0] = scale[1] = args.scale;
      }
      float offset[2] = {zeros[0] * scale[0], zeros[1] * scale[1]};
      if (!plain || row + kRunRows > block.last) {
#pragma unroll
        for (int at = 0; at < 8; ++at) scores[at / 4][at % 4] = fmaf(scores[at / 4][at % 4], scale[at % 2], offset[at % 2]);
        finish_scores(args, block, head, row, scores);
        scale[0] = scale[1] = 1;
        offset[0] = offset[1] = 0;
      }
      state.add(scores, scale, offset);
      if (row < packed_values)
        value_bits == 4 ? weigh_codes<HeadDim, 4>(state.out, state.zeros, scores, tile) : weigh_codes<HeadDim, 2>(state.out, state.zeros, scores, tile);
      if (row + kRunRows > packed_values) {
        divide();
        weigh_full<T, HeadDim>(state.out, scores, packed_values - row, block.last - row, [&](int at) { return segments.full_value(row + at); });
      }
      __syncwarp(); // every lane has read the stage
      stage ^= 1;
    }
    divide();
    state.finish();
    merge_warps<HeadDim>(args, block, part.place, state, shared, (warp * 2 + (stage ^ 1)) * Stage::bytes);
    if (threadIdx.x == 0 && part.last == runs_of(head)) args.partial_counts[part.row] = part.place + 1;
  }
  device::copy_async_wait<0>();
  device::let_next_start();
}

template <class T, int HeadDim>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  const int most = kResident * args.processors;
  const int64_t runs = int64_t(args.count) * args.kv_heads * args.splits * (split_rows / kRunRows); // there is room for
  constexpr int bytes = CodeShared<HeadDim>::bytes;
  allow_shared<attention_decode_codes_kernel<T, HeadDim>>(bytes);
  launch_early(attention_decode_codes_kernel<T, HeadDim>, dim3(std::min<int64_t>(most, runs / kWarps)), kThreads, bytes, stream, args, most);
}

}  // namespace

template <class T>
void attention_decode_codes_launch(const DecodeArgs& args, cudaStream_t stream) {
  args.head_dim == 64 ? launch<T, 64>(args, stream) : launch<T, 128>(args, stream);
}

template void attention_decode_codes_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_codes_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

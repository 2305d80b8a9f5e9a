// Decode attention over rows that are codes of 2 or 4 bits but for the newest, on the tensor cores: f16 and bf16, head sizes 64 and 128, groups
// of 32, up to 8 query heads for a KV head. The runs of 32 rows of all heads, one after the other, are shared out evenly among the blocks; the part
// of a head that a block has is a partial result. A warp goes through each eighth of its runs, with those of the next run on their way. In a recorded
// step the first two of each warp are asked for before the new row is there.
// floor: 160 bytes a row and KV head at 4 bits and head size 128, 96 at 2, at copy bandwidth: 56 us at 128K rows and 8 KV heads.
// measured (H100 80GB, 2026-11-26), 4 query heads for a KV head, 8 KV heads, in a graph with the merge: 73 us at 128K rows, 40 at 64K, 28 at 32K, 15 at 4K;
// within a step 124K rows more take 55 us, all of copy bandwidth.
// gap: by itself a block knows its share 3 us after it has begun and has the queries 11 us after, behind the first runs; blocks end at 65 us in the median
// and 73 at last. In a step the rotation before it covers the beginning.
#include "../core/cuda.h"
#include "../device/code_shares.cuh"
#include "../device/number.cuh"

namespace kva {
namespace {

constexpr int kWarps = kCodeWarps, kThreads = kCodeThreads, kResident = 2; // blocks of a multiprocessor
constexpr float kHeadroom = 2, kSlack = 4; // the share of the largest score is 2^2, later ones are up to 2^6: times a scale of values below 1024

template <int HeadDim>
struct CodeShared {
  static constexpr int out_stride = HeadDim + 8; // floats of a head: heads fall into different banks
  static constexpr int stages = kWarps * 2 * CodeStage<HeadDim>::bytes, query_bytes = HeadDim * 16; // [HeadDim / 32][lane] pieces of 16 bytes
  static constexpr int sums = stages, places = sums + kWarps * kRunHeads * 8; // [warp][head]: max, sum; [warp]: where its sums of values lie
  static constexpr int code_query = places + kWarps * 4 + 96, full_query = code_query + query_bytes, factors = full_query + query_bytes;
  static constexpr int heads = factors + kRunHeads * 4, bytes = heads + (kWarps + 1) * int(sizeof(CodeHead)); // the block's, and each warp's
  static_assert(kRunHeads * out_stride * 4 <= CodeStage<HeadDim>::bytes && code_query % 128 == 0);
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

// Instructions come through the second-level cache, too, where they wait behind the data: a warp's last run takes the path of those before it, and
// there is a kernel for each number of bits.
template <class T, int HeadDim, int KeyBits, int ValueBits>
__global__ void __launch_bounds__(kThreads, kResident) attention_decode_codes_kernel(const DecodeArgs args) {
  using Stage = CodeStage<HeadDim>;
  using Shared = CodeShared<HeadDim>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = threadIdx.x % 4;
  uint4* code_query = reinterpret_cast<uint4*>(shared + Shared::code_query) + lane;
  uint4* full_query = reinterpret_cast<uint4*>(shared + Shared::full_query) + lane;
  float* factors = reinterpret_cast<float*>(shared + Shared::factors); // of the scores of codes, for each head
  unsigned char* own = shared + warp * 2 * Stage::bytes;
  int* counts = reinterpret_cast<int*>(shared + Shared::sums);
  CodeHead* heads = reinterpret_cast<CodeHead*>(shared + Shared::heads);
  CodeHead &current = heads[0], &loaded = heads[1 + warp];
  bool ahead = args.ahead && args.count * args.kv_heads <= kThreads;
  if (!ahead) device::wait_for_inputs();
  Part part(args, current, counts);
  RunLoader<T, HeadDim, KeyBits, ValueBits> loader(args, loaded, device::shared_address(own));
  loader.begin(part, current);
  if (ahead) {
    loader.load_ahead();
    device::wait_for_inputs();
  }
  int stage = 0; // of the next run
  while (part.next(args, current, threadIdx.x == 0, [] { __syncthreads(); })) {
    const KvHead& head = head_of(args, part.row);
    const int packed_keys = current.packed_keys, packed_values = current.packed_values;
    const Segments<DeviceNumber, T> segments{head, HeadDim};
    DecodeBlock block;
    block.sequence = part.row / args.kv_heads;
    block.kv_head = part.row % args.kv_heads;
    block.heads = args.group();
    block.first_head = block.kv_head * block.heads;
    block.last = device::read_ahead(head.len); // may be more than it was ahead

    const T* q = static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim;
    // before the first runs, which would be in their way; the other warps need not wait with theirs
    if (warp == 0) {
      const float factor = load_code_query<T, HeadDim, KeyBits>(code_query, q, block.heads);
      if (quad == 0) factors[lane / 4] = factor;
    } else if (warp == 1) {
      load_full_query<T, HeadDim>(full_query, q, block.heads);
    }
    // where the warp has no run of the head, its other stage is for the merge
    for (const int most = part.first + warp < part.last ? 2 : 1; loader.waiting < most;) loader.load(stage);
    const bool outdated = ahead && part.outdated(args);
    ahead = false;
    if (__syncthreads_or(outdated)) { // the appended row is the first one of its run: another share
      device::copy_async_wait<0>();
      part = Part(args, current, counts);
      loader.begin(part, current);
      continue;
    }
    const float code_scale[2] = {args.scale * factors[quad * 2], args.scale * factors[quad * 2 + 1]};
    const bool plain = !hides_rows(args, head) && args.scores == nullptr && args.scale >= 0;
    RunState<HeadDim> state;
    bool stepped = true; // sums of values with the steps of codes in them
    const auto divide = [&] {
      if (stepped) divide_steps<HeadDim, ValueBits>(state.out);
      stepped = false;
    };
    int run = part.first + warp;
    const int whole = plain ? min(part.last, current.whole()) : 0; // runs before this one are codes alone, all seen
    for (; run < whole; run += kWarps) {
      if (loader.waiting < 2) {
        if (run + kWarps < whole)
          loader.load_whole(stage);
        else if (!loader.load_nothing())
          loader.load(stage);
      }
      device::copy_async_wait<1>();
      __syncwarp();
      const unsigned char* tile = own + stage * Stage::bytes;
      float scores[2][4] = {}, zeros[2];
      score_codes<HeadDim, KeyBits>(scores, zeros, code_query, tile);
      state.add(scores, code_scale, {zeros[0] * code_scale[0], zeros[1] * code_scale[1]});
      weigh_codes<HeadDim, ValueBits>(state.out, state.zeros, scores, tile);
      __syncwarp(); // every lane has read the stage
      loader.waiting = 1;
      stage ^= 1;
    }
    for (; run < part.last; run += kWarps) {
      if (loader.waiting < 2) loader.load(stage);
      device::copy_async_wait<1>();
      __syncwarp();
      const unsigned char* tile = own + stage * Stage::bytes;
      const int row = run * kRunRows;
      float scores[2][4] = {}, zeros[2] = {0, 0}, scale[2];
      if (row < packed_keys) {
        score_codes<HeadDim, KeyBits>(scores, zeros, code_query, tile);
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
      if (row < packed_values) weigh_codes<HeadDim, ValueBits>(state.out, state.zeros, scores, tile);
      if (row + kRunRows > packed_values) {
        divide();
        weigh_full<T, HeadDim>(state.out, scores, packed_values - row, block.last - row, [&](int at) { return segments.full_value(row + at); });
      }
      __syncwarp(); // every lane has read the stage
      loader.waiting = 1;
      stage ^= 1;
    }
    divide();
    state.finish();
    merge_warps<HeadDim>(args, block, part.place, state, shared, (warp * 2 + (stage ^ 1)) * Stage::bytes);
    if (threadIdx.x == 0 && part.ends) args.partial_counts[part.row] = part.place + 1;
  }
  device::copy_async_wait<0>();
  device::let_next_start();
}

template <class T, int HeadDim, int KeyBits, int ValueBits>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  constexpr auto kernel = attention_decode_codes_kernel<T, HeadDim, KeyBits, ValueBits>;
  const int most = kResident * args.processors;
  const int64_t runs = int64_t(args.count) * args.kv_heads * args.splits * (split_rows / kRunRows); // there is room for
  constexpr int bytes = CodeShared<HeadDim>::bytes;
  allow_shared<kernel>(bytes);
  launch_early(kernel, dim3(std::min<int64_t>(most, runs / kWarps)), kThreads, bytes, stream, args);
}

template <class T, int HeadDim>
void launch_bits(const DecodeArgs& args, const KvPacking& packing, cudaStream_t stream) {
  if (packing.key_bits == 4)
    packing.value_bits == 4 ? launch<T, HeadDim, 4, 4>(args, stream) : launch<T, HeadDim, 4, 2>(args, stream);
  else
    packing.value_bits == 4 ? launch<T, HeadDim, 2, 4>(args, stream) : launch<T, HeadDim, 2, 2>(args, stream);
}

}  // namespace

template <class T>
void attention_decode_codes_launch(const DecodeArgs& args, const KvPacking& packing, cudaStream_t stream) {
  args.head_dim == 64 ? launch_bits<T, 64>(args, packing, stream) : launch_bits<T, 128>(args, packing, stream);
}

template void attention_decode_codes_launch<__half>(const DecodeArgs&, const KvPacking&, cudaStream_t);
template void attention_decode_codes_launch<__nv_bfloat16>(const DecodeArgs&, const KvPacking&, cudaStream_t);

}  // namespace kva

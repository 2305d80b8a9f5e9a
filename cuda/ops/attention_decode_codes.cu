// Decode attention over rows that are codes of 2 or 4 bits but for the newest, on the tensor cores: f16 and bf16, head sizes 64 and 128, groups
// of 32, up to 8 query heads for a KV head. A split belongs to a team of 1 to 8 warps, more where there are few splits; a warp goes through its
// runs of 32 rows, with those of the next run on their way, and keeps its softmax in registers.
// floor: 160 bytes a row and KV head at 4 bits and head size 128, 96 at 2, at copy bandwidth: 56 us at 128K rows and 8 KV heads.
// measured (H100 80GB, 2026-11-25): 94 us at 128K rows, 4 query heads for a KV head (Nsight Compute); 168 us before warps had splits of their own.
// gap: 890 instructions for a run of 5 KB, of which a multiprocessor issues 1.8 a cycle; multiprocessors end up to 19 % apart.
#include "../core/cuda.h"
#include "../device/attention_decode.cuh"
#include "../device/code_runs.cuh"
#include "../device/number.cuh"

namespace kva {
namespace {

constexpr int kWarps = 8, kResident = 2; // of a block; blocks of a multiprocessor
constexpr float kHeadroom = 2, kSlack = 4; // the share of the largest score is 2^2, later ones are up to 2^6: times an offset of values below 65504

template <int HeadDim>
struct CodeShared {
  static constexpr int out_stride = HeadDim + 8; // floats of a head: heads fall into different banks
  static constexpr int stages = kWarps * 2 * CodeStage<HeadDim>::bytes;
  static constexpr int sums = stages, places = sums + kWarps * kRunHeads * 8; // [warp][head]: max, sum; [warp]: where its sums of values lie
  static constexpr int queries = places + kWarps * 4, bytes = queries + kWarps * HeadDim * 16; // [warp][HeadDim / 32][lane] pieces of 16 bytes
  static_assert(kRunHeads * out_stride * 4 <= CodeStage<HeadDim>::bytes);
};

__device__ __forceinline__ const KvHead& head_of(const DecodeArgs& args, const DecodeBlock& block) {
  return layer_heads(args.sequences[block.sequence], args.layer)[block.kv_head];
}

// Visits of items: the newest split of every head, then those before. An item without rows where there is none.
__device__ __forceinline__ DecodeBlock visited_block(const DecodeArgs& args, int visit) {
  const int rows = args.kv_heads * args.count, row = visit % rows;
  DecodeBlock block = decode_place(args, row * args.splits);
  const int length = head_of(args, block).len;
  block.split = (length + split_rows - 1) / split_rows - 1 - visit / rows;
  block.first = block.split * split_rows;
  block.last = block.split < 0 ? block.first : min(length, block.first + split_rows);
  return block;
}

// Warps that go through visits together.
struct Team {
  int warps, warp; // of the team; this one's place in it
  int visit, step; // its first one; the distance to the next

  __device__ explicit Team(int warps) : warps(warps) {
    const int at = threadIdx.x / 32;
    warp = at % warps;
    visit = at / warps * gridDim.x + blockIdx.x;
    step = kWarps / warps * gridDim.x;
  }
  __device__ void sync() const { asm volatile("bar.sync %0, %1;" ::"r"(1 + int(threadIdx.x) / 32 / warps), "r"(warps * 32) : "memory"); }
};

// A warp's own walk through its runs, one ahead of the one that it computes.
template <int HeadDim>
struct RunLoader {
  const DecodeArgs& args;
  const Team& team;
  int visit, row = 0, last = 0; // the next run's first row, the end of the item's rows
  const KvHead* head = nullptr;

  __device__ RunLoader(const DecodeArgs& args, const Team& team) : args(args), team(team), visit(team.visit - team.step) {}

  __device__ void load(uint32_t stage) {
    while (row >= last && visit + team.step < args.items()) {
      visit += team.step;
      const DecodeBlock block = visited_block(args, visit);
      head = &head_of(args, block);
      row = block.first + team.warp * kRunRows;
      last = block.last;
    }
    if (row < last) load_codes<HeadDim>(stage, *head, row);
    row += team.warps * kRunRows;
    device::copy_async_commit();
  }
};

template <int HeadDim>
struct RunState {
  float out[HeadDim / 32][2][4] = {};
  float max[2] = {-INFINITY, -INFINITY}; // of scores in base-2 units, of the heads 2 (lane % 4) + {0, 1}
  float sum[2] = {0, 0};                 // of this lane's rows

  static __device__ float base(float max) { return max == -INFINITY ? 0 : max - kHeadroom; }

  // scores become shares; the maxima follow only where a share would be above 2^(kHeadroom + kSlack)
  __device__ __forceinline__ void add(float (&scores)[2][4]) {
    float top[2];
    bool over = false;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = fmaxf(fmaxf(scores[0][i], scores[0][i + 2]), fmaxf(scores[1][i], scores[1][i + 2]));
      over = over || top[i] > max[i] + kSlack;
    }
    if (__any_sync(device::kAllLanes, over)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) top[i] = fmaxf(top[i], __shfl_xor_sync(device::kAllLanes, top[i], offset));
        top[i] = fmaxf(top[i], max[i]);
        const float decay = max[i] == -INFINITY ? 0 : exp2f(base(max[i]) - base(top[i]));
        max[i] = top[i];
        sum[i] *= decay;
#pragma unroll
        for (int n = 0; n < HeadDim / 32; ++n)
#pragma unroll
          for (int at = 0; at < 4; ++at) out[n][at / 2][at % 2 * 2 + i] *= decay;
      }
    }
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[t][i] = device::exp2_fast(scores[t][i] - base(max[i % 2]));
        sum[i % 2] += scores[t][i];
      }
  }

  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) sum[i] += __shfl_xor_sync(device::kAllLanes, sum[i], offset);
      if (max[i] > -INFINITY) max[i] = base(max[i]);
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

// The scores of a run in base-2 units, -inf where a row is hidden or absent; copied out where they are asked for.
__device__ __forceinline__ void finish_scores(const DecodeArgs& args, DecodeBlock& block, const KvHead& head, int run, float (&scores)[2][4],
                                              const float (&scale)[2]) {
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[t][i] *= scale[i % 2];
  if (run + kRunRows <= block.last && !hides_rows(args, head) && args.scores == nullptr) return;
  set_hidden(args, head, block);
  const int quad = threadIdx.x % 4, first = run + threadIdx.x % 32 / 4 * 4;
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

// the team's states of one split, merged in their order; `place` is a free stage of this warp
template <int HeadDim>
__device__ __forceinline__ void merge_team(const DecodeArgs& args, const DecodeBlock& block, const Team& team, const RunState<HeadDim>& state,
                                           unsigned char* shared, int place) {
  using Shared = CodeShared<HeadDim>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp - team.warp;
  float2* sums = reinterpret_cast<float2*>(shared + Shared::sums);
  int* places = reinterpret_cast<int*>(shared + Shared::places);
  state.write(block.heads, [&](int head) { return reinterpret_cast<float*>(shared + place) + head * Shared::out_stride; });
  if (lane == 0) places[warp] = place;
  if (lane < 4) {
    sums[warp * kRunHeads + lane * 2] = {state.max[0], state.sum[0]};
    sums[warp * kRunHeads + lane * 2 + 1] = {state.max[1], state.sum[1]};
  }
  team.sync();
  for (int at = team.warp * 32 + lane; at < block.heads * HeadDim; at += team.warps * 32) {
    const int head = at / HeadDim, column = at % HeadDim;
    float max = -INFINITY, sum = 0, out = 0;
    for (int w = first; w < first + team.warps; ++w) max = fmaxf(max, sums[w * kRunHeads + head].x);
    const float base = max == -INFINITY ? 0 : max;
    for (int w = first; w < first + team.warps; ++w) {
      const float share = exp2f(sums[w * kRunHeads + head].x - base);
      sum = fmaf(share, sums[w * kRunHeads + head].y, sum);
      out = fmaf(share, reinterpret_cast<const float*>(shared + places[w])[head * Shared::out_stride + column], out);
    }
    write_decode_split(args, block, head, column, out, max, sum);
  }
  team.sync(); // before the states are written again
}

template <class T, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32, kResident) attention_decode_codes_kernel(const DecodeArgs args, const int team_warps) {
  using Stage = CodeStage<HeadDim>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, quad = threadIdx.x % 4;
  uint4* query = reinterpret_cast<uint4*>(shared + CodeShared<HeadDim>::queries) + warp * HeadDim + threadIdx.x % 32;
  unsigned char* own = shared + warp * 2 * Stage::bytes;
  device::wait_for_inputs();

  const Team team(team_warps);
  RunLoader<HeadDim> loader(args, team);
  loader.load(device::shared_address(own));
  int stage = 0; // of the next run
  for (int visit = team.visit; visit < args.items(); visit += team.step) {
    DecodeBlock block = visited_block(args, visit);
    if (block.first >= block.last) continue;
    const KvHead& head = head_of(args, block);
    const int packed_keys = head.packed_keys, packed_values = head.packed_values, key_bits = head.packing.key_bits, value_bits = head.packing.value_bits;
    const auto q = [&] { return static_cast<const T*>(args.q) + block.sequence * args.q_stride + int64_t(block.first_head) * HeadDim; };
    const Segments<DeviceNumber, T> segments{head, HeadDim};

    float scale[2];
    bool of_codes = block.first < packed_keys;
    if (of_codes) {
      const float scaled = key_bits == 4 ? load_code_query<T, HeadDim, 4>(query, q(), block.heads) : load_code_query<T, HeadDim, 2>(query, q(), block.heads);
#pragma unroll
      for (int i = 0; i < 2; ++i) scale[i] = args.scale * __shfl_sync(device::kAllLanes, scaled, (quad * 2 + i) * 4);
    }
    RunState<HeadDim> state;
    bool stepped = true; // sums of values with the steps of codes in them
    const auto divide = [&] {
      if (stepped) value_bits == 4 ? divide_steps<HeadDim, 4>(state.out) : divide_steps<HeadDim, 2>(state.out);
      stepped = false;
    };
    const int own_first = block.first + team.warp * kRunRows;
    for (int run = own_first; run < block.last; run += team.warps * kRunRows) {
      loader.load(device::shared_address(own + (stage ^ 1) * Stage::bytes));
      device::copy_async_wait<1>();
      __syncwarp();
      const unsigned char* tile = own + stage * Stage::bytes;
      float scores[2][4] = {};
      if (run < packed_keys) {
        key_bits == 4 ? score_codes<HeadDim, 4>(scores, query, tile) : score_codes<HeadDim, 2>(scores, query, tile);
      } else {
        if (of_codes || run == own_first) {
          load_full_query<T, HeadDim>(query, q(), block.heads);
          scale[0] = scale[1] = args.scale;
          of_codes = false;
        }
        score_full<T, HeadDim>(scores, query, segments.full_key(run), block.last - run);
      }
      finish_scores(args, block, head, run, scores, scale);
      state.add(scores);
      if (run < packed_values) value_bits == 4 ? weigh_codes<HeadDim, 4>(state.out, scores, tile) : weigh_codes<HeadDim, 2>(state.out, scores, tile);
      if (run + kRunRows > packed_values) {
        divide();
        weigh_full<T, HeadDim>(state.out, scores, packed_values - run, block.last - run, [&](int row) { return segments.full_value(run + row); });
      }
      __syncwarp(); // every lane has read the stage
      stage ^= 1;
    }
    divide();
    state.finish();
    if (team.warps > 1) {
      merge_team<HeadDim>(args, block, team, state, shared, (warp * 2 + (stage ^ 1)) * Stage::bytes);
      continue;
    }
    const int64_t first_row = block.head_row(args, 0);
    state.write(block.heads, [&](int h) { return args.partial_out + ((first_row + h) * args.splits + block.split) * HeadDim; });
    if (threadIdx.x % 32 < 4)
      for (int i = 0; i < 2; ++i)
        if (quad * 2 + i < block.heads) args.partial_sums[(first_row + quad * 2 + i) * args.splits + block.split] = {state.max[i], state.sum[i]};
  }
  device::copy_async_wait<0>();
  device::let_next_start();
}

template <class T, int HeadDim>
void launch(const DecodeArgs& args, cudaStream_t stream) {
  const int resident = kResident * args.processors;
  int team = kWarps;
  while (team > 1 && int64_t(args.items()) * team > int64_t(resident) * kWarps) team /= 2;
  const int blocks = static_cast<int>(std::min<int64_t>(resident, divide_up(int64_t(args.items()) * team, kWarps)));
  constexpr int bytes = CodeShared<HeadDim>::bytes;
  allow_shared<attention_decode_codes_kernel<T, HeadDim>>(bytes);
  launch_early(attention_decode_codes_kernel<T, HeadDim>, dim3(blocks), kWarps * 32, bytes, stream, args, team);
}

}  // namespace

template <class T>
void attention_decode_codes_launch(const DecodeArgs& args, cudaStream_t stream) {
  args.head_dim == 64 ? launch<T, 64>(args, stream) : launch<T, 128>(args, stream);
}

template void attention_decode_codes_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_codes_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

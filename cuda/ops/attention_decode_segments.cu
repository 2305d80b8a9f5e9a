// Decode attention of a split whose rows are codes, keys of fewer channels, or whole, in one softmax; every cache type and head size.
// What attention_decode_codes.cu and attention_decode_channels.cu take does not come here.
// The affine map of codes stays out of the inner loops: per group of keys sum_c (q_c scale_c) code_c + sum_c q_c zero_c, and per value row
// and group of channels (p scale) code_c + p zero. Four query heads of a group share each word that is read.
#include "../core/cuda.h"
#include "../device/attention_decode.cuh"
#include "../device/number.cuh"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = split_rows;
constexpr int kWarps = kThreads / 32;
constexpr int kHeads = 4;  // query heads at a time
constexpr int kOctet = 8;  // value channels of a thread

struct SegmentShared {
  float* scores;  // [kDecodeHeads][split_rows]: scores, then shares
  float* queries; // [kDecodeHeads / kHeads][head_dim][kHeads]
  float* scaled;  // [kWarps][padded head_dim][kHeads]: queries of the packed channels, times their scales. Later sums: [lanes][kHeads][head_dim]

  __host__ __device__ static int scaled_floats(int head_dim) { return (head_dim + 7) / 8 * 8 * kHeads; }
  __host__ __device__ static int rest(int head_dim) {
    const int sums = kThreads * kOctet * kHeads, scaled = kWarps * scaled_floats(head_dim);
    return sums > scaled ? sums : scaled;
  }
  __host__ __device__ static int64_t bytes(int head_dim) { return (kDecodeHeads * int64_t(split_rows + head_dim) + rest(head_dim)) * 4; }
};

// One warp: scaled[i][g] for the packed channels of a 32-row run, zeros up to a multiple of 8, and the sum of q * zero for each of four heads.
__device__ __forceinline__ void scale_queries(const KvHead& head, int row, const float* queries, int head_dim, float* scaled, float (&offset)[kHeads]) {
  const KvPacking& packing = head.packing;
  const int lane = threadIdx.x % 32, channels = key_channels(packing, head_dim);
#pragma unroll
  for (int g = 0; g < kHeads; ++g) offset[g] = 0;
  for (int i = channels + lane; i < (channels + 7) / 8 * 8; i += 32)
    reinterpret_cast<float4*>(scaled)[i] = float4{0, 0, 0, 0};
  for (int i = lane; i < channels; i += 32) {
    const int channel = head.channels == nullptr ? i : head.channels[i];
    float scale = 1, zero = 0;
    if (packing.key_bits > 0) {
      const Scale stored = head.key_scales[int64_t(row / packing.group) * channels + i];
      scale = DeviceNumber::from_half(stored.scale);
      zero = DeviceNumber::from_half(stored.zero);
    }
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      const float q = queries[channel * kHeads + g];
      scaled[i * kHeads + g] = q * scale;
      offset[g] = fmaf(q, zero, offset[g]);
    }
  }
#pragma unroll
  for (int g = 0; g < kHeads; ++g) offset[g] = warp_sum(offset[g]);
  __syncwarp();
}

__device__ __forceinline__ void add_products(float (&dots)[kHeads], float x, const float* queries) {
  const float4 q = *reinterpret_cast<const float4*>(queries); // of four heads
  dots[0] = fmaf(x, q.x, dots[0]);
  dots[1] = fmaf(x, q.y, dots[1]);
  dots[2] = fmaf(x, q.z, dots[2]);
  dots[3] = fmaf(x, q.w, dots[3]);
}

template <int Bits>
__device__ __forceinline__ void score_codes(const KvHead& head, int row, int channels, const float* scaled, float (&dots)[kHeads]) {
  constexpr int kEach = 32 / Bits;
  const int words = words_of(channels, Bits);
  const uint32_t* codes = static_cast<const uint32_t*>(head.packed_k);
#pragma unroll 2
  for (int w = 0; w < words; ++w) {
    const uint32_t word = codes[key_word(row, w, words)];
    const int count = min(kEach, channels - w * kEach);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (i >= count) break;
      add_products(dots, static_cast<float>(word >> (i * Bits) & ((1u << Bits) - 1)), scaled + (w * kEach + i) * kHeads);
    }
  }
}

template <int Width, class T>
__device__ __forceinline__ void score_elements(const T* key, int channels, const float* queries, float (&dots)[kHeads]) {
  for (int c = 0; c < channels; c += Width) {
    const Pack<T, Width> pack = load_pack<Width>(key + c);
#pragma unroll
    for (int i = 0; i < Width; ++i) add_products(dots, widen(pack.at[i]), queries + (c + i) * kHeads);
  }
}

// scores of this thread's row for all heads of the block; a warp has 32 rows in a run, of one group where they are codes
template <class T>
__device__ __forceinline__ void score_rows(const DecodeArgs& args, const DecodeBlock& block, const KvHead& head, const SegmentShared& shared) {
  const int warp = threadIdx.x / 32, run = block.first + warp * 32, row = block.first + threadIdx.x;
  const KvPacking& packing = head.packing;
  const int channels = key_channels(packing, args.head_dim);
  float* scaled = shared.scaled + warp * SegmentShared::scaled_floats(args.head_dim);
  const bool any_packed = run < head.packed_keys;
  const Segments<DeviceNumber, T> segments{head, args.head_dim};
  for (int first = 0; first < block.heads; first += kHeads) {
    const float* queries = shared.queries + first * args.head_dim;
    float offset[kHeads] = {}, dots[kHeads] = {};
    if (any_packed) scale_queries(head, run, queries, args.head_dim, scaled, offset);
    if (row < head.packed_keys && row < block.last) {
#pragma unroll
      for (int g = 0; g < kHeads; ++g) dots[g] = offset[g];
      if (packing.key_bits == 2)
        score_codes<2>(head, row, channels, scaled, dots);
      else if (packing.key_bits == 4)
        score_codes<4>(head, row, channels, scaled, dots);
      else
        score_elements<kPackWidth<T>>(static_cast<const T*>(head.packed_k) + int64_t(row) * compact_width(packing), compact_width(packing), scaled, dots);
    } else if (row < block.last) {
      if (args.head_dim % kPackWidth<T> == 0)
        score_elements<kPackWidth<T>>(segments.full_key(row), args.head_dim, queries, dots);
      else
        score_elements<1>(segments.full_key(row), args.head_dim, queries, dots);
    }
    __syncwarp(); // before the scaled queries change
    if (row >= block.last) continue;
    const bool seen = block.sees(row);
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      if (first + g >= block.heads) break;
      const float score = seen ? dots[g] * args.scale : -INFINITY;
      shared.scores[(first + g) * split_rows + threadIdx.x] = score;
      if (args.scores != nullptr) args.scores[block.head_row(args, first + g) * args.score_stride() + row] = score;
    }
  }
}

// Adds share * value of a row for channels [first, first + 8) to out[g]: as codes, or as elements.
template <class T>
__device__ __forceinline__ void weigh_row(const Segments<DeviceNumber, T>& segments, int row, int first, const float* shares,
                                          float (&out)[kHeads][kOctet]) {
  const KvHead& head = segments.head;
  const int head_dim = segments.head_dim, count = min(kOctet, head_dim - first);
  float share[kHeads];
#pragma unroll
  for (int g = 0; g < kHeads; ++g) share[g] = shares[g * split_rows];
  if (row >= head.packed_values) {
    const T* value = segments.full_value(row) + first;
    float v[kOctet] = {};
    if (head_dim % kOctet == 0) {
#pragma unroll
      for (int c = 0; c < kOctet; c += kPackWidth<T>) {
        const Pack<T, kPackWidth<T>> pack = load_pack<kPackWidth<T>>(value + c);
#pragma unroll
        for (int i = 0; i < kPackWidth<T>; ++i) v[c + i] = widen(pack.at[i]);
      }
    } else {
#pragma unroll
      for (int c = 0; c < kOctet; ++c)
        if (c < count) v[c] = widen(value[c]);
    }
#pragma unroll
    for (int c = 0; c < kOctet; ++c)
#pragma unroll
      for (int g = 0; g < kHeads; ++g) out[g][c] = fmaf(share[g], v[c], out[g][c]);
    return;
  }
  // value groups are multiples of 8 channels or the whole of a small head, but for odd sizes: the group is looked up where it changes
  const int bits = head.packing.value_bits, group = head.packing.value_group, each = 32 / bits;
  const uint32_t word = head.packed_v[int64_t(row) * words_of(head_dim, bits) + first / each] >> (first % each * bits);
  const Scale* scales = head.value_scales + int64_t(row) * (head_dim / group);
  const uint32_t mask = (1u << bits) - 1;
  float scaled[kHeads], offset[kHeads];
#pragma unroll
  for (int c = 0; c < kOctet; ++c) {
    if (c < count && (c == 0 || (first + c) % group == 0)) {
      const Scale stored = scales[(first + c) / group];
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        scaled[g] = share[g] * DeviceNumber::from_half(stored.scale);
        offset[g] = share[g] * DeviceNumber::from_half(stored.zero);
      }
    }
    const float code = static_cast<float>(word >> (c * bits) & mask);
#pragma unroll
    for (int g = 0; g < kHeads; ++g) out[g][c] += fmaf(scaled[g], code, offset[g]);
  }
}

// The split's weighted values: octets of channels side by side, rows shared by as many lanes as there are threads left, summed in their order.
template <class T>
__device__ __forceinline__ void weigh_values(const DecodeArgs& args, const DecodeBlock& block, const KvHead& head, const SegmentShared& shared,
                                             const float* maxima, const float* sums) {
  const Segments<DeviceNumber, T> segments{head, args.head_dim};
  const int octets = (args.head_dim + kOctet - 1) / kOctet, lanes = kThreads / octets, width = octets * kOctet;
  const int octet = threadIdx.x % octets, lane = threadIdx.x / octets, rows = max(block.last - block.first, 0);
  for (int first = 0; first < block.heads; first += kHeads) {
    if (lane < lanes) {
      float out[kHeads][kOctet] = {};
      for (int r = lane; r < rows; r += lanes)
        weigh_row(segments, block.first + r, octet * kOctet, shared.scores + first * split_rows + r, out);
      for (int g = 0; g < kHeads; ++g)
        for (int c = 0; c < kOctet; ++c) shared.scaled[(lane * kHeads + g) * width + octet * kOctet + c] = out[g][c];
    }
    __syncthreads();
    for (int at = threadIdx.x; at < kHeads * args.head_dim; at += kThreads) {
      const int g = at / args.head_dim, column = at % args.head_dim, at_head = first + g;
      if (at_head >= block.heads) break;
      float out = 0;
      for (int other = 0; other < lanes; ++other) out += shared.scaled[(other * kHeads + g) * width + column];
      write_decode_split(args, block, at_head, column, out, maxima[at_head], sums[at_head]);
    }
    __syncthreads();
  }
}

// A split whose rows are of any kind, by the whole block.
template <class T>
__device__ void attend_segments(const DecodeArgs& args, int number, float* memory) {
  __shared__ float maxima[kDecodeHeads], sums[kDecodeHeads];
  SegmentShared shared;
  shared.scores = memory;
  shared.queries = memory + kDecodeHeads * split_rows;
  shared.scaled = shared.queries + kDecodeHeads * args.head_dim;
  DecodeBlock block;
  if (!open_decode_block(args, number, block)) return;
  const KvHead head = head_of(args, block);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, rows = max(block.last - block.first, 0);
  const int64_t q = block.sequence * args.q_stride + int64_t(block.first_head) * args.head_dim;
  for (int at = threadIdx.x; at < kDecodeHeads * args.head_dim; at += kThreads) {
    const int at_head = at / args.head_dim, column = at % args.head_dim;
    shared.queries[(at_head / kHeads * args.head_dim + column) * kHeads + at_head % kHeads] =
        at_head < block.heads ? load_decode_query(args, q + at) : 0;
  }
  for (int at = threadIdx.x; at < kDecodeHeads * split_rows; at += kThreads) shared.scores[at] = 0;
  __syncthreads();
  score_rows<T>(args, block, head, shared);
  __syncthreads();

  for (int h = warp; h < block.heads; h += kWarps) {
    float* scores = shared.scores + h * split_rows;
    float max = -INFINITY, sum = 0;
    for (int r = lane; r < rows; r += 32) max = fmaxf(max, scores[r]);
    max = warp_max(max);
    const float base = max == -INFINITY ? 0 : max;
    for (int r = lane; r < rows; r += 32) {
      scores[r] = exp2f(scores[r] - base);
      sum += scores[r];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      maxima[h] = max;
      sums[h] = sum;
    }
  }
  __syncthreads();
  weigh_values<T>(args, block, head, shared, maxima, sums);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) attention_decode_segments_kernel(const DecodeArgs args) {
  extern __shared__ __align__(16) float memory[];
  wait_for_inputs();
  attend_segments<T>(args, blockIdx.x, memory);
}

}  // namespace

template <class T>
void attention_decode_segments_launch(const DecodeArgs& args, cudaStream_t stream) {
  const int64_t bytes = SegmentShared::bytes(args.head_dim);
  allow_shared<attention_decode_segments_kernel<T>>(bytes);
  launch_early(attention_decode_segments_kernel<T>, dim3(args.items()), kThreads, bytes, stream, args);
}

template void attention_decode_segments_launch<float>(const DecodeArgs&, cudaStream_t);
template void attention_decode_segments_launch<__half>(const DecodeArgs&, cudaStream_t);
template void attention_decode_segments_launch<__nv_bfloat16>(const DecodeArgs&, cudaStream_t);

}  // namespace kva

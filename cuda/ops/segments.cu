// Packed rows of the cache: storing rows as codes or with fewer channels, flushing the residual, reading back; scores of channels.
#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/number.cuh"
#include "../device/reduce.cuh"
#include "ops.h"

namespace kva {
namespace {

constexpr int kThreads = 256;
constexpr int kPackHeads = 8; // of a launch: their descriptions are its arguments

struct PackArgs {
  KvHead from[kPackHeads], to[kPackHeads];
  const int32_t* channels; // NULL: the lists are there
  int64_t channels_stride;
  int head_dim;
};

__global__ void __launch_bounds__(kThreads) store_channels_kernel(const __grid_constant__ PackArgs args) {
  const KvHead& to = args.to[blockIdx.x];
  for (int i = threadIdx.x; i < to.packing.channels; i += kThreads)
    to.channels[i] = static_cast<uint16_t>(max(0, min(args.channels[blockIdx.x * args.channels_stride + i], args.head_dim - 1)));
}

template <class T>
__global__ void __launch_bounds__(kThreads) pack_rows_kernel(const __grid_constant__ PackArgs args) {
  const KvHead &from = args.from[blockIdx.y], &to = args.to[blockIdx.y];
  const PackTasks tasks(to, args.head_dim);
  const int64_t count = tasks.count();
  for (int64_t task = int64_t(blockIdx.x) * kThreads + threadIdx.x; task < count; task += int64_t(gridDim.x) * kThreads)
    tasks.run<DeviceNumber, T>(task, from, to, args.head_dim);
}

// One warp: the word that the codes of a lane and its neighbours make, the lowest lane's first.
__device__ __forceinline__ uint32_t gather_word(uint32_t code, int bits) {
  const int each = 32 / bits;
  uint32_t word = code << (threadIdx.x % each * bits);
  for (int offset = 1; offset < each; offset *= 2) word |= __shfl_xor_sync(device::kAllLanes, word, offset);
  return word;
}

// One warp: Segments::quantize_value for all words of group `group` of a row, of a multiple of 32 channels.
template <class T>
__device__ void quantize_value_group(const Segments<DeviceNumber, T>& segments, int row, int group) {
  const KvHead& head = segments.head;
  const int lane = threadIdx.x % 32, width = head.packing.value_group, bits = head.packing.value_bits;
  const T* from = segments.full_value(row) + group * width;
  float low = INFINITY, high = -INFINITY;
  for (int c = lane; c < width; c += 32) {
    const float x = device::widen(from[c]);
    low = fminf(low, x);
    high = fmaxf(high, x);
  }
  const Scale scale = make_scale<DeviceNumber>(device::warp_min(low), device::warp_max(high), bits);
  if (lane == 0) head.value_scales[int64_t(row) * (segments.head_dim / width) + group] = scale;
  uint32_t* to = head.packed_v + int64_t(row) * words_of(segments.head_dim, bits) + group * width * bits / 32;
  for (int c = lane; c < width; c += 32) {
    const uint32_t word = gather_word(code_of<DeviceNumber>(device::widen(from[c]), scale, bits), bits);
    if (lane % (32 / bits) == 0) to[c * bits / 32] = word;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) flush_kernel(KvSeq* const* sequences, int layer, int head_dim) {
  device::let_next_start();
  device::wait_for_inputs();
  KvHead* entry = layer_heads(sequences[blockIdx.y], layer) + blockIdx.x;
  const KvHead head = *entry;
  const KvPacking& packing = head.packing;
  const Segments<DeviceNumber, T> segments{head, head_dim};
  const bool keys = keys_are_due(head), value = value_is_due(head);
  if (keys) {
    const int words = words_of(key_channels(packing, head_dim), packing.key_bits), tasks = packing.residual / packing.group * words;
    for (int task = threadIdx.x; task < tasks; task += kThreads)
      segments.quantize_keys(head, head.packed_keys / packing.group + task / words, task % words);
  }
  if (value && packing.value_group % 32 == 0) {
    for (int group = threadIdx.x / 32; group < head_dim / packing.value_group; group += kThreads / 32)
      quantize_value_group(segments, head.packed_values, group);
  } else if (value) {
    for (int word = threadIdx.x; word < words_of(head_dim, packing.value_bits); word += kThreads)
      segments.quantize_value(head, head.packed_values, word);
  }
  __syncthreads(); // every thread has read the counts
  if (threadIdx.x > 0) return;
  if (keys) entry->packed_keys = head.packed_keys + packing.residual;
  if (value) entry->packed_values = head.packed_values + 1;
}

template <class T>
__global__ void __launch_bounds__(kThreads) read_rows_kernel(const __grid_constant__ KvHead head, int head_dim, bool values, T* out, int64_t stride) {
  const Segments<DeviceNumber, T> segments{head, head_dim};
  const int64_t count = int64_t(head.len) * head_dim;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads) {
    const int row = static_cast<int>(at / head_dim), channel = static_cast<int>(at % head_dim);
    out[row * stride + channel] = device::narrow<T>(values ? segments.value(row, channel) : segments.key(row, channel));
  }
}

// A block has a channel of a KV head. Sums are in f64, each thread's rows in order.
template <class T>
__global__ void __launch_bounds__(kThreads) channel_scores_kernel(KvSeq* sequence, int layer, const T* queries, int64_t stride, int query_rows, int group,
                                                                  int head_dim, float* out, int64_t out_stride) {
  __shared__ double sums[2][kThreads / 32];
  const KvHead& head = layer_heads(sequence, layer)[blockIdx.y];
  const int channel = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double of_queries = 0, of_keys = 0;
  for (int at = threadIdx.x; at < query_rows * group; at += kThreads) {
    const float x = device::widen(queries[at / group * stride + (int64_t(blockIdx.y) * group + at % group) * head_dim + channel]);
    of_queries += double(x) * x;
  }
  for (int row = threadIdx.x; row < head.len; row += kThreads) {
    const float x = device::widen(static_cast<const T*>(head.k)[int64_t(row) * head_dim + channel]);
    of_keys += double(x) * x;
  }
  of_queries = device::warp_sum(of_queries);
  of_keys = device::warp_sum(of_keys);
  if (lane == 0) {
    sums[0][warp] = of_queries;
    sums[1][warp] = of_keys;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int other = 1; other < kThreads / 32; ++other) {
    of_queries += sums[0][other];
    of_keys += sums[1][other];
  }
  out[blockIdx.y * out_stride + channel] = float(of_queries) / float(query_rows * group) * (float(of_keys) / float(head.len));
}

int blocks_for(int64_t tasks) { return static_cast<int>(std::min<int64_t>(divide_up(tasks, kThreads), 4096)); }

}  // namespace

void pack_rows(Context& context, const KvShape& shape, const KvHead* from, const KvHead* to, Matrix channels) {
  for (int begin = 0; begin < shape.kv_heads; begin += kPackHeads) {
    const int heads = std::min(kPackHeads, shape.kv_heads - begin);
    PackArgs args = {};
    int64_t tasks = 0;
    for (int h = 0; h < heads; ++h) {
      args.from[h] = from[begin + h];
      args.to[h] = to[begin + h];
      tasks = std::max(tasks, PackTasks(to[begin + h], shape.head_dim).count());
    }
    args.channels = channels ? channels.row<int32_t>(begin) : nullptr;
    args.channels_stride = channels.stride;
    args.head_dim = shape.head_dim;
    if (channels && channels.columns > 0) {
      store_channels_kernel<<<heads, kThreads, 0, stream_of(context)>>>(args);
      check_launch();
    }
    if (tasks == 0) continue;
    with_device_type(shape.dtype, [&](auto type) {
      pack_rows_kernel<decltype(type)><<<dim3(blocks_for(tasks), heads), kThreads, 0, stream_of(context)>>>(args);
    });
    check_launch();
  }
}

void flush(Context& context, Batch& batch, int32_t first_sequence, int32_t sequences, int32_t layer) {
  if (sequences == 0) return;
  const KvShape& shape = batch.shape();
  with_device_type(shape.dtype, [&](auto type) {
    launch_early(flush_kernel<decltype(type)>, dim3(shape.kv_heads, sequences), kThreads, 0, stream_of(context), batch.table + first_sequence, layer,
                 shape.head_dim);
  });
}

void read_rows(Context& context, const KvShape& shape, const KvHead& head, int32_t what, Matrix out) {
  const int64_t tasks = int64_t(head.len) * shape.head_dim;
  if (tasks == 0) return;
  with_device_type(shape.dtype, [&](auto type) {
    using T = decltype(type);
    read_rows_kernel<T><<<blocks_for(tasks), kThreads, 0, stream_of(context)>>>(head, shape.head_dim, what == 1, out.row<T>(0), out.stride);
  });
  check_launch();
}

void channel_scores(Context& context, Kv& kv, int32_t layer, Matrix queries, Matrix out) {
  const KvShape& shape = kv.shape;
  if (queries.dtype != shape.dtype)
    fail(KVA_E_UNSUPPORTED, "queries are %s and the cache is %s; on CUDA both must be of one type", dtype_name(queries.dtype), dtype_name(shape.dtype));
  with_device_type(shape.dtype, [&](auto type) {
    using T = decltype(type);
    channel_scores_kernel<T><<<dim3(shape.head_dim, shape.kv_heads), kThreads, 0, stream_of(context)>>>(
        kv.table, layer, queries.row<T>(0), queries.stride, queries.rows, shape.group(), shape.head_dim, out.row<float>(0), out.stride);
  });
  check_launch();
}

}  // namespace kva

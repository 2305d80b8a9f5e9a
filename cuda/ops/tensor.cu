// Tensors: to = from, out = value, out = random numbers, out = a file's elements; whether all is finite.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "../core/cuda.h"
#include "../core/ggml.h"
#include "../device/reduce.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;

// A thread walks over elements this far apart.
__device__ __forceinline__ int64_t first_element() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t element_step() { return int64_t(gridDim.x) * blockDim.x; }

unsigned blocks_for(Context& context, int64_t elements) {
  return static_cast<unsigned>(std::clamp<int64_t>(divide_up(elements, kThreads), 1, cuda_device(context).processors * int64_t(16)));
}

template <class From, class To>
__device__ __forceinline__ To converted(From value) {
  if constexpr (std::is_same_v<From, To>)
    return value;
  else
    return narrow<To>(widen(value));
}

// Elements [begin, begin + count) of `out`, counted row after row, from the same elements of rows that lie from_stride apart.
template <class From, class To>
__global__ void __launch_bounds__(kThreads) convert_kernel(const From* from, int64_t from_stride, To* out, int64_t out_stride, int columns, int64_t begin,
                                                           int64_t count) {
  for (int64_t i = begin + first_element(); i < begin + count; i += element_step()) {
    const int64_t row = i / columns, column = i % columns;
    out[row * out_stride + column] = converted<From, To>(from[row * from_stride + column]);
  }
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads) convert_packs_kernel(const From* from, To* out, int64_t packs) {
  constexpr int kWidth = 4;
  for (int64_t i = first_element(); i < packs; i += element_step()) {
    const Pack<From, kWidth> pack = load_pack<kWidth>(from + i * kWidth);
    Pack<To, kWidth> result;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) result.at[e] = converted<From, To>(pack.at[e]);
    store_pack(out + i * kWidth, result);
  }
}

// elements [begin, begin + count) of out; `from` is the address of element 0
void convert(Context& context, int32_t from_dtype, const void* from, int64_t from_stride, const Matrix& out, int64_t begin, int64_t count) {
  if (count == 0) return;
  const unsigned blocks = blocks_for(context, count / 4);
  const cudaStream_t stream = stream_of(context);
  with_device_type(from_dtype, [&](auto from_type) {
    with_device_type(out.dtype, [&](auto to_type) {
      using From = decltype(from_type);
      using To = decltype(to_type);
      const From* source = static_cast<const From*>(from);
      To* target = static_cast<To*>(out.data);
      const bool dense = (out.rows == 1 || (from_stride == out.columns && out.stride == out.columns)) && begin % 4 == 0 && count % 4 == 0;
      const bool aligned = reinterpret_cast<uintptr_t>(from) % (4 * sizeof(From)) == 0 && reinterpret_cast<uintptr_t>(out.data) % (4 * sizeof(To)) == 0;
      if (dense && aligned)
        convert_packs_kernel<<<blocks, kThreads, 0, stream>>>(source + begin, target + begin, count / 4);
      else
        convert_kernel<<<blocks, kThreads, 0, stream>>>(source, from_stride, target, out.stride, out.columns, begin, count);
    });
  });
  check_launch();
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* out, int64_t stride, int columns, int64_t count, T value) {
  for (int64_t i = first_element(); i < count; i += element_step()) out[i / columns * stride + i % columns] = value;
}

template <class T>
__global__ void __launch_bounds__(kThreads) random_kernel(T* out, int64_t stride, int columns, int64_t count, int kind, uint32_t seed, float scale) {
  for (int64_t i = first_element(); i < count; i += element_step()) {
    const PhiloxWords words = philox(seed, 0, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0);
    const float value = kind == KVA_RANDOM_UNIFORM ? 2 * unit(words.word[0]) - 1 : gauss(words.word[0], words.word[1]);
    out[i / columns * stride + i % columns] = narrow<T>(scale * value);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) finite_kernel(const T* x, int64_t stride, int columns, int64_t count, int32_t* wrong) {
  bool all = true;
  for (int64_t i = first_element(); i < count; i += element_step()) all = all && isfinite(widen(x[i / columns * stride + i % columns]));
  if (!all) *wrong = 1;
}

// Makes `later` wait for what is queued in `earlier`.
void order_after(CudaDevice& earlier, CudaDevice& later) {
  cudaEvent_t event = nullptr;
  use_device(earlier.id);
  CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  cudaError_t status = cudaEventRecord(event, earlier.stream);
  use_device(later.id);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(later.stream, event, 0);
  cudaEventDestroy(event); // goes once it has been reached
  check_cuda(status, "cudaStreamWaitEvent");
}

// Where the hardware links no peers: through the host.
void copy_through_host(CudaDevice& from_device, const Matrix& from, CudaDevice& to_device, const Matrix& to) {
  std::vector<char> host(from.row_bytes() * from.rows);
  from_device.download(host.data(), from.row_bytes(), from.data, from.pitch(), from.row_bytes(), from.rows);
  to_device.upload(to.data, to.pitch(), host.data(), from.row_bytes(), from.row_bytes(), from.rows);
}

// Takes pages of a mapped file out of this process again (not out of the page cache): a checkpoint does not add up to resident memory.
void forget_pages(const void* from, int64_t bytes) {
  const uintptr_t page = sysconf(_SC_PAGESIZE), begin = divide_up(reinterpret_cast<uintptr_t>(from), page) * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(from) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

void copy(Context& context, Matrix from, Matrix to) {
  if (from.dtype == to.dtype)
    cuda_device(context).copy(to.data, to.pitch(), from.data, from.pitch(), from.row_bytes(), from.rows);
  else
    convert(context, from.dtype, from.data, from.stride, to, 0, to.count());
}

void peer_copy(Context& from_context, Matrix from, Context& to_context, Matrix to) {
  CudaDevice &from_device = cuda_device(from_context), &to_device = cuda_device(to_context);
  if (from.count() == 0) return;
  Matrix sent = from;
  if (from.dtype != to.dtype) { // converted where it lies
    sent.dtype = to.dtype;
    sent.stride = to.columns;
    sent.data = from_context.scratch(sent.count() * dtype_bytes(to.dtype));
    convert(from_context, from.dtype, from.data, from.stride, sent, 0, sent.count());
  }
  if (!from_device.open_peer(to_device)) return copy_through_host(from_device, sent, to_device, to);
  order_after(from_device, to_device);
  to_device.copy(to.data, to.pitch(), sent.data, sent.pitch(), sent.row_bytes(), sent.rows);
  order_after(to_device, from_device); // `from` may be written again
}

void peer_pull(Context& from_context, Matrix from, Context& to_context, Matrix to) {
  CudaDevice &from_device = cuda_device(from_context), &to_device = cuda_device(to_context);
  if (from.count() == 0) return;
  if (!from_device.open_peer(to_device)) return copy_through_host(from_device, from, to_device, to);
  to_device.copy(to.data, to.pitch(), from.data, from.pitch(), from.row_bytes(), from.rows);
}

void fill(Context& context, Matrix out, float value) {
  const int64_t count = out.count();
  if (count == 0) return;
  const unsigned blocks = blocks_for(context, count);
  const cudaStream_t stream = stream_of(context);
  if (out.dtype == KVA_I32) {
    fill_kernel<<<blocks, kThreads, 0, stream>>>(out.row<int32_t>(0), out.stride, out.columns, count, static_cast<int32_t>(value));
  } else {
    with_device_type(out.dtype, [&](auto type) {
      using T = decltype(type);
      fill_kernel<<<blocks, kThreads, 0, stream>>>(out.row<T>(0), out.stride, out.columns, count, static_cast<T>(value));
    });
  }
  check_launch();
}

void random(Context& context, Matrix out, int32_t kind, uint32_t seed, float scale) {
  const int64_t count = out.count();
  if (count == 0) return;
  with_device_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    random_kernel<<<blocks_for(context, count), kThreads, 0, stream_of(context)>>>(out.row<T>(0), out.stride, out.columns, count, kind, seed, scale);
  });
  check_launch();
}

bool finite(Context& context, Matrix x) {
  if (x.dtype == KVA_I32 || x.count() == 0) return true;
  CudaDevice& device = cuda_device(context);
  int32_t* wrong = static_cast<int32_t*>(context.scratch(sizeof(int32_t)));
  CUDA_TRY(cudaMemsetAsync(wrong, 0, sizeof(int32_t), device.stream));
  with_device_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    finite_kernel<<<blocks_for(context, x.count()), kThreads, 0, device.stream>>>(x.row<T>(0), x.stride, x.columns, x.count(), wrong);
  });
  check_launch();
  int32_t found = 0;
  device.download(&found, sizeof found, wrong, sizeof found, sizeof found, 1);
  return found == 0;
}

void load(Context& context, Matrix out, const void* from, int32_t file_dtype) {
  CudaDevice& device = cuda_device(context);
  const char* file = static_cast<const char*>(from);
  const int64_t size = dtype_bytes(file_dtype), bytes = out.count() * size;
  if (bytes == 0) return;
  const bool dense = out.rows == 1 || out.stride == out.columns;
  if (file_dtype == out.dtype && dense) {
    device.stage(from, bytes, size, [&](int64_t begin, int64_t piece, const void* staged) {
      CUDA_TRY(cudaMemcpyAsync(out.row<char>(0) + begin, staged, piece, cudaMemcpyHostToDevice, device.stream));
      forget_pages(file + begin, piece);
    });
    return;
  }
  char* raw = static_cast<char*>(context.scratch(std::min(bytes, staging_bytes)));
  device.stage(from, bytes, 4 * size, [&](int64_t begin, int64_t piece, const void* staged) {
    CUDA_TRY(cudaMemcpyAsync(raw, staged, piece, cudaMemcpyHostToDevice, device.stream));
    forget_pages(file + begin, piece);
    convert(context, file_dtype, raw - begin, out.columns, out, begin / size, piece / size);
  });
}

// Host threads make fp32 of some rows, which then go the way of a file's fp32.
void load_ggml(Context& context, Matrix out, const char* from, int32_t format, int32_t heads) {
  const GgmlFormat block = ggml_format(format);
  const int64_t pitch = out.columns / block.elements * block.bytes, head_rows = heads == 0 ? 1 : out.rows / heads;
  const int64_t at_once = std::max<int64_t>(1, (int64_t(1) << 24) / (head_rows * out.columns)) * head_rows;
  std::vector<float> values(std::min<int64_t>(at_once, out.rows) * out.columns);
  const int64_t threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 16);
  for (int64_t first = 0; first < out.rows; first += at_once) {
    const int64_t rows = std::min<int64_t>(at_once, out.rows - first), share = divide_up(rows, threads);
    const auto part = [&](int64_t t) {
      for (int64_t r = t * share; r < std::min(rows, (t + 1) * share); ++r) {
        const int64_t to = heads == 0 ? r : unpaired_row(r, head_rows);
        ggml_floats(format, from + (first + r) * pitch, out.columns, values.data() + to * out.columns);
      }
    };
    {
      std::vector<std::jthread> others;
      for (int64_t t = 1; t < threads && t * share < rows; ++t) others.emplace_back(part, t);
      part(0);
    }
    Matrix some = out;
    some.rows = int32_t(rows);
    some.data = out.row<char>(0) + first * out.pitch();
    load(context, some, values.data(), KVA_F32);
  }
}

}  // namespace kva

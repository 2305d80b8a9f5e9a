// The CUDA device behind a context: its stream, checks of calls and launches, run-time type to device type.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "context.h"
#include "tensor.h"

namespace kva {

// Throws an Error that names the call; KVA_E_MEMORY and KVA_E_NO_DEVICE where that is what it says, else KVA_E_DEVICE.
void check_cuda(cudaError_t status, const char* call);
#define CUDA_TRY(call) ::kva::check_cuda((call), #call)

// after each launch
inline void check_launch() { check_cuda(cudaGetLastError(), "kernel launch"); }

// Makes it this thread's device, which new streams, events, memory and launches belong to.
void use_device(int32_t id);
cudaError_t try_device(int32_t id) noexcept;
int32_t current_device() noexcept;
bool starts_early() noexcept; // the current device can start a kernel before the one before it has ended

// Lets a kernel have this much dynamic shared memory on the current device, where that is more than every kernel may have.
template <auto Kernel>
void allow_shared(int64_t bytes) {
  static std::atomic<int64_t> allowed[64] = {};
  std::atomic<int64_t>& here = allowed[current_device() & 63];
  if (bytes <= std::max<int64_t>(here, 48 << 10)) return;
  check_cuda(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "cudaFuncSetAttribute");
  here = bytes;
}

struct CudaDevice final : Device {
  const int32_t id;
  cudaStream_t stream = nullptr;
  int32_t processors = 0;
  int32_t compute_capability = 0;
  int32_t block_shared_bytes = 0; // of shared memory, that a block may have

  explicit CudaDevice(int32_t id);
  ~CudaDevice() override;

  void* allocate(int64_t bytes) override;
  void release(void* memory, int64_t bytes) noexcept override;
  std::unique_ptr<SharedMemory> share(int64_t bytes) override;
  std::unique_ptr<SharedMemory> open_shared(const std::string& name, int64_t bytes) override;
  int64_t free_bytes() override;
  int64_t reserved_bytes() override;
  void trim() override;
  void sync() override;
  void settle() override;
  void store(void* to, const void* host, int64_t bytes) override;
  void upload(void* to, int64_t to_pitch, const void* host, int64_t host_pitch, int64_t width, int64_t rows) override;
  void download(void* host, int64_t host_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) override;
  void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) override;
  void begin_recording() override;
  std::unique_ptr<Recording> end_recording() override;
  void abandon_recording() noexcept override;
  void replay(Recording& recording) override;
  std::unique_ptr<Marks> make_marks(int32_t slots) override;
  bool recording() const { return recording_; }

  // Queues bytes of host memory of any kind through two pinned buffers; on return `from` has been read. take(begin, bytes, staged) is
  // called for each piece, to queue work that reads its bytes at `staged` (pinned memory) in the stream's order.
  template <class Take>
  void stage(const void* from, int64_t bytes, int64_t multiple, Take&& take);
  // Lets both devices reach the pools of each other; false where the hardware does not.
  bool open_peer(CudaDevice& other);

 private:
  friend struct MadeMemory;
  struct Staging;
  void* next_staging(const unsigned char* from, int64_t bytes); // waits for the buffer, fills it
  void staged();                                                // the work that reads the buffer is queued
  void free_deferred() noexcept;

  cudaMemPool_t pool_ = nullptr; // NULL where the driver has none
  int64_t total_bytes_ = 0;
  int64_t unpooled_bytes_ = 0; // shared memory made here, and everything where there is no pool
  bool sync_each_op_ = false;
  bool recording_ = false;
  std::vector<std::pair<void*, int64_t>> deferred_; // given back while recording
  std::vector<int32_t> readers_; // devices that may read the pool
  std::shared_ptr<Staging> staging_; // made at the first use
};

constexpr int64_t staging_bytes = int64_t(64) << 20;

template <class Take>
void CudaDevice::stage(const void* from, int64_t bytes, int64_t multiple, Take&& take) {
  const int64_t piece = staging_bytes / multiple * multiple;
  for (int64_t begin = 0; begin < bytes; begin += piece) {
    const int64_t size = bytes - begin < piece ? bytes - begin : piece;
    take(begin, size, next_staging(static_cast<const unsigned char*>(from) + begin, size));
    staged();
  }
}

// the device of a context, made this thread's current one
inline CudaDevice& cuda_device(Context& context) {
  CudaDevice& device = static_cast<CudaDevice&>(*context.device);
  use_device(device.id);
  return device;
}
inline cudaStream_t stream_of(Context& context) { return cuda_device(context).stream; }

// Calls body(T()) with the device type of a floating dtype.
template <class Body>
decltype(auto) with_device_type(int32_t dtype, Body&& body) {
  switch (dtype) {
    case KVA_F32: return std::forward<Body>(body)(float());
    case KVA_F16: return std::forward<Body>(body)(__half());
    case KVA_BF16: return std::forward<Body>(body)(__nv_bfloat16());
  }
  fail(KVA_E_ARGUMENT, "type %s is not one of f32, f16, bf16", dtype_name(dtype));
}

// every row begins at a multiple of 16 bytes
inline bool takes_packs(const Matrix& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && (matrix.rows <= 1 || matrix.pitch() % 16 == 0);
}

template <class A, class B>
KVA_HOST_DEVICE constexpr auto divide_up(A a, B b) {
  return (a + b - 1) / b;
}

}  // namespace kva

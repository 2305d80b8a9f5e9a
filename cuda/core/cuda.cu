// One CUDA device: memory from a pool of its own, a stream, recordings as CUDA graphs.
#include "cuda.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace kva {

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError(); // an error that is not sticky must not be found again by the next op
  const int32_t code = status == cudaErrorMemoryAllocation                                          ? KVA_E_MEMORY
                       : status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver ? KVA_E_NO_DEVICE
                                                                                                    : KVA_E_DEVICE;
  const bool sticky = cudaPeekAtLastError() != cudaSuccess;
  fail(code, "%s failed: %s (%s)%s", call, cudaGetErrorString(status), cudaGetErrorName(status),
       sticky ? "; the device cannot be used by this process any more. KVACCEL_SYNC=1 names the op at fault" : "");
}

namespace {
thread_local int32_t current = -1;
}

int32_t current_device() noexcept { return current; }

bool starts_early() noexcept {
  static std::atomic<int32_t> known[64] = {}; // major compute capability; 0: not asked yet
  std::atomic<int32_t>& major = known[current & 63];
  if (major == 0) {
    int32_t asked = 1;
    cudaDeviceGetAttribute(&asked, cudaDevAttrComputeCapabilityMajor, current);
    major = asked;
  }
  return major >= 9;
}

cudaError_t try_device(int32_t id) noexcept {
  if (current == id) return cudaSuccess;
  const cudaError_t status = cudaSetDevice(id);
  if (status == cudaSuccess) current = id;
  return status;
}

void use_device(int32_t id) { check_cuda(try_device(id), "cudaSetDevice"); }

CudaDevice::CudaDevice(int32_t id) : id(id) {
  use_device(id);
  CUDA_TRY(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, id));
  CUDA_TRY(cudaDeviceGetAttribute(&block_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id));
  int32_t major = 0, minor = 0, pools = 0;
  CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id));
  CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, id));
  compute_capability = major * 10 + minor;
  if (compute_capability < 80)
    fail(KVA_E_UNSUPPORTED, "device %d has compute capability %d.%d, this library needs 8.0 or more", id, major, minor);
  const char* sync_each_op = std::getenv("KVACCEL_SYNC");
  sync_each_op_ = sync_each_op != nullptr && std::strcmp(sync_each_op, "1") == 0;

  size_t free = 0, total = 0;
  CUDA_TRY(cudaMemGetInfo(&free, &total));
  total_bytes_ = int64_t(total);
  CUDA_TRY(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, id));
  CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (!pools) return;
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = id;
  uint64_t keep_all = UINT64_MAX;
  cudaError_t status = cudaMemPoolCreate(&pool_, &properties);
  if (status == cudaSuccess) status = cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all);
  if (status == cudaSuccess) return;
  if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
  cudaStreamDestroy(stream);
  check_cuda(status, "cudaMemPoolCreate");
}

void* CudaDevice::allocate(int64_t bytes) {
  use_device(id);
  require(!recording_, "memory cannot be taken while a graph is captured");
  if (bytes > total_bytes_) return nullptr;
  void* memory = nullptr;
  const size_t size = std::max<int64_t>(bytes, 1);
  const auto take = [&] { return pool_ != nullptr ? cudaMallocFromPoolAsync(&memory, size, pool_, stream) : cudaMalloc(&memory, size); };
  cudaError_t status = take();
  if (status == cudaErrorMemoryAllocation) { // what is cached may be in pieces that are too small
    cudaGetLastError();
    trim();
    status = take();
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check_cuda(status, "cudaMallocFromPoolAsync");
  if (pool_ == nullptr) unpooled_bytes_ += bytes;
  return memory;
}

void CudaDevice::release(void* memory, int64_t bytes) noexcept {
  if (memory == nullptr) return;
  if (recording_) {
    deferred_.emplace_back(memory, bytes);
    return;
  }
  if (try_device(id) != cudaSuccess) return; // a failed device: nothing is left to give back
  if (pool_ != nullptr) {
    cudaFreeAsync(memory, stream);
  } else {
    cudaFree(memory); // waits for the device
    unpooled_bytes_ -= bytes;
  }
}

void CudaDevice::free_deferred() noexcept {
  for (const auto& [memory, bytes] : deferred_) release(memory, bytes);
  deferred_.clear();
}

int64_t CudaDevice::free_bytes() {
  use_device(id);
  size_t free = 0, total = 0;
  CUDA_TRY(cudaMemGetInfo(&free, &total));
  if (pool_ == nullptr) return int64_t(free);
  uint64_t reserved = 0, used = 0; // what the pool has taken and not given out
  CUDA_TRY(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
  CUDA_TRY(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used));
  return int64_t(free) + int64_t(reserved - used);
}

int64_t CudaDevice::reserved_bytes() {
  uint64_t pooled = 0;
  use_device(id);
  if (pool_ != nullptr) CUDA_TRY(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &pooled));
  return unpooled_bytes_ + int64_t(pooled);
}

void CudaDevice::trim() {
  sync(); // what was given back is free once the stream got there
  if (pool_ != nullptr) CUDA_TRY(cudaMemPoolTrimTo(pool_, 0));
}

void CudaDevice::sync() {
  use_device(id);
  require(!recording_, "cannot wait for the device while a graph is captured");
  CUDA_TRY(cudaStreamSynchronize(stream));
}

void CudaDevice::settle() {
  if (sync_each_op_ && !recording_) sync();
}

namespace {

constexpr int kStoreWords = 768; // a kernel's arguments hold 4 KB

struct StorePiece {
  uint32_t words[kStoreWords];
};

__global__ void store_kernel(uint32_t* to, int words, const __grid_constant__ StorePiece piece) {
  for (int i = threadIdx.x; i < words; i += blockDim.x) to[i] = piece.words[i];
}

} // namespace

void CudaDevice::store(void* to, const void* host, int64_t bytes) {
  use_device(id);
  require(bytes % 4 == 0 && reinterpret_cast<uintptr_t>(to) % 4 == 0, "a store of %lld bytes is not of whole words", static_cast<long long>(bytes));
  StorePiece piece;
  for (int64_t begin = 0; begin < bytes; begin += sizeof piece) {
    const int64_t size = std::min<int64_t>(sizeof piece, bytes - begin);
    std::memcpy(&piece, static_cast<const char*>(host) + begin, size);
    store_kernel<<<1, 256, 0, stream>>>(reinterpret_cast<uint32_t*>(static_cast<char*>(to) + begin), static_cast<int>(size / 4), piece);
    check_launch();
  }
}

void CudaDevice::upload(void* to, int64_t to_pitch, const void* host, int64_t host_pitch, int64_t width, int64_t rows) {
  use_device(id);
  require(!recording_, "an upload waits, so it cannot be captured");
  if (width == 0 || rows == 0) return;
  if (rows == 1 || (to_pitch == width && host_pitch == width))
    CUDA_TRY(cudaMemcpyAsync(to, host, width * rows, cudaMemcpyHostToDevice, stream));
  else
    CUDA_TRY(cudaMemcpy2DAsync(to, to_pitch, host, host_pitch, width, rows, cudaMemcpyHostToDevice, stream));
  sync();
}

void CudaDevice::download(void* host, int64_t host_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) {
  use_device(id);
  require(!recording_, "a download waits, so it cannot be captured");
  if (width == 0 || rows == 0) return;
  if (rows == 1 || (from_pitch == width && host_pitch == width))
    CUDA_TRY(cudaMemcpyAsync(host, from, width * rows, cudaMemcpyDeviceToHost, stream));
  else
    CUDA_TRY(cudaMemcpy2DAsync(host, host_pitch, from, from_pitch, width, rows, cudaMemcpyDeviceToHost, stream));
  sync();
}

void CudaDevice::copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) {
  use_device(id);
  if (width == 0 || rows == 0) return;
  if (rows == 1 || (to_pitch == width && from_pitch == width))
    CUDA_TRY(cudaMemcpyAsync(to, from, width * rows, cudaMemcpyDeviceToDevice, stream));
  else
    CUDA_TRY(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDeviceToDevice, stream));
}

namespace {

struct CudaRecording final : Recording {
  int32_t device;
  cudaGraphExec_t graph = nullptr;
  explicit CudaRecording(int32_t device) : device(device) {}
  ~CudaRecording() override {
    if (graph != nullptr && try_device(device) == cudaSuccess) cudaGraphExecDestroy(graph);
  }
};

} // namespace

void CudaDevice::begin_recording() {
  use_device(id);
  CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  recording_ = true;
}

std::unique_ptr<Recording> CudaDevice::end_recording() {
  use_device(id);
  cudaGraph_t graph = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream, &graph);
  recording_ = false;
  free_deferred();
  check_cuda(status, "cudaStreamEndCapture");
  auto recording = std::make_unique<CudaRecording>(id);
  const cudaError_t instantiated = cudaGraphInstantiate(&recording->graph, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(instantiated, "cudaGraphInstantiate");
  CUDA_TRY(cudaGraphUpload(recording->graph, stream));
  return recording;
}

void CudaDevice::abandon_recording() noexcept {
  if (!recording_) return;
  cudaGraph_t graph = nullptr;
  if (try_device(id) == cudaSuccess && cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError(); // that the capture failed is no news
  recording_ = false;
  free_deferred();
}

void CudaDevice::replay(Recording& recording) {
  use_device(id);
  CUDA_TRY(cudaGraphLaunch(static_cast<CudaRecording&>(recording).graph, stream));
}

}  // namespace kva

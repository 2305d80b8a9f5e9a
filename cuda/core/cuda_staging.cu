// Host memory to the device through two pinned buffers: threads fill one while the copy engine reads the other. Peers of a device.
#include <algorithm>
#include <cstring>
#include <thread>

#include "cuda.h"

namespace kva {

struct CudaDevice::Staging {
  void* buffers[2] = {};
  cudaEvent_t read[2] = {}; // the queued work that reads the buffer has run
  int next = 0;

  void open() {
    for (int i = 0; i < 2; ++i) {
      CUDA_TRY(cudaHostAlloc(&buffers[i], staging_bytes, cudaHostAllocDefault));
      CUDA_TRY(cudaEventCreateWithFlags(&read[i], cudaEventDisableTiming | cudaEventBlockingSync));
    }
  }
  ~Staging() {
    for (int i = 0; i < 2; ++i) {
      if (read[i] != nullptr) cudaEventDestroy(read[i]);
      if (buffers[i] != nullptr) cudaFreeHost(buffers[i]);
    }
  }
};

namespace {

// One thread reads a mapped file at 2 to 4 GB/s, the page faults included.
void copy_with_threads(void* to, const unsigned char* from, int64_t bytes) {
  constexpr int64_t least = int64_t(4) << 20;
  const int64_t threads = std::clamp<int64_t>(bytes / least, 1, std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 8));
  const int64_t share = divide_up(bytes, threads);
  const auto part = [&](int64_t i) {
    const int64_t begin = std::min(i * share, bytes), end = std::min(begin + share, bytes);
    std::memcpy(static_cast<unsigned char*>(to) + begin, from + begin, end - begin);
  };
  std::vector<std::jthread> others;
  others.reserve(threads);
  for (int64_t i = 1; i < threads; ++i) others.emplace_back(part, i);
  part(0);
}

}  // namespace

void* CudaDevice::next_staging(const unsigned char* from, int64_t bytes) {
  use_device(id);
  if (staging_ == nullptr) {
    auto staging = std::make_shared<Staging>();
    staging->open();
    staging_ = std::move(staging);
  }
  CUDA_TRY(cudaEventSynchronize(staging_->read[staging_->next]));
  copy_with_threads(staging_->buffers[staging_->next], from, bytes);
  return staging_->buffers[staging_->next];
}

void CudaDevice::staged() {
  CUDA_TRY(cudaEventRecord(staging_->read[staging_->next], stream));
  staging_->next = 1 - staging_->next;
}

bool CudaDevice::open_peer(CudaDevice& other) {
  const auto granted = [](const CudaDevice& owner, int32_t reader) {
    return std::find(owner.readers_.begin(), owner.readers_.end(), reader) != owner.readers_.end();
  };
  if (id == other.id || (granted(*this, other.id) && granted(other, id))) return true;
  int there = 0, back = 0;
  CUDA_TRY(cudaDeviceCanAccessPeer(&there, id, other.id));
  CUDA_TRY(cudaDeviceCanAccessPeer(&back, other.id, id));
  if (!there || !back) return false;
  const auto grant = [&](CudaDevice& owner, CudaDevice& reader) {
    if (granted(owner, reader.id)) return;
    use_device(reader.id);
    const cudaError_t status = cudaDeviceEnablePeerAccess(owner.id, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled)
      cudaGetLastError();
    else
      check_cuda(status, "cudaDeviceEnablePeerAccess");
    cudaMemAccessDesc access = {};
    access.location.type = cudaMemLocationTypeDevice;
    access.location.id = reader.id;
    access.flags = cudaMemAccessFlagsProtReadWrite;
    if (owner.pool_ != nullptr) CUDA_TRY(cudaMemPoolSetAccess(owner.pool_, &access, 1));
    owner.readers_.push_back(reader.id);
  };
  grant(*this, other);
  grant(other, *this);
  return true;
}

// Here, where Staging is complete.
CudaDevice::~CudaDevice() {
  if (try_device(id) != cudaSuccess) return;
  if (stream != nullptr) cudaStreamSynchronize(stream);
  staging_.reset();
  if (stream != nullptr) cudaStreamDestroy(stream);
  if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
}

}  // namespace kva

// Shared memory on CUDA: an allocation of its own, outside of the pools, whose handle other processes open (CUDA IPC).
#include <cstdio>
#include <cstring>

#include "cuda.h"

namespace kva {

namespace {

// An allocation shares a page of the device with others unless it fills its pages, and IPC opens whole pages.
constexpr int64_t page = int64_t(2) << 20;
int64_t whole_pages(int64_t bytes) { return (bytes + page - 1) / page * page; }

// The calls of CUDA IPC fail in many ways where a container, a driver or another system does not have it.
void check_ipc(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (cudaPeekAtLastError() != cudaSuccess) check_cuda(status, call); // the device failed
  fail(KVA_E_UNSUPPORTED, "%s failed: %s (%s): processes cannot share device memory here, or the one that made it is gone", call,
       cudaGetErrorString(status), cudaGetErrorName(status));
}

const char prefix[] = "cuda:";

std::string name_of(const cudaIpcMemHandle_t& handle) {
  std::string name = prefix;
  char digits[3];
  for (const char byte : handle.reserved) {
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    name += digits;
  }
  return name;
}

bool read_name(const std::string& name, cudaIpcMemHandle_t& handle) {
  constexpr size_t begin = sizeof prefix - 1;
  if (name.size() != begin + 2 * sizeof handle.reserved || name.compare(0, begin, prefix) != 0) return false;
  if (name.find_first_not_of("0123456789abcdef", begin) != std::string::npos) return false;
  for (size_t i = 0; i < sizeof handle.reserved; ++i)
    handle.reserved[i] = static_cast<char>(std::stoi(name.substr(begin + 2 * i, 2), nullptr, 16));
  return true;
}

struct OpenedMemory final : SharedMemory {
  const int32_t device;
  OpenedMemory(int32_t device, const std::string& name, int64_t size) : device(device) {
    cudaIpcMemHandle_t handle;
    require(read_name(name, handle), "\"%s\" is not the name of shared memory of a CUDA device", name.c_str());
    use_device(device);
    check_ipc(cudaIpcOpenMemHandle(&data, handle, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
    bytes = size;
  }
  ~OpenedMemory() override {
    if (try_device(device) != cudaSuccess) return;
    cudaDeviceSynchronize(); // what is queued may read it
    cudaIpcCloseMemHandle(data);
  }
  std::string name() override { fail(KVA_E_ARGUMENT, "the block was opened here; the process that made it gives its name"); }
};

} // namespace

struct MadeMemory final : SharedMemory {
  CudaDevice& device;
  MadeMemory(CudaDevice& device, void* memory, int64_t size) : device(device) {
    data = memory;
    bytes = size;
    device.unpooled_bytes_ += whole_pages(bytes);
  }
  ~MadeMemory() override {
    device.unpooled_bytes_ -= whole_pages(bytes);
    if (try_device(device.id) == cudaSuccess) cudaFree(data);
  }
  std::string name() override {
    use_device(device.id);
    cudaIpcMemHandle_t handle;
    check_ipc(cudaIpcGetMemHandle(&handle, data), "cudaIpcGetMemHandle");
    return name_of(handle);
  }
};

std::unique_ptr<SharedMemory> CudaDevice::share(int64_t bytes) {
  use_device(id);
  if (bytes > total_bytes_) return nullptr;
  void* memory = nullptr;
  cudaError_t status = cudaMalloc(&memory, whole_pages(bytes));
  if (status == cudaErrorMemoryAllocation) { // the pool may hold what is missing
    cudaGetLastError();
    trim();
    status = cudaMalloc(&memory, whole_pages(bytes));
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check_cuda(status, "cudaMalloc");
  return std::make_unique<MadeMemory>(*this, memory, bytes);
}

std::unique_ptr<SharedMemory> CudaDevice::open_shared(const std::string& name, int64_t bytes) {
  return std::make_unique<OpenedMemory>(id, name, bytes);
}

} // namespace kva

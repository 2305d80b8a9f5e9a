// What the CUDA build and its machine have: devices, versions, libraries; time marks.
#include "cublas.h"
#include "cuda.h"

namespace kva {
namespace {

struct CudaMarks final : Marks {
  CudaDevice& device;
  std::vector<cudaEvent_t> events;
  std::vector<bool> marked;

  CudaMarks(CudaDevice& device, int32_t slots) : device(device), events(slots), marked(slots) {}
  ~CudaMarks() override {
    if (try_device(device.id) != cudaSuccess) return;
    for (cudaEvent_t event : events)
      if (event != nullptr) cudaEventDestroy(event);
  }
  void open() {
    use_device(device.id);
    for (cudaEvent_t& event : events) CUDA_TRY(cudaEventCreate(&event));
  }
  void mark(int32_t slot) override {
    use_device(device.id);
    // A graph marks the time at each of its launches.
    CUDA_TRY(cudaEventRecordWithFlags(events[slot], device.stream, device.recording() ? cudaEventRecordExternal : cudaEventRecordDefault));
    marked[slot] = true;
  }
  float read(int32_t from, int32_t to) override {
    for (int32_t slot : {from, to}) require(marked[slot], "slot %d was never marked", slot);
    use_device(device.id);
    for (int32_t slot : {from, to}) CUDA_TRY(cudaEventSynchronize(events[slot]));
    float ms = 0;
    CUDA_TRY(cudaEventElapsedTime(&ms, events[from], events[to]));
    return ms;
  }
  void hold(int32_t slot, Device& other) override {
    require(marked[slot], "slot %d was never marked", slot);
    auto& waiting = static_cast<CudaDevice&>(other);
    use_device(waiting.id);
    CUDA_TRY(cudaStreamWaitEvent(waiting.stream, events[slot], 0));
  }
};

}  // namespace

std::unique_ptr<Marks> CudaDevice::make_marks(int32_t slots) {
  auto marks = std::make_unique<CudaMarks>(*this, slots);
  marks->open();
  return marks;
}

const char* backend_name() { return "cuda"; }

#define KVA_TEXT_OF(x) #x
#define KVA_TEXT(x) KVA_TEXT_OF(x)
const char* build_info() {
  return "nvcc " KVA_TEXT(__CUDACC_VER_MAJOR__) "." KVA_TEXT(__CUDACC_VER_MINOR__) ", g++ " __VERSION__ ", architectures " KVA_CUDA_TARGETS;
}

int32_t device_count() {
  int count = 0, driver = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    fail(KVA_E_NO_DEVICE, "no NVIDIA driver answers on this machine (libcuda.so.1 is absent or no driver is loaded); the CPU library needs none");
  if (status == cudaErrorInsufficientDriver)
    fail(KVA_E_NO_DEVICE, "the driver supports CUDA %d.%d, this library was built with %d.%d: install a newer driver, or build with an older toolkit",
         driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  if (status == cudaSuccess || status == cudaErrorNoDevice)
    fail(KVA_E_NO_DEVICE, "the driver shows no GPU to this process (CUDA_VISIBLE_DEVICES may hide them)");
  fail(KVA_E_NO_DEVICE, "the driver cannot list its devices: %s (%s)", cudaGetErrorString(status), cudaGetErrorName(status));
}

DeviceInfo device_info(int32_t device) {
  const int32_t count = device_count();
  if (device < 0 || device >= count) fail(KVA_E_NO_DEVICE, "device %d is not one of the %d that the driver shows", device, count);
  cudaDeviceProp properties;
  CUDA_TRY(cudaGetDeviceProperties(&properties, device));
  use_device(device);
  size_t free = 0, total = 0;
  CUDA_TRY(cudaMemGetInfo(&free, &total));
  return {properties.name, int64_t(total), int64_t(free), properties.major * 10 + properties.minor, properties.multiProcessorCount};
}

std::string blas_path() { return cublas_lt().path; }

std::unique_ptr<Device> open_device(int32_t device, int32_t) {
  const int32_t count = device_count();
  if (device < 0 || device >= count) fail(KVA_E_NO_DEVICE, "device %d is not one of the %d that the driver shows", device, count);
  return std::make_unique<CudaDevice>(device);
}

}  // namespace kva

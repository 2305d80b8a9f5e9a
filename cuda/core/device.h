// What a backend gives: memory, a queue, graphs and timers of one device. cpu.cpp implements it for the CPU build, cuda.cu for CUDA.
#pragma once
#include <memory>
#include <string>

#include "status.h"

namespace kva {

// A recorded sequence of queued work.
struct Recording {
  virtual ~Recording() = default;
};

// Time marks on the queue.
struct Device;
struct Marks {
  virtual ~Marks() = default;
  virtual void mark(int32_t slot) = 0;
  virtual float read(int32_t from, int32_t to) = 0;  // milliseconds; waits for both; fails where a slot was never marked
  virtual void hold(int32_t slot, Device& other) = 0;  // what `other` is given from here on waits for the mark
};

// Memory of a device that other processes of the machine can open by its name; freed, or let go, with this object.
struct SharedMemory {
  void* data = nullptr;
  int64_t bytes = 0;
  virtual ~SharedMemory() = default;
  virtual std::string name() = 0;  // of memory that was made here
};

// Everything "queued" runs in the order of the calls; host pointers are named host, all others are device memory.
struct Device {
  virtual ~Device() = default;

  // nullptr when the device has no room. At least 64-byte aligned. Memory given back may still be read by work queued before.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* memory, int64_t bytes) noexcept = 0;
  // nullptr when the device has no room
  virtual std::unique_ptr<SharedMemory> share(int64_t bytes) = 0;
  // Memory of another process, with what it holds by now; it is only read. Fails with KVA_E_ARGUMENT where the name is none of this backend,
  // with KVA_E_UNSUPPORTED where the system does not open it.
  virtual std::unique_ptr<SharedMemory> open_shared(const std::string& name, int64_t bytes) = 0;
  virtual int64_t free_bytes() = 0;
  virtual int64_t reserved_bytes() = 0;  // taken from the device, cached or in use
  virtual void trim() = 0;               // gives cached memory back

  virtual void sync() = 0;
  // After each op: where KVACCEL_SYNC=1, waits (unless capturing) and fails if the device did.
  virtual void settle() = 0;

  // Queued write of a few host bytes, taken before the call returns; never waits.
  virtual void store(void* to, const void* host, int64_t bytes) = 0;
  // rows of `width` bytes, `pitch` bytes apart. upload and download wait until the host memory is free or filled.
  virtual void upload(void* to, int64_t to_pitch, const void* host, int64_t host_pitch, int64_t width, int64_t rows) = 0;
  virtual void download(void* host, int64_t host_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) = 0;
  virtual void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) = 0;

  // Between begin and end, queued work is recorded and not run.
  virtual void begin_recording() = 0;
  virtual std::unique_ptr<Recording> end_recording() = 0;
  virtual void abandon_recording() noexcept = 0;
  virtual void replay(Recording& recording) = 0;

  virtual std::unique_ptr<Marks> make_marks(int32_t slots) = 0;
};

struct DeviceInfo {
  std::string name;
  int64_t total_bytes, free_bytes;
  int32_t compute_capability;  // 90 for 9.0; 0 on the CPU
  int32_t processors;
};

const char* backend_name();
const char* build_info();
int32_t device_count();  // fails with KVA_E_NO_DEVICE where there is no driver
DeviceInfo device_info(int32_t device);
std::string blas_path();
std::unique_ptr<Device> open_device(int32_t device, int32_t threads);

}  // namespace kva

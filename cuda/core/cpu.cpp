// The CPU as a device: memory of the host, recorded closures as graphs, the steady clock as timer.
#include "cpu.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <thread>

#include "../ops/kernels.h"

namespace kva {
namespace {

constexpr std::align_val_t alignment{64};
// The kernel promises more memory than it has and ends the process when it is used; larger requests are compared with what is free.
constexpr int64_t checked_bytes = 16 << 20;

int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// The number after `key` of /proc/meminfo, in bytes.
int64_t meminfo(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;)
    if (int64_t kib; word == key && file >> kib) return kib * 1024;
  return int64_t(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

// What a cgroup leaves to this process; INT64_MAX where there is no limit.
int64_t cgroup_left() {
  int64_t limit, used;
  std::ifstream limit_file("/sys/fs/cgroup/memory.max"), used_file("/sys/fs/cgroup/memory.current");
  if (!(limit_file >> limit) || !(used_file >> used)) return INT64_MAX;
  int64_t cached = 0;
  std::ifstream statistics("/sys/fs/cgroup/memory.stat");
  for (std::string word; statistics >> word;)
    if (word == "inactive_file" && statistics >> cached) break;
  return std::max<int64_t>(0, limit - used + cached);
}

int64_t free_memory() { return std::min(meminfo("MemAvailable:"), cgroup_left()); }

int32_t environment_count(const char* name, int32_t fallback) {
  const char* text = getenv(name);
  if (text == nullptr || *text == '\0') return fallback;
  char* end;
  long value = strtol(text, &end, 10);
  require(*end == '\0' && value >= 1 && value <= 1024, "%s is \"%s\", it must be a number from 1 to 1024", name, text);
  return int32_t(value);
}

int32_t cores() { return std::max(1u, std::thread::hardware_concurrency()); }

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(": ") + 2));
  return "CPU";
}

void copy_rows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) {
  if (to_pitch == width && from_pitch == width) {
    memcpy(to, from, width * rows);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * from_pitch, width);
}

struct ClockMarks : Marks {
  using Clock = std::chrono::steady_clock;
  Cpu& device;
  std::vector<Clock::time_point> times;

  ClockMarks(Cpu& device, int32_t slots) : device(device), times(slots) {}
  void mark(int32_t slot) override {
    device.enqueue([this, slot] { times[slot] = Clock::now(); });
  }
  float read(int32_t from, int32_t to) override {
    for (int32_t slot : {from, to}) require(times[slot] != Clock::time_point{}, "slot %d was never marked", slot);
    return std::chrono::duration<float, std::milli>(times[to] - times[from]).count();
  }
  void hold(int32_t slot, Device&) override { require(times[slot] != Clock::time_point{}, "slot %d was never marked", slot); }
};

}  // namespace

void* Cpu::allocate(int64_t bytes) {
  if (bytes >= checked_bytes && bytes > free_memory()) return nullptr;
  void* memory = ::operator new(round_up(bytes), alignment, std::nothrow);
  if (memory != nullptr) reserved_ += round_up(bytes);
  return memory;
}

void Cpu::release(void* memory, int64_t bytes) noexcept {
  ::operator delete(memory, alignment);
  reserved_ -= round_up(bytes);
}

int64_t Cpu::free_bytes() { return free_memory(); }

void Cpu::store(void* to, const void* host, int64_t bytes) {
  if (recording) {
    enqueue([to, taken = std::string(static_cast<const char*>(host), bytes)] { memcpy(to, taken.data(), taken.size()); });
  } else {
    memcpy(to, host, bytes);
  }
}

void Cpu::upload(void* to, int64_t to_pitch, const void* host, int64_t host_pitch, int64_t width, int64_t rows) {
  copy_rows(to, to_pitch, host, host_pitch, width, rows);
}

void Cpu::download(void* host, int64_t host_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) {
  copy_rows(host, host_pitch, from, from_pitch, width, rows);
}

void Cpu::copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) {
  enqueue([=] { copy_rows(to, to_pitch, from, from_pitch, width, rows); });
}

void Cpu::begin_recording() { recording = std::make_unique<CpuRecording>(); }

std::unique_ptr<Recording> Cpu::end_recording() { return std::move(recording); }

void Cpu::abandon_recording() noexcept { recording.reset(); }

void Cpu::replay(Recording& recording) {
  for (auto& work : static_cast<CpuRecording&>(recording).work) work();
}

std::unique_ptr<Marks> Cpu::make_marks(int32_t slots) { return std::make_unique<ClockMarks>(*this, slots); }

const char* backend_name() { return "cpu"; }

const char* build_info() {
  static const std::string text = std::string("compiler " __VERSION__ ", instruction sets: ") + kernel_names() + "; in use: " + kernels().name;
  return text.c_str();
}

int32_t device_count() { return environment_count("KVACCEL_CPU_DEVICES", 1); }

DeviceInfo device_info(int32_t) {
  return {cpu_model() + " (" + kernels().name + ")", meminfo("MemTotal:"), free_memory(), 0, cores()};
}

std::string blas_path() { return ""; }

std::unique_ptr<Device> open_device(int32_t, int32_t threads) {
  kernels();  // an unknown KVACCEL_CPU_ISA is an error here, not in an op
  if (threads == 0) threads = environment_count("KVACCEL_THREADS", cores());
  return std::make_unique<Cpu>(threads);
}

}  // namespace kva

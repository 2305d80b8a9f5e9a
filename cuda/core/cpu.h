// The CPU as a device: queued work runs at once, on a pool of threads, or is recorded while a graph is captured.
#pragma once
#include <functional>
#include <utility>
#include <vector>

#include "context.h"
#include "pool.h"

namespace kva {

struct CpuRecording : Recording {
  std::vector<std::function<void()>> work;
};

struct Cpu : Device {
  Pool pool;
  std::unique_ptr<CpuRecording> recording;

  explicit Cpu(int32_t threads) : pool(threads) {}

  template <class Work>
  void enqueue(Work&& work) {
    if (recording) {
      recording->work.emplace_back(std::forward<Work>(work));
    } else {
      work();
    }
  }

  void* allocate(int64_t bytes) override;
  void release(void* memory, int64_t bytes) noexcept override;
  std::unique_ptr<SharedMemory> share(int64_t bytes) override;
  std::unique_ptr<SharedMemory> open_shared(const std::string& name, int64_t bytes) override;
  int64_t free_bytes() override;
  int64_t reserved_bytes() override { return reserved_; }
  void trim() override {}
  void sync() override {}
  void settle() override {}
  void store(void* to, const void* host, int64_t bytes) override;
  void upload(void* to, int64_t to_pitch, const void* host, int64_t host_pitch, int64_t width, int64_t rows) override;
  void download(void* host, int64_t host_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) override;
  void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) override;
  void begin_recording() override;
  std::unique_ptr<Recording> end_recording() override;
  void abandon_recording() noexcept override;
  void replay(Recording& recording) override;
  std::unique_ptr<Marks> make_marks(int32_t slots) override;

 private:
  friend struct MadeMemory;
  int64_t reserved_ = 0;
};

inline Cpu& cpu(Context& context) { return static_cast<Cpu&>(*context.device); }

// Queues body(task, worker) for each task of [0, tasks).
template <class Body>
void parallel(Context& context, int64_t tasks, Body body) {
  Cpu& device = cpu(context);
  device.enqueue([&device, tasks, body]() mutable { device.pool.run(tasks, body); });
}

// Queues body(begin, end) over ranges of [0, count) of at least `grain`: small work stays on the calling thread.
template <class Body>
void parallel_ranges(Context& context, int64_t count, int64_t grain, Body body) {
  int64_t pieces = 4 * cpu(context).pool.threads();
  int64_t length = std::max<int64_t>(std::max<int64_t>(1, grain), (count + pieces - 1) / pieces);
  parallel(context, (count + length - 1) / length,
           [=](int64_t task, int32_t) { body(task * length, std::min<int64_t>(count, (task + 1) * length)); });
}

}  // namespace kva

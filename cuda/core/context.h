// Context: one device's queue with exact accounts of its memory, one scratch arena, the graph being captured, counts of what lives.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device.h"

namespace kva {

constexpr int32_t memory_kinds = 4;
extern const char* const memory_names[memory_kinds];

struct Batch;
struct Graph;

// What must be gone before the context goes.
struct Live {
  int32_t tensors = 0, kvs = 0, batches = 0, graphs = 0, timers = 0, shared = 0;
};

struct Context {
  const int32_t device_id;
  const std::unique_ptr<Device> device;
  Live live;
  std::vector<Batch*> batches;  // so that a destroyed cache leaves the batches it is in

  Context(int32_t device_id, int32_t threads);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // ---- memory: bytes are those asked for ----
  void* allocate(int32_t kind, int64_t bytes);  // KVA_E_MEMORY with needed, free and limit
  void release(void* memory) noexcept;
  // Shared memory, made or opened, is counted here, too, until uncount().
  std::unique_ptr<SharedMemory> share(int32_t kind, int64_t bytes);
  std::unique_ptr<SharedMemory> open_shared(int32_t kind, int64_t bytes, const std::string& name);
  void uncount(int32_t kind, int64_t bytes) noexcept;
  // The arena: every op takes all it needs with one call, and the next op reuses it. It only grows, and never while capturing:
  // what a captured op needs is reserved before (attention_decode_reserve). Where graphs live, an outgrown arena stays until they go.
  void* scratch(int64_t bytes);
  void trim();
  struct Account {
    int64_t now = 0, peak = 0, allocations = 0;
  };
  Account account(int32_t kind) const;  // KVA_MEMORY_ALL: all kinds
  void reset_peak();
  void set_limit(int64_t bytes) { limit_ = bytes; }

  // ---- graphs ----
  // A graph replays queued work without the calls that queued it, so an op's bookkeeping on the host is given to these two.
  // Eager: both run at once. Capturing: both are recorded, and each launch runs all conditions, then all effects, then the work.
  // Hence an op never decides on the host by row counts what it queues while capturing: counts are read on the device.
  void condition(std::function<void()> check);
  void effect(std::function<void()> change);
  // Appends to a layer of a batch that the graph being captured has so far, which conditions must add to the host's counts; 0 when eager.
  int32_t& recorded_appends(const Batch& batch, int32_t layer);
  // The graph being captured changes rows of the layer otherwise, or, with every_layer, the positions of a batch; nothing when eager.
  static constexpr int32_t every_layer = -1;
  void record_change(int32_t layer);
  // Whether all that the graph being captured does so far to this layer of any cache is `appends` appends by this batch. What else a kernel of it
  // reads of the layer is as it was before the graph's launch, and may be read before the kernels in front of it have ended. False when eager.
  bool only_appended(const Batch& batch, int32_t layer, int32_t appends) const;
  bool capturing() const { return capture_ != nullptr; }
  void require_eager() const;  // KVA_E_ARGUMENT while capturing
  void begin_capture();
  Graph* end_capture();
  void abandon_capture();
  void graph_gone() noexcept;

 private:
  [[noreturn]] void refuse(int32_t kind, int64_t bytes, int64_t free) const;
  void require_room(int32_t kind, int64_t bytes) const;  // under the limit
  void count(int32_t kind, int64_t bytes) noexcept;

  struct Block {
    int32_t kind;
    int64_t bytes;
  };
  Account accounts_[memory_kinds], all_;
  int64_t limit_ = 0;
  std::unordered_map<void*, Block> blocks_;
  void* arena_ = nullptr;
  int64_t arena_bytes_ = 0;
  std::vector<void*> outgrown_;
  std::unique_ptr<Graph> capture_;
  std::map<std::pair<const Batch*, int32_t>, int32_t> recorded_appends_;
  std::set<int32_t> recorded_changes_;  // layers
};

struct Graph {
  Context& context;
  std::vector<std::function<void()>> conditions, effects;
  std::unique_ptr<Recording> recording;

  explicit Graph(Context& context) : context(context) {}
  void launch();
};

struct Timer {
  Context& context;
  const int32_t slots;
  const std::unique_ptr<Marks> marks;
  Timer(Context& context, int32_t slots);
  ~Timer();
};

}  // namespace kva

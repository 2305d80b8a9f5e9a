// Memory accounts, the scratch arena, captured graphs and timers: what every backend shares above its Device.
#include "context.h"

#include <algorithm>

namespace kva {

const char* const memory_names[memory_kinds] = {"weights", "activations", "cache", "scratch"};

Context::Context(int32_t device_id, int32_t threads) : device_id(device_id), device(open_device(device_id, threads)) {}

Context::~Context() {
  capture_.reset();
  for (auto& [memory, block] : blocks_) device->release(memory, block.bytes);
}

void Context::refuse(int32_t kind, int64_t bytes, int64_t free) const {
  fail(KVA_E_MEMORY, "%lld bytes are needed for %s, %lld are free, the limit is %lld%s", (long long)bytes, memory_names[kind],
       (long long)free, (long long)limit_, limit_ > 0 ? "" : " (none)");
}

void Context::require_room(int32_t kind, int64_t bytes) const {
  if (limit_ > 0 && bytes > limit_ - all_.now) refuse(kind, bytes, std::max<int64_t>(0, limit_ - all_.now));
}

void Context::count(int32_t kind, int64_t bytes) noexcept {
  for (Account* account : {&accounts_[kind], &all_}) {
    account->now += bytes;
    account->peak = std::max(account->peak, account->now);
    account->allocations += 1;
  }
}

void Context::uncount(int32_t kind, int64_t bytes) noexcept {
  for (Account* account : {&accounts_[kind], &all_}) {
    account->now -= bytes;
    account->allocations -= 1;
  }
}

void* Context::allocate(int32_t kind, int64_t bytes) {
  require_room(kind, bytes);
  blocks_.reserve(blocks_.size() + 1);
  void* memory = device->allocate(bytes);
  if (memory == nullptr) refuse(kind, bytes, device->free_bytes());
  try {
    blocks_.emplace(memory, Block{kind, bytes});
  } catch (...) {
    device->release(memory, bytes);
    throw;
  }
  count(kind, bytes);
  return memory;
}

void Context::release(void* memory) noexcept {
  auto found = blocks_.find(memory);
  if (found == blocks_.end()) return;
  Block block = found->second;
  blocks_.erase(found);
  uncount(block.kind, block.bytes);
  device->release(memory, block.bytes);
}

std::unique_ptr<SharedMemory> Context::share(int32_t kind, int64_t bytes) {
  require_room(kind, bytes);
  auto memory = device->share(bytes);
  if (memory == nullptr) refuse(kind, bytes, device->free_bytes());
  count(kind, bytes);
  return memory;
}

std::unique_ptr<SharedMemory> Context::open_shared(int32_t kind, int64_t bytes, const std::string& name) {
  require_room(kind, bytes);
  auto memory = device->open_shared(name, bytes);
  count(kind, bytes);
  return memory;
}

void* Context::scratch(int64_t bytes) {
  if (bytes <= arena_bytes_) return arena_;
  if (capturing()) fail(KVA_E_ARGUMENT, "%lld bytes of scratch are needed while a graph is captured, %lld are there; run the op once before",
                        (long long)bytes, (long long)arena_bytes_);
  if (live.graphs > 0) {
    outgrown_.push_back(arena_);
  } else {
    release(arena_);
  }
  arena_ = nullptr;
  arena_bytes_ = 0;
  arena_ = allocate(KVA_MEMORY_SCRATCH, bytes);
  arena_bytes_ = bytes;
  return arena_;
}

void Context::trim() {
  require_eager();
  if (live.graphs == 0) {
    release(arena_);
    arena_ = nullptr;
    arena_bytes_ = 0;
  }
  device->trim();
}

Context::Account Context::account(int32_t kind) const { return kind == KVA_MEMORY_ALL ? all_ : accounts_[kind]; }

void Context::reset_peak() {
  for (Account& account : accounts_) account.peak = account.now;
  all_.peak = all_.now;
}

void Context::condition(std::function<void()> check) {
  if (capturing()) {
    capture_->conditions.push_back(std::move(check));
  } else {
    check();
  }
}

void Context::effect(std::function<void()> change) {
  if (capturing()) {
    capture_->effects.push_back(std::move(change));
  } else {
    change();
  }
}

int32_t& Context::recorded_appends(const Batch& batch, int32_t layer) {
  int32_t& count = recorded_appends_[{&batch, layer}];
  if (!capturing()) count = 0;
  return count;
}

void Context::record_change(int32_t layer) {
  if (capturing()) recorded_changes_.insert(layer);
}

bool Context::only_appended(const Batch& batch, int32_t layer, int32_t appends) const {
  if (!capturing() || recorded_changes_.contains(layer) || recorded_changes_.contains(every_layer)) return false;
  int32_t by_batch = 0, by_others = 0;
  for (const auto& [place, count] : recorded_appends_)
    if (place.second == layer) (place.first == &batch ? by_batch : by_others) += count;
  return by_batch == appends && by_others == 0;
}

void Context::require_eager() const { require(!capturing(), "this cannot be part of a graph; end or abandon the capture first"); }

void Context::begin_capture() {
  require(!capturing(), "a graph is being captured already");
  auto graph = std::make_unique<Graph>(*this);
  device->begin_recording();
  recorded_appends_.clear();
  recorded_changes_.clear();
  capture_ = std::move(graph);
}

Graph* Context::end_capture() {
  require(capturing(), "no graph is being captured");
  std::unique_ptr<Graph> graph = std::move(capture_);
  graph->recording = device->end_recording();
  live.graphs += 1;
  return graph.release();
}

void Context::abandon_capture() {
  if (!capturing()) return;
  device->abandon_recording();
  capture_.reset();
}

void Context::graph_gone() noexcept {
  live.graphs -= 1;
  if (live.graphs > 0) return;
  for (void* memory : outgrown_) release(memory);
  outgrown_.clear();
}

void Graph::launch() {
  context.require_eager();
  for (auto& check : conditions) check();
  for (auto& change : effects) change();
  context.device->replay(*recording);
}

Timer::Timer(Context& context, int32_t slots) : context(context), slots(slots), marks(context.device->make_marks(slots)) {
  context.live.timers += 1;
}

Timer::~Timer() { context.live.timers -= 1; }

}  // namespace kva

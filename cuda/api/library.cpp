// extern "C": library, devices, contexts, memory, graphs, timers.
#include <algorithm>
#include <cstring>

#include "check.h"

using namespace kva;

namespace kva {

void copy_text(const std::string& text, char* to, int32_t bytes) {
  require(bytes > 0, "there is room for %d bytes, it must be at least 1", bytes);
  size_t length = std::min<size_t>(text.size(), bytes - 1);
  memcpy(to, text.data(), length);
  to[length] = '\0';
}

}  // namespace kva

int32_t kva_abi_version(void) { return KVA_ABI_VERSION; }

const char* kva_backend_name(void) { return backend_name(); }

const char* kva_build_info(void) {
  const char* info = nullptr;
  return guard("build_info", [&] { info = build_info(); }) == KVA_OK ? info : last_error();
}

const char* kva_status_text(int32_t status) { return status_text(status); }

const char* kva_last_error(void) { return last_error(); }

int32_t kva_device_count(int32_t* count) {
  return guard("device_count", [&] {
    require_out(count, "count");
    *count = 0;
    *count = device_count();
  });
}

int32_t kva_device_info(int32_t device, char* name, int32_t name_bytes, int64_t* info) {
  return guard("device_info", [&] {
    require_out(name, "name");
    require_out(info, "info");
    int32_t count = device_count();
    if (device < 0 || device >= count) fail(KVA_E_NO_DEVICE, "device is %d, there are %d", device, count);
    DeviceInfo found = device_info(device);
    copy_text(found.name, name, name_bytes);
    info[0] = found.total_bytes;
    info[1] = found.free_bytes;
    info[2] = found.compute_capability;
    info[3] = found.processors;
  });
}

int32_t kva_blas_path(char* path, int32_t path_bytes) {
  return guard("blas_path", [&] {
    require_out(path, "path");
    copy_text(blas_path(), path, path_bytes);
  });
}

int32_t kva_context_create(int32_t device, int32_t threads, kva_context** out) {
  return guard("context_create", [&] {
    require_out(out, "out");
    require(threads >= 0 && threads <= 1024, "threads is %d, it must be from 0 to 1024", threads);
    int32_t count = device_count();
    if (device < 0 || device >= count) fail(KVA_E_NO_DEVICE, "device is %d, there are %d", device, count);
    *out = reinterpret_cast<kva_context*>(new Context(device, threads));
  });
}

int32_t kva_context_destroy(kva_context* context) {
  if (context == nullptr) return KVA_OK;
  return guard("context_destroy", [&] {
    Context& c = get(context, "context");
    const Live& live = c.live;
    if (live.tensors + live.kvs + live.batches + live.graphs + live.timers + live.shared > 0)
      fail(KVA_E_BUSY, "%d tensors, %d caches, %d batches, %d graphs, %d timers and %d shared blocks of the context still live", live.tensors,
           live.kvs, live.batches, live.graphs, live.timers, live.shared);
    delete &c;
  });
}

int32_t kva_sync(kva_context* context) {
  return guard("sync", [&] {
    Context& c = get(context, "context");
    c.require_eager();
    c.device->sync();
  });
}

int32_t kva_memory(kva_context* context, int32_t kind, int64_t* out) {
  return guard("memory", [&] {
    Context& c = get(context, "context");
    require_out(out, "out");
    require(kind >= KVA_MEMORY_ALL && kind < memory_kinds, "kind is %d, it must be from %d to %d", kind, KVA_MEMORY_ALL, memory_kinds - 1);
    Context::Account account = c.account(kind);
    out[0] = account.now;
    out[1] = account.peak;
    out[2] = account.allocations;
    out[3] = c.device->reserved_bytes();
  });
}

int32_t kva_memory_reset_peak(kva_context* context) {
  return guard("memory_reset_peak", [&] { get(context, "context").reset_peak(); });
}

int32_t kva_memory_limit(kva_context* context, int64_t bytes) {
  return guard("memory_limit", [&] {
    require(bytes >= 0, "bytes is %lld, it must be at least 0", (long long)bytes);
    get(context, "context").set_limit(bytes);
  });
}

int32_t kva_memory_trim(kva_context* context) {
  return guard("memory_trim", [&] { get(context, "context").trim(); });
}

int32_t kva_graph_begin(kva_context* context) {
  return guard("graph_begin", [&] { get(context, "context").begin_capture(); });
}

int32_t kva_graph_end(kva_context* context, kva_graph** out) {
  return guard("graph_end", [&] {
    require_out(out, "out");
    *out = reinterpret_cast<kva_graph*>(get(context, "context").end_capture());
  });
}

int32_t kva_graph_abandon(kva_context* context) {
  return guard("graph_abandon", [&] { get(context, "context").abandon_capture(); });
}

int32_t kva_graph_launch(kva_graph* graph) {
  return run("graph_launch", [&]() -> Context& {
    Graph& g = get(graph, "graph");
    g.launch();
    return g.context;
  });
}

int32_t kva_graph_destroy(kva_graph* graph) {
  if (graph == nullptr) return KVA_OK;
  return guard("graph_destroy", [&] {
    Graph& g = get(graph, "graph");
    Context& context = g.context;
    delete &g;
    context.graph_gone();
  });
}

int32_t kva_timer_create(kva_context* context, int32_t slots, kva_timer** out) {
  return guard("timer_create", [&] {
    require_out(out, "out");
    require(slots >= 1 && slots <= 65536, "slots is %d, it must be from 1 to 65536", slots);
    *out = reinterpret_cast<kva_timer*>(new Timer(get(context, "context"), slots));
  });
}

int32_t kva_timer_destroy(kva_timer* timer) {
  return guard("timer_destroy", [&] { delete reinterpret_cast<Timer*>(timer); });
}

int32_t kva_timer_mark(kva_timer* timer, int32_t slot) {
  return guard("timer_mark", [&] {
    Timer& t = get(timer, "timer");
    require(slot >= 0 && slot < t.slots, "slot is %d, the timer has %d", slot, t.slots);
    t.marks->mark(slot);
  });
}

int32_t kva_timer_wait(kva_timer* timer, int32_t slot, kva_context* context) {
  return guard("timer_wait", [&] {
    Timer& t = get(timer, "timer");
    Context& c = get(context, "context");
    c.require_eager();
    require(slot >= 0 && slot < t.slots, "slot is %d, the timer has %d", slot, t.slots);
    t.marks->hold(slot, *c.device);
  });
}

int32_t kva_timer_read(kva_timer* timer, int32_t from, int32_t to, float* ms) {
  return guard("timer_read", [&] {
    Timer& t = get(timer, "timer");
    require_out(ms, "ms");
    t.context.require_eager();
    for (int32_t slot : {from, to}) require(slot >= 0 && slot < t.slots, "slot is %d, the timer has %d", slot, t.slots);
    *ms = t.marks->read(from, to);
  });
}

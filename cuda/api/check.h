// Between C handles and C++: null checks, shape, type and context checks whose texts are sentences; one way to run an op.
#pragma once
#include <cmath>

#include "../core/kv.h"
#include "../core/map.h"
#include "../core/shared.h"
#include "../core/status.h"
#include "../core/tensor.h"

namespace kva {

template <class T>
T& from_pointer(void* handle, const char* name) {
  require(handle != nullptr, "%s is null", name);
  return *static_cast<T*>(handle);
}
inline Context& get(kva_context* handle, const char* name) { return from_pointer<Context>(handle, name); }
inline Tensor& get(kva_tensor* handle, const char* name) { return from_pointer<Tensor>(handle, name); }
inline Shared& get(kva_shared* handle, const char* name) { return from_pointer<Shared>(handle, name); }
inline Map& get(kva_map* handle, const char* name) { return from_pointer<Map>(handle, name); }
inline Kv& get(kva_kv* handle, const char* name) { return from_pointer<Kv>(handle, name); }
inline Batch& get(kva_batch* handle, const char* name) { return from_pointer<Batch>(handle, name); }
inline Graph& get(kva_graph* handle, const char* name) { return from_pointer<Graph>(handle, name); }
inline Timer& get(kva_timer* handle, const char* name) { return from_pointer<Timer>(handle, name); }

inline void require_out(const void* pointer, const char* name) { require(pointer != nullptr, "%s is null", name); }

// A tensor or, where the handle is NULL, an absent matrix.
inline Matrix get_optional(kva_tensor* handle) { return handle == nullptr ? Matrix{} : *reinterpret_cast<Tensor*>(handle); }

inline void require_shape(const Matrix& x, const char* name, int64_t rows, int64_t columns) {
  require(x.rows == rows && x.columns == columns, "%s is [%d, %d], it must be [%lld, %lld]", name, x.rows, x.columns, (long long)rows,
          (long long)columns);
}
inline void require_type(const Matrix& x, const char* name, int32_t dtype) {
  require(x.dtype == dtype, "%s is %s, it must be %s", name, dtype_name(x.dtype), dtype_name(dtype));
}
inline void require_float(const Matrix& x, const char* name) {
  require(is_float(x.dtype), "%s is %s, it must be one of f32, f16, bf16", name, dtype_name(x.dtype));
}
// An optional f32 [rows, columns] result of `context`.
inline Matrix get_result(kva_tensor* handle, const char* name, const Context& context, int64_t rows, int64_t columns) {
  if (handle == nullptr) return {};
  Tensor& x = get(handle, name);
  require(&x.context == &context, "%s belongs to another context", name);
  require_type(x, name, KVA_F32);
  require_shape(x, name, rows, columns);
  return x;
}

inline void require_context(const Tensor& x, const char* name, const Context& context) {
  require(&x.context == &context, "%s belongs to another context", name);
}
inline void require_layer(const KvShape& shape, int32_t layer) {
  require(layer >= 0 && layer < shape.layers, "layer is %d, the cache has %d", layer, shape.layers);
}
inline void require_kv_head(const KvShape& shape, int32_t kv_head) {
  require(kv_head >= 0 && kv_head < shape.kv_heads, "KV head is %d, the cache has %d", kv_head, shape.kv_heads);
}

inline void require_side(const KvShape& shape, int32_t side) {
  require(side >= 0 && side < shape.side_arrays, "side is %d, the cache has %d side arrays", side, shape.side_arrays);
}

// where an op reads or changes rows in full precision only
inline void require_plain(Kv& cache, int32_t layer) {
  require(!cache.packs(layer), "layer %d holds quantised or channel-indexed rows, which this op does not take", layer);
}

// where an op changes keys, and so what the bounds of their pages would be
inline void require_unbounded(Kv& cache, int32_t layer) {
  require(!cache.pages(layer), "layer %d keeps bounds of pages, which this op would leave wrong", layer);
}

// rows queries and their output
inline void require_queries(const KvShape& shape, const Context& context, const Tensor& q, int32_t rows, const Tensor& out, float scale,
                            int32_t window) {
  require_context(q, "q", context);
  require_context(out, "out", context);
  require_float(q, "q");
  require_type(out, "out", q.dtype);
  require_shape(q, "q", rows, int64_t(shape.heads) * shape.head_dim);
  require_shape(out, "out", rows, q.columns);
  require(std::isfinite(scale), "scale is %g, it must be finite", scale);
  require(window >= 0, "window is %d, it must be at least 0", window);
}

// The batch with at least one sequence; while capturing, launches will check that it still has as many.
inline Batch& get_filled(kva_batch* handle) {
  Batch& batch = get(handle, "batch");
  int32_t sequences = batch.sequences();
  require(sequences > 0, "the batch holds no sequences (or one of them was destroyed)");
  if (batch.context.capturing())
    batch.context.condition([&batch, sequences] {
      require(batch.sequences() == sequences, "the batch holds %d sequences, the graph was captured with %d", batch.sequences(), sequences);
    });
  return batch;
}

// The batch, where the range of sequences and the layer fit it, for an op that may change rows of the layer.
inline Batch& get_range(kva_batch* handle, int32_t first, int32_t sequences, int32_t layer) {
  Batch& b = get_filled(handle);
  require_layer(b.shape(), layer);
  require(first >= 0 && sequences >= 1 && int64_t(first) + sequences <= b.sequences(), "sequences [%d, %lld) must be some of the batch's %d", first,
          (long long)first + sequences, b.sequences());
  b.context.record_change(layer);
  return b;
}

// Body queues work on the context it returns.
template <class Body>
int32_t run(const char* op, Body&& body) noexcept {
  return guard(op, [&] {
    Context& context = body();
    context.device->settle();
  });
}

// Copies text with its end into room for `bytes`.
void copy_text(const std::string& text, char* to, int32_t bytes);

}  // namespace kva

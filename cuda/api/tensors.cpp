// extern "C": tensors and mapped files.
#include <cmath>

#include "../core/ggml.h"
#include "../ops/ops.h"
#include "check.h"

using namespace kva;

int32_t kva_tensor_create(kva_context* context, int32_t dtype, int32_t memory, int32_t rows, int32_t columns, kva_tensor** out) {
  return guard("tensor_create", [&] {
    Context& c = get(context, "context");
    require_out(out, "out");
    c.require_eager();
    require(is_dtype(dtype), "dtype %d is not one of 0 (f32), 1 (f16), 2 (bf16), 3 (i32)", dtype);
    require(memory >= 0 && memory < memory_kinds, "memory is %d, it must be from 0 to %d", memory, memory_kinds - 1);
    require(rows > 0 && columns > 0, "the shape is [%d, %d], both must be at least 1", rows, columns);
    *out = reinterpret_cast<kva_tensor*>(new Tensor(c, dtype, memory, rows, columns));
  });
}

int32_t kva_tensor_view(kva_tensor* of, int32_t row, int32_t rows, int32_t column, int32_t columns, kva_tensor** out) {
  return guard("tensor_view", [&] {
    Tensor& x = get(of, "of");
    require_out(out, "out");
    require(row >= 0 && rows > 0 && int64_t(row) + rows <= x.rows && column >= 0 && columns > 0 && int64_t(column) + columns <= x.columns,
            "rows [%d, %lld), columns [%d, %lld) must be some of [%d, %d]", row, (long long)row + rows, column, (long long)column + columns,
            x.rows, x.columns);
    *out = reinterpret_cast<kva_tensor*>(new Tensor(x, row, rows, column, columns));
  });
}

int32_t kva_tensor_destroy(kva_tensor* tensor) {
  if (tensor == nullptr) return KVA_OK;
  return guard("tensor_destroy", [&] {
    Tensor& x = get(tensor, "tensor");
    if (x.views > 0) fail(KVA_E_BUSY, "%d views of the tensor still live", x.views);
    delete &x;
  });
}

int32_t kva_tensor_upload(kva_tensor* tensor, const void* from, int64_t bytes) {
  return run("tensor_upload", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    require_out(from, "from");
    x.context.require_eager();
    require(bytes == x.rows * x.row_bytes(), "bytes is %lld, %s [%d, %d] has %lld", (long long)bytes, dtype_name(x.dtype), x.rows, x.columns,
            (long long)(x.rows * x.row_bytes()));
    x.context.device->upload(x.data, x.pitch(), from, x.row_bytes(), x.row_bytes(), x.rows);
    return x.context;
  });
}

int32_t kva_tensor_download(kva_tensor* tensor, void* to, int64_t bytes) {
  return run("tensor_download", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    require_out(to, "to");
    x.context.require_eager();
    require(bytes == x.rows * x.row_bytes(), "bytes is %lld, %s [%d, %d] has %lld", (long long)bytes, dtype_name(x.dtype), x.rows, x.columns,
            (long long)(x.rows * x.row_bytes()));
    x.context.device->download(to, x.row_bytes(), x.data, x.pitch(), x.row_bytes(), x.rows);
    return x.context;
  });
}

static void require_copyable(const Tensor& from, const Tensor& to) {
  require_shape(to, "to", from.rows, from.columns);
  require((from.dtype == KVA_I32) == (to.dtype == KVA_I32), "from is %s and to is %s; i32 is not converted", dtype_name(from.dtype),
          dtype_name(to.dtype));
}

int32_t kva_tensor_copy(kva_tensor* from, kva_tensor* to) {
  return run("tensor_copy", [&]() -> Context& {
    Tensor &x = get(from, "from"), &y = get(to, "to");
    require_context(y, "to", x.context);
    require_copyable(x, y);
    copy(x.context, x, y);
    return x.context;
  });
}

int32_t kva_tensor_peer_copy(kva_tensor* from, kva_tensor* to) {
  return run("tensor_peer_copy", [&]() -> Context& {
    Tensor &x = get(from, "from"), &y = get(to, "to");
    x.context.require_eager();
    y.context.require_eager();
    require_copyable(x, y);
    peer_copy(x.context, x, y.context, y);
    return y.context;
  });
}

int32_t kva_tensor_peer_pull(kva_tensor* from, kva_tensor* to) {
  return run("tensor_peer_pull", [&]() -> Context& {
    Tensor &x = get(from, "from"), &y = get(to, "to");
    x.context.require_eager();
    y.context.require_eager();
    require_shape(y, "to", x.rows, x.columns);
    require_type(y, "to", x.dtype);
    peer_pull(x.context, x, y.context, y);
    return y.context;
  });
}

int32_t kva_tensor_fill(kva_tensor* tensor, float value) {
  return run("tensor_fill", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    require(x.dtype != KVA_I32 || (std::fabs(value) < 0x1p31f), "%g is not an i32", value);
    fill(x.context, x, value);
    return x.context;
  });
}

int32_t kva_tensor_random(kva_tensor* tensor, int32_t kind, uint32_t seed, float scale) {
  return run("tensor_random", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    require_float(x, "tensor");
    require(kind == KVA_RANDOM_UNIFORM || kind == KVA_RANDOM_NORMAL, "kind is %d, it must be 0 (uniform) or 1 (normal)", kind);
    random(x.context, x, kind, seed, scale);
    return x.context;
  });
}

int32_t kva_tensor_finite(kva_tensor* tensor, int32_t* result) {
  return run("tensor_finite", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    require_out(result, "finite");
    x.context.require_eager();
    *result = finite(x.context, x) ? 1 : 0;
    return x.context;
  });
}

int32_t kva_map_open(const char* path, kva_map** out, int64_t* bytes) {
  return guard("map_open", [&] {
    require_out(path, "path");
    require_out(out, "out");
    require_out(bytes, "bytes");
    Map* map = new Map(path);
    *bytes = map->bytes;
    *out = reinterpret_cast<kva_map*>(map);
  });
}

int32_t kva_map_close(kva_map* map) {
  return guard("map_close", [&] { delete reinterpret_cast<Map*>(map); });
}

int32_t kva_tensor_load(kva_tensor* tensor, kva_map* map, int64_t offset, int32_t file_dtype) {
  return run("tensor_load", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    Map& file = get(map, "map");
    x.context.require_eager();
    require_float(x, "tensor");
    require(is_float(file_dtype), "file_dtype %d is not one of 0 (f32), 1 (f16), 2 (bf16)", file_dtype);
    load(x.context, x, file.range(offset, x.count() * dtype_bytes(file_dtype)), file_dtype);
    return x.context;
  });
}

int32_t kva_tensor_load_ggml(kva_tensor* tensor, kva_map* map, int64_t offset, int32_t format, int32_t heads) {
  return run("tensor_load_ggml", [&]() -> Context& {
    Tensor& x = get(tensor, "tensor");
    Map& file = get(map, "map");
    x.context.require_eager();
    require_float(x, "tensor");
    const GgmlFormat block = ggml_format(format);
    require(block.bytes > 0, "format %d is not one that is read: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K", format);
    require(x.columns % block.elements == 0, "a row has %d columns, not a multiple of the %lld elements of a block of %s", x.columns,
            (long long)block.elements, block.name);
    require(heads >= 0 && (heads == 0 || x.rows % (2 * int64_t(heads)) == 0), "%d rows do not make %d heads of an even number of rows", x.rows,
            heads);
    load_ggml(x.context, x, file.range(offset, x.count() / block.elements * block.bytes), format, heads);
    return x.context;
  });
}

// extern "C": blocks of device memory that several processes read.
#include "../core/shared.h"

#include "check.h"

using namespace kva;

namespace {

constexpr int64_t tensor_alignment = 256;

void require_block(int32_t memory, int64_t bytes) {
  require(memory >= 0 && memory < memory_kinds, "memory is %d, it must be from 0 to %d", memory, memory_kinds - 1);
  require(bytes > 0, "bytes is %lld, it must be at least 1", (long long)bytes);
}

}  // namespace

int32_t kva_shared_create(kva_context* context, int32_t memory, int64_t bytes, kva_shared** out) {
  return guard("shared_create", [&] {
    Context& c = get(context, "context");
    require_out(out, "out");
    c.require_eager();
    require_block(memory, bytes);
    *out = reinterpret_cast<kva_shared*>(new Shared(c, memory, bytes));
  });
}

int32_t kva_shared_name(kva_shared* shared, char* name, int32_t name_bytes) {
  return guard("shared_name", [&] {
    Shared& s = get(shared, "shared");
    require_out(name, "name");
    s.context.device->sync();
    copy_text(s.memory->name(), name, name_bytes);
  });
}

int32_t kva_shared_open(kva_context* context, const char* name, int32_t memory, int64_t bytes, kva_shared** out) {
  return guard("shared_open", [&] {
    Context& c = get(context, "context");
    require_out(name, "name");
    require_out(out, "out");
    c.require_eager();
    require_block(memory, bytes);
    *out = reinterpret_cast<kva_shared*>(new Shared(c, memory, bytes, name));
  });
}

int32_t kva_shared_tensor(kva_shared* shared, int64_t offset, int32_t dtype, int32_t rows, int32_t columns, kva_tensor** out) {
  return guard("shared_tensor", [&] {
    Shared& s = get(shared, "shared");
    require_out(out, "out");
    require(is_dtype(dtype), "dtype %d is not one of 0 (f32), 1 (f16), 2 (bf16), 3 (i32)", dtype);
    require(rows > 0 && columns > 0, "the shape is [%d, %d], both must be at least 1", rows, columns);
    const int64_t elements = int64_t(rows) * columns, room = s.memory->bytes - offset;
    require(offset >= 0 && offset % tensor_alignment == 0 && room >= 0 && elements <= room / dtype_bytes(dtype),
            "%s [%d, %d] at offset %lld: it must lie in the %lld bytes of the block, and begin at a multiple of %lld", dtype_name(dtype), rows,
            columns, (long long)offset, (long long)s.memory->bytes, (long long)tensor_alignment);
    *out = reinterpret_cast<kva_tensor*>(new Tensor(s, offset, dtype, rows, columns));
  });
}

int32_t kva_shared_close(kva_shared* shared) {
  if (shared == nullptr) return KVA_OK;
  return guard("shared_close", [&] {
    Shared& s = get(shared, "shared");
    if (s.tensors > 0) fail(KVA_E_BUSY, "%d tensors of the block still live", s.tensors);
    delete &s;
  });
}

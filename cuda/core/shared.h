// Memory of a device that several processes read: one makes it, the others open it by its name.
#pragma once
#include <memory>
#include <string>

#include "context.h"

namespace kva {

// A block in a context: counted among its memory, with tensors at offsets of it.
struct Shared {
  Context& context;
  const int32_t kind;
  const std::unique_ptr<SharedMemory> memory;
  int32_t tensors = 0;  // live tensors of the block

  Shared(Context& context, int32_t kind, int64_t bytes);                           // makes it
  Shared(Context& context, int32_t kind, int64_t bytes, const std::string& name);  // opens it
  ~Shared();
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
};

}  // namespace kva

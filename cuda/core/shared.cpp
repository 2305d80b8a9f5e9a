// Shared blocks: whose account they are on.
#include "shared.h"

namespace kva {

Shared::Shared(Context& context, int32_t kind, int64_t bytes) : context(context), kind(kind), memory(context.share(kind, bytes)) {
  context.live.shared += 1;
}

Shared::Shared(Context& context, int32_t kind, int64_t bytes, const std::string& name)
    : context(context), kind(kind), memory(context.open_shared(kind, bytes, name)) {
  context.live.shared += 1;
}

Shared::~Shared() {
  context.live.shared -= 1;
  context.uncount(kind, memory->bytes);
}

}  // namespace kva

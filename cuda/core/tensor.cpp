// Tensors and views: who owns the storage, and how many share it.
#include "tensor.h"

#include "context.h"
#include "shared.h"

namespace kva {

Tensor::Tensor(Context& context, int32_t dtype, int32_t memory, int32_t rows, int32_t columns)
    : Matrix{dtype, rows, columns, columns, nullptr}, context(context) {
  // Sizes past every machine are refused as such, and must not wrap around to small or negative ones.
  constexpr int64_t most = int64_t(1) << 60;
  data = context.allocate(memory, count() < most ? count() * dtype_bytes(dtype) : most);
  context.live.tensors += 1;
}

Tensor::Tensor(Tensor& of, int32_t row, int32_t rows, int32_t column, int32_t columns)
    : Matrix{of.dtype, rows, columns, of.stride, nullptr}, context(of.context), owner(of.owner ? of.owner : &of) {
  data = static_cast<char*>(of.data) + (row * of.stride + column) * dtype_bytes(dtype);
  owner->views += 1;
  context.live.tensors += 1;
}

Tensor::Tensor(Shared& block, int64_t offset, int32_t dtype, int32_t rows, int32_t columns)
    : Matrix{dtype, rows, columns, columns, static_cast<char*>(block.memory->data) + offset}, context(block.context), block(&block) {
  block.tensors += 1;
  context.live.tensors += 1;
}

Tensor::~Tensor() {
  context.live.tensors -= 1;
  if (owner != nullptr) {
    owner->views -= 1;
  } else if (block != nullptr) {
    block->tensors -= 1;
  } else {
    context.release(data);
  }
}

}  // namespace kva

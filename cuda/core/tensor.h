// Matrix: a typed view of device memory, passed by value to ops and kernels. Tensor: a matrix and who owns its storage.
#pragma once
#include "dtype.h"

#if defined(__CUDACC__)
#define KVA_HOST_DEVICE __host__ __device__
#else
#define KVA_HOST_DEVICE
#endif

namespace kva {

struct Context;
struct Shared;

// rows x columns elements of dtype; row r begins at data + r * stride elements. data == nullptr: an optional matrix that is absent.
struct Matrix {
  int32_t dtype = KVA_F32;
  int32_t rows = 0;
  int32_t columns = 0;
  int64_t stride = 0;
  void* data = nullptr;

  explicit KVA_HOST_DEVICE operator bool() const { return data != nullptr; }
  int64_t count() const { return int64_t(rows) * columns; }
  int64_t row_bytes() const { return columns * dtype_bytes(dtype); }
  int64_t pitch() const { return stride * dtype_bytes(dtype); }
  template <class T>
  KVA_HOST_DEVICE T* row(int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }
};

struct Tensor : Matrix {
  Context& context;
  Tensor* owner = nullptr;  // of a view: the tensor whose storage it shares
  Shared* block = nullptr;  // the block that it lies in
  int32_t views = 0;        // live views of this tensor's storage

  Tensor(Context& context, int32_t dtype, int32_t memory, int32_t rows, int32_t columns);
  Tensor(Tensor& of, int32_t row, int32_t rows, int32_t column, int32_t columns);
  Tensor(Shared& block, int64_t offset, int32_t dtype, int32_t rows, int32_t columns);
  ~Tensor();
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
};

}  // namespace kva

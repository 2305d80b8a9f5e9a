// Pages of a head's rows: bytes of their bounds, and how keys make them, one channel at a time. Number gives widen(T).
#pragma once
#include "kv.h"

namespace kva {

inline int64_t bounds_bytes(const KvShape& shape, const KvHead& head, int32_t rows) {
  return head.page_rows == 0 ? 0 : int64_t(pages_of(head, rows)) * 2 * shape.head_dim * dtype_bytes(shape.dtype);
}

template <class Number, class T>
struct PageBounds {
  const T* key;  // of the page's first row
  T *least, *greatest;

  KVA_HOST_DEVICE PageBounds(const KvHead& head, int32_t head_dim, int32_t page, int32_t channel)
      : key(static_cast<const T*>(head.k) + int64_t(page) * head.page_rows * head_dim + channel),
        least(static_cast<T*>(head.bounds) + int64_t(page) * 2 * head_dim + channel),
        greatest(least + head_dim) {}

  // from the page's first `rows` rows
  KVA_HOST_DEVICE void make(int32_t head_dim, int32_t rows) const {
    T low = key[0], high = low;
    for (int32_t r = 1; r < rows; ++r) {
      const T x = key[int64_t(r) * head_dim];
      if (Number::widen(x) < Number::widen(low)) low = x;
      if (Number::widen(x) > Number::widen(high)) high = x;
    }
    *least = low;
    *greatest = high;
  }
  // with row `row` of the page, where those before it are in
  KVA_HOST_DEVICE void join(int32_t head_dim, int32_t row) const {
    const T x = key[int64_t(row) * head_dim];
    if (row == 0 || Number::widen(x) < Number::widen(*least)) *least = x;
    if (row == 0 || Number::widen(x) > Number::widen(*greatest)) *greatest = x;
  }
};

}  // namespace kva

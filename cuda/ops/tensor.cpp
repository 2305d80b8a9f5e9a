// Tensors on the CPU: to = from, out = value, out = random numbers, out = a file's elements; whether all is finite.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "../core/cpu.h"
#include "../core/ggml.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

constexpr int64_t piece = 1024;  // elements converted at a time
constexpr int64_t grain = 1 << 15;

int64_t row_grain(const Matrix& x) { return std::max<int64_t>(1, grain / x.columns); }

// One row of elements from any address.
void convert_row(int32_t from_dtype, const void* from, int32_t to_dtype, void* to, int64_t n) {
  if (from_dtype == to_dtype) {
    memcpy(to, from, n * dtype_bytes(to_dtype));
    return;
  }
  alignas(64) char raw[piece * 4];
  alignas(64) float values[piece];
  for (int64_t i = 0; i < n; i += piece) {
    int64_t count = std::min(piece, n - i);
    memcpy(raw, static_cast<const char*>(from) + i * dtype_bytes(from_dtype), count * dtype_bytes(from_dtype));
    kernels().widen(from_dtype, raw, values, count);
    kernels().narrow(to_dtype, values, static_cast<char*>(to) + i * dtype_bytes(to_dtype), count);
  }
}

void convert(Context& context, const Matrix& out, const char* from, int64_t from_pitch, int32_t from_dtype) {
  parallel_ranges(context, out.rows, row_grain(out), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      convert_row(from_dtype, from + r * from_pitch, out.dtype, out.row<char>(0) + r * out.pitch(), out.columns);
  });
}

}  // namespace

void copy(Context& context, Matrix from, Matrix to) { convert(context, to, from.row<char>(0), from.pitch(), from.dtype); }

void peer_copy(Context&, Matrix from, Context& to_context, Matrix to) { copy(to_context, from, to); }
void peer_pull(Context&, Matrix from, Context& to_context, Matrix to) { copy(to_context, from, to); }

void fill(Context& context, Matrix out, float value) {
  parallel_ranges(context, out.rows, row_grain(out), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (out.dtype == KVA_I32) {
        std::fill_n(out.row<int32_t>(r), out.columns, int32_t(value));
      } else {
        with_float_type(out.dtype, [&]<class T>(T) { std::fill_n(out.row<T>(r), out.columns, from_float<T>(value)); });
      }
    }
  });
}

void random(Context& context, Matrix out, int32_t kind, uint32_t seed, float scale) {
  parallel_ranges(context, out.rows, std::max<int64_t>(1, row_grain(out) / 16), [=](int64_t begin, int64_t end) {
    with_float_type(out.dtype, [&]<class T>(T) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < out.columns; ++c) {
          uint64_t i = uint64_t(r) * out.columns + c;
          PhiloxWords words = philox(seed, 0, uint32_t(i), uint32_t(i >> 32), 0, 0);
          float x = kind == KVA_RANDOM_UNIFORM ? 2 * unit(words.word[0]) - 1 : gauss(words.word[0], words.word[1]);
          out.row<T>(r)[c] = from_float<T>(scale * x);
        }
    });
  });
}

bool finite(Context& context, Matrix x) {
  if (x.dtype == KVA_I32) return true;
  std::atomic<bool> all{true};
  parallel_ranges(context, x.rows, row_grain(x), [x, &all](int64_t begin, int64_t end) {
    with_float_type(x.dtype, [&]<class T>(T) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < x.columns; ++c)
          if (!std::isfinite(to_float(x.row<T>(r)[c]))) {
            all.store(false, std::memory_order_relaxed);
            return;
          }
    });
  });
  return all.load();
}

void load(Context& context, Matrix out, const void* from, int32_t file_dtype) {
  convert(context, out, static_cast<const char*>(from), out.columns * dtype_bytes(file_dtype), file_dtype);
}

void load_ggml(Context& context, Matrix out, const char* from, int32_t format, int32_t heads) {
  const GgmlFormat block = ggml_format(format);
  const int64_t pitch = out.columns / block.elements * block.bytes;
  parallel_ranges(context, out.rows, row_grain(out), [=](int64_t begin, int64_t end) {
    std::vector<float> values(out.columns);
    for (int64_t r = begin; r < end; ++r) {
      ggml_floats(format, from + r * pitch, out.columns, values.data());
      const int64_t to = heads == 0 ? r : unpaired_row(r, out.rows / heads);
      kernels().narrow(out.dtype, values.data(), out.row<char>(0) + to * out.pitch(), out.columns);
    }
  });
}

}  // namespace kva

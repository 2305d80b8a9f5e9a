// out = x * weight^T (+ bias) (+ out)
// Tiles of rows x outputs are the tasks. Every sum runs over k in chunks of chunk_inputs whatever the tiles are: equal rows of x give equal bits.
#include <algorithm>
#include <cstring>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

constexpr int32_t most_rows = 64, most_outputs = 64;
constexpr int32_t few_rows = 8;  // so few that weights are widened as they are read; with more, once for a tile
constexpr int32_t stream = 12;   // weight rows read side by side from begin to end when rows are few

struct Linear {
  const Kernels& k;
  Matrix x, weight, bias;
  bool accumulate;
  Matrix out;

  bool widen_x() const { return x.dtype != KVA_F32 && !(x.dtype == KVA_BF16 && k.pairs_bf16); }
  bool few() const { return x.rows <= few_rows; }
  bool widen_weight() const { return widen_x() && !few(); }
  int64_t x_floats() const { return !widen_x() ? 0 : few() ? int64_t(x.rows) * x.columns : int64_t(most_rows) * chunk_inputs; }
  int64_t weight_floats() const { return widen_weight() ? int64_t(most_outputs) * chunk_inputs : 0; }
  int64_t floats() const { return (most_rows * most_outputs + x_floats() + weight_floats() + 15) / 16 * 16; }

  static const char* at(const Matrix& m, int64_t r, int64_t c) { return m.row<char>(0) + r * m.pitch() + c * dtype_bytes(m.dtype); }

  void widen(const Matrix& from, int32_t first, int32_t rows, int64_t k0, int64_t inputs, float* to, int64_t stride) const {
    for (int32_t r = 0; r < rows; ++r) k.widen(from.dtype, at(from, first + r, k0), to + r * stride, inputs);
  }

  void run_tile(int32_t m0, int32_t rows, int32_t n0, int32_t outputs, float* sums) const {
    float *x_wide = sums + most_rows * most_outputs, *weight_wide = x_wide + x_floats();
    memset(sums, 0, sizeof(float) * rows * most_outputs);
    if (widen_x() && few()) widen(x, m0, rows, 0, x.columns, x_wide, x.columns);
    int32_t group = few() ? stream : outputs;
    for (int32_t n = 0; n < outputs; n += group)
      for (int64_t k0 = 0; k0 < x.columns; k0 += chunk_inputs) {
        int64_t inputs = std::min<int64_t>(chunk_inputs, x.columns - k0);
        int32_t count = std::min(group, outputs - n);
        const void* x_from = at(x, m0, k0);
        int64_t x_stride = x.stride;
        if (widen_x() && !few()) widen(x, m0, rows, k0, inputs, x_wide, chunk_inputs);
        if (widen_x()) {
          x_from = few() ? x_wide + k0 : x_wide;
          x_stride = few() ? x.columns : chunk_inputs;
        }
        if (widen_weight()) {
          widen(weight, n0 + n, count, k0, inputs, weight_wide, chunk_inputs);
          k.linear(KVA_F32, x_from, x_stride, weight_wide, chunk_inputs, inputs, rows, count, sums + n, most_outputs);
        } else {
          k.linear(weight.dtype, x_from, x_stride, at(weight, n0 + n, k0), weight.stride, inputs, rows, count, sums + n, most_outputs);
        }
      }
    finish(m0, rows, n0, outputs, sums);
  }

  void finish(int32_t m0, int32_t rows, int32_t n0, int32_t outputs, float* sums) const {
    alignas(64) float added[most_outputs];
    for (int32_t r = 0; r < rows; ++r) {
      float* row = sums + r * most_outputs;
      auto add = [&](const Matrix& from, int64_t r) {
        k.widen(from.dtype, at(from, r, n0), added, outputs);
        for (int32_t n = 0; n < outputs; ++n) row[n] += added[n];
      };
      if (bias) add(bias, 0);
      if (accumulate) add(out, m0 + r);
      k.narrow(out.dtype, row, out.row<char>(0) + (m0 + r) * out.pitch() + n0 * dtype_bytes(out.dtype), outputs);
    }
  }
};

}  // namespace

void linear_silu_mul(Context& context, Matrix x, Matrix weight, Matrix bias, Matrix gate_up, Matrix out) {
  linear(context, x, weight, bias, false, gate_up);
  silu_mul(context, gate_up, out);
}

void linear(Context& context, Matrix x, Matrix weight, Matrix bias, bool accumulate, Matrix out) {
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device] {
    Linear op{kernels(), x, weight, bias, accumulate, out};
    int32_t threads = device.pool.threads(), row_tiles = (x.rows + most_rows - 1) / most_rows;
    // Few rows: smaller tiles, so that every thread has some.
    int32_t wanted = std::max(1, weight.rows * row_tiles / (4 * threads));
    int32_t width = std::clamp((wanted + stream - 1) / stream * stream, stream, most_outputs);
    int64_t output_tiles = (weight.rows + width - 1) / width;
    float* scratch = static_cast<float*>(context.scratch(threads * op.floats() * int64_t(sizeof(float))));
    device.pool.run(output_tiles * row_tiles, [=, &op](int64_t task, int32_t worker) {
      int32_t m0 = int32_t(task % row_tiles) * most_rows, n0 = int32_t(task / row_tiles) * width;
      op.run_tile(m0, std::min(most_rows, x.rows - m0), n0, std::min(width, weight.rows - n0), scratch + worker * op.floats());
    });
  });
}

}  // namespace kva

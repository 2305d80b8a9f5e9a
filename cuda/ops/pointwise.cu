// out = silu(x[:, :width]) * x[:, width:]; out = x + y; out = a * x + b * y; out[r] = table[ids[r]].
#include "../core/cuda.h"
#include "../device/early_launch.cuh"
#include "../device/vec.cuh"
#include "ops.h"

namespace kva {
namespace {

using namespace device;

constexpr int kThreads = 256;

// Calls op(row, column) for the first column of each pack of a matrix; op loads and stores Width elements.
template <int Width, class Op>
__global__ void __launch_bounds__(kThreads) packs_kernel(int64_t packs, uint32_t row_packs, Op op) {
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  let_next_start();
  wait_for_inputs();
  if (at >= packs) return;
  if (packs >> 32 == 0) { // a division of 32 bits takes a fifth of the time of one of 64
    const uint32_t row = static_cast<uint32_t>(at) / row_packs;
    op(row, static_cast<int>(static_cast<uint32_t>(at) - row * row_packs) * Width);
  } else {
    op(at / row_packs, static_cast<int>(at % row_packs) * Width);
  }
}

template <int Width, class Op>
void each_pack(Context& context, const Matrix& out, Op op) {
  const int64_t packs = out.count() / Width;
  if (packs == 0) return;
  launch_early(packs_kernel<Width, Op>, dim3(divide_up(packs, kThreads)), kThreads, 0, stream_of(context), packs,
               static_cast<uint32_t>(out.columns / Width), op);
}

template <class T>
struct Rows {
  T* data;
  int64_t stride;
  explicit Rows(const Matrix& matrix) : data(static_cast<T*>(matrix.data)), stride(matrix.stride) {}
  __device__ T* at(int64_t row, int column) const { return data + row * stride + column; }
};

template <class T, int Width>
struct SiluMul {
  Rows<T> x, out;
  int width;
  __device__ void operator()(int64_t row, int column) const {
    const Pack<T, Width> gate = load_pack<Width>(x.at(row, column)), up = load_pack<Width>(x.at(row, width + column));
    Pack<T, Width> result;
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      const float a = widen(gate.at[i]);
      result.at[i] = narrow<T>(a / (1 + expf(-a)) * widen(up.at[i]));
    }
    store_pack(out.at(row, column), result);
  }
};

template <class T, int Width>
struct Add {
  Rows<T> x, y, out;
  __device__ void operator()(int64_t row, int column) const {
    Pack<T, Width> a = load_pack<Width>(x.at(row, column));
    const Pack<T, Width> b = load_pack<Width>(y.at(row, column));
#pragma unroll
    for (int i = 0; i < Width; ++i) a.at[i] = narrow<T>(widen(a.at[i]) + widen(b.at[i]));
    store_pack(out.at(row, column), a);
  }
};

template <int Width, bool HasY>
struct Combine {
  Rows<float> x, y, out;
  float a, b;
  __device__ void operator()(int64_t row, int column) const {
    Pack<float, Width> result = load_pack<Width>(x.at(row, column));
    Pack<float, Width> other;
    if constexpr (HasY) other = load_pack<Width>(y.at(row, column));
#pragma unroll
    for (int i = 0; i < Width; ++i) result.at[i] = __fadd_rn(__fmul_rn(a, result.at[i]), HasY ? __fmul_rn(b, other.at[i]) : b);
    store_pack(out.at(row, column), result);
  }
};

template <class T, int Width>
struct Embed {
  Rows<T> table, out;
  const int32_t* ids;
  int entries;
  __device__ void operator()(int64_t row, int column) const {
    const int id = ids[row];
    Pack<T, Width> pack;
#pragma unroll
    for (int i = 0; i < Width; ++i) pack.at[i] = narrow<T>(0);
    if (id >= 0 && id < entries) pack = load_pack<Width>(table.at(id, column));
    store_pack(out.at(row, column), pack);
  }
};

}  // namespace

void silu_mul(Context& context, Matrix x, Matrix out) {
  with_device_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int width = kPackWidth<T>;
    if (takes_packs(x) && takes_packs(out) && out.columns % width == 0)
      each_pack<width>(context, out, SiluMul<T, width>{Rows<T>(x), Rows<T>(out), out.columns});
    else
      each_pack<1>(context, out, SiluMul<T, 1>{Rows<T>(x), Rows<T>(out), out.columns});
  });
}

void add(Context& context, Matrix x, Matrix y, Matrix out) {
  with_device_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int width = kPackWidth<T>;
    if (takes_packs(x) && takes_packs(y) && takes_packs(out) && out.columns % width == 0)
      each_pack<width>(context, out, Add<T, width>{Rows<T>(x), Rows<T>(y), Rows<T>(out)});
    else
      each_pack<1>(context, out, Add<T, 1>{Rows<T>(x), Rows<T>(y), Rows<T>(out)});
  });
}

void combine(Context& context, float a, Matrix x, float b, Matrix y, Matrix out) {
  const Rows<float> from(x), other(y), to(out);
  const bool packs = takes_packs(x) && takes_packs(y) && takes_packs(out) && out.columns % 4 == 0;
  if (y)
    packs ? each_pack<4>(context, out, Combine<4, true>{from, other, to, a, b}) : each_pack<1>(context, out, Combine<1, true>{from, other, to, a, b});
  else
    packs ? each_pack<4>(context, out, Combine<4, false>{from, other, to, a, b}) : each_pack<1>(context, out, Combine<1, false>{from, other, to, a, b});
}

void embed(Context& context, Matrix table, Matrix ids, Matrix out) {
  with_device_type(table.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int width = kPackWidth<T>;
    const int32_t* entries = static_cast<const int32_t*>(ids.data);
    if (takes_packs(table) && takes_packs(out) && out.columns % width == 0)
      each_pack<width>(context, out, Embed<T, width>{Rows<T>(table), Rows<T>(out), entries, table.rows});
    else
      each_pack<1>(context, out, Embed<T, 1>{Rows<T>(table), Rows<T>(out), entries, table.rows});
  });
}

}  // namespace kva

// out = x * weight^T (+ bias) (+ out): few rows by linear_stream.cu or linear_rows.cu, above by cuBLASLt with fp32 sums and one algorithm per layer shape.
#include "../core/cublas.h"
#include "../core/cuda.h"
#include "../device/linear_rows.cuh"
#include "../device/vec.cuh"
#include "ops.h"

#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>

namespace kva {
namespace {

constexpr int kReferenceRows = 4096; // rows the algorithm is chosen for; any number of rows then runs with it
constexpr int kCandidates = 16;

void check_lt(int status, const char* call) {
  if (status != 0) fail(KVA_E_DEVICE, "%s failed with cuBLAS status %d (library %s)", call, status, cublas_lt().path.c_str());
}
#define LT_TRY(call) check_lt(cublas_lt().call, "cublasLt " #call)

// a descriptor of cuBLASLt, destroyed with the scope
struct Owned {
  void* handle = nullptr;
  int (*destroy)(void*);
  explicit Owned(int (*destroy)(void*)) : destroy(destroy) {}
  ~Owned() {
    if (handle != nullptr) destroy(handle);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
};

cudaDataType lt_type(int32_t dtype) { return dtype == KVA_F32 ? CUDA_R_32F : dtype == KVA_F16 ? CUDA_R_16F : CUDA_R_16BF; }

// largest power of two up to 16 that divides address and row length
uint32_t alignment(const Matrix& matrix) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(matrix.data) | static_cast<uintptr_t>(matrix.pitch()) | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// cuBLAS counts by columns: its D [features, rows] is out, its A the weight, transposed, its B x.
struct Problem {
  Owned desc{cublas_lt().matmul_desc_destroy}, a{cublas_lt().layout_destroy}, b{cublas_lt().layout_destroy}, d{cublas_lt().layout_destroy};

  Problem(const Matrix& x, const Matrix& weight, const Matrix& bias, const Matrix& out, int rows) {
    LT_TRY(matmul_desc_create(&desc.handle, lt_compute_f32, CUDA_R_32F));
    const int32_t transposed = lt_transposed, epilogue = lt_epilogue_bias;
    LT_TRY(matmul_desc_set(desc.handle, lt_desc_transpose_a, &transposed, sizeof transposed));
    if (bias) {
      LT_TRY(matmul_desc_set(desc.handle, lt_desc_epilogue, &epilogue, sizeof epilogue));
      LT_TRY(matmul_desc_set(desc.handle, lt_desc_bias_pointer, &bias.data, sizeof bias.data));
    }
    LT_TRY(layout_create(&a.handle, lt_type(weight.dtype), weight.columns, weight.rows, weight.stride));
    LT_TRY(layout_create(&b.handle, lt_type(x.dtype), x.columns, rows, x.stride));
    LT_TRY(layout_create(&d.handle, lt_type(out.dtype), out.columns, rows, out.stride));
  }
};

// All that an algorithm may depend on; rows are 0 for the one that serves any number of them.
using Shape = std::tuple<int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, bool, bool, uint32_t, uint32_t, uint32_t>;

struct Lt {
  std::mutex mutex;
  std::map<int32_t, void*> handles; // by device
  std::map<Shape, LtMatmulAlgo> algorithms;
};
Lt& lt() {
  static Lt* state = new Lt; // stays for the life of the process
  return *state;
}

void* handle_of(int32_t device) {
  void*& handle = lt().handles[device];
  if (handle == nullptr) LT_TRY(create(&handle));
  return handle;
}

LtMatmulAlgo choose(void* handle, const Matrix& x, const Matrix& weight, const Matrix& bias, const Matrix& out, int rows) {
  const Problem problem(x, weight, bias, out, rows);
  Owned preference{cublas_lt().preference_destroy};
  LT_TRY(preference_create(&preference.handle));
  const auto prefer = [&](int attribute, const auto& value) { LT_TRY(preference_set(preference.handle, attribute, &value, sizeof value)); };
  prefer(lt_pref_workspace_bytes, uint64_t(kLinearWorkspaceBytes));
  prefer(lt_pref_reduction_mask, uint32_t(0)); // no split of the depth: sums would depend on the number of rows
  prefer(lt_pref_alignment_a, alignment(weight));
  prefer(lt_pref_alignment_b, alignment(x));
  prefer(lt_pref_alignment_c, alignment(out));
  prefer(lt_pref_alignment_d, alignment(out));

  LtHeuristicResult results[kCandidates];
  int found = 0;
  LT_TRY(heuristic(handle, problem.desc.handle, problem.a.handle, problem.b.handle, problem.d.handle, problem.d.handle, preference.handle,
                   kCandidates, results, &found));
  for (int i = 0; i < found; ++i) {
    if (results[i].state != 0) continue;
    int32_t split_k = 1;
    size_t written = 0;
    const int status = cublas_lt().algo_config_get(&results[i].algo, lt_algo_split_k, &split_k, sizeof split_k, &written);
    if (status == 0 && split_k <= 1) return results[i].algo;
  }
  fail(KVA_E_UNSUPPORTED, "cuBLAS (%s) has no algorithm for %d features from %d, %s to %s", cublas_lt().path.c_str(), weight.rows, weight.columns,
       dtype_name(x.dtype), dtype_name(out.dtype));
}

// bias must be of out's type here
void multiply(Context& context, const Matrix& x, const Matrix& weight, const Matrix& bias, bool accumulate, const Matrix& out) {
  CudaDevice& device = cuda_device(context);
  void* workspace = context.scratch(kLinearWorkspaceBytes);
  const std::lock_guard<std::mutex> lock(lt().mutex);
  void* handle = handle_of(device.id);
  const auto algorithm = [&](int rows) {
    const Shape shape{rows,       device.compute_capability, weight.rows,  weight.columns,    x.dtype,       out.dtype, bool(bias),
                      accumulate, alignment(x),              alignment(weight), alignment(out)};
    const auto found = lt().algorithms.find(shape);
    if (found != lt().algorithms.end()) return found->second;
    return lt().algorithms.emplace(shape, choose(handle, x, weight, bias, out, rows > 0 ? rows : kReferenceRows)).first->second;
  };
  const Problem problem(x, weight, bias, out, x.rows);
  LtMatmulAlgo chosen = algorithm(0);
  LtHeuristicResult checked = {};
  const int status = cublas_lt().algo_check(handle, problem.desc.handle, problem.a.handle, problem.b.handle, problem.d.handle, problem.d.handle,
                                            &chosen, &checked);
  if (status != 0 || checked.workspace_bytes > kLinearWorkspaceBytes)
    chosen = algorithm(x.rows); // the one for all rows does not take so few
  const float one = 1, beta = accumulate ? 1.0f : 0.0f;
  LT_TRY(matmul(handle, problem.desc.handle, &one, weight.data, problem.a.handle, x.data, problem.b.handle, &beta, out.data, problem.d.handle,
                out.data, problem.d.handle, &chosen, workspace, kLinearWorkspaceBytes, device.stream));
}

template <class T>
__global__ void add_bias_kernel(float* out, int64_t stride, int columns, const T* bias) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column < columns) out[blockIdx.y * stride + column] += device::widen(bias[column]);
}

// fp32 out of 16-bit operands: cuBLAS would want the bias in fp32 too
void add_bias(Context& context, const Matrix& bias, const Matrix& out) {
  constexpr int most = 65535; // blocks in y
  with_device_type(bias.dtype, [&](auto type) {
    using T = decltype(type);
    for (int32_t row = 0; row < out.rows; row += most) {
      const dim3 grid(divide_up(out.columns, 256), std::min(most, out.rows - row));
      add_bias_kernel<<<grid, 256, 0, stream_of(context)>>>(out.row<float>(row), out.stride, out.columns, bias.row<T>(0));
      check_launch();
    }
  });
}

// false where these are too many rows for it
bool few_rows(Context& context, const Matrix& x, const Matrix& weight, const Matrix& bias, bool accumulate, bool gated, const Matrix& out) {
  const LinearRows args = {x.data,     weight.data, bias.data, out.data,    x.stride,   weight.stride,
                           out.stride, x.rows,      x.columns, weight.rows, accumulate, out.dtype == KVA_F32, gated};
  const CudaDevice& device = cuda_device(context);
  return with_device_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, float>)
      if (linear_stream_takes<T>(args)) {
        linear_stream_launch<T>(args, device);
        return true;
      }
    if (x.rows > kLinearRowsMax) return false;
    linear_rows_launch<T>(args, device.stream);
    return true;
  });
}

}  // namespace

void linear(Context& context, Matrix x, Matrix weight, Matrix bias, bool accumulate, Matrix out) {
  if (x.rows == 0 || weight.rows == 0 || few_rows(context, x, weight, bias, accumulate, false, out)) return;
  const bool fused = bias && bias.dtype == out.dtype;
  multiply(context, x, weight, fused ? bias : Matrix(), accumulate, out);
  if (bias && !fused) add_bias(context, bias, out);
}

void linear_silu_mul(Context& context, Matrix x, Matrix weight, Matrix bias, Matrix gate_up, Matrix out) {
  if (x.rows == 0 || weight.rows == 0) return;
  if (x.dtype != KVA_F32 && few_rows(context, x, weight, bias, false, true, out)) return;
  linear(context, x, weight, bias, false, gate_up);
  silu_mul(context, gate_up, out);
}

}  // namespace kva

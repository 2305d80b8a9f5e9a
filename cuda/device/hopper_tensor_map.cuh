// Tensor maps for Hopper's copy engine. The driver's encoder is asked for at run time: the library links no driver.
#pragma once
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace kva {

inline cudaError_t tensor_map_encoder(PFN_cuTensorMapEncodeTiled_v12000* encoder) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  *encoder = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  return cudaSuccess;
}

// Whether the current device runs this sm_90a kernel, whose body alone has `shared` bytes of static shared memory: a build without sm_90a runs its
// compute_90 PTX there, in which the kernel is empty.
template <class Kernel>
bool hopper_runs(Kernel kernel, size_t shared) {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (major != 9 || minor != 0) return false;
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.sharedSizeBytes >= shared;
}

// 16-bit elements in boxes of the 128-byte swizzle; sizes and box from the innermost dimension on, strides in bytes of all but that one.
template <int Rank>
cudaError_t encode_boxes(CUtensorMap* map, CUtensorMapDataType type, const void* base, const cuuint64_t (&sizes)[Rank], const cuuint64_t (&strides)[Rank - 1],
                         const cuuint32_t (&box)[Rank]) {
  PFN_cuTensorMapEncodeTiled_v12000 encode;
  const cudaError_t error = tensor_map_encoder(&encode);
  if (error != cudaSuccess) return error;
  cuuint32_t steps[Rank];
  for (cuuint32_t& step : steps) step = 1;
  const CUresult result = encode(map, type, Rank, const_cast<void*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// Heads of 16-bit rows [heads, rows, head_dim] as dimensions (64 columns, rows, head_dim / 64, heads). A box is box_rows rows of a head: in
// shared memory [head_dim / 64, box_rows, 64] in the 128-byte swizzle; rows past the end are zeros. Strides in elements, multiples of 8.
inline cudaError_t encode_heads(CUtensorMap* map, CUtensorMapDataType type, const void* base, int heads, int64_t rows, int head_dim,
                                int64_t head_stride, int64_t row_stride, int box_rows) {
  const cuuint64_t sizes[4] = {64, cuuint64_t(rows), cuuint64_t(head_dim / 64), cuuint64_t(heads)};
  const cuuint64_t strides[3] = {cuuint64_t(row_stride * 2), 128, cuuint64_t(head_stride * 2)};
  const cuuint32_t box[4] = {64, cuuint32_t(box_rows), cuuint32_t(head_dim / 64), 1};
  return encode_boxes(map, type, base, sizes, strides, box);
}

// 16-bit rows [heads, rows, head_dim] taken `run` at a time, rows / run whole runs, as dimensions (64 columns, run, runs, head_dim / 64, heads). A
// box is one row of each of box_runs runs: in shared memory [box_runs, 64] in the 128-byte swizzle; runs past the end are zeros.
inline cudaError_t encode_runs(CUtensorMap* map, CUtensorMapDataType type, const void* base, int heads, int64_t rows, int head_dim,
                               int64_t head_stride, int64_t row_stride, int run, int box_runs) {
  const cuuint64_t sizes[5] = {64, cuuint64_t(run), cuuint64_t(rows / run), cuuint64_t(head_dim / 64), cuuint64_t(heads)};
  const cuuint64_t strides[4] = {cuuint64_t(row_stride * 2), cuuint64_t(row_stride * 2 * run), 128, cuuint64_t(head_stride * 2)};
  const cuuint32_t box[5] = {64, 1, cuuint32_t(box_runs), 1, 1};
  return encode_boxes(map, type, base, sizes, strides, box);
}

// A matrix of 16-bit elements, columns a multiple of 64, as dimensions (64 columns, rows, columns / 64). A box is box_rows rows by 64 box_blocks
// columns: in shared memory [box_blocks, box_rows, 64] in the 128-byte swizzle; what is past the end is zeros. Stride in elements, a multiple of 8.
inline cudaError_t encode_matrix(CUtensorMap* map, CUtensorMapDataType type, const void* base, int rows, int columns, int64_t row_stride, int box_rows,
                                 int box_blocks) {
  const cuuint64_t sizes[3] = {64, cuuint64_t(rows), cuuint64_t(columns / 64)}, strides[2] = {cuuint64_t(row_stride * 2), 128};
  const cuuint32_t box[3] = {64, cuuint32_t(box_rows), cuuint32_t(box_blocks)};
  return encode_boxes(map, type, base, sizes, strides, box);
}

}  // namespace kva

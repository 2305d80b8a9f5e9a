// Kernels of a decode step that start while the one before them still runs (programmatic dependent launch, sm_90 and up; elsewhere one after
// the other). A chain of such kernels keeps its order because each waits for its inputs before it reads or writes what others write, and the
// inputs' kernel has waited for its own. Before it waits a kernel may only ask for constants, such as weights, to come nearer.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "../core/cuda.h"

namespace kva {

// Launches and checks. The kernel must call device::wait_for_inputs() in every thread, whatever else it does.
template <class... Args, class... Given>
void launch_early(void (*kernel)(Args...), dim3 grid, unsigned threads, size_t shared, cudaStream_t stream, Given&&... given) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = starts_early() ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, Args(std::forward<Given>(given))...), "kernel launch");
}

namespace device {

__device__ __forceinline__ void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on, in every block, the next kernel may start.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Asks for constants to come into the second-level cache; address and bytes are multiples of 16.
__device__ __forceinline__ void fetch_ahead(const void* from, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

}  // namespace device
}  // namespace kva

// Element types on the device: to fp32 (widen) and from it (narrow), and packs of 16 bytes.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace kva::device {

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// 2^x in one instruction; what is below 2^-126 becomes 0
__device__ __forceinline__ float exp2_fast(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// Width elements that are loaded and stored at once: 16 bytes of the wider type, or one element where an address or stride does not allow it.
template <class T, int Width>
struct alignas(sizeof(T) * Width) Pack {
  T at[Width];
};

template <class T>
inline constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

template <int Width, class T>
__device__ __forceinline__ Pack<T, Width> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, Width>*>(from);
}

template <class T, int Width>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, Width>& pack) {
  *reinterpret_cast<Pack<T, Width>*>(to) = pack;
}

// Reads with this policy leave the second-level cache before anything else: a step streams weights and cache through it, gigabytes that nobody reads
// again, past tables, partial results and instructions that the next kernel wants.
__device__ __forceinline__ uint64_t read_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// a load of 16 bytes that are read once: it does not stay in the first-level cache
__device__ __forceinline__ uint4 load_streaming(const void* from) {
  uint4 value;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

}  // namespace kva::device

// Hopper's own instructions (sm_90a): transaction barriers, tensor copies, warpgroup products, named barriers, register hand-over.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "vec.cuh"

namespace kva::device {

// ---- barriers in shared memory (addresses of 8 bytes) ----
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// makes initialised barriers visible to the copy engine
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nWAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\nbra WAIT;\nDONE:\n}"
      ::"r"(barrier), "r"(parity)
      : "memory");
}

// A ring of stages: the stage to use and the parity of its pass.
template <int Stages>
struct Ring {
  int stage = 0;
  uint32_t pass = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Stages) {
      stage = 0;
      pass ^= 1;
    }
  }
};

// ---- tensor copies: a box of a map of three to five dimensions into shared memory; the barrier counts its bytes ----
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
      ::"r"(to), "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
// of what is read once
__device__ __forceinline__ void copy_box_once(uint32_t to, const CUtensorMap& map, uint32_t barrier, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;"
      ::"r"(to), "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "l"(read_once())
      : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
      ::"r"(to), "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
      ::"r"(to), "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- between warpgroups ----
__device__ __forceinline__ void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
// What a kernel of one block on a multiprocessor may share out: it starts with equal parts of the register file, in eights. Where one warpgroup
// gives and the others take more than it gave, the last of them waits for ever.
__host__ __device__ constexpr bool registers_suffice(int threads, int given_down_to, int taken_up_to) {
  const int warpgroups = threads / 128, each = (64 << 10) / threads / 8 * 8;
  return given_down_to + (warpgroups - 1) * taken_up_to <= warpgroups * each;
}
template <int Registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// ---- warpgroup products: d[64, N] += a[64, 16] b[16, N], d in fp32 in registers, laid out as four m16 accumulators of mma.sync ----
// Operands in shared memory lie as rows of 64 elements (128 bytes) in the 128-byte swizzle, 8-row groups of 1024 bytes one after another;
// further columns of 64 lie `block_bytes` on. contraction_major: a row's elements are summed over; else rows are.
__device__ __forceinline__ uint64_t operand(uint32_t address) {  // contraction_major
  return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 16 | (address & 0x3ffff) >> 4;
}
__device__ __forceinline__ uint64_t operand_transposed(uint32_t address, int block_bytes) {
  return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(block_bytes >> 4) << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// waits until at most Pending groups are under way
template <int Pending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// keeps the compiler from moving uses of these registers across this point
template <int Count>
__device__ __forceinline__ void pin(float (&registers)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

#define KVA_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define KVA_D8(d, i) KVA_D4(d, i), KVA_D4(d, i + 4)
#define KVA_D32(d, i) KVA_D8(d, i), KVA_D8(d, i + 8), KVA_D8(d, i + 16), KVA_D8(d, i + 24)
#define KVA_NAMES32 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define KVA_NAMES64 \
  KVA_NAMES32       \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

#define KVA_NAMES128                                                                                                                  \
  KVA_NAMES64                                                                                                                         \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"  \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121"     \
  ",%122,%123,%124,%125,%126,%127"

// `multiply(d, a, b, add, T{})`: a and b in shared memory, both contraction-major; d is replaced where add is 0.
// `multiply_transposed(d, a, b, T{})`: a in registers, laid out as for mma.sync; b transposed in shared memory.
#define KVA_MULTIPLY(T, type)                                                                                               \
  __device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int add, T) {                            \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"                                                           \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" KVA_NAMES64 "}, %64, %65, add, 1, 1, 0, 0;\n}" \
                 : KVA_D32(d, 0), KVA_D32(d, 32)                                                                            \
                 : "l"(a), "l"(b), "r"(add));                                                                               \
  }                                                                                                                         \
  __device__ __forceinline__ void multiply(float (&d)[128], uint64_t a, uint64_t b, int add, T) {                           \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" KVA_NAMES128 "}, %128, %129, add, 1, 1, 0, 0;\n}" \
                 : KVA_D32(d, 0), KVA_D32(d, 32), KVA_D32(d, 64), KVA_D32(d, 96)                                            \
                 : "l"(a), "l"(b), "r"(add));                                                                               \
  }                                                                                                                         \
  __device__ __forceinline__ void multiply_transposed(float (&d)[64], const uint32_t* a, uint64_t b, T) {                   \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"                                                             \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" KVA_NAMES64                              \
                 "}, {%64,%65,%66,%67}, %68, add, 1, 1, 1;\n}"                                                              \
                 : KVA_D32(d, 0), KVA_D32(d, 32)                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                     \
  }                                                                                                                         \
  __device__ __forceinline__ void multiply_transposed(float (&d)[32], const uint32_t* a, uint64_t b, T) {                   \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"                                                             \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" KVA_NAMES32                               \
                 "}, {%32,%33,%34,%35}, %36, add, 1, 1, 1;\n}"                                                              \
                 : KVA_D32(d, 0)                                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                     \
  }
KVA_MULTIPLY(__nv_bfloat16, "bf16")
KVA_MULTIPLY(__half, "f16")
#undef KVA_MULTIPLY
#undef KVA_NAMES128
#undef KVA_NAMES64
#undef KVA_NAMES32
#undef KVA_D32
#undef KVA_D8
#undef KVA_D4

}  // namespace kva::device

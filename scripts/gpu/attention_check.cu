// Checks the prefill attention kernels against a float64 reference on random inputs, then times them. Needs a GPU.
//   nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a scripts/gpu/attention_check.cu cuda/ops/attention_prefill*.cu -o attention_check
//   ./attention_check check | few (small shapes, for compute-sanitizer) | bench | blocks (sets of blocks by density) | one ROWS (some runs of one length, for a profiler)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../cuda/device/attention_prefill.cuh"
#include "../../cuda/device/vec.cuh"
#include "../../cuda/include/kvaccel.h"

using kva::AttentionPrefill;

namespace {

void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

struct Buffer {
  void* data = nullptr;
  int64_t bytes = 0;
  void resize(int64_t wanted) {
    if (wanted <= bytes) return;
    cudaFree(data);
    must(cudaMalloc(&data, wanted), "cudaMalloc");
    bytes = wanted;
  }
};

__device__ uint32_t mix(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
  return uint32_t((x ^ (x >> 32)) >> 32);
}

template <class T>
__global__ void fill_normal(T* to, int64_t rows, int columns, int64_t stride, uint64_t seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < rows * columns; i += int64_t(gridDim.x) * blockDim.x) {
    const float u = (mix(seed + 2 * i) + 1.0f) * 0x1p-32f, angle = mix(seed + 2 * i + 1) * 0x1p-32f * 6.2831853f;
    to[i / columns * stride + i % columns] = kva::device::narrow<T>(scale * sqrtf(-2 * logf(u)) * cosf(angle));
  }
}

// whether the set of blocks gives a query row (first_row not counted) the key
__device__ bool listed(const AttentionPrefill& a, int head, int row, int key) {
  if (a.bits == nullptr || (a.dense[head / 32] >> (head % 32) & 1)) return true;
  const int block = key / a.block;
  return a.bits[(int64_t(head) * a.block_rows + row / a.block) * a.bits_stride + block / 32] >> (block % 32) & 1;
}

// One block: a row of a head. Exact: all in float64. Plain: scores and sums in fp32, probabilities and output rounded to T.
template <class T, class Real, bool Plain>
__global__ void reference(AttentionPrefill a, const int* sampled, double* out, double* lse) {
  extern __shared__ double memory[];
  Real* weights = reinterpret_cast<Real*>(memory);
  __shared__ Real total;
  const int row = sampled[blockIdx.x], head = blockIdx.y, last = a.first_row + row;
  const int first = a.window > 0 ? max(0, last - a.window + 1) : 0, count = last - first + 1;
  const T* q = static_cast<const T*>(a.q) + row * a.q_stride + int64_t(head) * a.head_dim;
  const int64_t kv = head / (a.heads / a.kv_heads) * a.head_stride + int64_t(first) * a.head_dim;
  const T *k = static_cast<const T*>(a.k) + kv, *v = static_cast<const T*>(a.v) + kv;
  for (int j = threadIdx.x; j < count; j += blockDim.x) {
    Real score = 0;
    for (int d = 0; d < a.head_dim; ++d) score += Real(kva::device::widen(q[d])) * Real(kva::device::widen(k[int64_t(j) * a.head_dim + d]));
    weights[j] = listed(a, head, row, first + j) ? score * Real(a.scale) : -Real(INFINITY);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    Real top = -INFINITY, sum = 0;
    for (int j = threadIdx.x; j < count; j += 32) top = max(top, weights[j]);
    for (int offset = 16; offset > 0; offset >>= 1) top = max(top, __shfl_xor_sync(~0u, top, offset));
    const Real shift = top == -Real(INFINITY) ? 0 : top;
    for (int j = threadIdx.x; j < count; j += 32) sum += weights[j] = exp(weights[j] - shift);
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
    if (threadIdx.x == 0) {
      total = sum > 0 ? sum : 1;
      lse[int64_t(blockIdx.x) * a.heads + head] = double(top) + log(double(sum));
    }
  }
  __syncthreads();
  for (int d = threadIdx.x; d < a.head_dim; d += blockDim.x) {
    Real sum = 0;
    for (int j = 0; j < count; ++j) {
      Real weight = weights[j] / total;
      if (Plain) weight = Real(kva::device::widen(kva::device::narrow<T>(float(weight))));
      sum += weight * Real(kva::device::widen(v[int64_t(j) * a.head_dim + d]));
    }
    const double value = Plain ? double(kva::device::widen(kva::device::narrow<T>(float(sum)))) : double(sum);
    out[(int64_t(blockIdx.x) * a.heads + head) * a.head_dim + d] = value;
  }
}

struct Variant {
  const char* name;
  bool (*takes)(const AttentionPrefill&);
  cudaError_t (*launch)(const AttentionPrefill&);
};
const Variant variants[] = {{"hopper", kva::attention_prefill_hopper_takes, kva::attention_prefill_hopper_launch},
                            {"mma", kva::attention_prefill_mma_takes, kva::attention_prefill_mma_launch},
                            {"fma", kva::attention_prefill_fma_takes, kva::attention_prefill_fma_launch}};
const char* const type_names[] = {"f32", "f16", "bf16"};

struct Shape {
  int dtype, head_dim, kv_heads, group, rows, first_row, window;
  bool lse, alias;
  float spread;     // of the queries: larger makes sharper distributions
  int block = 0;    // of the set of blocks; 0: none
  float share = 0;  // of the blocks that are in it; 0: some rows have none
};

// A set of blocks for query rows [first_row, first_row + rows): each by chance, with the first and the diagonal one where `anchored`, and
// whatever past the diagonal.
struct Set {
  std::vector<uint32_t> bits;
  int64_t stride = 0;
  int rows = 0;
  double blocks = 0, all = 0;

  Set(int heads, int count, int first_row, int block, float share, bool anchored, uint32_t seed) {
    std::mt19937 random(seed);
    rows = (count + block - 1) / block;
    stride = (first_row / block + rows + 31) / 32 + 1;
    bits.resize(heads * rows * stride);
    for (int h = 0; h < heads; ++h)
      for (int b = 0; b < rows; ++b) {
        const int diagonal = first_row / block + b;
        uint32_t* row = bits.data() + (int64_t(h) * rows + b) * stride;
        for (int c = 0; c < stride * 32; ++c) {
          if (!(anchored && (c == 0 || c == diagonal)) && random() >= share * 4294967296.0f) continue;
          row[c / 32] |= 1u << (c % 32);
          blocks += c <= diagonal;
        }
        all += diagonal + 1;
      }
  }
};

struct Tally {
  int runs = 0, failures = 0;
  double worst_norm[3][3] = {}, worst_ratio[3][3] = {};
};

class Checker {
 public:
  Tally tally;

  void run(const Shape& s) {
    if (s.dtype == KVA_F32) run_typed<float>(s);
    if (s.dtype == KVA_F16) run_typed<__half>(s);
    if (s.dtype == KVA_BF16) run_typed<__nv_bfloat16>(s);
  }

 private:
  Buffer q_, out_, k_, v_, lse_, counter_, sampled_, exact_, plain_, exact_lse_, bits_, order_;
  uint64_t seed_ = 1;

  template <class T>
  void run_typed(const Shape& s) {
    const int heads = s.kv_heads * s.group, columns = heads * s.head_dim, keys = s.first_row + s.rows;
    const int pad = 16 / int(sizeof(T)) * 3;
    const int64_t head_stride = int64_t(keys + 37) * s.head_dim + 64;
    AttentionPrefill a = {};
    a.q_stride = columns + pad;
    a.out_stride = s.alias ? a.q_stride : columns + 2 * pad;
    a.head_stride = head_stride;
    a.lse_stride = s.rows + 3;
    a.rows = s.rows, a.first_row = s.first_row, a.heads = heads, a.kv_heads = s.kv_heads, a.head_dim = s.head_dim;
    a.window = s.window, a.dtype = s.dtype, a.scale = 1 / std::sqrt(float(s.head_dim));
    const int64_t q_bytes = (s.rows + 1) * a.q_stride * sizeof(T), out_bytes = (s.rows + 1) * a.out_stride * sizeof(T);
    const int64_t kv_bytes = s.kv_heads * head_stride * sizeof(T), lse_bytes = heads * a.lse_stride * sizeof(float);
    q_.resize(q_bytes), out_.resize(std::max(q_bytes, out_bytes)), k_.resize(kv_bytes), v_.resize(kv_bytes), lse_.resize(lse_bytes);
    counter_.resize(4);
    // 0xff in every byte is a NaN of every type: it stands past the rows and columns that exist
    for (Buffer* buffer : {&q_, &k_, &v_}) must(cudaMemset(buffer->data, 0xff, buffer->bytes), "cudaMemset");
    must(cudaMemset(counter_.data, 0xff, 4), "cudaMemset");
    fill_normal<<<1024, 256>>>(static_cast<T*>(q_.data), s.rows, columns, a.q_stride, seed_++ << 40, s.spread);
    for (int h = 0; h < s.kv_heads; ++h) {
      fill_normal<<<256, 256>>>(static_cast<T*>(k_.data) + h * head_stride, keys, s.head_dim, s.head_dim, seed_++ << 40, 1.0f);
      fill_normal<<<256, 256>>>(static_cast<T*>(v_.data) + h * head_stride, keys, s.head_dim, s.head_dim, seed_++ << 40, 1.0f);
    }
    a.q = q_.data, a.k = k_.data, a.v = v_.data, a.counter = static_cast<int32_t*>(counter_.data);
    a.lse = s.lse ? static_cast<float*>(lse_.data) : nullptr;
    if (s.block > 0) {
      const Set set(heads, s.rows, s.first_row, s.block, s.share, s.share > 0, uint32_t(seed_));
      bits_.resize(set.bits.size() * 4), order_.resize(kva::attention_items(s.rows, heads) * 8);
      must(cudaMemcpy(bits_.data, set.bits.data(), set.bits.size() * 4, cudaMemcpyHostToDevice), "cudaMemcpy");
      a.bits = static_cast<const uint32_t*>(bits_.data), a.bits_stride = set.stride, a.block_rows = set.rows, a.block = s.block;
      a.order = static_cast<int32_t*>(order_.data);
      if (heads % 3 == 0) a.dense[0] = 2;  // the second head reads everything
    }

    std::vector<int> sampled;
    for (int r = 0; r < s.rows; r += s.rows > 300 ? 17 : 1) sampled.push_back(r);
    if (sampled.back() != s.rows - 1) sampled.push_back(s.rows - 1);
    const int64_t cells = int64_t(sampled.size()) * heads;
    sampled_.resize(sampled.size() * sizeof(int)), exact_.resize(cells * s.head_dim * 8), plain_.resize(cells * s.head_dim * 8);
    exact_lse_.resize(cells * 8);
    must(cudaMemcpy(sampled_.data, sampled.data(), sampled.size() * sizeof(int), cudaMemcpyHostToDevice), "cudaMemcpy");
    const int shared = keys * 8;
    const dim3 grid(sampled.size(), heads);
    must(cudaFuncSetAttribute(reference<T, double, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "attribute");
    must(cudaFuncSetAttribute(reference<T, float, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "attribute");
    const auto at = static_cast<const int*>(sampled_.data);
    const auto exact_lse = static_cast<double*>(exact_lse_.data);
    reference<T, float, true><<<grid, 256, shared>>>(a, at, static_cast<double*>(plain_.data), exact_lse);
    reference<T, double, false><<<grid, 256, shared>>>(a, at, static_cast<double*>(exact_.data), exact_lse);
    std::vector<double> exact(cells * s.head_dim), plain(cells * s.head_dim), lse(cells);
    must(cudaMemcpy(exact.data(), exact_.data, exact.size() * 8, cudaMemcpyDeviceToHost), "reference");
    must(cudaMemcpy(plain.data(), plain_.data, plain.size() * 8, cudaMemcpyDeviceToHost), "reference");
    must(cudaMemcpy(lse.data(), exact_lse_.data, lse.size() * 8, cudaMemcpyDeviceToHost), "reference");

    for (int i = 0; i < 3; ++i) {
      if (!variants[i].takes(a)) continue;
      if (i == 2 && s.dtype != KVA_F32 && seed_ % 4 != 0) continue;  // the fp32 kernel with 16-bit types: some shapes
      compare<T>(s, a, i, sampled, exact, plain, lse);
    }
  }

  template <class T>
  void compare(const Shape& s, AttentionPrefill a, int variant, const std::vector<int>& sampled, const std::vector<double>& exact,
               const std::vector<double>& plain, const std::vector<double>& exact_lse) {
    const int columns = a.heads * a.head_dim;
    must(cudaMemset(out_.data, 0xff, out_.bytes), "cudaMemset");
    must(cudaMemset(lse_.data, 0xff, lse_.bytes), "cudaMemset");
    if (s.alias) {
      must(cudaMemcpy(out_.data, q_.data, s.rows * a.q_stride * sizeof(T), cudaMemcpyDeviceToDevice), "cudaMemcpy");
      a.q = out_.data;
    }
    a.out = out_.data;
    must(variants[variant].launch(a), variants[variant].name);
    must(cudaDeviceSynchronize(), variants[variant].name);
    std::vector<T> got((s.rows + 1) * a.out_stride);
    std::vector<float> lse(a.heads * a.lse_stride);
    must(cudaMemcpy(got.data(), out_.data, got.size() * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    must(cudaMemcpy(lse.data(), lse_.data, lse.size() * sizeof(float), cudaMemcpyDeviceToHost), "cudaMemcpy");

    bool same = true;  // from run to run
    if (!s.alias) {
      must(variants[variant].launch(a), variants[variant].name);
      std::vector<T> again(got.size());
      must(cudaMemcpy(again.data(), out_.data, again.size() * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
      same = std::memcmp(got.data(), again.data(), got.size() * sizeof(T)) == 0;
    }

    int64_t unwritten = 0, overwritten = 0;
    for (int r = 0; r <= s.rows; ++r)
      for (int64_t c = 0; c < a.out_stride; ++c) {
        const bool inside = r < s.rows && c < columns, nan = std::isnan(float(got[r * a.out_stride + c]));
        unwritten += inside && nan;
        overwritten += !inside && !nan;
      }
    double error = 0, norm = 0, worst = 0, plain_worst = 0, lse_worst = 0, largest = 0;
    for (size_t i = 0; i < sampled.size(); ++i)
      for (int h = 0; h < a.heads; ++h) {
        for (int d = 0; d < a.head_dim; ++d) {
          const size_t cell = (i * a.heads + h) * a.head_dim + d;
          const double difference = float(got[sampled[i] * a.out_stride + h * a.head_dim + d]) - exact[cell];
          error += difference * difference, norm += exact[cell] * exact[cell];
          largest = std::max(largest, std::abs(exact[cell]));
          worst = std::max(worst, std::abs(difference));
          plain_worst = std::max(plain_worst, std::abs(plain[cell] - exact[cell]));
        }
        const double got_lse = lse[h * a.lse_stride + sampled[i]], true_lse = exact_lse[i * a.heads + h];
        if (s.lse && got_lse != true_lse) lse_worst = std::max(lse_worst, std::abs(got_lse - true_lse));
      }
    const double lucky = 0x1p-21 * largest;  // a plain error below 4 units of fp32 is chance: of one row's values, say
    const double relative = std::sqrt(error / norm), ratio = worst / std::max(plain_worst, lucky);
    const double tolerance = s.dtype == KVA_BF16 ? 1e-2 : s.dtype == KVA_F16 ? 2e-3 : 1e-5;
    const bool ok = same && unwritten == 0 && overwritten == 0 && relative < tolerance && ratio <= 2 && lse_worst < 1e-3;
    ++tally.runs;
    tally.failures += !ok;
    tally.worst_norm[variant][s.dtype] = std::max(tally.worst_norm[variant][s.dtype], relative);
    tally.worst_ratio[variant][s.dtype] = std::max(tally.worst_ratio[variant][s.dtype], ratio);
    if (!ok && tally.failures <= 40)
      std::printf("FAIL %s %s D%d heads %d/%d rows %d first %d window %d alias %d block %d: rel %.2e max/plain %.2f lse %.1e unwritten %ld overwritten %ld same %d\n",
                  variants[variant].name, type_names[s.dtype], s.head_dim, a.heads, a.kv_heads, s.rows, s.first_row, s.window, s.alias, s.block,
                  relative, ratio, lse_worst, long(unwritten), long(overwritten), same);
  }
};

int report(const Tally& tally) {
  for (int v = 0; v < 3; ++v)
    for (int t = 0; t < 3; ++t)
      if (tally.worst_norm[v][t] > 0)
        std::printf("%-7s %-5s worst relative norm %.2e, worst max error / plain %.2f\n", variants[v].name, type_names[t], tally.worst_norm[v][t],
                    tally.worst_ratio[v][t]);
  std::printf("%d runs, %d failures\n", tally.runs, tally.failures);
  return tally.failures != 0;
}

int few() {
  Checker checker;
  for (int dim : {64, 128, 80, 256, 33})
    for (int window : {0, 37})
      for (int dtype : {KVA_BF16, KVA_F32}) {
        checker.run({dtype, dim, 1, 2, 261, 70, window, true, window == 0, 1});
        checker.run({dtype, dim, 1, 2, 261, 128, window, true, window == 0, 1, window == 0 ? 128 : 64, 0.4f});
      }
  return report(checker.tally);
}

int check() {
  Checker checker;
  const int rows[] = {1, 7, 64, 129, 1000, 4097}, firsts[] = {0, 5, 128, 1000}, dims[] = {64, 128, 80, 96, 256, 40, 33};
  const int groups[] = {1, 4, 7}, windows[] = {0, 1, 37, 128, 1000};
  for (int dim : {64, 128})
    for (int dtype : {KVA_BF16, KVA_F16})
      for (int r : rows)
        for (int f : firsts) checker.run({dtype, dim, 2, 4, r, f, 0, true, r % 2 == 1, 1});
  std::mt19937 random(7);
  const auto pick = [&](const auto& list) { return list[random() % std::size(list)]; };
  for (int i = 0; i < 260; ++i) {
    const int dtypes[] = {KVA_BF16, KVA_F16, KVA_BF16, KVA_F16, KVA_F32};
    const int dtype = pick(dtypes), dim = pick(dims), group = pick(groups), row = pick(rows), first = pick(firsts), window = pick(windows);
    checker.run({dtype, dim, 1 + int(random() % 3), group, row, first, window, random() % 2 == 0, random() % 2 == 0, random() % 3 == 0 ? 6.0f : 1.0f});
  }
  for (int i = 0; i < 160; ++i) {
    const int dtypes[] = {KVA_BF16, KVA_F16, KVA_BF16, KVA_F16, KVA_F32}, dtype = pick(dtypes), dim = i % 2 ? pick(dims) : i % 4 ? 64 : 128;
    const int block = random() % 3 ? 128 : 64, first = block * int(random() % 9), window = random() % 4 ? 0 : 300;
    const float shares[] = {0, 0.1f, 0.5f, 1}, share = pick(shares);
    checker.run({dtype, dim, 1 + int(random() % 3), pick(groups), pick(rows), first, window, random() % 2 == 0, random() % 2 == 0, 1, block, share});
  }
  return report(checker.tally);
}

template <class T>
void time_one(const char* name, int dtype, int head_dim, int rows, int first_row, int heads, int kv_heads, double budget_ms,
              int block = 0, float share = 0) {
  const Variant* variant = std::find_if(std::begin(variants), std::end(variants), [&](const Variant& v) { return !std::strcmp(v.name, name); });
  static Buffer q, out, k, v, counter;
  const int keys = first_row + rows;
  q.resize(int64_t(rows) * heads * head_dim * sizeof(T)), out.resize(q.bytes), counter.resize(4);
  k.resize(int64_t(keys) * kv_heads * head_dim * sizeof(T)), v.resize(k.bytes);
  fill_normal<<<2048, 256>>>(static_cast<T*>(q.data), rows, heads * head_dim, heads * head_dim, 1ull << 40, 1.0f);
  fill_normal<<<2048, 256>>>(static_cast<T*>(k.data), int64_t(keys) * kv_heads, head_dim, head_dim, 2ull << 40, 1.0f);
  fill_normal<<<2048, 256>>>(static_cast<T*>(v.data), int64_t(keys) * kv_heads, head_dim, head_dim, 3ull << 40, 1.0f);
  const int64_t width = int64_t(heads) * head_dim;
  AttentionPrefill a = {q.data, out.data, width, width, k.data, v.data, int64_t(keys) * head_dim, nullptr, 0, static_cast<int32_t*>(counter.data),
                              rows, first_row, heads, kv_heads, head_dim, 0, dtype, 1 / std::sqrt(float(head_dim)), nullptr};
  static Buffer bits, order;
  double pairs = double(rows) * first_row + double(rows) * rows / 2, density = 1;
  if (block > 0) {
    const Set set(heads, rows, first_row, block, share, true, 5);
    bits.resize(set.bits.size() * 4), order.resize(kva::attention_items(rows, heads) * 8);
    must(cudaMemcpy(bits.data, set.bits.data(), set.bits.size() * 4, cudaMemcpyHostToDevice), "cudaMemcpy");
    a.bits = static_cast<const uint32_t*>(bits.data), a.bits_stride = set.stride, a.block_rows = set.rows, a.block = block;
    a.order = static_cast<int32_t*>(order.data);
    density = set.blocks / set.all;
    pairs = set.blocks / heads * block * block;
  }
  if (!variant->takes(a)) return;
  cudaEvent_t begin, end;
  must(cudaEventCreate(&begin), "event"), must(cudaEventCreate(&end), "event");
  std::vector<float> times;
  float spent = 0;
  for (int i = 0; i < 2; ++i) must(variant->launch(a), name);
  while (times.size() < 5 || (spent < budget_ms && times.size() < 200)) {
    must(cudaEventRecord(begin), "event");
    must(variant->launch(a), name);
    must(cudaEventRecord(end), "event");
    must(cudaEventSynchronize(end), name);
    float ms;
    must(cudaEventElapsedTime(&ms, begin, end), "event");
    times.push_back(ms);
    spent += ms;
  }
  std::sort(times.begin(), times.end());
  const double flops = 4 * pairs * head_dim * heads, median = times[times.size() / 2];
  static double dense = 0;
  if (block == 0) dense = median;
  std::printf("%-7s %-5s D%-3d rows %6d first %6d: %9.3f ms median (%.3f to %.3f, %zu runs) %7.1f TFLOP/s\n", name, type_names[dtype], head_dim, rows,
              first_row, median, times.front(), times.back(), times.size(), flops / median * 1e-9);
  if (block > 0)
    std::printf("        block %d density %.3f: %.2f of the dense time x density, of the last dense run (target 1.18)\n", block, density, median / dense / density);
}

int blocks() {
  for (int rows : {32768, 131072}) {
    time_one<__nv_bfloat16>("hopper", KVA_BF16, 128, rows, 0, 32, 8, 300);
    for (float share : {0.05f, 0.1f, 0.2f, 0.5f, 1.0f}) time_one<__nv_bfloat16>("hopper", KVA_BF16, 128, rows, 0, 32, 8, 200, 128, share);
  }
  time_one<__nv_bfloat16>("hopper", KVA_BF16, 64, 65536, 0, 32, 8, 100);
  time_one<__nv_bfloat16>("hopper", KVA_BF16, 64, 65536, 0, 32, 8, 100, 128, 0.2f);
  time_one<__nv_bfloat16>("mma", KVA_BF16, 128, 32768, 0, 32, 8, 100);
  time_one<__nv_bfloat16>("mma", KVA_BF16, 128, 32768, 0, 32, 8, 100, 128, 0.2f);
  time_one<__nv_bfloat16>("mma", KVA_BF16, 128, 32768, 0, 32, 8, 100, 64, 0.2f);
  return 0;
}

int bench() {
  for (int rows = 4096; rows <= 131072; rows *= 2) time_one<__nv_bfloat16>("hopper", KVA_BF16, 128, rows, 0, 32, 8, 300);
  time_one<__nv_bfloat16>("hopper", KVA_BF16, 128, 4096, 126976, 32, 8, 200);
  for (int rows : {16384, 65536}) time_one<__half>("hopper", KVA_F16, 128, rows, 0, 32, 8, 200);
  for (int rows : {4096, 16384, 65536}) time_one<__nv_bfloat16>("hopper", KVA_BF16, 64, rows, 0, 32, 8, 200);
  for (int rows : {4096, 16384}) time_one<__nv_bfloat16>("mma", KVA_BF16, 128, rows, 0, 32, 8, 100);
  time_one<__nv_bfloat16>("mma", KVA_BF16, 64, 16384, 0, 32, 8, 100);
  time_one<__nv_bfloat16>("mma", KVA_BF16, 256, 16384, 0, 16, 8, 100);
  time_one<float>("fma", KVA_F32, 128, 4096, 0, 32, 8, 100);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string mode = count > 1 ? arguments[1] : "";
  if (mode == "check") return check();
  if (mode == "few") return few();
  if (mode == "bench") return bench();
  if (mode == "blocks") return blocks();
  if (mode == "one" && count == 3) return time_one<__nv_bfloat16>("hopper", KVA_BF16, 128, std::atoi(arguments[2]), 0, 32, 8, 0), 0;
  std::printf("attention_check check | few | bench | blocks | one ROWS\n");
  return 2;
}

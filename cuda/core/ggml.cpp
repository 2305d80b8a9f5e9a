// Elements of GGUF's block formats. A block of 32 has its own scale (and minimum); a super-block of 256 (K formats) scales its scales again.
#include "ggml.h"

#include <cstring>

#include "dtype.h"

namespace kva {
namespace {

using Bytes = const unsigned char*;

float half_at(Bytes p) {
  f16 x;
  std::memcpy(&x, p, 2);
  return to_float(x);
}

template <class T>
void plain(Bytes p, float* to) {
  T x;
  std::memcpy(&x, p, sizeof x);
  *to = to_float(x);
}

// f16 scale, 32 codes of 4 bits: the low halves of 16 bytes, then the high ones; value = scale * (code - 8)
void q4_0(Bytes p, float* to) {
  const float scale = half_at(p);
  for (int i = 0; i < 16; ++i) {
    to[i] = scale * float((p[2 + i] & 15) - 8);
    to[i + 16] = scale * float((p[2 + i] >> 4) - 8);
  }
}

// as q4_0 with an f16 minimum: value = scale * code + minimum
void q4_1(Bytes p, float* to) {
  const float scale = half_at(p), minimum = half_at(p + 2);
  for (int i = 0; i < 16; ++i) {
    to[i] = scale * float(p[4 + i] & 15) + minimum;
    to[i + 16] = scale * float(p[4 + i] >> 4) + minimum;
  }
}

// f16 scale, 32 signed bytes
void q8_0(Bytes p, float* to) {
  const float scale = half_at(p);
  for (int i = 0; i < 32; ++i) to[i] = scale * float(int8_t(p[2 + i]));
}

// Scale and minimum of sub-block j of 8, 6 bits each in 12 bytes: the first four in the low 6 bits of a byte, of the others 4 bits in
// the last four bytes and 2 in the top of the first eight.
struct ScaleMin {
  float scale, minimum;
};
ScaleMin scale_min(Bytes packed, int j, float d, float dmin) {
  if (j < 4) return {d * float(packed[j] & 63), dmin * float(packed[j + 4] & 63)};
  return {d * float((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4)), dmin * float((packed[j + 4] >> 4) | (packed[j] >> 6 << 4))};
}

// f16 d, f16 dmin, 12 bytes of scales and minima, 256 codes of 4 bits: 32 bytes hold two sub-blocks, low halves first
void q4_k(Bytes p, float* to) {
  const float d = half_at(p), dmin = half_at(p + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sub = scale_min(p + 4, j, d, dmin);
    const Bytes codes = p + 16 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) to[32 * j + i] = sub.scale * float(j % 2 ? codes[i] >> 4 : codes[i] & 15) - sub.minimum;
  }
}

// as q4_k with a fifth bit: bit j of byte i of 32 belongs to element i of sub-block j
void q5_k(Bytes p, float* to) {
  const float d = half_at(p), dmin = half_at(p + 2);
  const Bytes high = p + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sub = scale_min(p + 4, j, d, dmin);
    const Bytes codes = p + 48 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = (j % 2 ? codes[i] >> 4 : codes[i] & 15) + ((high[i] >> j & 1) << 4);
      to[32 * j + i] = sub.scale * float(code) - sub.minimum;
    }
  }
}

// 128 bytes with the low 4 bits, 64 with the high 2, 16 signed scales, f16 d; value = d * scale * (code - 32). Each half of 128 elements
// is four runs of 32: low halves of 64 bytes, then high ones; the run's number gives the place of its high bits.
void q6_k(Bytes p, float* to) {
  const float d = half_at(p + 208);
  for (int half = 0; half < 2; ++half)
    for (int run = 0; run < 4; ++run)
      for (int i = 0; i < 32; ++i) {
        const unsigned char low = p[64 * half + run % 2 * 32 + i], high = p[128 + 32 * half + i];
        const int code = (run < 2 ? low & 15 : low >> 4) | (high >> 2 * run & 3) << 4;
        const float scale = d * float(int8_t(p[192 + 8 * half + 2 * run + i / 16]));
        to[128 * half + 32 * run + i] = scale * float(code - 32);
      }
}

template <void (*block)(Bytes, float*)>
void blocks(const GgmlFormat& format, const char* from, int64_t elements, float* to) {
  const Bytes bytes = reinterpret_cast<Bytes>(from);
  for (int64_t b = 0; b < elements / format.elements; ++b) block(bytes + b * format.bytes, to + b * format.elements);
}

}  // namespace

GgmlFormat ggml_format(int32_t format) {
  switch (format) {
    case KVA_GGML_F32: return {"F32", 1, 4};
    case KVA_GGML_F16: return {"F16", 1, 2};
    case KVA_GGML_BF16: return {"BF16", 1, 2};
    case KVA_GGML_Q4_0: return {"Q4_0", 32, 18};
    case KVA_GGML_Q4_1: return {"Q4_1", 32, 20};
    case KVA_GGML_Q8_0: return {"Q8_0", 32, 34};
    case KVA_GGML_Q4_K: return {"Q4_K", 256, 144};
    case KVA_GGML_Q5_K: return {"Q5_K", 256, 176};
    case KVA_GGML_Q6_K: return {"Q6_K", 256, 210};
  }
  return {"unknown", 1, 0};
}

void ggml_floats(int32_t number, const char* from, int64_t elements, float* to) {
  const GgmlFormat format = ggml_format(number);
  switch (number) {
    case KVA_GGML_F32: return blocks<plain<float>>(format, from, elements, to);
    case KVA_GGML_F16: return blocks<plain<f16>>(format, from, elements, to);
    case KVA_GGML_BF16: return blocks<plain<bf16>>(format, from, elements, to);
    case KVA_GGML_Q4_0: return blocks<q4_0>(format, from, elements, to);
    case KVA_GGML_Q4_1: return blocks<q4_1>(format, from, elements, to);
    case KVA_GGML_Q8_0: return blocks<q8_0>(format, from, elements, to);
    case KVA_GGML_Q4_K: return blocks<q4_k>(format, from, elements, to);
    case KVA_GGML_Q5_K: return blocks<q5_k>(format, from, elements, to);
    case KVA_GGML_Q6_K: return blocks<q6_k>(format, from, elements, to);
  }
}

}  // namespace kva

// The block formats of GGUF files: sizes, names, and elements as fp32.
#pragma once
#include <cstdint>

namespace kva {

// Elements and bytes of one block of a format (KVA_GGML_*); bytes are 0 where the format is not one that is read.
struct GgmlFormat {
  const char* name;
  int64_t elements;
  int64_t bytes;
};
GgmlFormat ggml_format(int32_t format);

// to = the elements of whole blocks at `from` (any alignment).
void ggml_floats(int32_t format, const char* from, int64_t elements, float* to);

// Row r of a file that keeps the two halves of each head's rows interleaved, as RoPE on neighbouring pairs wants them, belongs here in
// a matrix of `heads` heads whose halves follow one another: rows 2i and 2i + 1 of a head become i and i + headRows / 2.
inline int64_t unpaired_row(int64_t r, int64_t head_rows) {
  const int64_t head = r / head_rows, inside = r % head_rows;
  return head * head_rows + inside / 2 + inside % 2 * (head_rows / 2);
}

}  // namespace kva

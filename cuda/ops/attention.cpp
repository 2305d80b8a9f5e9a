// out = softmax(scale * q . k) * v over the cache, for prefill and decode alike: online softmax over blocks of key_block cache rows at fixed
// boundaries, a row of q for itself, so that a result does not depend on how query rows are grouped.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"
#include "segments.h"

namespace kva {
namespace {

constexpr int32_t tile_rows = 96;  // rows of q times heads of a group that share a widened block

// What one query tile sees: its row t sees cache rows [begin(t), end(t)) whose position is above min_position.
struct View {
  int32_t first_end;  // end(0); each further row sees one more
  int32_t window;     // 0: from row 0
  int32_t min_position;
  const int32_t* pages = nullptr;  // where the rows lie: row r in page pages[r / page_rows]; NULL: rows lie as they are numbered
  int32_t page_rows = 0;

  int32_t end(int32_t t) const { return first_end + t; }
  int32_t begin(int32_t t) const { return window > 0 ? std::max(0, end(t) - window) : 0; }
};

struct Workspace {
  float *q, *out, *maximum, *sum, *factors, *scores, *keys, *values;
  float* kept;  // scores for probs, or rows of pages side by side: never both

  static int32_t width(const KvShape& shape) { return (shape.head_dim + kernels().lanes - 1) / kernels().lanes * kernels().lanes; }
  static int64_t rounded(int64_t floats) { return (floats + 15) / 16 * 16; }
  static int64_t floats(const KvShape& shape, int64_t rows, int64_t kept_floats) {
    return rounded(rows * shape.head_dim) + rows * width(shape) + 3 * rounded(rows) + rows * key_block + shape.head_dim * key_block +
           key_block * width(shape) + kept_floats;
  }
  static int64_t page_floats(const KvShape& shape) { return key_block * int64_t(shape.head_dim); }
  Workspace(const KvShape& shape, int64_t rows, float* memory) {
    auto take = [&](int64_t floats) { return std::exchange(memory, memory + rounded(floats)); };
    q = take(rows * shape.head_dim);
    out = take(rows * width(shape));
    maximum = take(rows);
    sum = take(rows);
    factors = take(rows);
    scores = take(rows * key_block);
    keys = take(shape.head_dim * int64_t(key_block));
    values = take(key_block * int64_t(width(shape)));
    kept = memory;
  }
};

struct Attend {
  const Kernels& k;
  const KvShape shape;
  const float scale;
  Matrix q, out;

  const char* cache_row(const void* from, int64_t row) const {
    return static_cast<const char*>(from) + row * shape.head_dim * dtype_bytes(shape.dtype);
  }
  // Rows [base, base + count) that a view of pages reads, side by side in `to`.
  const char* gather(const void* from, const View& view, int32_t base, int32_t count, char* to) const {
    const int64_t bytes = shape.head_dim * dtype_bytes(shape.dtype);
    for (int32_t j = 0, run; j < count; j += run) {
      const int32_t row = base + j, at = row % view.page_rows;
      run = std::min(view.page_rows - at, count - j);
      memcpy(to + j * bytes, cache_row(from, int64_t(view.pages[row / view.page_rows]) * view.page_rows + at), run * bytes);
    }
    return to;
  }
  static char* head_of(const Matrix& m, int64_t row, int64_t head, int32_t head_dim) {
    return m.row<char>(0) + row * m.pitch() + head * head_dim * dtype_bytes(m.dtype);
  }

  // Rows [row, row + rows) of q for the group of one KV head. kept: whether masked scores [group, kept_stride] are wanted (one row).
  void run(const KvHead& head, int32_t kv_head, int32_t row, int32_t rows, const View& view, const Workspace& w, int64_t kept_stride) const {
    const int32_t group = shape.group(), width = Workspace::width(shape);
    for (int32_t i = 0; i < rows * group; ++i)
      k.widen(q.dtype, head_of(q, row + i / group, kv_head * group + i % group, shape.head_dim), w.q + int64_t(i) * shape.head_dim, shape.head_dim);
    std::fill_n(w.out, int64_t(rows) * group * width, 0.0f);
    std::fill_n(w.maximum, rows * group, -INFINITY);
    std::fill_n(w.sum, rows * group, 0.0f);

    for (int32_t base = view.begin(0) / key_block * key_block; base < view.end(rows - 1); base += key_block) {
      // Rows that see some of the block are neighbours, for both ends of what a row sees rise with it.
      int32_t first = 0, last = rows;
      while (first < rows && view.end(first) <= base) ++first;
      while (last > first && view.begin(last - 1) >= base + key_block) --last;
      run_block(head, base, first, last, view, w, kept_stride);
    }
    for (int32_t i = 0; i < rows * group; ++i) {
      float* from = w.out + int64_t(i) * width;
      float share = w.sum[i] == 0 ? 0.0f : 1.0f / w.sum[i];
      for (int32_t d = 0; d < shape.head_dim; ++d) from[d] *= share;
      k.narrow(out.dtype, from, head_of(out, row + i / group, kv_head * group + i % group, shape.head_dim), shape.head_dim);
    }
  }

  void run_block(const KvHead& head, int32_t base, int32_t first, int32_t last, const View& view, const Workspace& w, int64_t kept_stride) const {
    const int32_t group = shape.group(), width = Workspace::width(shape);
    const int32_t count = std::min(key_block, view.end(last - 1) - base);
    bool hidden[key_block];
    int32_t hidden_rows = 0;
    for (int32_t j = 0; j < count; ++j) hidden_rows += hidden[j] = head.pos[base + j] <= view.min_position;
    const int32_t heads = (last - first) * group;
    float* scores = w.scores;
    if (hidden_rows == count) {
      if (kept_stride > 0)
        for (int32_t g = 0; g < group; ++g) std::fill_n(w.kept + g * kept_stride + base, count, -INFINITY);
      return;
    }
    if (view.pages != nullptr) {
      char* rows = reinterpret_cast<char*>(w.kept);
      k.load_keys(shape.dtype, gather(head.k, view, base, count, rows), count, shape.head_dim, w.keys);
      k.load_values(shape.dtype, gather(head.v, view, base, count, rows), count, shape.head_dim, w.values);
    } else if (head.packing == KvPacking{}) {
      k.load_keys(shape.dtype, cache_row(head.k, base), count, shape.head_dim, w.keys);
      k.load_values(shape.dtype, cache_row(head.v, base), count, shape.head_dim, w.values);
    } else {
      load_packed_keys(shape, head, base, count, w.keys);
      load_packed_values(shape, head, base, count, width, w.values);
    }
    k.scores(w.q + int64_t(first) * group * shape.head_dim, heads, w.keys, shape.head_dim, scale, scores);
    for (int32_t i = 0; i < heads; ++i) {
      float* row = scores + i * key_block;
      if (hidden_rows > 0)
        for (int32_t j = 0; j < count; ++j)
          if (hidden[j]) row[j] = -INFINITY;
      if (kept_stride > 0) std::copy_n(row, count, w.kept + i * kept_stride + base);
      int32_t t = first + i / group, of = first * group + i;
      w.factors[i] = k.softmax(row, std::max(0, view.begin(t) - base), std::min(count, view.end(t) - base), &w.maximum[of], &w.sum[of]);
    }
    k.weigh(scores, heads, w.factors, w.values, count, width, w.out + int64_t(first) * group * width);
  }

  // probs[r] = mean over the group of softmax(kept[g, r])
  void write_probs(int32_t rows, const Workspace& w, int64_t kept_stride, float* probs) const {
    const int32_t group = shape.group();
    std::fill_n(probs, rows, 0.0f);
    for (int32_t g = 0; g < group; ++g) {
      if (w.sum[g] == 0) continue;
      float *kept = w.kept + g * kept_stride, share = 1.0f / w.sum[g] / float(group);
      k.exp_shifted(kept, w.maximum[g], rows);
      for (int32_t r = 0; r < rows; ++r) probs[r] += kept[r] * share;
    }
  }
};

}  // namespace

void attention_prefill(Context& context, Kv& kv, int32_t layer, int32_t first_row, Matrix q, float scale, int32_t window, Matrix out,
                       Matrix lse) {
  KvShape shape = kv.shape;
  KvHead* heads = layer_heads(kv.table, layer);
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device] {
    Attend op{kernels(), shape, scale, q, out};
    int32_t group = shape.group(), step = std::max(1, tile_rows / group), tiles = (q.rows + step - 1) / step;
    int64_t floats = Workspace::floats(shape, int64_t(step) * group, 0);
    float* scratch = static_cast<float*>(context.scratch(device.pool.threads() * floats * int64_t(sizeof(float))));
    device.pool.run(int64_t(tiles) * shape.kv_heads, [=, &op](int64_t task, int32_t worker) {
      // Late tiles see most: they go first.
      int32_t kv_head = int32_t(task % shape.kv_heads), row = (tiles - 1 - int32_t(task / shape.kv_heads)) * step;
      int32_t rows = std::min(step, q.rows - row);
      Workspace w(shape, int64_t(step) * group, scratch + worker * floats);
      op.run(heads[kv_head], kv_head, row, rows, View{first_row + row + 1, window, INT32_MIN}, w, 0);
      if (!lse) return;
      for (int32_t i = 0; i < rows * group; ++i) lse.row<float>(kv_head * group + i % group)[row + i / group] = w.maximum[i] + std::log(w.sum[i]);
    });
  });
}

void attention_decode(Context& context, Batch& batch, int32_t layer, Matrix q, float scale, int32_t window, Matrix out, Matrix probs) {
  KvShape shape = batch.shape();
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device, table = batch.table, sequences = batch.sequences()] {
    Attend op{kernels(), shape, scale, q, out};
    int64_t kept_rows = 0;
    if (probs)
      for (int32_t s = 0; s < sequences; ++s)
        for (int32_t h = 0; h < shape.kv_heads; ++h) kept_rows = std::max<int64_t>(kept_rows, layer_heads(table[s], layer)[h].len);
    kept_rows = Workspace::rounded(kept_rows);
    int64_t floats = Workspace::floats(shape, shape.group(), shape.group() * kept_rows);
    float* scratch = static_cast<float*>(context.scratch(device.pool.threads() * floats * int64_t(sizeof(float))));
    device.pool.run(int64_t(sequences) * shape.kv_heads, [=, &op](int64_t task, int32_t worker) {
      int32_t s = int32_t(task / shape.kv_heads), kv_head = int32_t(task % shape.kv_heads);
      const KvHead& head = layer_heads(table[s], layer)[kv_head];
      int32_t hidden = window > 0 ? std::max(-1, table[s]->position - window) : -1; // a dropped row's position is negative
      Workspace w(shape, shape.group(), scratch + worker * floats);
      op.run(head, kv_head, s, 1, View{head.len, 0, hidden}, w, kept_rows);
      if (probs) op.write_probs(head.len, w, kept_rows, probs.row<float>(task));
    });
  });
}

void attention_decode_pages(Context& context, Batch& batch, int32_t layer, Matrix q, float scale, int32_t, Matrix pages, Matrix counts,
                            Matrix out) {
  KvShape shape = batch.shape();
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device, table = batch.table, sequences = batch.sequences()] {
    Attend op{kernels(), shape, scale, q, out};
    int64_t floats = Workspace::floats(shape, shape.group(), Workspace::page_floats(shape));
    float* scratch = static_cast<float*>(context.scratch(device.pool.threads() * floats * int64_t(sizeof(float))));
    device.pool.run(int64_t(sequences) * shape.kv_heads, [=, &op](int64_t task, int32_t worker) {
      int32_t s = int32_t(task / shape.kv_heads), kv_head = int32_t(task % shape.kv_heads), count = counts.row<int32_t>(0)[task];
      const KvHead& head = layer_heads(table[s], layer)[kv_head];
      View view{head.len, 0, INT32_MIN};
      if (count >= 0) {  // the last page may be short
        view.first_end = head.len - (pages_of(head, head.len) - count) * head.page_rows;
        view.pages = pages.row<int32_t>(task);
        view.page_rows = head.page_rows;
      }
      Workspace w(shape, shape.group(), scratch + worker * floats);
      op.run(head, kv_head, s, 1, view, w, 0);
    });
  });
}

void attention_decode_reserve(Context& context, Batch& batch) {
  // For each thread one widened block, and for probs the scores of the longest head, or a block of rows from pages.
  const KvShape& shape = batch.shape();
  int64_t floats = Workspace::floats(shape, shape.group(), std::max(shape.group() * int64_t(batch.splits) * split_rows, Workspace::page_floats(shape)));
  context.scratch(cpu(context).pool.threads() * floats * int64_t(sizeof(float)));
}

}  // namespace kva

// extern "C": bounds of pages, what decode attention reads by them, and attention over it.
#include "../ops/ops.h"
#include "check.h"

using namespace kva;

int32_t kva_kv_bound_pages(kva_kv* kv, int32_t layer, int32_t page_rows) {
  return run("kv_bound_pages", [&]() -> Context& {
    Kv& cache = get(kv, "kv");
    require_layer(cache.shape, layer);
    require(page_rows == 16 || page_rows == 32 || page_rows == 64 || page_rows == 128, "page_rows is %d, it must be 16, 32, 64 or 128", page_rows);
    require_plain(cache, layer);
    require(!cache.pages(layer), "layer %d keeps bounds of pages of %d rows already", layer, cache.layer(layer)[0].page_rows);
    cache.bound_pages(layer, page_rows);
    return cache.context;
  });
}

// i32, of the batch's context
static Tensor& get_ints(kva_tensor* handle, const char* name, const Context& context) {
  Tensor& x = get(handle, name);
  require_context(x, name, context);
  require_type(x, name, KVA_I32);
  return x;
}

static int64_t heads_of(const Batch& b) { return int64_t(b.sequences()) * b.shape().kv_heads; }

// body(head, rows it will hold) for each head of sequences [first, first + sequences), at every run of the op
template <class Body>
static void each_head_when_run(Batch& b, int32_t first, int32_t sequences, int32_t layer, Body body) {
  b.context.condition([&b, first, sequences, layer, body, before = b.context.recorded_appends(b, layer)] {
    for (int32_t s = first; s < first + sequences; ++s)
      for (int32_t h = 0; h < b.shape().kv_heads; ++h) body(b.kvs[s]->layer(layer)[h], b.kvs[s]->layer(layer)[h].len + before);
  });
}

int32_t kva_page_scores(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* q, int32_t reduce,
                        kva_tensor* scores) {
  return run("page_scores", [&]() -> Context& {
    Batch& b = get_range(batch, first_sequence, sequences, layer);
    Tensor &queries = get(q, "q"), &out = get(scores, "scores");
    require_context(queries, "q", b.context);
    require_float(queries, "q");
    require_shape(queries, "q", b.sequences(), int64_t(b.shape().heads) * b.shape().head_dim);
    require(reduce == KVA_REDUCE_MEAN || reduce == KVA_REDUCE_MAX, "reduce is %d, it must be 0 (mean) or 1 (maximum)", reduce);
    get_result(scores, "scores", b.context, heads_of(b), out.columns);
    each_head_when_run(b, first_sequence, sequences, layer, [columns = out.columns](const KvHead& head, int32_t rows) {
      require(head.page_rows == 0 || pages_of(head, rows) <= columns, "scores has %d columns, a head has %d pages", columns,
              head.page_rows == 0 ? 0 : pages_of(head, rows));
    });
    page_scores(b.context, b, first_sequence, sequences, layer, queries, reduce, out);
    return b.context;
  });
}

int32_t kva_choose_pages(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* scores, int32_t rows,
                         kva_tensor* pages, kva_tensor* counts) {
  return run("choose_pages", [&]() -> Context& {
    Batch& b = get_range(batch, first_sequence, sequences, layer);
    Tensor &x = get(scores, "scores"), &lists = get_ints(pages, "pages", b.context), &numbers = get_ints(counts, "counts", b.context);
    get_result(scores, "scores", b.context, heads_of(b), x.columns);
    require_shape(lists, "pages", heads_of(b), lists.columns);
    require_shape(numbers, "counts", 1, heads_of(b));
    require(rows >= 1, "rows is %d, it must be at least 1", rows);
    each_head_when_run(b, first_sequence, sequences, layer, [rows, columns = x.columns, places = lists.columns](const KvHead& head, int32_t held) {
      if (head.page_rows == 0 || held <= rows) return;
      require(rows >= head.page_rows, "rows is %d, less than one page of %d", rows, head.page_rows);
      require(rows / head.page_rows <= places, "pages has %d columns, %d pages are to be chosen", places, rows / head.page_rows);
      require(pages_of(head, held) <= columns, "scores has %d columns, a head has %d pages", columns, pages_of(head, held));
    });
    choose_pages(b.context, b, first_sequence, sequences, layer, x, rows, lists, numbers);
    return b.context;
  });
}

int32_t kva_attention_decode_pages(kva_batch* batch, int32_t layer, kva_tensor* q, float scale, int32_t most_rows, kva_tensor* pages,
                                   kva_tensor* counts, kva_tensor* out) {
  return run("attention_decode_pages", [&]() -> Context& {
    Batch& b = get_filled(batch);
    Tensor &queries = get(q, "q"), &y = get(out, "out");
    Tensor &lists = get_ints(pages, "pages", b.context), &numbers = get_ints(counts, "counts", b.context);
    require_layer(b.shape(), layer);
    require_queries(b.shape(), b.context, queries, b.sequences(), y, scale, 0);
    require(most_rows >= 1, "most_rows is %d, it must be at least 1", most_rows);
    require_shape(lists, "pages", heads_of(b), lists.columns);
    require_shape(numbers, "counts", 1, heads_of(b));
    for (Kv* kv : b.kvs) require_plain(*kv, layer);
    attention_decode_pages(b.context, b, layer, queries, scale, most_rows, lists, numbers, y);
    return b.context;
  });
}

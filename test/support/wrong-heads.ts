// Wrong calls: budgets of each head, scores over all heads, expected attention.
import { NULL, type Wrong } from "./wrong-calls.ts";

export const wrongHeads: Wrong[] = [
  [
    "topk_counts: more than there are",
    ({ native, f, t }) => native.kva_topk_counts(f(2, 9), 19, t("int32", 1, 2)),
    /k is 19.*18 elements/,
  ],
  [
    "topk_counts: counts of other rows",
    ({ native, f, t }) => native.kva_topk_counts(f(2, 9), 3, t("int32", 1, 3)),
    /\[1, 3\].*\[1, 2\]/,
  ],
  [
    "topk_each: more columns than there are",
    ({ native, f, t }) => native.kva_topk_each(f(2, 9), t("int32", 1, 2), t("int32", 2, 10)),
    /10 columns.*9/,
  ],
  [
    "fill_at: rows of another matrix",
    ({ native, f, t }) => native.kva_fill_at(f(2, 9), t("int32", 3, 2), 1),
    /\[3, 2\]/,
  ],
  ["multiply: another shape", ({ native, f }) => native.kva_multiply(f(2, 9), f(2, 8), f(2, 9)), /\[2, 8\].*\[2, 9\]/],
  ["rows_mean: another shape", ({ native, f }) => native.kva_rows_mean(f(2, 9), f(1, 9)), /\[1, 9\].*\[2, 9\]/],
  ["row_sums: another shape", ({ native, f }) => native.kva_row_sums(f(2, 9), f(2, 2)), /\[2, 2\].*\[2, 1\]/],
  [
    "kv_accumulate_shared: probs of other rows",
    ({ native, batch, f }) => native.kva_kv_accumulate_shared(batch, 0, 1, 0, f(1, 4), 0, 1, 1),
    /\[1, 4\].*\[2, 4\]/,
  ],
  [
    "kv_accumulate_shared: no such side array",
    ({ native, batch, f }) => native.kva_kv_accumulate_shared(batch, 0, 1, 0, f(2, 4), 1, 1, 1),
    /side is 1/,
  ],
  [
    "kv_keep_at_most_each: fewer rows than sinks",
    ({ native, batch }) => native.kva_kv_keep_at_most_each(batch, 0, 1, 0, Int32Array.of(4, 2), 3),
    /rows\[1\] is 2 and sinks is 3/,
  ],
  ["key_similarity: no rows", ({ native, kv, f }) => native.kva_key_similarity(kv, 0, f(2, 1)), /holds no rows/],
  ["key_similarity: no such layer", ({ native, kv, f }) => native.kva_key_similarity(kv, 2, f(2, 1)), /layer is 2/],
  [
    "kv_note_similarity: no rows",
    ({ native, batch }) => native.kva_kv_note_similarity(batch, 0, 1, 0, 0, 0, 1),
    /rows is 0/,
  ],
  [
    "query_moments: heads that do not divide",
    ({ native, f }) => native.kva_query_moments(f(3, 256), 5, 0, f(4, 4160)),
    /heads is 5/,
  ],
  [
    "query_moments: moments of another head size",
    ({ native, f }) => native.kva_query_moments(f(3, 256), 4, 0, f(4, 4161)),
    /\[4, 4161\].*\[4, 4160\]/,
  ],
  [
    "future_attention: no positions",
    ({ native, kv, f }) => native.kva_future_attention(kv, 0, f(4, 4160), 1, 0, 0, f(1, 32), 0, 1, 1, 0, 1, f(2, 1)),
    /positions is 0/,
  ],
  [
    "future_attention: no queries were seen",
    ({ native, kv, f }) => native.kva_future_attention(kv, 0, f(4, 4160), 0, 0, 1, f(1, 32), 0, 1, 1, 0, 1, f(2, 1)),
    /seen is 0/,
  ],
  [
    "future_attention: no rows",
    ({ native, kv, f }) => native.kva_future_attention(kv, 0, f(4, 4160), 1, 0, 1, f(1, 32), 0, 1, 1, 0, 1, f(2, 1)),
    /first_row is 0.*holds 0/,
  ],
  [
    "future_attention: without moments",
    ({ native, kv, f }) => native.kva_future_attention(kv, 0, NULL, 1, 0, 1, f(1, 32), 0, 1, 1, 0, 1, f(2, 1)),
    /moments is null/,
  ],
];

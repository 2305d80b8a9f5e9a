// Wrong calls: pages that decode attention reads.
import type { Fixture, Wrong } from "./wrong-calls.ts";

/** A layer of `rows` rows that keeps bounds of pages of 16. */
function bounded({ native, kv, f }: Fixture, rows: number): void {
  native.kva_kv_reserve(kv, 0, rows + 1);
  native.kva_rope_append(kv, 0, 0, f(rows, 512), f(rows, 256), f(1, 32), 0, 1);
  native.kva_kv_bound_pages(kv, 0, 16);
}

export const wrongPages: Wrong[] = [
  ["kv_bound_pages: no such page", ({ native, kv }) => native.kva_kv_bound_pages(kv, 0, 48), /page_rows is 48/],
  ["kv_bound_pages: no such layer", ({ native, kv }) => native.kva_kv_bound_pages(kv, 2, 16), /layer is 2/],
  [
    "kv_bound_pages: twice",
    (x) => {
      bounded(x, 8);
      return x.native.kva_kv_bound_pages(x.kv, 0, 32);
    },
    /pages of 16 rows already/,
  ],
  [
    "kv_keep: rows under bounds",
    (x) => {
      bounded(x, 8);
      return x.native.kva_kv_keep(x.kv, 0, null, null, 4, 0, 0);
    },
    /layer 0 keeps bounds of pages/,
  ],
  [
    "kv_keep_at_most: rows under bounds",
    (x) => {
      bounded(x, 8);
      return x.native.kva_kv_keep_at_most(x.batch, 0, 1, 0, 4, 0);
    },
    /layer 0 keeps bounds of pages/,
  ],
  [
    "kv_quantize: rows under bounds",
    (x) => {
      bounded(x, 8);
      return x.native.kva_kv_quantize(x.kv, 0, 4, 4, 32, 32, 0);
    },
    /layer 0 keeps bounds of pages/,
  ],
  [
    "kv_write: keys under bounds",
    (x) => {
      bounded(x, 8);
      return x.native.kva_kv_write(x.kv, 0, 0, 0, x.f(8, 64));
    },
    /layer 0 keeps bounds of pages/,
  ],
  [
    "rope_append: rows under bounds",
    (x) => {
      bounded(x, 8);
      return x.native.kva_rope_append(x.kv, 0, 8, x.f(1, 512), x.f(1, 256), x.f(1, 32), 0, 1);
    },
    /layer 0 keeps bounds of pages/,
  ],
  [
    "page_scores: a reduction that is none of the two",
    ({ native, batch, f }) => native.kva_page_scores(batch, 0, 1, 0, f(1, 256), 2, f(2, 4)),
    /reduce is 2/,
  ],
  [
    "page_scores: too few columns",
    (x) => {
      bounded(x, 17);
      return x.native.kva_page_scores(x.batch, 0, 1, 0, x.f(1, 256), 0, x.f(2, 1));
    },
    /scores has 1 columns, a head has 2 pages/,
  ],
  [
    "choose_pages: less than a page",
    (x) => {
      bounded(x, 17);
      return x.native.kva_choose_pages(x.batch, 0, 1, 0, x.f(2, 4), 15, x.t("int32", 2, 4), x.t("int32", 1, 2));
    },
    /rows is 15, less than one page of 16/,
  ],
  [
    "choose_pages: lists that are too short",
    (x) => {
      bounded(x, 40);
      return x.native.kva_choose_pages(x.batch, 0, 1, 0, x.f(2, 4), 32, x.t("int32", 2, 1), x.t("int32", 1, 2));
    },
    /pages has 1 columns, 2 pages are to be chosen/,
  ],
  [
    "choose_pages: counts of other heads",
    ({ native, batch, f, t }) =>
      native.kva_choose_pages(batch, 0, 1, 0, f(2, 4), 32, t("int32", 2, 4), t("int32", 1, 3)),
    /counts is \[1, 3\].*\[1, 2\]/,
  ],
  [
    "attention_decode_pages: no rows",
    ({ native, batch, f, t }) =>
      native.kva_attention_decode_pages(batch, 0, f(1, 256), 1, 0, t("int32", 2, 4), t("int32", 1, 2), f(1, 256)),
    /most_rows is 0/,
  ],
  [
    "attention_decode_pages: lists of other heads",
    ({ native, batch, f, t }) =>
      native.kva_attention_decode_pages(batch, 0, f(1, 256), 1, 32, t("int32", 3, 4), t("int32", 1, 2), f(1, 256)),
    /pages is \[3, 4\].*\[2, 4\]/,
  ],
];

// Wrong calls: eviction and merging while decoding.
import type { Wrong } from "./wrong-calls.ts";

export const wrongEvict: Wrong[] = [
  [
    "kv_drop_lowest_every: an interval of 0",
    ({ native, batch }) => native.kva_kv_drop_lowest_every(batch, 0, 1, 0, 4, 0, 0, 0),
    /interval is 0/,
  ],
  [
    "kv_drop_lowest_every: more recent than rows",
    ({ native, batch }) => native.kva_kv_drop_lowest_every(batch, 0, 1, 0, 4, 0, 5, 1),
    /recent is 5/,
  ],
  [
    "kv_drop_lowest_every: no such side array",
    ({ native, batch }) => native.kva_kv_drop_lowest_every(batch, 0, 1, 0, 4, 1, 0, 1),
    /side is 1/,
  ],
  ["kv_note_norms: no such norm", ({ native, batch }) => native.kva_kv_note_norms(batch, 0, 1, 0, 0, 3, 1), /p is 3/],
  [
    "kv_note_norms: no such layer",
    ({ native, batch }) => native.kva_kv_note_norms(batch, 0, 1, 2, 0, 2, 1),
    /layer is 2/,
  ],
  [
    "kv_drop_pooled: an even width",
    ({ native, batch, f }) => native.kva_kv_drop_pooled(batch, 0, 1, 0, f(2, 4), 4, 0, 2),
    /width is 2.*odd/,
  ],
  [
    "kv_drop_pooled: probs of other rows",
    ({ native, batch, f }) => native.kva_kv_drop_pooled(batch, 0, 1, 0, f(1, 4), 4, 0, 3),
    /\[1, 4\].*\[2, 4\]/,
  ],
  [
    "kv_drop_pooled: more recent than rows",
    ({ native, batch, f }) => native.kva_kv_drop_pooled(batch, 0, 1, 0, f(2, 4), 4, 5, 3),
    /recent is 5/,
  ],
  [
    "kv_merge_oldest: no targets",
    ({ native, batch }) => native.kva_kv_merge_oldest(batch, 0, 1, 0, 0, 4, 1, 0, 0, 0),
    /targets is 0/,
  ],
  [
    "kv_merge_oldest: no such decision",
    ({ native, batch }) => native.kva_kv_merge_oldest(batch, 0, 1, 0, 0, 4, 1, 2, 5, 0),
    /decision is 5/,
  ],
  [
    "kv_merge_oldest: more sinks than rows",
    ({ native, batch }) => native.kva_kv_merge_oldest(batch, 0, 1, 0, 0, 4, 5, 2, 0, 0),
    /rows is 4 and sinks is 5/,
  ],
  [
    "kv_merge_recent: the newest row",
    ({ native, batch }) => native.kva_kv_merge_recent(batch, 0, 1, 0, 0, 4, 0, 2, 0, 0),
    /recent is 0/,
  ],
  [
    "kv_merge_recent: too many targets",
    ({ native, batch }) => native.kva_kv_merge_recent(batch, 0, 1, 0, 0, 4, 1, 4097, 0, 0),
    /targets is 4097/,
  ],
  [
    "kv_keep_ranked: an even width",
    ({ native, batch, f }) => native.kva_kv_keep_ranked(batch, 0, 1, 0, f(2, 4), 0, 4, 0, 4),
    /width is 4.*odd/,
  ],
  [
    "kv_keep_ranked: no such side array",
    ({ native, batch, f }) => native.kva_kv_keep_ranked(batch, 0, 1, 0, f(2, 4), 1, 4, 0, 3),
    /side is 1/,
  ],
  [
    "divide_ramp: another shape",
    ({ native, f }) => native.kva_divide_ramp(f(2, 9), 1, 1, f(2, 8)),
    /\[2, 8\].*\[2, 9\]/,
  ],
];

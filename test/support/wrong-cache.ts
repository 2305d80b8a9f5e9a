// Wrong calls: caches and batches.
import { NULL, type Wrong } from "./wrong-calls.ts";

export const wrongCache: Wrong[] = [
  ["kv_create: no layers", ({ native, c, slot }) => native.kva_kv_create(c, 0, 4, 2, 64, 0, 0, 0, slot), /layers is 0/],
  [
    "kv_create: heads not a multiple",
    ({ native, c, slot }) => native.kva_kv_create(c, 1, 5, 2, 64, 0, 0, 0, slot),
    /heads is 5.*2/,
  ],
  ["kv_create: integers", ({ native, c, slot }) => native.kva_kv_create(c, 1, 4, 2, 64, 3, 0, 0, slot), /dtype 3/],
  ["kv_create: five side arrays", ({ native, c, slot }) => native.kva_kv_create(c, 1, 4, 2, 64, 0, 5, 0, slot), /5.*4/],
  [
    "kv_create: a head of 0",
    ({ native, c, slot }) => native.kva_kv_create(c, 1, 4, 2, 0, 0, 0, 0, slot),
    /headDim is 0/,
  ],
  [
    "kv_create: unrotated rows below -1, which is every row",
    ({ native, c, slot }) => native.kva_kv_create(c, 1, 4, 2, 64, 0, 0, -2, slot),
    /unrotated_rows is -2/,
  ],
  [
    "kv_create_part: layers beyond the last",
    ({ native, c, slot }) => native.kva_kv_create_part(c, 4, 3, 2, 4, 2, 64, 0, 0, 0, slot),
    /layers \[3, 5\) must be some of the 4/,
  ],
  ["kv_reserve: rows below 0", ({ native, kv }) => native.kva_kv_reserve(kv, 0, -1), /-1/],
  ["kv_reserve: no such layer", ({ native, kv }) => native.kva_kv_reserve(kv, -2, 1), /layer is -2/],
  ["kv_lengths: no such layer", ({ native, kv, ints }) => native.kva_kv_lengths(kv, 2, ints), /layer is 2/],
  ["kv_positions: no such head", ({ native, kv, ints }) => native.kva_kv_positions(kv, 0, 2, ints, 8), /head is 2.*2/],
  ["kv_seek: a position below 0", ({ native, kv }) => native.kva_kv_seek(kv, -1, 0), /position is -1/],
  [
    "kv_keep: more rows than there are",
    ({ native, kv }) => native.kva_kv_keep(kv, 0, NULL, NULL, 2, 3, 0),
    /5 rows.*holds 0/,
  ],
  ["kv_keep: spare below 0", ({ native, kv }) => native.kva_kv_keep(kv, 0, NULL, NULL, 0, 0, -1), /-1/],
  [
    "kv_keep: an index for other heads",
    ({ native, kv, t }) => native.kva_kv_keep(kv, 0, t("int32", 3, 1), NULL, 0, 0, 0),
    /\[3, 1\]/,
  ],
  ["kv_keep: an index of floats", ({ native, kv, f }) => native.kva_kv_keep(kv, 0, f(2, 1), NULL, 0, 0, 0), /f32.*i32/],
  ["kv_read: no such part", ({ native, kv, f }) => native.kva_kv_read(kv, 0, 0, 3, f(1, 1)), /3/],
  ["kv_write: no rows to write", ({ native, kv, f }) => native.kva_kv_write(kv, 0, 0, 0, f(1, 64)), /no rows/],
  ["batch_create: no room", ({ native, c, slot }) => native.kva_batch_create(c, 0, slot), /0/],
  [
    "batch_set: more than there is room for",
    ({ native, empty, kv, list }) => native.kva_batch_set(empty, 2, list(kv, kv)),
    /2.*1/,
  ],
  [
    "batch_set: one sequence twice",
    ({ native, batch, kv, list }) => native.kva_batch_set(batch, 2, list(kv, kv)),
    /same/,
  ],
  [
    "batch_set: two shapes",
    ({ native, batch, kv, other, list }) => native.kva_batch_set(batch, 2, list(kv, other)),
    /shape/,
  ],
  [
    "batch_set: a null among them",
    ({ native, batch }) => native.kva_batch_set(batch, 1, new BigUint64Array(1)),
    /null/,
  ],
  ["batch_reserve: rows below 0", ({ native, batch, ints }) => native.kva_batch_reserve(batch, -1, ints), /-1/],
  ["batch_advance: an empty batch", ({ native, empty }) => native.kva_batch_advance(empty), /no sequences/],
  [
    "kv_keep_at_most: more sinks than rows",
    ({ native, batch }) => native.kva_kv_keep_at_most(batch, 0, 1, 0, 4, 5),
    /rows is 4 and sinks is 5/,
  ],
  [
    "kv_keep_at_most: sequences past the end",
    ({ native, batch }) => native.kva_kv_keep_at_most(batch, 0, 2, 0, 4, 0),
    /\[0, 2\)/,
  ],
  [
    "kv_drop_lowest: no such side array",
    ({ native, batch }) => native.kva_kv_drop_lowest(batch, 0, 1, 0, 4, 1, 0),
    /side is 1/,
  ],
  [
    "kv_drop_lowest: more recent than rows",
    ({ native, batch }) => native.kva_kv_drop_lowest(batch, 0, 1, 0, 4, 0, 5),
    /recent is 5/,
  ],
  [
    "kv_accumulate: probs of other rows",
    ({ native, batch, f }) => native.kva_kv_accumulate(batch, 0, 1, 0, f(1, 4), 0, 1, 1),
    /\[1, 4\].*\[2, 4\]/,
  ],
  [
    "kv_rotate_sinks: more than are kept unrotated",
    ({ native, batch, f }) => native.kva_kv_rotate_sinks(batch, 0, 1, 0, 3, f(1, 32), 0, 1),
    /3.*2/,
  ],
  [
    "kv_rotate_slots: a cache that keeps some unrotated keys only",
    ({ native, batch, f }) => native.kva_kv_rotate_slots(batch, 0, 1, 0, f(1, 32), 0, 1),
    /keeps 2 unrotated keys.*every row/,
  ],
  [
    "kv_rotate_slots: frequencies of too many channels",
    ({ native, batch, f }) => native.kva_kv_rotate_slots(batch, 0, 1, 0, f(1, 33), 0, 1),
    /inv_freq has 33 columns/,
  ],
  ["kv_side: no such side array", ({ native, kv, f }) => native.kva_kv_side(kv, 0, 1, 0, f(2, 1)), /side is 1/],
  ["kv_side: no such mode", ({ native, kv, f }) => native.kva_kv_side(kv, 0, 0, 3, f(2, 1)), /mode is 3/],
];

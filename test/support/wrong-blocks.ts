// Wrong calls: block-sparse prefill. The layer of the fixture holds no rows; four query heads, two KV heads of 64.
import { NULL, type Wrong } from "./wrong-calls.ts";

const one = (share: number) => Float64Array.of(share);

export const wrongBlocks: Wrong[] = [
  [
    "attention_blocks: a block of 32",
    ({ native, kv, f, t }) =>
      native.kva_attention_blocks(kv, 0, 0, f(3, 256), 1, 32, 0, t("int32", 4, 1), NULL, f(3, 256), NULL),
    /block is 32/,
  ],
  [
    "attention_blocks: bits of other heads",
    ({ native, kv, f, t }) =>
      native.kva_attention_blocks(kv, 0, 0, f(3, 256), 1, 64, 0, t("int32", 6, 1), NULL, f(3, 256), NULL),
    /6 rows.*4 heads/,
  ],
  [
    "attention_blocks: no such kind of head",
    ({ native, kv, f, t }) =>
      native.kva_attention_blocks(
        kv,
        0,
        0,
        f(3, 256),
        1,
        64,
        0,
        t("int32", 4, 1),
        Int32Array.of(0, 1, 2, 0),
        f(3, 256),
        NULL,
      ),
    /kinds\[2\] is 2/,
  ],
  [
    "attention_blocks: query rows that the layer lacks",
    ({ native, kv, f, t }) =>
      native.kva_attention_blocks(kv, 0, 0, f(3, 256), 1, 64, 0, t("int32", 4, 1), NULL, f(3, 256), NULL),
    /\[0, 3\).*holds 0/,
  ],
  [
    "attention_blocks: rows that begin inside of a block",
    ({ native, kv, f, t }) =>
      native.kva_attention_blocks(kv, 0, 32, f(3, 256), 1, 64, 0, t("int32", 4, 1), NULL, f(3, 256), NULL),
    /first_row is 32.*64/,
  ],
  [
    "attention_blocks: too few words",
    ({ native, kv, f, t }) =>
      native.kva_attention_blocks(kv, 0, 0, f(3, 256), 1, 64, 32, t("int32", 4, 1), NULL, f(3, 256), NULL),
    /1 words.*33 key blocks/,
  ],
  [
    "column_sums_blocks: a block of 96",
    ({ native, kv, f, t }) =>
      native.kva_column_sums_blocks(kv, 0, 0, f(3, 256), f(4, 3), 1, 2, 96, 0, t("int32", 4, 1), NULL, f(2, 3)),
    /block is 96/,
  ],
  [
    "window_sums: a window as long as nothing",
    ({ native, kv, f }) => native.kva_window_sums(kv, 0, f(3, 256), 1, 64, f(4, 3), NULL, NULL, NULL),
    /3 rows.*of the 0/,
  ],
  [
    "window_sums: a block of 0",
    ({ native, kv, f }) => native.kva_window_sums(kv, 0, f(3, 256), 1, 0, f(4, 3), NULL, NULL, NULL),
    /block is 0/,
  ],
  ["block_mean: a block of 0", ({ native, f }) => native.kva_block_mean(f(4, 8), 0, f(1, 8)), /block is 0/],
  ["block_mean: other blocks", ({ native, f }) => native.kva_block_mean(f(5, 8), 4, f(1, 8)), /\[1, 8\].*\[2, 8\]/],
  [
    "key_block_mean: no such layer",
    ({ native, kv, f }) => native.kva_key_block_mean(kv, 2, 64, f(1, 128)),
    /layer is 2/,
  ],
  [
    "pooled_attention: heads that cannot share",
    ({ native, f }) => native.kva_pooled_attention(f(2, 64), f(3, 48), 4, 3, 1, 0, f(8, 3)),
    /4 heads cannot share 3/,
  ],
  [
    "pooled_attention: keys of another width",
    ({ native, f }) => native.kva_pooled_attention(f(2, 64), f(3, 48), 4, 2, 1, 0, f(8, 3)),
    /\[3, 48\].*\[3, 32\]/,
  ],
  [
    "antidiagonal_scores: half a group",
    ({ native, kv, f }) => native.kva_antidiagonal_scores(kv, 0, 0, 1, f(3, 128), 1, 8, 64, f(2, 1)),
    /heads \[1, 3\).*groups of 2/,
  ],
  [
    "antidiagonal_scores: a stride that does not divide the block",
    ({ native, kv, f }) => native.kva_antidiagonal_scores(kv, 0, 0, 0, f(3, 128), 1, 24, 64, f(2, 1)),
    /block is 64 and stride 24/,
  ],
  [
    "antidiagonal_scores: queries that are not the last ones",
    ({ native, kv, f }) => native.kva_antidiagonal_scores(kv, 0, 0, 0, f(3, 128), 1, 8, 64, f(2, 1)),
    /\[0, 3\).*holds 0/,
  ],
  [
    "cumulative: a share above 1",
    ({ native, f, t }) =>
      native.kva_cumulative(f(2, 9), one(1.5), 1, 0, 1, 0, 0, 0, 0, NULL, NULL, 0, t("int32", 1, 2), NULL),
    /shares\[0\] is 1.5/,
  ],
  [
    "cumulative: rows of other groups",
    ({ native, f, t }) =>
      native.kva_cumulative(f(2, 9), one(1), 3, 0, 1, 0, 0, 0, 0, NULL, NULL, 0, t("int32", 1, 2), NULL),
    /2 rows.*3 groups/,
  ],
  [
    "cumulative: too few words",
    ({ native, f, t }) =>
      native.kva_cumulative(f(2, 40), one(1), 1, 0, 1, 0, 0, 0, 0, NULL, NULL, 0, NULL, t("int32", 2, 1)),
    /\[2, 1\].*at least 2/,
  ],
  [
    "cumulative: nothing wanted",
    ({ native, f }) => native.kva_cumulative(f(2, 9), one(1), 1, 0, 1, 0, 0, 0, 0, NULL, NULL, 0, NULL, NULL),
    /both null/,
  ],
  [
    "top_bits: counts of other rows",
    ({ native, f, t }) => native.kva_top_bits(f(2, 9), t("int32", 1, 3), NULL, t("int32", 2, 1)),
    /\[1, 3\].*\[1, 2\]/,
  ],
  ["counts_divide: by 0", ({ native, t }) => native.kva_counts_divide(t("int32", 1, 3), 0, 0, 0, 1), /divisor 0/],
  [
    "counts_where: a gate of another length",
    ({ native, f, t }) => native.kva_counts_where(f(1, 4), 0, 1, t("int32", 1, 3)),
    /\[1, 4\].*\[1, 3\]/,
  ],
  ["js_distance: other lengths", ({ native, f }) => native.kva_js_distance(f(1, 4), f(1, 3), f(1, 1)), /\[1, 3\]/],
  [
    "blocks_band: heads that do not divide the rows",
    ({ native, t }) => native.kva_blocks_band(t("int32", 5, 1), 2, 0, 1, 1),
    /5 rows.*2 heads/,
  ],
  ["blocks_band: below 0", ({ native, t }) => native.kva_blocks_band(t("int32", 4, 1), 2, 0, -1, 1), /sinks is -1/],
  [
    "blocks_vertical_slash: lines too wide",
    ({ native, t }) => native.kva_blocks_vertical_slash(t("int32", 2, 1), t("int32", 2, 1), 0, 2, 0, t("int32", 4, 1)),
    /after 2/,
  ],
  [
    "blocks_count: floats",
    ({ native, t, f }) => native.kva_blocks_count(f(4, 1), 2, 0, t("int32", 1, 2)),
    /bits is f32.*i32/,
  ],
  ["blocks_thin: to nothing", ({ native, t }) => native.kva_blocks_thin(t("int32", 4, 1), 2, 0, 0), /share is 0/],
  [
    "blocks_to_csr: other rows",
    ({ native, t }) => native.kva_blocks_to_csr(t("int32", 4, 1), 2, 0, t("int32", 1, 4), t("int32", 1, 9)),
    /\[1, 4\].*\[1, 5\]/,
  ],
];

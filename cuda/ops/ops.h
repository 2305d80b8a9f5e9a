// The contract of every op: formula, shapes, types, ties, aliasing. ops/NAME.cpp holds it for the CPU, ops/NAME.cu for CUDA.
// api/ has checked shapes, types and contexts before an op is called; what an op does to row counts on the host stands in api/ too.
// Types: "float" is one of f32, f16, bf16. Sums, softmax and norms are in f32. An absent Matrix has data == nullptr.
// All ops queue their work, but those that say "waits".
#pragma once
#include "../core/kv.h"
#include "blocks.h"
#include "philox.h"

namespace kva {

// ---- tensors (tensor.cpp, .cu) ----

// to = from, converted (round to nearest even); same shape; float to float, or i32 to i32.
void copy(Context&, Matrix from, Matrix to);
// The same between two contexts; on return, work queued in either sees the result.
void peer_copy(Context& from_context, Matrix from, Context& to_context, Matrix to);
// The same for one type, queued in to_context alone: `from` must be filled and stay until it has run.
void peer_pull(Context& from_context, Matrix from, Context& to_context, Matrix to);
// Every element = value; i32: value truncated.
void fill(Context&, Matrix out, float value);
// Element i = r * columns + c of a float matrix from the words of philox(seed, 0, low word of i, high word of i, 0, 0):
// uniform: scale * (2 * unit(word 0) - 1); normal: scale * gauss(word 0, word 1).
void random(Context&, Matrix out, int32_t kind, uint32_t seed, float scale);
// Whether every element is finite (i32: true). Waits.
bool finite(Context&, Matrix x);
// out = the rows * columns elements of file_dtype at host memory `from` (mapped, any alignment), converted. Waits until `from` is read.
void load(Context&, Matrix out, const void* from, int32_t file_dtype);
// The same from rows of blocks of a format of core/ggml.h; heads > 0: row r goes to unpaired_row(r, rows / heads).
void load_ggml(Context&, Matrix out, const char* from, int32_t format, int32_t heads);

// ---- decoder ----

// out[r, :] = table[ids[r], :], zeros where ids[r] is outside of the table. table [entries, width], out [rows, width] of one type;
// ids i32 [1, rows]. (embed)
void embed(Context&, Matrix table, Matrix ids, Matrix out);
// Per group g of weight.columns: out[r, g, i] = x[r, g, i] * weight[i] / sqrt(mean_i(x[r, g, i]^2) + eps).
// x, out [rows, groups * width] and weight [1, width] of one type; out may be x. (norm)
void rmsnorm(Context&, Matrix x, Matrix weight, float eps, Matrix out);
// out[r, n] = sum_k x[r, k] * weight[n, k] (+ bias[n]) (+ out[r, n] where accumulate).
// x [rows, in], weight [out, in], bias [1, out] or absent: of one float type; out [rows, out] of that type or f32. (linear)
void linear(Context&, Matrix x, Matrix weight, Matrix bias, bool accumulate, Matrix out);
// out[r, i] = silu(x[r, i]) * x[r, width + i], silu(a) = a / (1 + exp(-a)). x [rows, 2 * width], out [rows, width]. (pointwise)
void silu_mul(Context&, Matrix x, Matrix out);
// The same of x * weight^T (+ bias), which may go through gate_up [rows, 2 * width], of x's type. (linear)
void linear_silu_mul(Context&, Matrix x, Matrix weight, Matrix bias, Matrix gate_up, Matrix out);
// out = x + y, of one float type; out may be x or y. (pointwise)
void add(Context&, Matrix x, Matrix y, Matrix out);

// Rows r of qkv are queries, keys, values of tokens at positions start + r. q[r] = rotated queries; cache rows start_row + r of the layer =
// rotated keys, values, position start + r, zeros in the side arrays; where position < unrotated_rows also the unrotated key.
// Rotation of a pair (a, b) by angle = position * inv_freq[i] (in f64): (a * c - b * s, a * s + b * c), c = mscale * cos(angle), s likewise.
// qkv, q of one float type; inv_freq f32 [1, rotary / 2]; q may be the first columns of qkv.
// The host's account has the room already and the new length; the table is stored after this call. (rope)
void rope_append(Context&, Kv&, int32_t layer, int32_t start_row, int32_t start, Matrix qkv, Matrix q, Matrix inv_freq, bool interleaved,
                 float mscale);
// As above for one row of each sequence, at table->position; appends at each head's table len and raises it by one.
// inv_freq has one row, or one of each sequence. Where a head keeps bounds of pages, the key joins those of its page. (rope)
void rope_append_batch(Context&, Batch&, int32_t layer, Matrix qkv, Matrix q, Matrix inv_freq, bool interleaved, float mscale);

// out[i, h] = sum_j p[j] * v[j], p = softmax_j(scale * q[i, h] . k[j]) over the rows j that query row i sees:
// [max(0, first_row + i - window + 1), first_row + i], window 0: from 0. lse f32 [heads, rows] or absent: ln sum_j exp(scale * q.k).
// q, out [rows, heads * headDim] of one float type; out may be q. Any cache type. (attention)
void attention_prefill(Context&, Kv&, int32_t layer, int32_t first_row, Matrix q, float scale, int32_t window, Matrix out, Matrix lse);
// As above for one query row of each sequence over all rows of the layer, where window > 0 only those with pos > table->position - window.
// probs f32 [sequences * kvHeads, stride] or absent: probs[s * kvHeads + h, row] = mean over the group's query heads of p;
// 0 for rows the window hides; columns past the rows held stay as they are. A head without visible rows gives zeros. (attention)
void attention_decode(Context&, Batch&, int32_t layer, Matrix q, float scale, int32_t window, Matrix out, Matrix probs);
// Takes the scratch that attention_decode, sample and the cache's decode ops need for this batch with batch.splits, so that capturing
// grows nothing. Called whenever the batch or its splits change. (attention)
void attention_decode_reserve(Context&, Batch&);

// ids[s]: temperature 0: the column of the largest logit, lowest column on ties. Else, in the order (logit descending, column ascending):
// p = softmax(logits / temperature) over the first top_k (0: all), then over the fewest first ones whose sum reaches top_p (>= 1: all);
// the first column whose running sum of p passes unit(word 0 of philox(seed, stream, position, 0, 0, 0)) * total.
// NaN counts as -inf; no finite logit: column 0. logits f32 [sequences, vocabulary], ids i32 [1, sequences]. (sample)
void sample(Context&, Batch&, Matrix logits, float temperature, int32_t top_k, float top_p, uint32_t seed, Matrix ids);
// out[r] = logits[r, ids[r]] - logsumexp(logits[r, :]); an id outside of the row: -inf. (sample)
void logprobs(Context&, Matrix logits, Matrix ids, Matrix out);

// ---- cache (cache.cpp, .cu) ----

// Head h: rows [0, first), index[h, 0 .. counts[h]), and the last `last` of from[h] become rows 0, 1, ... of to[h]: keys, values, positions,
// side arrays. from and to are host arrays [kvHeads] whose pointers are device memory; index i32 [kvHeads, k] or absent (counts all 0).
// An index outside of [first, len - last): the CPU fails with KVA_E_ARGUMENT, CUDA takes the nearest row inside.
void keep_rows(Context&, const KvShape&, const KvHead* from, const KvHead* to, Matrix index, const int32_t* counts, int32_t first, int32_t last);
// The ops below act on sequences [first_sequence, first_sequence + sequences) of the batch, on the table alone.
// In a head with len > rows: the row with the lowest position among rows [sinks, len) goes: row len - 1 moves into its place, len falls by one.
void keep_at_most(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t sinks);
// In a head with len > rows: the row with the lowest side value among those with pos <= table->position - recent goes, the same way.
// Ties: lower position; NaN is below every number. recent <= rows, so there is one.
void drop_lowest(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side, int32_t recent);
// side[r] = side[r] * decay + factor * probs[s * kvHeads + h, r] for r < min(len, probs.columns).
void accumulate(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side, float factor, float decay);
// For rows r < min(sinks, len): k[r] = unrotated[pos[r]] rotated to pos[r] + (table->position + 1) - len. Rows with pos >= unrotated_rows stay.
void rotate_sinks(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t sinks, Matrix inv_freq, bool interleaved,
                  float mscale);
// For every row r: k[r] = unrotated_k[r] rotated to rank + (table->position + 1) - len, rank = rows of the head with a lower position.
void rotate_slots(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix inv_freq, bool interleaved, float mscale);
// The rows of from[h] as the packing of to[h] stores them (core/segments.h), where they have len rows each; both host arrays [kvHeads] whose
// pointers are device memory, positions and side arrays are there already. from holds no quantised rows.
// channels i32 [kvHeads, packing.channels], or absent where to's list of channels is there already. (segments)
void pack_rows(Context&, const KvShape&, const KvHead* from, const KvHead* to, Matrix channels);
// Decode: in each head, packs the residual's keys where it holds packing.residual of them, and its oldest value where it holds one more. (segments)
void flush(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer);
// Decode: in each head where as many rows are marked as dropped as packing.residual, takes the first of them out (core/segments.h). (closing)
void close_dropped(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer);
// out = the keys (what 0) or values (what 1) of a head, quantised ones read back, channels that are gone as zeros.
// out [len, headDim] of the cache's type; head is a host copy. (segments)
void read_rows(Context&, const KvShape&, const KvHead& head, int32_t what, Matrix out);
// out[g, c] = mean over query rows and the group's heads of q[., c]^2, times mean over the layer's rows of k[., c]^2. No rows are packed.
// queries [rows, heads * headDim], out f32 [kvHeads, headDim]. One order of sums. (segments)
void channel_scores(Context&, Kv&, int32_t layer, Matrix queries, Matrix out);
// table->position += 1 for every sequence.
void advance(Context&, Batch&);

// ---- scores (scores.cpp, .cu) and choice (choose.cpp, .cu) ----

// A[h, i, j] = softmax over rows [0, length - w + i] of scale * queries[i, h] . k[j], i < w. Over j < length - w and reduced over the group
// (KVA_REDUCE_NONE: not): mean_i, unbiased var_i (0 where w = 1), max_i; f32 [kvHeads or heads, length - w], each may be absent.
// scalars f32 [1, 2] or absent: -sum_hij A log(A + 1e-10), sum_hj var_i, over all query heads, j < length - w.
void window_stats(Context&, Kv&, int32_t layer, Matrix queries, float scale, int32_t reduce, Matrix mean, Matrix variance, Matrix maximum,
                  Matrix scalars);
// out[g, j] += sum (KVA_REDUCE_SUM) or = max(out, max) (KVA_REDUCE_MAX) over heads h of group g and query rows i with first_row + i >= j of
// exp(scale * queries[i, h] . k[g, j] - lse[h, i]). lse f32 [heads, rows], out f32 [kvHeads, >= first_row + rows]. One order of sums.
// blocks: absent, or only rows j of the key blocks that row i's query block reads. (column_sums)
void column_sums(Context&, Kv&, int32_t layer, int32_t first_row, Matrix queries, Matrix lse, float scale, int32_t reduce, const BlockSet& blocks,
                 Matrix out);
// out[h, r] = p-norm of row r of head h's keys (what 0) or values (what 1). out f32 [kvHeads, length]
void row_norms(Context&, Kv&, int32_t layer, int32_t what, int32_t p, Matrix out);
// out[r, i] = max or mean over j in [i - width / 2, i + width / 2] of x[r, j]; outside: -inf, or 0 with divisor width. f32; out is not x.
void pool(Context&, Matrix x, int32_t kind, int32_t width, Matrix out);
// out = a * x + b * y, or a * x + b where y is absent. f32 of one shape; out may be x or y.
void combine(Context&, float a, Matrix x, float b, Matrix y, Matrix out);
// index[r, :] = columns of the k largest of x[r, :], ascending. Ties: lower column first; NaN is below every number.
void topk(Context&, Matrix x, int32_t k, Matrix index);

// ---- eviction while decoding (evict.cpp, .cu): on the table alone, as kvaccel.h says ----

void drop_lowest_every(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side, int32_t recent,
                       int32_t interval);
void note_norms(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t p, float factor);
void drop_pooled(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t rows, int32_t recent,
                 int32_t width);
void merge_oldest(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows, int32_t sinks,
                  int32_t targets, int32_t decision, uint32_t seed);
// In heads with len > rows, for the row at pos table->position - recent: as merge_oldest, but the mean is over all later rows, the divisor is
// `targets`, and nothing goes. (evict)
void merge_recent(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows, int32_t recent,
                  int32_t targets, int32_t decision, uint32_t seed);
// In heads with len > rows: rows with pos <= table->position - recent in order of falling side value (ties: lower pos; that at the bound last) get
// side = mean of probs over `width` neighbours in that order; the rows - recent highest stay (ties: lower pos), the others go. (evict)
void keep_ranked(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side, int32_t rows,
                 int32_t recent, int32_t width);
void divide_ramp(Context&, Matrix x, float start, float step, Matrix out);

// ---- block-sparse prefill: as kvaccel.h says since 1.3; a set of blocks is a BlockSet (blocks.h) ----

// attention_prefill over the rows that blocks gives; out may be q. first_row is a multiple of blocks.block. (attention_blocks)
void attention_blocks(Context&, Kv&, int32_t layer, int32_t first_row, Matrix q, float scale, const BlockSet& blocks, Matrix out, Matrix lse);
// One order of sums. (window_sums)
void window_sums(Context&, Kv&, int32_t layer, Matrix queries, float scale, int32_t block, Matrix columns, Matrix diagonals, Matrix column_blocks,
                 Matrix diagonal_blocks);
void block_mean(Context&, Matrix x, int32_t block, Matrix out);                           // (block_scores)
void key_block_mean(Context&, Kv&, int32_t layer, int32_t block, Matrix out);             // (block_scores)
void pooled_attention(Context&, Matrix queries, Matrix keys, int32_t heads, int32_t kv_heads, float scale, int32_t first_block,
                      Matrix out);                                                        // (block_scores)
void antidiagonal_scores(Context&, Kv&, int32_t layer, int32_t first_row, int32_t first_head, Matrix queries, float scale, int32_t stride,
                         int32_t block, Matrix out);                                      // (antidiagonal)

// How many columns of an item, ordered by rank, reach a share of its sum. (block_choice)
struct Cumulative {
  const double* shares;  // [groups], host memory
  int32_t groups;
  bool flat, inclusive;
  int32_t extra, extra_rows, least, most;
  float threshold;
};
void cumulative(Context&, Matrix x, const Cumulative&, Matrix forced, Matrix gate, Matrix counts, Matrix bits);
void top_bits(Context&, Matrix x, Matrix counts, Matrix forced, Matrix bits);
void counts_divide(Context&, Matrix counts, int32_t offset, int32_t divisor, int32_t least, int32_t most);
void counts_where(Context&, Matrix gate, float threshold, int32_t value, Matrix counts);
void js_distance(Context&, Matrix p, Matrix q, Matrix out);

// Sets of blocks; kinds do not matter here. (block_bits)
void blocks_band(Context&, const BlockSet& blocks, int32_t sinks, int32_t recent);
void blocks_vertical_slash(Context&, Matrix vertical, Matrix slash, int32_t before, int32_t after, const BlockSet& blocks);
void blocks_count(Context&, const BlockSet& blocks, Matrix counts);
void blocks_thin(Context&, const BlockSet& blocks, float share);
void blocks_to_csr(Context&, const BlockSet& blocks, Matrix row_ptr, Matrix col);

// ---- pages that decode attention reads (pages.cpp, .cu), as kvaccel.h says since 1.11 ----

// The bounds of the rows held, in storage that is there.
void make_bounds(Context&, Kv&, int32_t layer);
// scores[s * kvHeads + h, p] = mean (KVA_REDUCE_MEAN) or max (KVA_REDUCE_MAX) over the group's query heads of sum_c max(q[c] * least[p, c],
// q[c] * greatest[p, c]), for the pages of heads that keep bounds; other columns stay. q of any float type; scores f32.
void page_scores(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix q, int32_t reduce, Matrix scores);
// In a head that keeps bounds and holds more than `rows` rows: counts = rows / page_rows, and pages = its last page and the best others by score,
// ascending (ties: lower page first; NaN is below every number). In other heads: counts = -1. pages i32 [sequences * kvHeads, columns],
// counts i32 [1, sequences * kvHeads].
void choose_pages(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix scores, int32_t rows, Matrix pages,
                  Matrix counts);
// attention_decode over the rows of the pages that choose_pages wrote, or over all where a count is -1. No head reads more than most_rows
// rows. (attention)
void attention_decode_pages(Context&, Batch&, int32_t layer, Matrix q, float scale, int32_t most_rows, Matrix pages, Matrix counts, Matrix out);

// ---- budgets of each head (choose.cpp, .cu; heads.cpp, .cu), keys against their mean (similarity), attention of later queries (future) ----

// counts[r] = how many of the k largest of all of x lie in row r. Ties: lower column, then lower row; NaN is below every number.
void topk_counts(Context&, Matrix x, int32_t k, Matrix counts);
// topk with k = counts[r], taken within [0, index.columns], in row r; counts is read on the device.
void topk_each(Context&, Matrix x, Matrix counts, Matrix index);
// x[r, index[r, i]] = value where that column is there.
void fill_at(Context&, Matrix x, Matrix index, float value);
// out = x * y; out may be x or y.
void multiply(Context&, Matrix x, Matrix y, Matrix out);
// Every row of out = the mean over x's rows; out may be x.
void rows_mean(Context&, Matrix x, Matrix out);
// out[r, 0] = sum of x[r, :]. One order of sums.
void row_sums(Context&, Matrix x, Matrix out);
// side[r] = side[r] * decay + factor * mean over the sequence's KV heads of probs[., r], for r < min(len, probs.columns).
void accumulate_shared(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, Matrix probs, int32_t side, float factor,
                       float decay);
// keep_at_most with rows[h] rows in head h; rows is host memory that is read before the call returns.
void keep_at_most_each(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, const int32_t* rows, int32_t sinks);
// out[h, j] = cosine of key j and m = mean_i k_i / |k_i|; 0 where |k_j| or |m| is 0. Norms below 1e-12 count as 1e-12.
void key_similarity(Context&, Kv&, int32_t layer, Matrix out);
// The same of heads with len >= rows, times factor, into their side array.
void note_similarity(Context&, Batch&, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows, float factor);
// moments [heads, headDim + headDim^2]: mean, and sum of outer products of what is left without it; joined with those of `seen` rows before.
void query_moments(Context&, Matrix queries, int32_t seen, Matrix moments);
// As kvaccel.h says.
struct Future {
  Matrix inv_freq;
  int32_t first_position, positions;
  bool interleaved;
  float mscale;
};
void future_attention(Context&, Kv&, int32_t layer, Matrix moments, int32_t seen, const Future& future, float scale, int32_t first_row,
                        bool covariance, Matrix out);

}  // namespace kva

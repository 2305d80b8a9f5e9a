/* kvaccel.h: the whole C ABI of libkvaccel.so (CUDA) and libkvaccel_cpu.so (CPU). Both export the same symbols.
 *
 * Rules
 * - Handles are opaque pointers. Only fixed-width integers, floats, pointers and C strings cross. No callbacks, no structs.
 * - What can fail returns int32_t: KVA_OK (0) or a negative KVA_E_* code whose number never changes. Results come last, through
 *   pointers, and are untouched on failure. kva_last_error() gives this thread's text; it names the op and the offending values
 *   ("topk: k is 992, the row has 900"). Nothing aborts, prints or throws across the boundary. Every pointer is null-checked.
 * - Work is queued in the context's order (its stream). Only kva_sync, _upload, _download, _timer_read, kva_kv_positions and
 *   kva_tensor_finite wait for the device. KVACCEL_SYNC=1 waits after every op, so that a device error names its op.
 * - A context and all that is made from it belong to one thread at a time. Destroying NULL is fine.
 *   kva_context_destroy refuses while things made from it live, and says how many.
 * - A tensor is a matrix [rows, columns] with a row stride; a vector has one row. Heads lie side by side in the columns:
 *   queries are [rows, heads * headDim], head h at columns [h * headDim, (h + 1) * headDim).
 * - Softmax, norms, scores and sums are computed in fp32 whatever the tensors' type. Query head h reads KV head h / (heads / kvHeads).
 * - Ties in every selection: higher score first, then lower position.
 * - Version is major << 16 | minor. New functions and new enum values at the end raise minor; any other change raises major.
 */
#ifndef KVACCEL_H
#define KVACCEL_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVA_ABI_VERSION ((1 << 16) | 11)

#if defined(__GNUC__)
#define KVA_API __attribute__((visibility("default")))
#else
#define KVA_API
#endif

/* status codes */
#define KVA_OK 0
#define KVA_E_ARGUMENT -1    /* a value, shape or type that the op does not take */
#define KVA_E_MEMORY -2      /* out of memory: the text says needed, free and limit in bytes */
#define KVA_E_DEVICE -3      /* the device or its driver failed */
#define KVA_E_NO_DEVICE -4   /* no such device, or no driver */
#define KVA_E_FILE -5        /* a file that cannot be opened, or a range outside of it */
#define KVA_E_VALUE -6       /* a value that is not finite */
#define KVA_E_BUSY -7        /* things made from the handle still live */
#define KVA_E_LIBRARY -8     /* a library needed at run time (cuBLAS) was not found: the text lists where it was looked for */
#define KVA_E_UNSUPPORTED -9 /* right, but not on this backend or type */
#define KVA_E_INTERNAL -10

/* element types */
#define KVA_F32 0
#define KVA_F16 1
#define KVA_BF16 2
#define KVA_I32 3

/* block formats of GGUF files, by ggml's numbers */
#define KVA_GGML_F32 0
#define KVA_GGML_F16 1
#define KVA_GGML_Q4_0 2
#define KVA_GGML_Q4_1 3
#define KVA_GGML_Q8_0 8
#define KVA_GGML_Q4_K 12
#define KVA_GGML_Q5_K 13
#define KVA_GGML_Q6_K 14
#define KVA_GGML_BF16 30

/* what memory is for: kva_memory reports each kind apart */
#define KVA_MEMORY_ALL -1
#define KVA_MEMORY_WEIGHTS 0
#define KVA_MEMORY_ACTIVATIONS 1
#define KVA_MEMORY_CACHE 2
#define KVA_MEMORY_SCRATCH 3

/* kva_window_stats, group reduction */
#define KVA_REDUCE_MEAN 0
#define KVA_REDUCE_MAX 1
#define KVA_REDUCE_SUM 2
#define KVA_REDUCE_NONE 3

/* kva_pool */
#define KVA_POOL_MAX 0
#define KVA_POOL_AVG 1

/* kva_kv_create: unrotated_rows, since 1.9 */
#define KVA_EVERY_ROW -1

/* kva_kv_merge_oldest: when a row merges, with ratio p: drawn with probability p, where p is 1, always with weight p, always, never */
#define KVA_MERGE_BERNOULLI 0
#define KVA_MERGE_THRESHOLD 1
#define KVA_MERGE_EXPECTED 2
#define KVA_MERGE_ALWAYS 3
#define KVA_MERGE_NEVER 4

/* kva_attention_blocks: what a query head reads */
#define KVA_HEAD_BLOCKS 0 /* the blocks of its set */
#define KVA_HEAD_DENSE 1  /* everything up to its own row */

/* kva_tensor_random */
#define KVA_RANDOM_UNIFORM 0 /* in [-scale, scale) */
#define KVA_RANDOM_NORMAL 1  /* standard deviation scale */

typedef struct kva_context kva_context;
typedef struct kva_tensor kva_tensor;
typedef struct kva_map kva_map;
typedef struct kva_shared kva_shared;
typedef struct kva_kv kva_kv;
typedef struct kva_batch kva_batch;
typedef struct kva_graph kva_graph;
typedef struct kva_timer kva_timer;

/* ---- library and devices ---- */
KVA_API int32_t kva_abi_version(void);
KVA_API const char* kva_backend_name(void); /* "cpu" or "cuda" */
KVA_API const char* kva_build_info(void);   /* one line: compiler, instruction sets or GPU architectures */
KVA_API const char* kva_status_text(int32_t status);
KVA_API const char* kva_last_error(void);
/* count is 0 and the status KVA_E_NO_DEVICE where there is no driver. The CPU build has KVACCEL_CPU_DEVICES devices (default 1). */
KVA_API int32_t kva_device_count(int32_t* count);
/* info[4]: total bytes, free bytes, compute capability (90 for 9.0; 0 on the CPU), multiprocessors or cores */
KVA_API int32_t kva_device_info(int32_t device, char* name, int32_t name_bytes, int64_t* info);
/* loads cuBLAS if it is not loaded yet and copies its path ("" on the CPU) */
KVA_API int32_t kva_blas_path(char* path, int32_t path_bytes);

/* ---- context ---- */
/* threads: CPU worker threads, 0 = KVACCEL_THREADS or one per core; ignored on CUDA */
KVA_API int32_t kva_context_create(int32_t device, int32_t threads, kva_context** out);
KVA_API int32_t kva_context_destroy(kva_context* context);
KVA_API int32_t kva_sync(kva_context* context);
/* out[4]: bytes now, peak bytes since the last reset, number of live allocations, bytes reserved from the device (all kinds) */
KVA_API int32_t kva_memory(kva_context* context, int32_t kind, int64_t* out);
KVA_API int32_t kva_memory_reset_peak(kva_context* context);
/* allocations that would pass the limit fail with KVA_E_MEMORY; 0 = none */
KVA_API int32_t kva_memory_limit(kva_context* context, int64_t bytes);
/* gives cached but unused memory back to the device */
KVA_API int32_t kva_memory_trim(kva_context* context);

/* ---- tensors ---- */
KVA_API int32_t kva_tensor_create(kva_context* context, int32_t dtype, int32_t memory, int32_t rows, int32_t columns, kva_tensor** out);
/* shares the storage of `of`, which must outlive it */
KVA_API int32_t kva_tensor_view(kva_tensor* of, int32_t row, int32_t rows, int32_t column, int32_t columns, kva_tensor** out);
KVA_API int32_t kva_tensor_destroy(kva_tensor* tensor);
/* bytes must equal rows * columns * element size; host memory is dense, row after row */
KVA_API int32_t kva_tensor_upload(kva_tensor* tensor, const void* from, int64_t bytes);
KVA_API int32_t kva_tensor_download(kva_tensor* tensor, void* to, int64_t bytes);
/* same shape, on one context; converts between f32, f16 and bf16 (round to nearest even) */
KVA_API int32_t kva_tensor_copy(kva_tensor* from, kva_tensor* to);
/* as kva_tensor_copy between contexts (devices) of one backend; direct where the devices allow it, else through the host */
KVA_API int32_t kva_tensor_peer_copy(kva_tensor* from, kva_tensor* to);
KVA_API int32_t kva_tensor_fill(kva_tensor* tensor, float value);
/* counter-based (Philox 4x32-10, key = seed, counter = element index): the same numbers on every backend up to rounding */
KVA_API int32_t kva_tensor_random(kva_tensor* tensor, int32_t kind, uint32_t seed, float scale);
/* finite = 1 where every element is finite, else 0 */
KVA_API int32_t kva_tensor_finite(kva_tensor* tensor, int32_t* finite);

/* ---- checkpoint files: mapped, never copied whole ---- */
KVA_API int32_t kva_map_open(const char* path, kva_map** out, int64_t* bytes);
KVA_API int32_t kva_map_close(kva_map* map);
/* fills the tensor (or view) from rows * columns elements of file_dtype at byte offset; converts. KVA_E_FILE outside of the file. */
KVA_API int32_t kva_tensor_load(kva_tensor* tensor, kva_map* map, int64_t offset, int32_t file_dtype);
/* The same from rows of blocks (KVA_GGML_*, whole blocks in a row), dequantised in fp32 as ggml defines them, then converted. heads > 0: the
 * file has the rows of each of so many heads in the order of llama.cpp's RoPE (row 2i beside 2i + 1); they are put back to i and i + half.
 * Since 1.5. */
KVA_API int32_t kva_tensor_load_ggml(kva_tensor* tensor, kva_map* map, int64_t offset, int32_t format, int32_t heads);

/* ---- decoder ---- */
/* out[r, :] = table[ids[r], :]; ids i32 [1, rows]; an id outside of the table gives a row of zeros */
KVA_API int32_t kva_embed(kva_tensor* table, kva_tensor* ids, kva_tensor* out);
/* per group of weight.columns: out = x * weight / sqrt(mean(x^2) + eps); weight [1, width], x and out [rows, groups * width]; out may be x */
KVA_API int32_t kva_rmsnorm(kva_tensor* x, kva_tensor* weight, float eps, kva_tensor* out);
/* out = x * weight^T (+ bias) (+ out where accumulate is 1); x [rows, in], weight [out, in], bias [1, out] or NULL, out [rows, out];
 * x and weight of one type, out of that type or f32. Up to 16 rows the order of sums does not depend on the number of rows,
 * on sm_90 and up where in is a multiple of 64 up to 32; on the CPU it never does. */
KVA_API int32_t kva_linear(kva_tensor* x, kva_tensor* weight, kva_tensor* bias, int32_t accumulate, kva_tensor* out);
/* out[r, i] = silu(x[r, i]) * x[r, width + i]; x [rows, 2 * width], out [rows, width] */
KVA_API int32_t kva_silu_mul(kva_tensor* x, kva_tensor* out);
/* The same of x * weight^T (+ bias), in one pass over the weights for as few rows on CUDA, where it is not rounded in between; x [rows, in],
 * weight [2 * width, in], bias [1, 2 * width] or NULL, out [rows, width], all of one type. gate_up [rows, 2 * width] is written over.
 * Since 1.10. */
KVA_API int32_t kva_linear_silu_mul(kva_tensor* x, kva_tensor* weight, kva_tensor* bias, kva_tensor* gate_up, kva_tensor* out);
/* out = x + y; out may be x or y */
KVA_API int32_t kva_add(kva_tensor* x, kva_tensor* y, kva_tensor* out);
/* Prefill of one sequence: rows of qkv [rows, (heads + 2 * kvHeads) * headDim] are tokens at logical positions
 * start, start + 1, ... Queries are rotated into q [rows, heads * headDim]; keys are rotated and stored with their values and
 * positions as rows [start_row, start_row + rows) of the layer (start_row must be its length; all heads equal). Capacity is reserved before.
 * Angle of pair i at position p: p * inv_freq[i], product in fp64; cos and sin are multiplied by mscale.
 * inv_freq f32 [1, rotary / 2]; rotary <= headDim, the rest passes through.
 * interleaved 0: pairs (i, i + rotary / 2) (Llama); 1: pairs (2i, 2i + 1) (GLM). */
KVA_API int32_t kva_rope_append(kva_kv* kv, int32_t layer, int32_t start, kva_tensor* qkv, kva_tensor* q, kva_tensor* inv_freq,
                                int32_t interleaved, float mscale);
/* Decode: row s of qkv is the next token of sequence s of the batch, at that sequence's position counter (not advanced here).
 * Row s of inv_freq is used for sequence s where it has as many rows as the batch, else row 0. q may be the first columns of qkv.
 * In a graph, no op of the same graph may write inv_freq. */
KVA_API int32_t kva_rope_append_batch(kva_batch* batch, int32_t layer, kva_tensor* qkv, kva_tensor* q, kva_tensor* inv_freq,
                                      int32_t interleaved, float mscale);
/* Causal attention of query rows over the layer's rows of one sequence: query row i is cache row first_row + i and sees cache rows
 * [max(0, first_row + i - window + 1), first_row + i] (window 0: from 0). out may be q. lse: NULL or f32 [heads, rows],
 * natural log of the sum of exp(scale * q.k). */
KVA_API int32_t kva_attention_prefill(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* q, float scale, int32_t window,
                                      kva_tensor* out, kva_tensor* lse);
/* Row s of q attends to all rows that layer holds for sequence s (ragged per KV head), where window > 0 only to rows with
 * position > t - window. Splits at fixed 256 rows. out may be q.
 * probs: NULL, or f32 [sequences * kvHeads, stride]: mean over the group's query heads of the probabilities, by cache row. */
KVA_API int32_t kva_attention_decode(kva_batch* batch, int32_t layer, kva_tensor* q, float scale, int32_t window, kva_tensor* out,
                                     kva_tensor* probs);
/* ids[s] from logits f32 [sequences, vocabulary]. temperature 0: the largest, lowest id on ties. Else softmax(logits / temperature)
 * cut to the top_k largest (0: all) and then to the fewest that reach top_p (>= 1: all), drawn with Philox
 * (key = seed, stream of the sequence; counter = its position). ids i32 [1, sequences]. */
KVA_API int32_t kva_sample(kva_batch* batch, kva_tensor* logits, float temperature, int32_t top_k, float top_p, uint32_t seed, kva_tensor* ids);
/* out[r] = logits[r, ids[r]] - logsumexp(logits[r, :]); logits f32 [rows, vocabulary], ids i32 [1, rows], out f32 [1, rows] */
KVA_API int32_t kva_logprobs(kva_tensor* logits, kva_tensor* ids, kva_tensor* out);

/* ---- the cache of one sequence: ragged per layer and KV head ---- */
/* side_arrays (0..4): f32 values per row that move with it; rows appended start at 0.
 * unrotated_rows: keys of the first so many positions are also kept unrotated (for kva_kv_rotate_sinks); since 1.9 KVA_EVERY_ROW: those of
 * every row, which move with it (for kva_kv_rotate_slots) and count as bytes held; rows of such a cache are never packed. */
KVA_API int32_t kva_kv_create(kva_context* context, int32_t layers, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t dtype,
                              int32_t side_arrays, int32_t unrotated_rows, kva_kv** out);
KVA_API int32_t kva_kv_destroy(kva_kv* kv);
/* room for at least `rows` rows in each head of the layer (-1: every layer); keeps what is there; never shrinks */
KVA_API int32_t kva_kv_reserve(kva_kv* kv, int32_t layer, int32_t rows);
/* out[4]: bytes of the rows held (keys, values, positions, side arrays), bytes allocated, logical position, longest head in rows */
KVA_API int32_t kva_kv_info(kva_kv* kv, int64_t* out);
/* rows held by each KV head of the layer, from the host's own count: does not wait */
KVA_API int32_t kva_kv_lengths(kva_kv* kv, int32_t layer, int32_t* lengths);
/* original position of each row, in row order (ascending unless rows were dropped one by one); ~position of a row that was dropped among
 * codes and still holds its place; capacity in rows */
KVA_API int32_t kva_kv_positions(kva_kv* kv, int32_t layer, int32_t kv_head, int32_t* positions, int32_t capacity);
/* sets the logical position (tokens consumed so far) and the random stream of the sequence */
KVA_API int32_t kva_kv_seek(kva_kv* kv, int32_t position, uint32_t stream);
/* Keeps rows [0, first), the rows named by index, and the last `last` rows, in row order; frees the rest. The new storage has room for
 * spare more rows. index: NULL or i32 [kvHeads, k], ascending, within [first, length - last).
 * counts: NULL (all k) or k per head in host memory, i32 [kvHeads]. */
KVA_API int32_t kva_kv_keep(kva_kv* kv, int32_t layer, kva_tensor* index, const int32_t* counts, int32_t first, int32_t last, int32_t spare);
/* a deep copy */
KVA_API int32_t kva_kv_fork(kva_kv* kv, kva_kv** out);
/* what 0: keys, 1: values (of the cache's type), out [length, headDim]; 2 + a: side array a, out f32 [1, length] */
KVA_API int32_t kva_kv_read(kva_kv* kv, int32_t layer, int32_t kv_head, int32_t what, kva_tensor* out);
KVA_API int32_t kva_kv_write(kva_kv* kv, int32_t layer, int32_t kv_head, int32_t what, kva_tensor* from);

/* ---- a batch: the sequences of a decode step ---- */
KVA_API int32_t kva_batch_create(kva_context* context, int32_t max_sequences, kva_batch** out);
KVA_API int32_t kva_batch_destroy(kva_batch* batch);
KVA_API int32_t kva_batch_set(kva_batch* batch, int32_t sequences, kva_kv* const* kvs);
/* room for `rows` more rows in every layer and head of every sequence; host work only unless storage must grow.
 * generation changes when storage or the number of attention splits grew: a captured graph must then be captured again. */
KVA_API int32_t kva_batch_reserve(kva_batch* batch, int32_t rows, int32_t* generation);
/* every sequence's position counter goes up by one */
KVA_API int32_t kva_batch_advance(kva_batch* batch);

/* Decode-time changes; sequences [first_sequence, first_sequence + sequences) of the batch. A row is dropped by moving the head's last
 * row into its place: positions, not row order, tell age. In a quantised layer (kva_kv_quantize, residual at most 8192) keep_at_most,
 * drop_lowest, drop_lowest_every and keep_at_most_each mark it instead: attention passes over it, "rows that a head holds" are those not marked,
 * and kva_kv_flush closes the places. */
/* where a head holds more than `rows` rows: drops its oldest row that is not among rows [0, sinks) */
KVA_API int32_t kva_kv_keep_at_most(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t sinks);
/* where a head holds more than `rows` rows: drops the row with the lowest side value among those with position <= t - recent
 * (t: the newest position); ties: lower position */
KVA_API int32_t kva_kv_drop_lowest(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows, int32_t side,
                                   int32_t recent);
/* side[a] = side[a] * decay + factor * probs, by row; probs as kva_attention_decode writes them */
KVA_API int32_t kva_kv_accumulate(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t side,
                                  float factor, float decay);
/* key rows [0, sinks) := the kept unrotated keys rotated to position + E, E = (position counter + 1) - rows held: the rows dropped so far,
 * counted after this step's token (StreamingLLM's cache positions, seen from the next query) */
KVA_API int32_t kva_kv_rotate_sinks(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t sinks,
                                    kva_tensor* inv_freq, int32_t interleaved, float mscale);

/* ---- scores and selection (prefill hooks) ---- */
/* A[h, i, j]: causal softmax probability of window query i on row j, over all rows up to its own. The w queries are the layer's last w rows.
 * Over j < length - w: mean over i, unbiased variance over i, maximum over i; each NULL or f32 [kvHeads, length - w] after reduction over the
 * group (KVA_REDUCE_NONE: [heads, length - w]). scalars: NULL or f32 [1, 2]: -sum A log(A + 1e-10), sum of variances, over heads and rows j.
 * queries [w, heads * headDim], rotated. No [w, length] buffer is made. All heads must hold the same number of rows. */
KVA_API int32_t kva_window_stats(kva_kv* kv, int32_t layer, kva_tensor* queries, float scale, int32_t reduce, kva_tensor* mean,
                                 kva_tensor* variance, kva_tensor* maximum, kva_tensor* scalars);
/* norm (p = 1 or 2) of each key (what 0) or value (what 1) row; out f32 [kvHeads, length] */
KVA_API int32_t kva_row_norms(kva_kv* kv, int32_t layer, int32_t what, int32_t p, kva_tensor* out);
/* stride 1, odd width; max pads with -inf, avg with zeros and divides by width; x, out f32 [rows, n] */
KVA_API int32_t kva_pool(kva_tensor* x, int32_t kind, int32_t width, kva_tensor* out);
/* out = a * x + b * y; y may be NULL (then out = a * x + b); f32; out may be x or y */
KVA_API int32_t kva_combine(float a, kva_tensor* x, float b, kva_tensor* y, kva_tensor* out);
/* index[r, :] = columns of the k largest of x[r, :], ascending; NaN ranks below every number; x f32 [rows, n], index i32 [rows, k] */
KVA_API int32_t kva_topk(kva_tensor* x, int32_t k, kva_tensor* index);

/* ---- since 1.1: scores over all queries, side arrays as matrices ---- */
/* What rows receive from queries: the sum (KVA_REDUCE_SUM, added to out) or the maximum (KVA_REDUCE_MAX, joined with out) over the group's
 * heads h and query rows i with first_row + i >= j of exp(scale * q[i, h] . k[g, j] - lse[h, i]). queries [rows, heads * headDim], rotated;
 * lse f32 [heads, rows] as kva_attention_prefill gives it; out f32 [kvHeads, columns], columns >= first_row + rows.
 * No atomics: the same sums in every run. All heads must hold the same number of rows. */
KVA_API int32_t kva_column_sums(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* queries, kva_tensor* lse, float scale,
                                int32_t reduce, kva_tensor* out);
/* mode 0: x := side array, 1: side array := x, 2: side array += x; x f32 [kvHeads, length], all heads of one length */
KVA_API int32_t kva_kv_side(kva_kv* kv, int32_t layer, int32_t side, int32_t mode, kva_tensor* x);

/* ---- since 1.2: quantised and channel-indexed rows ---- */
/* A layer with packed rows takes new rows by kva_rope_append_batch alone; attention_decode reads all of its parts in one softmax. Ops that
 * prefill, keep, write or score its rows refuse it, and so do those that drop rows but for the four that mark them. kva_kv_read reads codes back and gives zeros for channels that are gone. */
/* Stores the layer's keys in groups of `group` tokens of a channel and its values in groups of channels of a token (`group` of them, or the
 * greatest common divisor with headDim) as codes of 2 or 4 bits with an f16 scale and zero, and frees their full precision. A head of n rows
 * keeps the last n mod residual keys and min(n, residual) values as they are. group 32, 64 or 128; residual a multiple of it.
 * The new storage has room for spare more rows. */
KVA_API int32_t kva_kv_quantize(kva_kv* kv, int32_t layer, int32_t key_bits, int32_t value_bits, int32_t group, int32_t residual, int32_t spare);
/* Decode: brings quantised layers of the sequences to the state of the rows they hold: at most `residual` keys and one value become codes.
 * Due after each appended row. Then, where a head has as many marked rows as the residual holds, the first `residual` of them go for good: rows
 * close up in order, values keep their codes, keys keep theirs where a group of them stays together, and other groups are quantised anew from
 * what their codes stand for. A row that must be in full precision again takes what its codes stand for, too. */
KVA_API int32_t kva_kv_flush(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer);
/* out[g, c] = mean over rows and the group's heads of queries[., c]^2, times mean over the layer's rows of keys[., c]^2;
 * queries [rows, heads * headDim], rotated; out f32 [kvHeads, headDim] */
KVA_API int32_t kva_channel_scores(kva_kv* kv, int32_t layer, kva_tensor* queries, kva_tensor* out);
/* Key rows before the last `last` keep only the channels named by index (i32 [kvHeads, k], ascending); later rows stay whole.
 * The new storage has room for spare more rows. */
KVA_API int32_t kva_kv_keep_channels(kva_kv* kv, int32_t layer, kva_tensor* index, int32_t last, int32_t spare);

/* ---- graphs: a queued sequence of ops, replayed as one ---- */
KVA_API int32_t kva_graph_begin(kva_context* context);
KVA_API int32_t kva_graph_end(kva_context* context, kva_graph** out);
/* ends a capture that failed; the context is usable again */
KVA_API int32_t kva_graph_abandon(kva_context* context);
KVA_API int32_t kva_graph_launch(kva_graph* graph);
KVA_API int32_t kva_graph_destroy(kva_graph* graph);

/* ---- time on the device ---- */
KVA_API int32_t kva_timer_create(kva_context* context, int32_t slots, kva_timer** out);
KVA_API int32_t kva_timer_destroy(kva_timer* timer);
KVA_API int32_t kva_timer_mark(kva_timer* timer, int32_t slot);
/* waits for both marks */
KVA_API int32_t kva_timer_read(kva_timer* timer, int32_t from, int32_t to, float* ms);

/* ---- since 1.2: eviction and merging while decoding ---- */
/* As kva_kv_drop_lowest, but where a head holds at least rows + interval rows it loses the lowest ones down to `rows`. */
KVA_API int32_t kva_kv_drop_lowest_every(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t rows,
                                         int32_t side, int32_t recent, int32_t interval);
/* side value of each head's last row := factor * norm (p = 1 or 2) of its key */
KVA_API int32_t kva_kv_note_norms(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t p,
                                  float factor);
/* Where a head holds more than `rows` rows: of its rows before the last `recent`, the one with the lowest sum of probs over the `width` rows
 * around it (zeros outside of them) goes; ties: lower row. The rows after it move up: row order stays. probs as kva_attention_decode writes. */
KVA_API int32_t kva_kv_drop_pooled(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t rows,
                                   int32_t recent, int32_t width);
/* Where a head holds more than `rows` rows: its oldest row e that is not among rows [0, sinks) merges and is dropped. Targets J: the rows with
 * positions in (pos[e], pos[e] + targets]. p = side[e] / mean over J of side, within [0, 1], NaN is 0; weight M by `decision` (KVA_MERGE_*),
 * the draw being unit(word 0 of philox(key = seed, layer; counter = stream of the sequence, pos[e], KV head, 0)) < p.
 * V[j] += M * V[e] / |J| for j in J, added in fp32. Keys stay. */
KVA_API int32_t kva_kv_merge_oldest(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                                    int32_t sinks, int32_t targets, int32_t decision, uint32_t seed);
/* out[r, c] = x[r, c] / (start + step * c); f32; out may be x */
KVA_API int32_t kva_divide_ramp(kva_tensor* x, float start, float step, kva_tensor* out);

/* ---- since 1.3: a model whose layers lie on several devices ---- */
/* As kva_kv_create, for layers [first_layer, first_layer + held_layers) of the `layers`; they keep their numbers. The others take no rows,
 * and kva_kv_reserve and kva_batch_reserve leave them alone. */
KVA_API int32_t kva_kv_create_part(kva_context* context, int32_t layers, int32_t first_layer, int32_t held_layers, int32_t heads,
                                   int32_t kv_heads, int32_t head_dim, int32_t dtype, int32_t side_arrays, int32_t unrotated_rows,
                                   kva_kv** out);

/* ---- since 1.3: block-sparse prefill ---- */
/* Blocks are runs of `block` rows of a layer from row 0 on. A set of blocks is an i32 matrix of bits [heads * blockRows, words], words >=
 * ceil(key blocks / 32): bit c % 32 of word c / 32 in row h * blockRows + r says that query block first_block + r of head h reads key block c.
 * Bits past the diagonal, c > first_block + r, mean nothing. Ops that make a set add bits to it and clear none: fill it with 0 before. */
/* As kva_attention_prefill, where query row i of head h sees of its rows only those in the key blocks that the set gives its query block,
 * (first_row + i) / block. block 64 or 128; first_row a multiple of it; every query block of q has its row of bits. kinds: NULL, or KVA_HEAD_*
 * per head in host memory: heads that are KVA_HEAD_DENSE read everything, whatever their bits. A row without blocks gives zeros and lse -inf.
 * out may be q. */
KVA_API int32_t kva_attention_blocks(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* q, float scale, int32_t block,
                                     int32_t first_block, kva_tensor* bits, const int32_t* kinds, kva_tensor* out, kva_tensor* lse);
/* As kva_column_sums for the attention that kva_attention_blocks computes with the same set */
KVA_API int32_t kva_column_sums_blocks(kva_kv* kv, int32_t layer, int32_t first_row, kva_tensor* queries, kva_tensor* lse, float scale,
                                       int32_t reduce, int32_t block, int32_t first_block, kva_tensor* bits, const int32_t* kinds,
                                       kva_tensor* out);
/* A[h, i, j]: causal softmax probability of window query i on row j; the w <= 256 queries are the layer's last w rows, N rows in all.
 * columns[h, j] = mean_i A[h, i, j]; diagonals[h, o] = mean_i A[h, i, N - w + i - o], o: distance from query to key; both f32 [heads, N].
 * column_blocks[h, c]: columns summed over block c; diagonal_blocks[h, nb - 1 - (N - 1 - o) / block]: diagonals summed over o; both
 * f32 [heads, nb], nb = ceil(N / block). Each may be NULL, one must not. queries [w, heads * headDim], rotated. */
KVA_API int32_t kva_window_sums(kva_kv* kv, int32_t layer, kva_tensor* queries, float scale, int32_t block, kva_tensor* columns,
                                kva_tensor* diagonals, kva_tensor* column_blocks, kva_tensor* diagonal_blocks);
/* out[c, :] = mean of x's rows [c * block, (c + 1) * block), of those there are; out f32 [ceil(rows / block), columns] */
KVA_API int32_t kva_block_mean(kva_tensor* x, int32_t block, kva_tensor* out);
/* The same of the layer's keys; out f32 [ceil(length / block), kvHeads * headDim] */
KVA_API int32_t kva_key_block_mean(kva_kv* kv, int32_t layer, int32_t block, kva_tensor* out);
/* out[h * rows + r, c] = softmax_c(scale * queries[r, h] . keys[c, h / (heads / kv_heads)]) over c <= first_block + r, 0 for the others;
 * first_block -1: over all c. queries f32 [rows, heads * headDim], keys f32 [columns, kv_heads * headDim], out f32 [heads * rows, columns] */
KVA_API int32_t kva_pooled_attention(kva_tensor* queries, kva_tensor* keys, int32_t heads, int32_t kv_heads, float scale, int32_t first_block,
                                     kva_tensor* out);
/* XAttention's block scores. Coarse row R has the tokens [R * stride, (R + 1) * stride), coarse column C likewise, numbered from row 0 of the
 * layer; absent tokens are zeros. X[R, C] = scale * sum_{i < stride} q[R * stride + stride - 1 - i] . k[C * stride + i]; P = softmax over
 * C <= R. out[h * blockRows + r, c] = sum of P over the coarse rows of query block first_row / block + r and the coarse columns of key block c.
 * The queries are rows [first_row, first_row + rows) of the layer and its last ones, of query heads first_head, first_head + 1, ...:
 * queries [rows, heads * headDim], which may be some columns of a wider tensor; first_head and heads are multiples of the group.
 * first_row is a multiple of block, block of stride. out f32 [heads * ceil(rows / block), ceil((first_row + rows) / block)] */
KVA_API int32_t kva_antidiagonal_scores(kva_kv* kv, int32_t layer, int32_t first_row, int32_t first_head, kva_tensor* queries, float scale,
                                        int32_t stride, int32_t block, kva_tensor* out);
/* Takes columns of each row of x by falling value until they hold a share of the row's sum. Rows belong to `groups` equal runs (heads) of
 * x's rows; shares: f64 [groups] in host memory. flat 1: a group's rows are one row, ordered row after row.
 * forced columns come first and count. Then, inclusive 1: columns while the sum so far is below share * total; 0: columns while the sum with
 * them is at most share * total. Then `extra` more in the first extra_rows rows of each group. The number is raised to `least` and cut to
 * `most` (0: not cut), forced columns stay. Sums are of integers, round(2^40 x) with x within [0, 256] and NaN 0: the same on every backend.
 * gate: NULL or f32 [1, groups]: a group with not gate[g] < threshold takes nothing.
 * x f32 [rows, n]; forced: NULL or bits [rows, words]; counts: NULL or i32 [1, rows], flat: [1, groups]; bits: NULL or [rows, words]. */
KVA_API int32_t kva_cumulative(kva_tensor* x, const double* shares, int32_t groups, int32_t flat, int32_t inclusive, int32_t extra,
                               int32_t extra_rows, int32_t least, int32_t most, kva_tensor* forced, kva_tensor* gate, float threshold,
                               kva_tensor* counts, kva_tensor* bits);
/* Adds the counts[r] best columns of each row of x; forced columns are the best of all and always added. x f32 [rows, n], counts i32 [1, rows],
 * forced NULL or bits [rows, words], bits [rows, words] */
KVA_API int32_t kva_top_bits(kva_tensor* x, kva_tensor* counts, kva_tensor* forced, kva_tensor* bits);
/* counts[i] = (counts[i] + offset) / divisor, raised to least and cut to most; i32 [1, n], none negative */
KVA_API int32_t kva_counts_divide(kva_tensor* counts, int32_t offset, int32_t divisor, int32_t least, int32_t most);
/* counts[i] = value where gate[i] < threshold; counts i32 [1, n], gate f32 [1, n] */
KVA_API int32_t kva_counts_where(kva_tensor* gate, float threshold, int32_t value, kva_tensor* counts);
/* out[r] = sqrt(sum_c (p ln(p / m) + q ln(q / m)) / 2), m = (p + q) / 2, 0 ln 0 = 0; p, q f32 [rows, n], out f32 [1, rows] */
KVA_API int32_t kva_js_distance(kva_tensor* p, kva_tensor* q, kva_tensor* out);
/* Adds key blocks c < sinks and c > R - recent, c <= R, to each query block R */
KVA_API int32_t kva_blocks_band(kva_tensor* bits, int32_t heads, int32_t first_block, int32_t sinks, int32_t recent);
/* Adds to each query block R of head h the key blocks c <= R of vertical[h], and R - s, c <= R, for s in [o - before, o + after] of each
 * o of slash[h]. vertical, slash: bits [heads, words] */
KVA_API int32_t kva_blocks_vertical_slash(kva_tensor* vertical, kva_tensor* slash, int32_t before, int32_t after, int32_t first_block,
                                          kva_tensor* bits);
/* counts[h] = blocks of head h's set; counts i32 [1, heads] */
KVA_API int32_t kva_blocks_count(kva_tensor* bits, int32_t heads, int32_t first_block, kva_tensor* counts);
/* Leaves of each query block R's n key blocks k = max(1, min(n, round(share * (R + 1)))): the i-th (from 0) where (i + 1) k / n is a whole
 * number above i k / n; so the last one stays. For measuring at a given density; 0 < share <= 1. */
KVA_API int32_t kva_blocks_thin(kva_tensor* bits, int32_t heads, int32_t first_block, float share);
/* The set as lists: col[row_ptr[i] .. row_ptr[i + 1]) are the key blocks of row i of the bits, ascending. row_ptr i32 [1, rows + 1]; col
 * i32 [1, capacity]: what does not fit is not written, row_ptr counts it all the same. */
KVA_API int32_t kva_blocks_to_csr(kva_tensor* bits, int32_t heads, int32_t first_block, kva_tensor* row_ptr, kva_tensor* col);

/* ---- since 1.6: budgets of each head, scores over all heads, keys against their mean, what later queries are expected to attend to ---- */
/* counts[r] := how many of the k largest elements of all of x lie in row r. Ties: lower column first, then lower row; NaN ranks below every
 * number. x f32 [rows, n] of fewer than 2^31 elements and at most 1024 rows; 1 <= k <= rows * n; counts i32 [1, rows] */
KVA_API int32_t kva_topk_counts(kva_tensor* x, int32_t k, kva_tensor* counts);
/* As kva_topk with k = counts[r] in row r, taken within [0, most]; index i32 [rows, most]: what is past counts[r] stays as it is.
 * counts i32 [1, rows] */
KVA_API int32_t kva_topk_each(kva_tensor* x, kva_tensor* counts, kva_tensor* index);
/* x[r, index[r, i]] := value; index i32 [rows, k]; columns outside of x are passed over */
KVA_API int32_t kva_fill_at(kva_tensor* x, kva_tensor* index, float value);
/* out = x * y, element by element; f32 of one shape; out may be x or y */
KVA_API int32_t kva_multiply(kva_tensor* x, kva_tensor* y, kva_tensor* out);
/* every row of out = the mean over the rows of x; f32 of one shape; out may be x */
KVA_API int32_t kva_rows_mean(kva_tensor* x, kva_tensor* out);
/* out[r, 0] = sum over the columns of x[r, :]; x f32 [rows, n], out f32 [rows, 1]. One order of sums. */
KVA_API int32_t kva_row_sums(kva_tensor* x, kva_tensor* out);
/* As kva_kv_accumulate, with the mean of probs over a sequence's KV heads: all of them get the same. */
KVA_API int32_t kva_kv_accumulate_shared(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs,
                                         int32_t side, float factor, float decay);
/* As kva_kv_keep_at_most with rows[h] rows in head h; rows i32 [kvHeads] in host memory, each at least sinks */
KVA_API int32_t kva_kv_keep_at_most_each(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, const int32_t* rows,
                                         int32_t sinks);
/* out[g, j] = cosine of key j and the mean of the head's keys, each divided by its norm first; 0 where one of the two is 0.
 * out f32 [kvHeads, length]; all heads must hold the same number of rows. One order of sums. */
KVA_API int32_t kva_key_similarity(kva_kv* kv, int32_t layer, kva_tensor* out);
/* Decode: in heads that hold at least `rows` rows, side value of each row := factor * that cosine over the rows held. */
KVA_API int32_t kva_kv_note_similarity(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                                       float factor);
/* Adds query rows to moments f32 [heads, headDim + headDim^2], which stands for `seen` rows (0: what it holds is not read): of each head the mean
 * of the rows, and the sum over rows of (q - mean) (q - mean)^T. queries [rows, heads * headDim] as they are: before rotation, where that is meant. */
KVA_API int32_t kva_query_moments(kva_tensor* queries, int32_t heads, int32_t seen, kva_tensor* moments);
/* Expected attention of later queries on rows j >= first_row: queries are normal with the moments of `seen` rows, turned by the mean R of the
 * rotations of positions [first_position, first_position + positions); mu = R mean, S = R (sum / seen) R^T.
 * a[h, j] = softmax over j of scale * mu . k_j + scale^2 / 2 * k_j^T S k_j (the second term where covariance is 1); out[g, j - first_row] = mean
 * over the group. out f32 [kvHeads, length - first_row]; all heads must hold the same number of rows. Rotation as in kva_rope_append. */
KVA_API int32_t kva_future_attention(kva_kv* kv, int32_t layer, kva_tensor* moments, int32_t seen, int32_t first_position, int32_t positions,
                                       kva_tensor* inv_freq, int32_t interleaved, float mscale, float scale, int32_t first_row,
                                       int32_t covariance, kva_tensor* out);

/* ---- since 1.7: work of several devices side by side ---- */
/* What is queued in `context`, which may be another device's, from here on waits for the mark; the host does not. */
KVA_API int32_t kva_timer_wait(kva_timer* timer, int32_t slot, kva_context* context);
/* As kva_tensor_peer_copy for tensors of one type, but in the order of to's context alone: the caller lets it wait for what fills `from`
 * (kva_timer_wait), and leaves `from` as it is until the copy has run. */
KVA_API int32_t kva_tensor_peer_pull(kva_tensor* from, kva_tensor* to);

/* ---- since 1.8: one copy of the weights for several processes ---- */
/* A block of device memory that other processes of this user on this machine can open; on the CPU it has no file that could be left behind.
 * It lives as long as the process that made it: on CUDA nobody may read it afterwards, on the CPU those who opened it may.
 * memory: what it is for, as in kva_tensor_create. Everyone who holds the block counts it among its own memory (kva_memory), but only its maker
 * among the bytes reserved from the device. KVA_E_UNSUPPORTED where the system has no such memory. */
KVA_API int32_t kva_shared_create(kva_context* context, int32_t memory, int64_t bytes, kva_shared** out);
/* Waits for the device, then writes the name (at most 160 bytes with its end) by which other processes open what the block holds now.
 * KVA_E_UNSUPPORTED where the system does not let them; KVA_E_ARGUMENT for a block that was opened. */
KVA_API int32_t kva_shared_name(kva_shared* shared, char* name, int32_t name_bytes);
/* Opens a block of another process, on the device that it was made on. Its tensors must not be written. KVA_E_ARGUMENT: not a name of this
 * backend. KVA_E_UNSUPPORTED: the system does not open it, because processes may not share memory here or its maker is gone. */
KVA_API int32_t kva_shared_open(kva_context* context, const char* name, int32_t memory, int64_t bytes, kva_shared** out);
/* A tensor at a byte offset of the block, a multiple of 256; destroyed as any other */
KVA_API int32_t kva_shared_tensor(kva_shared* shared, int64_t offset, int32_t dtype, int32_t rows, int32_t columns, kva_tensor** out);
/* Frees a block that was made here, lets go of one that was opened; KVA_E_BUSY while tensors of it live */
KVA_API int32_t kva_shared_close(kva_shared* shared);

/* ---- since 1.9: cache positions of every row, and decode rules of authors' code ---- */
/* Every key := its kept unrotated key rotated to rank + E: rank = rows of its head with a lower position, E = (position counter + 1) - rows held.
 * Distances, seen from the next query, are then those of slots 0, 1, ... in the cache. The cache must keep the unrotated keys of every row. */
KVA_API int32_t kva_kv_rotate_slots(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* inv_freq,
                                    int32_t interleaved, float mscale);
/* Where a head holds more than `rows` rows and one of them, e, has position t - recent (t: the newest position; recent >= 1): e merges as in
 * kva_kv_merge_oldest, but p = side[e] / mean of side over all later rows, each target gains M * V[e] / targets however many there are, and e stays. */
KVA_API int32_t kva_kv_merge_recent(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, int32_t side, int32_t rows,
                                    int32_t recent, int32_t targets, int32_t decision, uint32_t seed);
/* Where a head holds more than `rows` rows: its rows with position <= t - recent, in order of falling side value (ties: lower position; the one at
 * t - recent comes last), each get the mean of probs over the `width` rows around them in that order (zeros outside of it). The rows - recent
 * highest stay, with it as their side value; ties: lower position. The others go, as in kva_kv_keep_at_most. */
KVA_API int32_t kva_kv_keep_ranked(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* probs, int32_t side,
                                   int32_t rows, int32_t recent, int32_t width);

/* ---- since 1.11: decode attention that reads some pages of the rows; all rows stay ---- */
/* Page p of a head: its rows [p * page_rows, (p + 1) * page_rows), of those there are. Makes the layer keep, for each page, the least and the
 * greatest number of every channel of its keys, in the cache's type; kva_rope_append_batch keeps them so. They count as bytes held.
 * page_rows: 16, 32, 64 or 128. Ops that drop, move, turn, pack or write keys of the layer, and kva_rope_append, refuse it from now on. */
KVA_API int32_t kva_kv_bound_pages(kva_kv* kv, int32_t layer, int32_t page_rows);
/* For sequences [first_sequence, first_sequence + sequences): scores[s * kvHeads + h, p] = mean (KVA_REDUCE_MEAN) or maximum (KVA_REDUCE_MAX) over
 * the group's query heads of sum_c max(q[c] * least[p, c], q[c] * greatest[p, c]): no key of the page gives more. q has a row for each sequence of
 * the batch. scores f32 [sequences of the batch * kvHeads, columns], with a column for each page of the longest head; those past a head's pages,
 * and of layers without bounds, stay as they are. */
KVA_API int32_t kva_page_scores(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* q, int32_t reduce,
                                kva_tensor* scores);
/* What these sequences read. In a head that keeps bounds and holds more than `rows` rows:
 * counts[s * kvHeads + h] = rows / page_rows, and so many pages, ascending: the last one and the best others by score. In other heads: -1, which
 * is everything. pages i32 [sequences * kvHeads, columns], counts i32 [1, sequences * kvHeads] */
KVA_API int32_t kva_choose_pages(kva_batch* batch, int32_t first_sequence, int32_t sequences, int32_t layer, kva_tensor* scores, int32_t rows,
                                 kva_tensor* pages, kva_tensor* counts);
/* kva_attention_decode, without window and probs, over the pages that kva_choose_pages wrote for every sequence since the last appended row. No
 * other row is touched; the bits are those of a cache that has room for the read rows alone. most_rows: the largest `rows` they were chosen with. */
KVA_API int32_t kva_attention_decode_pages(kva_batch* batch, int32_t layer, kva_tensor* q, float scale, int32_t most_rows, kva_tensor* pages,
                                           kva_tensor* counts, kva_tensor* out);

#ifdef __cplusplus
}
#endif
#endif

// What a plugin author sees: definePlugin, param, and the types of Layer, Ops and Hooks. Imported as "kvaccel/plugin".
import type { BlockOps, Blocks } from "./blocks.ts";
import type { PageOps, Pages } from "./pages.ts";
import { Budget, type Param, type ParamValue, param, type Shares } from "./param.ts";

export type {
  Band,
  BlockOps,
  BlockScores,
  Blocks,
  Bounds,
  Counts,
  Marks,
  Means,
  WindowSums,
} from "./blocks.ts";
export type { PageOps, PageScores, Pages } from "./pages.ts";
export type { Param, ParamValue, Shares };
export { Budget, param };

/** What a method does to the cache or to attention; at most one of each kind composes, in this order. */
export const categories = ["full", "sparse-prefill", "eviction", "sparse-decode", "channels", "quantization"] as const;
export type Category = (typeof categories)[number];

/**
 * Whether beside methods of these kinds no row of a layer can go by itself once the prompt is done: pages have bounds of their keys, and keys of
 * fewer channels lie apart from the others. Among codes rows can go. A method that drops rows while decoding says in `beside` what it does then.
 */
export const rowsMustStay = (others: readonly Category[]): boolean =>
  others.includes("sparse-decode") || (others.includes("channels") && !others.includes("quantization"));

/** The model as a plugin may know it, for defaults that depend on family or shape. */
export interface ModelInfo {
  /** `llama`, `mistral`, `qwen2`, `qwen3`, `glm`, `glm4` */
  readonly family: string;
  /** decoder layers */
  readonly layers: number;
  /** query heads */
  readonly heads: number;
  /** KV heads: what a cache is stored by */
  readonly kvHeads: number;
  /** channels of a head */
  readonly headDim: number;
  /** width of the hidden state */
  readonly hiddenSize: number;
  /** sliding window of each layer, 0: none; absent: none has one */
  readonly slidingWindows?: readonly number[];
  /** its rotation changes with the length of the text (dynamic NTK, LongRoPE) */
  readonly ropeDependsOnLength?: boolean;
}

/** Scores on the device: fp32 `[kvHeads, columns]`. Freed when the hook ends. */
export interface Scores {
  /** KV heads */
  readonly rows: number;
  /** cache rows that have a score */
  readonly columns: number;
}

/** Row numbers chosen per KV head, ascending: i32 `[kvHeads, count]`, where heads have numbers of their own, at most `count`. Freed when the hook ends. */
export interface Rows {
  /** rows chosen in each KV head */
  readonly count: number;
}

/** The layer's keys or values, for the ops that read them. */
export interface CacheRows {
  /** which of the two */
  readonly kind: "keys" | "values";
}

/** How `layer.quantize` stores rows. */
export interface Quantization {
  /** bits of a code: 2 or 4 */
  keyBits: number;
  /** bits of a value's code: 2 or 4 */
  valueBits: number;
  /** 32, 64 or 128: tokens of a group of keys (per channel), channels of a group of values (per token) */
  group: number;
  /** newest rows that stay in full precision; a multiple of the group */
  residual: number;
}

/** What one KV head is expected to hold. A method of the kind channels or quantization changes what those before it left. */
export interface Storage {
  /** rows held after the prompt */
  readonly rows: number;
  /** bytes of their keys */
  readonly keyBytes: number;
  /** bytes of their values */
  readonly valueBytes: number;
  /** channels that stored keys have, those of the newest rows excepted */
  readonly keyChannels: number;
  /** bytes of a number in full precision */
  readonly elementBytes: number;
}

/** Post-RoPE queries of the last `count` prompt tokens: `[count, heads * headDim]`. */
export interface Queries {
  /** query tokens, the last ones of the prompt */
  readonly count: number;
}

/** Statistics over the window queries of causal attention on rows `j < length - window`; each computed when first read. */
export interface WindowStats {
  /** mean over the queries, reduced over the group: `[kvHeads, length - window]` */
  readonly mean: Scores;
  /** unbiased variance over the queries, reduced over the group */
  readonly variance: Scores;
  /** maximum over the queries, reduced over the group */
  readonly maximum: Scores;
  /** over all heads and rows, on the host: -sum A log(A + 1e-10), and the sum of the variances; needs `hostSync` */
  readonly totals: { entropy: number; variance: number };
}

/** How a row merges into the values of the next ones. */
export interface MergeInto {
  /** following rows that take the value, a share each */
  targets: number;
  /** drawn with probability p (Philox of seed, layer, sequence, position and KV head); where p is 1; always with weight p; always; never */
  decision: "bernoulli" | "threshold" | "expected" | "always" | "never";
  /** of the draws */
  seed: number;
}

/** How the oldest row merges: into the values of the next `targets` rows, with p = its side value / the mean of theirs. */
export interface MergeOptions extends MergeInto {
  /** first rows that never merge */
  sinks: number;
}

/** One layer of one sequence's cache, inside a hook. */
export interface Layer {
  /** this layer's number, from 0 */
  readonly index: number;
  /** layers of the model */
  readonly layers: number;
  /** the layers that this plugin's hooks run in, ascending: those that evict leave layers alone whose sliding window is shorter than the prompt */
  readonly hooked: readonly number[];
  /** query heads */
  readonly heads: number;
  /** KV heads */
  readonly kvHeads: number;
  /** query heads that share a KV head */
  readonly groupSize: number;
  /** channels of a head */
  readonly headDim: number;
  /** rows that the longest KV head holds */
  readonly length: number;
  /** tokens of the prompt */
  readonly promptTokens: number;
  /** select hook: whether it chooses for the tokens after the prompt */
  readonly decoding: boolean;
  /** the keys held, as the ops take them */
  readonly keys: CacheRows;
  /** the values held, as the ops take them */
  readonly values: CacheRows;

  /**
   * The last `count` post-RoPE queries of the prompt, a longer window than the prompt being clamped. Needs `queryRing >= count`,
   * but in the select hook, where all are there: absent, all of them.
   */
  queries(count?: number): Queries;
  /** Prefill: an earlier layer of this sequence; needs `cascade`. */
  at(layer: number): Layer;
  /** The values of a side array of this plugin (named in `needs.sideArrays`): `[kvHeads, length]`, a copy. */
  side(name: string): Scores;
  /** Replaces the values of a side array: `[kvHeads, length]`. */
  setSide(name: string, scores: Scores): void;
  /** Adds to the values of a side array: `[kvHeads, length]`. */
  addSide(name: string, scores: Scores): void;
  /**
   * Prefill: keeps the rows `[0, first)`, the chosen `rows` and the `last` rows, and frees all others of this layer.
   * Rows must lie between the two ranges. Without chosen rows, `heads` may name the KV heads that lose rows; the others stay whole.
   */
  keep(rows: Rows | null, ranges?: { first?: number; last?: number; heads?: readonly number[] }): void;
  /**
   * Decode, recorded: where a head holds more than `rows` rows, its oldest row goes, the first `sinks` excepted. A list has a number for
   * each KV head; Infinity leaves a head alone.
   */
  keepAtMost(rows: number | readonly number[], options?: { sinks?: number }): void;
  /**
   * Decode, recorded: side = side * decay + factor * probabilities of the current query; needs `decodeProbs`. They are the mean over the
   * group, or, where every head must get the same, over all heads.
   */
  accumulateProbs(side: string, options?: { factor?: number; decay?: number; over?: "group" | "heads" }): void;
  /**
   * Decode, recorded: where a head holds more than `rows` rows, the one with the lowest side value goes, the `recent` newest
   * excepted; with an interval only where it holds rows + interval, and then all down to `rows`.
   */
  dropLowest(side: string, rows: number, options?: { recent?: number; interval?: number }): void;
  /** Decode, recorded: the newest row's side value := factor * norm of its key. */
  noteNorms(side: string, options?: { p?: 1 | 2; factor?: number }): void;
  /** Decode, recorded: in heads that hold at least `rows` rows, each row's side value := factor * what `ops.similarity` says of it. */
  noteSimilarity(side: string, rows: number, options?: { factor?: number }): void;
  /**
   * Decode, recorded: where a head holds more than `rows` rows, that before the `recent` newest goes whose neighbourhood of
   * `width` rows got least from the current query; rows stay in order. Needs `decodeProbs`.
   */
  dropPooled(rows: number, options: { recent: number; width: number }): void;
  /**
   * Decode, recorded: where a head holds more than `rows` rows, those before the `recent` newest, in order of falling side value, each get
   * the mean of the current query's attention to the `width` rows around them in that order, as their side value; the rows - recent highest stay.
   * Needs `decodeProbs`.
   */
  keepRanked(side: string, rows: number, options: { recent: number; width: number }): void;
  /**
   * Where a head holds more than `rows` rows, its oldest past the sinks merges into the next ones and goes. Recorded in the decode hook; in
   * prefill at once, until `rows` are left.
   */
  mergeOldest(side: string, rows: number, options: MergeOptions): void;
  /**
   * Decode, recorded: where a head holds more than `rows` rows, that `recent` positions before the newest merges into the next ones, and
   * stays: p is its side value / the mean of those of all later rows, and a target takes 1 / `targets` of the value however many there are.
   */
  mergeRecent(side: string, rows: number, options: MergeInto & { recent: number }): void;
  /**
   * Prefill: keys before the `last` rows keep only these channels (from `ops.topk` of channel scores); the others are freed.
   * Nothing that reads or drops rows in full precision may come after it.
   */
  keepChannels(channels: Rows, options?: { last?: number }): void;
  /**
   * Prefill: stores the rows as codes, all but the residual, and frees their full precision. The decode hook must then record
   * `flush`. Of what a decode hook records, `dropLowest`, `keepAtMost` and `accumulateProbs` go on; nothing else that reads or drops rows
   * may come after it.
   */
  quantize(how: Quantization): void;
  /** Decode, recorded: quantises what has left the residual, and closes the places of rows dropped among codes once they fill a residual. */
  flush(): void;
  /**
   * Rotates the first `sinks` keys so that their distance to the next query is that of positions inside the cache
   * (needs `unrotatedKeys >= sinks`). In prefill at once, in decode recorded.
   */
  rotateSinks(sinks: number): void;
  /**
   * Rotates every key so that its distance to the next query is that of its place among its head's rows, as if the rows dropped had never
   * been (needs `unrotatedKeys: "all"`). In prefill at once, in decode recorded.
   */
  rotateSlots(): void;
}

/** Native operations. What they return lives until the hook ends. */
export interface Ops {
  /** Attention statistics of the window queries (SnapKV, PyramidKV, CAKE); `reduce` over the query heads of a group, default mean. */
  windowStats(queries: Queries, keys: CacheRows, options?: { reduce?: "mean" | "max" | "sum" }): WindowStats;
  /** Prefill: what rows receive from these queries, their own rows included, mean over queries and group: `[kvHeads, length]` */
  attention(queries: Queries): Scores;
  /** Cosine of each key and the mean of its head's keys, each divided by its norm first: `[kvHeads, length]` */
  similarity(keys: CacheRows): Scores;
  /**
   * Prefill: the attention that later queries are expected to give the rows from `firstRow` on, mean over the group:
   * `[kvHeads, length]`, 0 before `firstRow`. They are taken as normal with the moments of the prompt's queries, turned by the mean rotation of the
   * next `positions` positions. Needs `queryMoments`.
   */
  futureAttention(options: { firstRow: number; positions: number; covariance: boolean }): Scores;
  /** Norm of each row, p = 1 or 2: `[kvHeads, length]` */
  norms(rows: CacheRows, p?: 1 | 2): Scores;
  /** Chunk hook: what each row received from the chunk's queries, reduced over the group: `[kvHeads, length]`; needs `lse`. */
  columnSums(reduce?: "sum" | "max"): Scores;
  /** Prefill: mean square of each channel of the queries, over the group's heads too, times that of the keys: `[kvHeads, headDim]` */
  channelScores(queries: Queries): Scores;
  /** Stride 1, odd width. Max pads with -inf; avg pads with zeros and always divides by the width. */
  pool(scores: Scores, kind: "max" | "avg", width: number): Scores;
  /** a * x + b * y; without y: a * x + b */
  combine(a: number, x: Scores, b: number, y?: Scores): Scores;
  /** x * y, element by element */
  multiply(x: Scores, y: Scores): Scores;
  /** every head's scores replaced by the mean over all heads */
  headsMean(scores: Scores): Scores;
  /** the sum of each head's scores: `[kvHeads, 1]` */
  sums(scores: Scores): Scores;
  /** column c divided by start + step * c */
  divideRamp(scores: Scores, start: number, step: number): Scores;
  /** The scores followed by columns of `value`, `columns` in all. */
  pad(scores: Scores, columns: number, value: number): Scores;
  /** columns [first, first + count) */
  slice(scores: Scores, first: number, count: number): Scores;
  /** Sets columns [first, first + count) of every row, in place: +Infinity pins, -Infinity forbids. */
  fill(scores: Scores, first: number, count: number, value: number): Scores;
  /** Sets the scores of these rows to +Infinity, in place; every head must have as many. */
  pin(scores: Scores, rows: Rows): Scores;
  /** The k highest of each KV head, ascending by row; ties go to the lower row. A list has a number for each head, 0 included. */
  topk(scores: Scores, k: number | readonly number[]): Rows;
  /** How many of the k highest over all heads each head has; ties go to the lower row. Waits for the device: declare `hostSync`. */
  bestPerHead(scores: Scores, k: number): number[];
  /** Copies scores to the host; waits for the device, so the plugin must declare `hostSync`. */
  read(scores: Scores): Float32Array;
  /** Select hook, prefill: scores and sets of blocks. */
  readonly blocks: BlockOps;
  /** Select hook, decode: scores and choice of pages. */
  readonly pages: PageOps;
}

/** What costs something and must be asked for. A method that needs nothing keeps the fastest path. */
export interface Needs {
  /** post-RoPE queries of the last so many prompt tokens are kept for `layer.queries` */
  queryRing?: number;
  /** mean and covariance of the queries before rotation, those of the first `skip` tokens left out, for `ops.futureAttention` */
  queryMoments?: { skip: number };
  /** keys of the first so many tokens are also kept unrotated; `all`: those of every row, half as much cache again */
  unrotatedKeys?: number | "all";
  /** fp32 values per row that move with it, by name (at most four in all) */
  sideArrays?: readonly string[];
  /** the prefill attention gives its log-sum-exp, for `ops.columnSums` in the chunk hook */
  lse?: boolean;
  /** the decode attention gives its probabilities, for `layer.accumulateProbs` */
  decodeProbs?: boolean;
  /** the prefill hook also changes earlier layers */
  cascade?: boolean;
  /** the decode hook branches on the host: it is called at every step, and no graph is captured */
  perStep?: boolean;
  /** when the select hook is called: in prefill (the default), for the tokens after it, or both times (`layer.decoding` says which it is) */
  selects?: "prefill" | "decode" | "both";
  /** the hook reads results on the host */
  hostSync?: "prefill" | "decode" | "both";
}

/** Hooks of one sequence. All are synchronous and optional; state lives in the closure of `create`. */
export interface Hooks {
  /** what the hooks ask for; nothing keeps the fastest path */
  needs?: Needs;
  /**
   * What attention reads; nothing: everything. All rows stay. Prefill: once a layer, before attention over the whole prompt, blocks from
   * `ops.blocks`; not called in layers whose sliding window is shorter than the prompt. Decode (`selects` in needs): once a layer, after its prefill
   * hooks, pages from `ops.pages`, which are chosen anew at each token; not called in layers with a sliding window.
   */
  select?(layer: Layer, ops: Ops): Blocks | Pages | undefined;
  /** prefill, after attention of each range of query rows: may update scores */
  chunk?(layer: Layer, ops: Ops): void;
  /** once a layer, after it attended over the whole prompt */
  prefill?(layer: Layer, ops: Ops): void;
  /** once a layer at the first new token; what it records is replayed after attention at every step */
  decode?(layer: Layer, ops: Ops): void;
  /** when the sequence ends: numbers for the tables; `kept` reads the positions that are held, [layer][kvHead], ascending */
  end?(kept: () => number[][][]): Record<string, number> | undefined;
}

type Params = Record<string, Param<unknown>>;
/** The values of a plugin's params, by key. */
export type ParamValues<P extends Params> = { readonly [K in keyof P]: ParamValue<P[K]> };

export interface Plugin<P extends Params = Params> {
  /** display name, `SnapKV`; the file has the kebab form, `snapkv.ts` */
  name: string;
  /** one line: what it does */
  about: string;
  /** address of the paper */
  paper: string;
  /** what it does to the cache or to attention; decides what it composes with */
  category: Category;
  /** model families it works with; absent: all */
  families?: readonly string[];
  /** what users may set, by key; each a `param.*` */
  params: P;
  /** named sets of parameter values; `paper` is the defaults and need not be listed */
  presets?: Record<string, Record<string, unknown>>;
  /**
   * defaults that depend on the model (KIVI keeps more bits where query heads share a KV head); presets and users override them. `chosen`:
   * the parameters without them, a budget as `capacity` or `keepRatio`
   */
  modelDefaults?(model: ModelInfo, chosen: Readonly<Record<string, unknown>>): Record<string, unknown>;
  /** values that must hold when composed with methods of these categories (StreamingLLM keeps original positions beside KIVI); a sentence where it cannot be */
  beside?(others: readonly Category[]): Record<string, unknown> | string | undefined;
  /** a sentence where two values do not fit each other */
  check?(values: ParamValues<P>): string | undefined;
  /** what shares rows according to the prompt: `expectedRows` is then the mean over the layers, or over a layer's KV heads */
  sharesRows?: "layers" | "heads";
  /** rows kept per layer for a prompt of so many tokens, for the expected figures; absent: all rows */
  expectedRows?(
    values: ParamValues<P>,
    promptTokens: number,
    newTokens: number,
    layer: number,
    model: ModelInfo,
  ): number;
  /** storage of one KV head of a layer after this method's hooks of the prompt, for the expected figures; absent: as before */
  expectedStorage?(values: ParamValues<P>, before: Storage, model: ModelInfo, layer: number): Storage;
  /** fresh hooks for one sequence; state that lasts from hook to hook is a variable in here */
  create(values: ParamValues<P>, model: ModelInfo): Hooks;
}

/** Declares a method. The result is the default export of a plugin file. */
export function definePlugin<const P extends Params>(plugin: Plugin<P>): Plugin<P> {
  return plugin;
}

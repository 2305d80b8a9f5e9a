// A plugin's prefill hooks on one layer whose keys, values and queries are known exactly.
import type { TensorBlocks } from "../../src/engine/block-ops.ts";
import { HookOps } from "../../src/engine/hook-ops.ts";
import { HookLayer, type LayerState } from "../../src/engine/layer.ts";
import { type DecodeOp, plan, replay } from "../../src/engine/recorded.ts";
import { queryMoments } from "../../src/native/heads.ts";
import { Batch, EVERY_ROW } from "../../src/native/kv.ts";
import { attentionDecode, attentionPrefill, ropeAppend, ropeAppendBatch } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import type { Tensor } from "../../src/native/tensor.ts";
import type { Hooks, ModelInfo, Plugin } from "../../src/plugin/index.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { deviceRope, emptyTwin, type Twin, type TwinShape, unrotating } from "./cache.ts";
import { input, type Matrix, matrix, row } from "./guarded.ts";
import { exact, type ReferenceRope } from "./reference.ts";
import { ropeAppend as referenceAppend, attentionDecode as referenceDecode } from "./reference-attention.ts";
import { type BlockLists, unpackSet } from "./reference-blocks.ts";

export const scaleOf = (headDim: number): number => Math.fround(1 / Math.sqrt(headDim));

function modelOf({ layers, kvHeads, groupSize, headDim }: Twin["shape"]): ModelInfo {
  const heads = kvHeads * groupSize;
  return { family: "llama", layers, heads, kvHeads, headDim, hiddenSize: heads * headDim };
}

/** The hooks of a plugin with these parameters, and what a cache for them needs. */
export function hooksOf(plugin: Plugin, params: Record<string, unknown>, shape: TwinShape) {
  const full = { layers: 1, sideArrays: 0, unrotatedRows: 0, ...shape };
  const { values } = resolveParams(plugin, "paper", params, modelOf(full));
  const hooks: Hooks = plugin.create(values as never, modelOf(full));
  const sides = hooks.needs?.sideArrays ?? [];
  const { unrotatedKeys = 0 } = hooks.needs ?? {};
  const unrotatedRows = unrotatedKeys === "all" ? EVERY_ROW : unrotatedKeys;
  return { hooks, shape: { ...shape, sideArrays: sides.length, unrotatedRows } };
}

/** Queries, keys and values of a prompt, before rotation: `[rows, (heads + 2 * kvHeads) * headDim]`. */
export interface Prompt {
  twin: Twin;
  /** rotated queries of the whole prompt */
  queries: Tensor;
  queryValues: Matrix;
  /** queries, keys and values as they came */
  unrotated: Tensor;
}

/** A cache that holds the whole prompt, with the queries that attended. */
export function prompted(scope: Scope, shape: TwinShape, qkv: ArrayLike<number>, rope?: ReferenceRope): Prompt {
  const twin = emptyTwin(scope, shape);
  const { kvHeads, groupSize, headDim, dtype, sideArrays, unrotatedRows } = twin.shape;
  const columns = (groupSize + 2) * kvHeads * headDim;
  const rows = qkv.length / columns;
  const values = input(scope, dtype, rows, columns, qkv);
  const used = rope ?? unrotating(headDim);
  twin.cache.reserve(-1, rows);
  const queries = scope.tensor(dtype, rows, kvHeads * groupSize * headDim);
  ropeAppend(twin.cache, 0, 0, values.tensor, queries, deviceRope(scope, used));
  const queryValues = referenceAppend(twin.layer, 0, values.values, used, exact, sideArrays, unrotatedRows);
  twin.cache.seek(rows - 1, 0);
  return { twin, queries, queryValues, unrotated: values.tensor };
}

/** Runs chunk and prefill hooks of layer 0 as the engine does; `chunk` rows at a time. The kept positions of each KV head. */
export function runPrefill(
  scope: Scope,
  hooks: Hooks,
  prompt: Prompt,
  chunk = prompt.queries.rows,
  rope?: ReferenceRope,
) {
  const { twin, queries } = prompt;
  const { cache, shape } = twin;
  const state = { ...stateOf(scope, hooks, twin, queries, rope), moments: momentsOf(scope, hooks, prompt, chunk) };
  const scale = scaleOf(shape.headDim);
  for (let first = 0; hooks.chunk && first < queries.rows; first += chunk) {
    using inner = new Scope(scope.context);
    const rows = Math.min(chunk, queries.rows - first);
    const part = inner.view(queries, first, rows);
    const lse = inner.tensor("float32", shape.kvHeads * shape.groupSize, rows);
    attentionPrefill(cache, 0, first, part, scale, 0, inner.tensor(shape.dtype, rows, queries.columns), lse);
    call(scope, { ...state, chunk: { first, queries: part, lse, blocks: null } }, (layer, ops) =>
      hooks.chunk?.(layer, ops),
    );
  }
  call(scope, state, (layer, ops) => hooks.prefill?.(layer, ops));
  return keptPositions(twin);
}

/** The key blocks that a plugin's select hook chooses in layer 0: [head][query block]; null: it reads everything. */
export function runSelect(scope: Scope, hooks: Hooks, { twin, queries }: Prompt): BlockLists | null {
  const state = stateOf(scope, hooks, twin, queries);
  let lists: BlockLists | null = null;
  call(scope, { ...state, pass: { queries, kept: scope } }, (layer, ops) => {
    const chosen = hooks.select?.(layer, ops);
    if (chosen === undefined) return;
    const set = chosen as TensorBlocks;
    lists = unpackSet(set.bits.toInts(), set.heads, set.rows).map((list, head) =>
      set.kinds[head] === 1 ? list.map((_, r) => Array.from({ length: r + 1 }, (_, c) => c)) : list,
    );
  });
  return lists;
}

export const keptPositions = ({ cache, shape }: Twin): number[][] =>
  Array.from({ length: shape.kvHeads }, (_, h) => Array.from(cache.positions(0, h)));

/** Moments of the queries before rotation, `chunk` rows at a time, as the engine collects them. */
function momentsOf(scope: Scope, hooks: Hooks, { twin, unrotated }: Prompt, chunk: number): LayerState["moments"] {
  const skip = hooks.needs?.queryMoments?.skip;
  const { kvHeads, groupSize, headDim } = twin.shape;
  if (skip === undefined || unrotated.rows <= skip) return null;
  const heads = kvHeads * groupSize;
  const tensor = scope.tensor("float32", heads, headDim + headDim * headDim);
  for (let first = 0; first < unrotated.rows; first += chunk) {
    const from = Math.max(first, skip);
    const end = Math.min(first + chunk, unrotated.rows);
    if (from >= end) continue;
    queryMoments(scope.view(unrotated, from, end - from, 0, heads * headDim), heads, from - skip, tensor);
  }
  return { tensor, seen: unrotated.rows - skip };
}

function call(scope: Scope, state: LayerState, run: (layer: HookLayer, ops: HookOps) => void): void {
  using inner = new Scope(scope.context);
  const layer = new HookLayer(0, state, inner);
  run(layer, new HookOps(layer, inner));
}

function stateOf(
  scope: Scope,
  hooks: Hooks,
  { cache, shape }: Twin,
  queries: Tensor,
  rope?: ReferenceRope,
): LayerState {
  const window = Math.min(hooks.needs?.queryRing ?? 0, queries.rows);
  const ring = window > 0 ? scope.view(queries, queries.rows - window, window) : null;
  const sync = hooks.needs?.hostSync;
  return {
    cache,
    cacheOf: () => cache,
    promptTokens: queries.rows,
    scale: scaleOf(shape.headDim),
    ring: () => ring,
    sides: new Map((hooks.needs?.sideArrays ?? []).map((name, i) => [name, i])),
    chunk: null,
    pass: null,
    decoding: false,
    moments: null,
    rope: (inner) => deviceRope(inner, rope ?? unrotating(shape.headDim)),
    hooked: Array.from({ length: shape.layers }, (_, layer) => layer),
    cascade: hooks.needs?.cascade === true,
    maySync: sync === "prefill" || sync === "both",
    unrotatedRows: shape.unrotatedRows,
    spareRows: 4,
    record: null,
    apply: (layer, op) => {
      using inner = new Scope(scope.context);
      const batch = inner.own(Batch.create(scope.context, 1));
      batch.set([cache]);
      replay(batch, layer, plan([[op]]), { rope: deviceRope(inner, rope ?? unrotating(shape.headDim)), probs: null });
    },
  };
}

/** The same numbers with the KV heads, and the query heads of their groups, in another order: head h comes from order[h]. */
export function permuteHeads(qkv: Float64Array, shape: TwinShape, order: readonly number[]): Float64Array {
  const { kvHeads, groupSize, headDim } = shape;
  const columns = (groupSize + 2) * kvHeads * headDim;
  const source = matrix(qkv.length / columns, columns, qkv);
  const out = matrix(source.rows, columns);
  const heads = [
    ...order.flatMap((g) => Array.from({ length: groupSize }, (_, i) => g * groupSize + i)),
    ...order.map((g) => kvHeads * groupSize + g),
    ...order.map((g) => kvHeads * (groupSize + 1) + g),
  ];
  for (let r = 0; r < source.rows; r++) {
    heads.forEach((from, to) => {
      row(out, r).set(row(source, r).subarray(from * headDim, (from + 1) * headDim), to * headDim);
    });
  }
  return out.data;
}

/** The same queries and keys with other values. */
export function replaceValues(qkv: Float64Array, shape: TwinShape, value: () => number): Float64Array {
  const { kvHeads, groupSize, headDim } = shape;
  const columns = (groupSize + 2) * kvHeads * headDim;
  const firstValue = (groupSize + 1) * kvHeads * headDim;
  return qkv.map((x, i) => (i % columns >= firstValue ? value() : x));
}

/** One decode step of layer 0 after its prompt, in the cache and in its twin. */
export interface DecodeStep {
  /** the token's position */
  now: number;
  /** float64 probabilities of the query over the twin's rows, mean over the group, by KV head; the new row is the last */
  probabilities: Float64Array[];
  /** positions that the cache holds after the recorded ops, ascending */
  kept: number[][];
}

/**
 * Feeds tokens to layer 0 as the engine does: append, attend, replay what the decode hook recorded. The twin's layer only
 * appends: the caller drops its rows.
 */
export function decoderOf(scope: Scope, hooks: Hooks, prompt: Prompt) {
  const { twin } = prompt;
  const { cache, shape } = twin;
  const { kvHeads, groupSize, headDim, dtype, sideArrays } = shape;
  const record: DecodeOp[] = [];
  const state = { ...stateOf(scope, hooks, twin, prompt.queries), record };
  call(scope, state, (layer, ops) => hooks.decode?.(layer, ops));
  const batch = scope.own(Batch.create(scope.context, 1));
  batch.set([cache]);
  let now = prompt.queries.rows;
  cache.seek(now, 0);
  return (qkv: ArrayLike<number>): DecodeStep => {
    using inner = new Scope(scope.context);
    const values = input(inner, dtype, 1, (groupSize + 2) * kvHeads * headDim, qkv);
    const queries = inner.tensor(dtype, 1, kvHeads * groupSize * headDim);
    const rope = deviceRope(inner, unrotating(headDim));
    batch.reserve(1);
    ropeAppendBatch(batch, 0, values.tensor, queries, rope);
    const probs = inner.tensor("float32", kvHeads, cache.info().longestRows + 1);
    attentionDecode(batch, 0, queries, scaleOf(headDim), 0, inner.tensor(dtype, 1, queries.columns), probs);
    replay(batch, 0, plan([record]), { rope, probs });
    batch.advance();
    const query = referenceAppend(twin.layer, now, values.values, unrotating(headDim), exact, sideArrays);
    const { probabilities } = referenceDecode(twin.layer, now, query.data, scaleOf(headDim), 0, exact);
    now += 1;
    return { now: now - 1, probabilities, kept: keptPositions(twin).map((list) => list.sort((a, b) => a - b)) };
  };
}

/** A side array of layer 0, `[kvHeads, length]`, by row. */
export function sideValues(scope: Scope, { cache, shape }: Twin, side: number): Float32Array[] {
  return Array.from({ length: shape.kvHeads }, (_, h) => {
    const out = scope.tensor("float32", 1, cache.lengths(0)[h]!);
    cache.read(0, h, { side }, out);
    return out.toFloats();
  });
}

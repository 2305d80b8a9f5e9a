// Handles to make wrong calls with, and what a table of wrong calls is.
import type { Pointer } from "bun:ffi";
import { Batch, KvCache } from "../../src/native/kv.ts";
import type { Scope } from "../../src/native/scope.ts";
import { type Context, type Dtype, MappedFile } from "../../src/native/tensor.ts";

/** In place of a handle. */
export const NULL = null;

/** Handles to call with: t(dtype, rows, columns) makes a tensor. */
export function fixture(scope: Scope, context: Context) {
  const shape = {
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 64,
    dtype: "float32",
    sideArrays: 1,
    unrotatedRows: 2,
  } as const;
  const cache = scope.own(KvCache.create(context, shape));
  cache.reserve(-1, 10);
  const other = scope.own(KvCache.create(context, { ...shape, kvHeads: 4 }));
  const batch = scope.own(Batch.create(context, 2));
  batch.set([cache]);
  const emptyBatch = scope.own(Batch.create(context, 1));
  const t = (dtype: Dtype, rows: number, columns: number): Pointer => scope.tensor(dtype, rows, columns).pointer;
  const f = (rows: number, columns: number): Pointer => t("float32", rows, columns);
  const list = (...handles: Pointer[]) => BigUint64Array.from(handles, BigInt);
  return {
    native: context.library.native,
    c: context.pointer,
    slot: new BigUint64Array(1),
    ints: new Int32Array(8),
    longs: new BigInt64Array(4),
    floats: new Float32Array(64),
    kv: cache.pointer,
    other: other.pointer,
    batch: batch.pointer,
    empty: emptyBatch.pointer,
    timer: newTimer(scope, context),
    shared: newBlock(scope, context),
    map: () => MappedFile.open(context, import.meta.path),
    t,
    f,
    list,
  };
}

/** A timer of two slots; its class shows no pointer. */
function newTimer(scope: Scope, context: Context): Pointer {
  const { native } = context.library;
  const slot = new BigUint64Array(1);
  context.library.check(native.kva_timer_create(context.pointer, 2, slot));
  const timer = Number(slot[0]) as Pointer;
  scope.own({ dispose: () => context.library.check(native.kva_timer_destroy(timer)) });
  return timer;
}

/** A block of 512 bytes; its class shows no pointer. */
function newBlock(scope: Scope, context: Context): Pointer {
  const { native } = context.library;
  const slot = new BigUint64Array(1);
  context.library.check(native.kva_shared_create(context.pointer, 0, 512, slot));
  const block = Number(slot[0]) as Pointer;
  scope.own({ dispose: () => context.library.check(native.kva_shared_close(block)) });
  return block;
}
export type Fixture = ReturnType<typeof fixture>;

/** [what is wrong, the call, what the text says] */
export type Wrong = [name: string, call: (x: Fixture) => number, text: RegExp];

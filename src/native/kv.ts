// The cache of one sequence, and the batch of sequences of a decode step.
import type { Pointer } from "bun:ffi";
import { type Context, type Dtype, dtypes, made, type Tensor } from "./tensor.ts";

export interface CacheShape {
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  dtype: Dtype;
  sideArrays: number;
  /** keys of the first so many positions are also kept unrotated; EVERY_ROW: those of every row */
  unrotatedRows: number;
}

/** For `unrotatedRows`: the header's KVA_EVERY_ROW. */
export const EVERY_ROW = -1;

export interface CacheFigures {
  heldBytes: number;
  allocatedBytes: number;
  position: number;
  longestRows: number;
}

/** What can be read of a row: keys, values, or a side array by number. */
export type RowPart = "keys" | "values" | { side: number };
const partNumber = (part: RowPart) => (part === "keys" ? 0 : part === "values" ? 1 : 2 + part.side);

/** Ragged rows of one sequence: each layer and KV head holds its own number of rows, each with its original position. */
export class KvCache {
  private readonly figures = new BigInt64Array(4);

  private constructor(
    readonly context: Context,
    readonly pointer: Pointer,
    readonly shape: CacheShape,
  ) {}

  /** layers [first, end) may hold rows; the others are on other devices */
  static create(context: Context, shape: CacheShape, first = 0, end = shape.layers): KvCache {
    const { library } = context;
    const pointer = made(library, (out) =>
      library.native.kva_kv_create_part(
        context.pointer,
        shape.layers,
        first,
        end - first,
        shape.heads,
        shape.kvHeads,
        shape.headDim,
        dtypes.indexOf(shape.dtype),
        shape.sideArrays,
        shape.unrotatedRows,
        out,
      ),
    );
    return new KvCache(context, pointer, shape);
  }

  /** room for at least so many rows in each head of a layer (-1: of all layers) */
  reserve(layer: number, rows: number): void {
    this.context.library.check(this.context.library.native.kva_kv_reserve(this.pointer, layer, rows));
  }

  info(): CacheFigures {
    this.context.library.check(this.context.library.native.kva_kv_info(this.pointer, this.figures));
    const [heldBytes = 0, allocatedBytes = 0, position = 0, longestRows = 0] = Array.from(this.figures, Number);
    return { heldBytes, allocatedBytes, position, longestRows };
  }

  /** rows of each KV head; does not wait for the device */
  lengths(layer: number): Int32Array {
    const lengths = new Int32Array(this.shape.kvHeads);
    this.context.library.check(this.context.library.native.kva_kv_lengths(this.pointer, layer, lengths));
    return lengths;
  }

  /** original positions of the rows that are not dropped, in row order; waits for the device */
  positions(layer: number, kvHead: number): Int32Array {
    const positions = new Int32Array(this.lengths(layer)[kvHead] ?? 0);
    const { native } = this.context.library;
    this.context.library.check(native.kva_kv_positions(this.pointer, layer, kvHead, positions, positions.length));
    return positions.filter((position) => position >= 0); // a row dropped among codes keeps its place, marked, for a while
  }

  /** sets the logical position and the random stream of the sequence */
  seek(position: number, stream: number): void {
    this.context.library.check(this.context.library.native.kva_kv_seek(this.pointer, position, stream));
  }

  /** keeps rows `[0, first)`, the indexed ones and the `last`; the new storage has room for `spare` more */
  keep(layer: number, index: Tensor | null, first: number, last: number, spare: number, counts?: Int32Array): void {
    const { native } = this.context.library;
    this.context.library.check(
      native.kva_kv_keep(this.pointer, layer, index?.pointer ?? null, counts ?? null, first, last, spare),
    );
  }

  fork(): KvCache {
    const { library } = this.context;
    return new KvCache(
      this.context,
      made(library, (out) => library.native.kva_kv_fork(this.pointer, out)),
      this.shape,
    );
  }

  read(layer: number, kvHead: number, part: RowPart, out: Tensor): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_kv_read(this.pointer, layer, kvHead, partNumber(part), out.pointer));
  }

  write(layer: number, kvHead: number, part: RowPart, from: Tensor): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_kv_write(this.pointer, layer, kvHead, partNumber(part), from.pointer));
  }

  /** copies a side array to x, sets it to x, or adds x; x fp32 `[kvHeads, length]` */
  side(layer: number, side: number, mode: "read" | "write" | "add", x: Tensor): void {
    const { native } = this.context.library;
    const number = mode === "read" ? 0 : mode === "write" ? 1 : 2;
    this.context.library.check(native.kva_kv_side(this.pointer, layer, side, number, x.pointer));
  }

  dispose(): void {
    this.context.library.check(this.context.library.native.kva_kv_destroy(this.pointer));
  }
}

/** The sequences of a decode step, in order. */
export class Batch {
  private readonly generationSlot = new Int32Array(1);
  private pointers = new BigUint64Array(0);
  sequences = 0;

  private constructor(
    readonly context: Context,
    readonly pointer: Pointer,
  ) {}

  static create(context: Context, maxSequences: number): Batch {
    const { library } = context;
    return new Batch(
      context,
      made(library, (out) => library.native.kva_batch_create(context.pointer, maxSequences, out)),
    );
  }

  set(caches: readonly KvCache[]): void {
    this.pointers = BigUint64Array.from(caches, (cache) => BigInt(cache.pointer));
    const { native } = this.context.library;
    this.context.library.check(native.kva_batch_set(this.pointer, caches.length, this.pointers));
    this.sequences = caches.length;
  }

  /** Room for `rows` more rows everywhere. A changed result means that a captured graph must be captured again. */
  reserve(rows: number): number {
    const { native } = this.context.library;
    this.context.library.check(native.kva_batch_reserve(this.pointer, rows, this.generationSlot));
    return this.generationSlot[0] ?? 0;
  }

  advance(): void {
    this.context.library.check(this.context.library.native.kva_batch_advance(this.pointer));
  }

  keepAtMost(first: number, sequences: number, layer: number, rows: number, sinks: number): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_kv_keep_at_most(this.pointer, first, sequences, layer, rows, sinks));
  }

  dropLowest(first: number, sequences: number, layer: number, rows: number, side: number, recent: number): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_kv_drop_lowest(this.pointer, first, sequences, layer, rows, side, recent));
  }

  /** side = side * decay + factor * probs */
  accumulate(
    first: number,
    sequences: number,
    layer: number,
    probs: Tensor,
    side: number,
    factor: number,
    decay: number,
  ): void {
    const { native } = this.context.library;
    this.context.library.check(
      native.kva_kv_accumulate(this.pointer, first, sequences, layer, probs.pointer, side, factor, decay),
    );
  }

  rotateSinks(first: number, sequences: number, layer: number, sinks: number, rope: Rotation): void {
    const { native } = this.context.library;
    this.context.library.check(
      native.kva_kv_rotate_sinks(
        this.pointer,
        first,
        sequences,
        layer,
        sinks,
        rope.invFreq.pointer,
        rope.interleaved ? 1 : 0,
        rope.mscale,
      ),
    );
  }

  /** every key at its place among its head's rows, seen from the next query; the cache keeps the unrotated keys of every row */
  rotateSlots(first: number, sequences: number, layer: number, rope: Rotation): void {
    const { native } = this.context.library;
    const interleaved = rope.interleaved ? 1 : 0;
    this.context.library.check(
      native.kva_kv_rotate_slots(this.pointer, first, sequences, layer, rope.invFreq.pointer, interleaved, rope.mscale),
    );
  }

  dispose(): void {
    this.context.library.check(this.context.library.native.kva_batch_destroy(this.pointer));
  }
}

/** Rotary embedding as the ops take it: fp32 `[1 or sequences, rotary / 2]` frequencies. */
export interface Rotation {
  invFreq: Tensor;
  interleaved: boolean;
  mscale: number;
}

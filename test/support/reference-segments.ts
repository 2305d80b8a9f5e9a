// Quantised and channel-indexed rows in TypeScript, written from the specification of KIVI and ThinK; and a decode step of a cache and its twin.
import type { Batch, KvCache } from "../../src/native/kv.ts";
import { attentionDecode, ropeAppendBatch } from "../../src/native/ops.ts";
import type { Scope } from "../../src/native/scope.ts";
import { flush, type Quantization } from "../../src/native/segments.ts";
import { deviceRope, type Twin, unrotating } from "./cache.ts";
import { input, matrix } from "./guarded.ts";
import { scaleOf } from "./hooks.ts";
import type { Random } from "./random.ts";
import { exact } from "./reference.ts";
import { type ReferenceLayer, type Row, ropeAppend } from "./reference-attention.ts";

const f = Math.fround;

/** What the codes of one group stand for, the scale and the zero rounded to f16 before codes are made. */
export function quantizeGroup(x: ArrayLike<number>, bits: number): { restored: number[]; scale: number; zero: number } {
  const values = Array.from(x);
  const levels = 2 ** bits - 1;
  const low = Math.min(...values);
  const scale = Math.f16round(Math.min(f(f(Math.max(...values) - low) / levels), 65504));
  const zero = Math.f16round(Math.max(-65504, Math.min(65504, low)));
  const restored = values.map((value) => {
    if (scale === 0) return zero;
    const place = Math.min(levels, Math.max(0, f(f(value - zero) / scale)));
    const down = Math.floor(place);
    const half = place - down === 0.5;
    return f((half ? down + (down % 2) : Math.round(place)) * scale + zero);
  });
  return { restored, scale, zero };
}

/** Rows that are packed when a head holds n. */
export const packedRows = (n: number, residual: number) => ({
  keys: n - (n % residual),
  values: Math.max(0, n - residual),
});

const greatestDivisor = (a: number, b: number): number => (b === 0 ? a : greatestDivisor(b, a % b));

/** A value as its codes stand for it. */
export function quantizeValue(value: Float64Array, { group, valueBits }: Quantization): Float64Array<ArrayBuffer> {
  const out = new Float64Array(value.length);
  const width = greatestDivisor(group, value.length);
  for (let c = 0; c < value.length; c += width)
    out.set(quantizeGroup(value.subarray(c, c + width), valueBits).restored, c);
  return out;
}

/** The layer as a cache of that packing holds it; `channels[head]` are those that packed keys have. */
export function quantizedLayer(
  layer: ReferenceLayer,
  how: Quantization,
  channels?: readonly number[][],
): ReferenceLayer {
  const { headDim } = layer;
  const heads = layer.heads.map((rows, h): Row[] => {
    const out = rows.map(({ key, value, ...rest }) => ({ ...rest, key: key.slice(), value: value.slice() }));
    const packed = packedRows(rows.length, how.residual);
    const list = channels?.[h] ?? Array.from({ length: headDim }, (_, c) => c);
    for (let first = 0; first < packed.keys; first += how.group) {
      const group = out.slice(first, first + how.group);
      const whole = group.map(({ key }) => key.slice());
      for (const { key } of group) key.fill(0);
      for (const c of list) {
        const { restored } = quantizeGroup(
          whole.map((key) => key[c]!),
          how.keyBits,
        );
        group.forEach(({ key }, r) => {
          key[c] = restored[r]!;
        });
      }
    }
    for (const one of out.slice(0, packed.values)) one.value = quantizeValue(one.value, how);
    return out;
  });
  return { ...layer, heads };
}

/** Zeros in the other channels of keys before the last `last` rows. */
export function prunedLayer(layer: ReferenceLayer, channels: readonly number[][], last: number): ReferenceLayer {
  const heads = layer.heads.map((rows, h) =>
    rows.map((one, r) =>
      r >= rows.length - last ? one : { ...one, key: one.key.map((x, c) => (channels[h]!.includes(c) ? x : 0)) },
    ),
  );
  return { ...layer, heads };
}

/** Bytes of the keys and values that a head of n rows holds. */
export function heldBytes(n: number, headDim: number, elementBytes: number, how: Quantization): number {
  const { keys, values } = packedRows(n, how.residual);
  const words = (bits: number) => Math.ceil((headDim * bits) / 32) * 4;
  const valueGroups = headDim / greatestDivisor(how.group, headDim);
  return (
    keys * words(how.keyBits) +
    (keys / how.group) * headDim * 4 +
    values * (words(how.valueBits) + valueGroups * 4) +
    (2 * n - keys - values) * headDim * elementBytes
  );
}

/** One token: appended to both, attended to, then flushed. The attention output and the query it answers. */
export function decodeStep(scope: Scope, batch: Batch, twin: Twin, random: Random) {
  const { kvHeads, groupSize, headDim, dtype, sideArrays } = twin.shape;
  const columns = (groupSize + 2) * kvHeads * headDim;
  const qkv = input(scope, dtype, 1, columns, random.normals(columns));
  const q = scope.tensor(dtype, 1, kvHeads * groupSize * headDim);
  const out = scope.tensor(dtype, 1, q.columns);
  batch.reserve(1);
  ropeAppendBatch(batch, 0, qkv.tensor, q, deviceRope(scope, unrotating(headDim)));
  const { position } = twin.cache.info();
  const values = matrix(1, columns, qkv.values.data);
  const query = ropeAppend(twin.layer, position, values, unrotating(headDim), exact, sideArrays);
  attentionDecode(batch, 0, q, scaleOf(headDim), 0, out);
  flush(batch, 0, 1, 0);
  batch.advance();
  return { out: out.toFloats(), query: query.data };
}

/** Keys and values of a head, as the native cache reads them back. */
export function readHead(scope: Scope, cache: KvCache, head: number): { keys: Float32Array; values: Float32Array } {
  const rows = cache.lengths(0)[head]!;
  const [keys, values] = (["keys", "values"] as const).map((part) => {
    const out = scope.tensor(cache.shape.dtype, rows, cache.shape.headDim);
    cache.read(0, head, part, out);
    return out.toFloats();
  });
  return { keys: keys!, values: values! };
}

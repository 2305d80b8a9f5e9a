// A head among whose codes rows are dropped, in TypeScript: marked rows keep their place until as many wait as the residual holds.
import type { Quantization } from "../../src/native/segments.ts";
import type { Row } from "./reference-attention.ts";
import { packedRows, quantizedLayer, quantizeGroup, quantizeValue } from "./reference-segments.ts";
import { type FloatDtype, rounding } from "./tolerance.ts";

export interface MarkedRow extends Row {
  dropped: boolean;
}

/** Rows of one head as a quantised cache holds them, the marked ones included. */
export class MarkedHead {
  rows: MarkedRow[];
  private keys: number;
  private values: number;

  constructor(
    whole: readonly Row[],
    private readonly how: Quantization,
    private readonly headDim: number,
    private readonly dtype: FloatDtype,
    private readonly channels = Array.from({ length: headDim }, (_, c) => c),
  ) {
    const layer = { groupSize: 1, headDim, heads: [[...whole]], unrotated: [] };
    this.rows = quantizedLayer(layer, how, [this.channels]).heads[0]!.map((one) => ({ ...one, dropped: false }));
    ({ keys: this.keys, values: this.values } = packedRows(whole.length, how.residual));
  }

  get live(): MarkedRow[] {
    return this.rows.filter(({ dropped }) => !dropped);
  }

  append(row: Row): void {
    this.rows.push({ ...row, dropped: false });
  }

  drop(position: number): void {
    this.rows.find((one) => one.position === position)!.dropped = true;
  }

  /** Packs what is due; then, where enough rows are marked, the first of them go. */
  flush(): void {
    const { residual, group } = this.how;
    const due = packedRows(this.rows.length, residual);
    for (; this.keys < due.keys; this.keys += group) this.quantizeKeys(this.keys);
    for (; this.values < due.values; this.values++) {
      const row = this.rows[this.values]!;
      row.value = quantizeValue(row.value, this.how);
    }
    const marked = this.rows.flatMap(({ dropped }, r) => (dropped ? [r] : [])).slice(0, residual);
    if (marked.length < residual) return;
    const from = this.rows.flatMap((_, r) => (marked.includes(r) ? [] : [r]));
    this.rows = from.map((r) => this.rows[r]!);
    const left = packedRows(this.rows.length, residual);
    from.forEach((old, r) => {
      // what was codes and is in full precision again is rounded to the cache's type
      const { key, value } = this.rows[r]!;
      if (r >= left.keys && old < this.keys) this.rows[r]!.key = key.map(rounding[this.dtype]);
      if (r >= left.values && old < this.values) this.rows[r]!.value = value.map(rounding[this.dtype]);
    });
    for (let first = 0; first < left.keys; first += group) {
      const begin = from[first]!;
      if (begin % group !== 0 || from[first + group - 1] !== begin + group - 1) this.quantizeKeys(first);
    }
    this.keys = left.keys;
    this.values = left.values;
  }

  private quantizeKeys(first: number): void {
    const rows = this.rows.slice(first, first + this.how.group);
    const whole = rows.map(({ key }) => key);
    for (const row of rows) row.key = new Float64Array(this.headDim);
    for (const c of this.channels) {
      const group = whole.map((key) => key[c]!);
      quantizeGroup(group, this.how.keyBits).restored.forEach((x, r) => {
        rows[r]!.key[c] = x;
      });
    }
  }
}

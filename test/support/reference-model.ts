// A whole Llama forward pass in float64, with a free choice of the rows that each token sees: what a cache that dropped rows must equal.
import type { Engine } from "../../src/engine/engine.ts";
import { ropeTable } from "../../src/model/rope.ts";
import type { Tensor } from "../../src/native/tensor.ts";
import { type Matrix, matrix, row } from "./guarded.ts";
import { add, embed, exact, linear, rmsnorm, rotate, siluMul } from "./reference.ts";
import { attend, emptyLayer, headOf, type ReferenceLayer, type Row, ropeAppend } from "./reference-attention.ts";

const valuesOf = (tensor: Tensor): Matrix => matrix(tensor.rows, tensor.columns, tensor.toFloats());

/** A row that a token sees: the token's number, and the position that its key is rotated to. */
export interface Seen {
  token: number;
  position: number;
}

/** Which rows token `query` sees in a layer and KV head, the position of its own query, and the length that the rotation goes by. */
export type Sight = (
  layer: number,
  kvHead: number,
  query: number,
) => { rows: readonly Seen[]; query: number; length?: number };

export const causal: Sight = (_layer, _kvHead, query) => ({
  rows: Array.from({ length: query + 1 }, (_, token) => ({ token, position: token })),
  query,
});

/** What the cache holds of the rows that token `query` sees, its own the last; called layer by layer, in a layer token by token. */
export type Held = (rows: readonly Row[], query: number, layer: number, kvHead: number) => readonly Row[];

/** Rotated queries `[ids.length, heads * headDim]` and the rows of a layer, all tokens at their own positions. */
export interface LayerInputs {
  queries: Matrix;
  layer: ReferenceLayer;
}

/** Logits `[ids.length, vocabSize]` of a plain Llama; `inputs` takes what each layer's attention works on, `held` stores rows otherwise. */
export function referenceLogits(
  { decoder, config }: Engine,
  ids: readonly number[],
  sight: Sight,
  inputs: LayerInputs[] = [],
  held: Held = (rows) => rows,
): Matrix {
  const { weights, scale } = decoder;
  const { heads, kvHeads, headDim, normEps } = config;
  const groupSize = heads / kvHeads;
  const ropeAt = (length: number) => ({ ...ropeTable(config, length), interleaved: config.ropeInterleaved });
  let hidden = embed(valuesOf(weights.embed), Int32Array.from(ids));
  weights.layers.forEach((w, layer) => {
    const normed = rmsnorm(hidden, valuesOf(w.inputNorm), normEps, exact);
    const qkv = linear(normed, valuesOf(w.qkv), null, null, exact);
    const rows = emptyLayer(kvHeads, groupSize, headDim);
    inputs.push({ queries: ropeAppend(rows, 0, qkv, ropeAt(ids.length), exact), layer: rows });
    const attended = matrix(ids.length, heads * headDim);
    for (let token = 0; token < ids.length; token++) {
      for (let g = 0; g < kvHeads; g++) {
        const seen = sight(layer, g, token);
        const rope = ropeAt(seen.length ?? ids.length);
        const whole = seen.rows.map((one): Row => {
          const from = row(qkv, one.token);
          const key = rotate(headOf(from, heads + g, headDim), one.position, rope, exact);
          return { key, value: headOf(from, heads + kvHeads + g, headDim), position: one.position, sides: [] };
        });
        const rows = held(whole, token, layer, g);
        for (let h = g * groupSize; h < (g + 1) * groupSize; h++) {
          const query = rotate(headOf(row(qkv, token), h, headDim), seen.query, rope, exact);
          row(attended, token).set(attend(query, rows, scale, exact).out, h * headDim);
        }
      }
    }
    hidden = linear(attended, valuesOf(w.o), null, hidden, exact);
    const gateUp = linear(
      rmsnorm(hidden, valuesOf(w.postAttentionNorm), normEps, exact),
      valuesOf(w.gateUp),
      null,
      null,
      exact,
    );
    hidden = add(hidden, linear(siluMul(gateUp, exact), valuesOf(w.down), null, null, exact), exact);
  });
  return linear(
    rmsnorm(hidden, valuesOf(weights.finalNorm), normEps, exact),
    valuesOf(weights.lmHead),
    null,
    null,
    exact,
  );
}

// In a captured step kernels read of the cache, before their inputs are there, what no other kernel of the step changes: the results of every step
// are those of eager steps, where they wait; also where the step does change it, and where lengths go past the borders of runs and splits.
import { expect, test } from "bun:test";
import { Graph } from "../../src/native/graph.ts";
import { Batch, KvCache } from "../../src/native/kv.ts";
import * as ops from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { flush, type Quantization, quantize } from "../../src/native/segments.ts";
import { eachBackend } from "../support/backends.ts";
import { deviceRope, llamaRope } from "../support/cache.ts";

const [layers, kvHeads, groupSize, headDim, hidden] = [2, 2, 4, 128, 256];
const heads = kvHeads * groupSize;
const columns = (heads + 2 * kvHeads) * headDim;
const steps = 70;

interface Case {
  name: string;
  rows: readonly number[];
  codes?: Quantization;
  /** rows that each head keeps at most, dropped between append and attention */
  dropsTo?: number;
  /** a second graph step is recorded behind the first one */
  twice?: boolean;
}

const cases: Case[] = [
  { name: "two sequences in full precision", rows: [1000, 430] },
  { name: "one split", rows: [150, 40] },
  { name: "rows dropped between append and attention", rows: [900, 700], dropsTo: 640 },
  { name: "two steps in one graph", rows: [600, 530], twice: true },
  { name: "codes of 4 bits", rows: [1010, 700], codes: { keyBits: 4, valueBits: 4, group: 32, residual: 128 } },
  { name: "codes of 2 bits", rows: [590, 2030], codes: { keyBits: 2, valueBits: 2, group: 32, residual: 32 } },
  {
    name: "codes of 4 and 2 bits, twice",
    rows: [800, 300],
    codes: { keyBits: 4, valueBits: 2, group: 32, residual: 64 },
    twice: true,
  },
];

/** Attention of the layers of a step, from its own last result. */
function machine(scope: Scope, { rows, codes, dropsTo, twice }: Case) {
  const { context } = scope;
  const random = (seed: number, height: number, width: number, scale: number) => {
    const tensor = scope.tensor("bfloat16", height, width);
    tensor.randomize("normal", seed, scale);
    return tensor;
  };
  const rope = deviceRope(scope, llamaRope(headDim));
  const caches = rows.map((count, s) => {
    const cache = scope.own(
      KvCache.create(context, { layers, heads, kvHeads, headDim, dtype: "bfloat16", sideArrays: 0, unrotatedRows: 0 }),
    );
    for (let layer = 0; layer < layers; layer++) {
      cache.reserve(layer, count + 2 * steps);
      const q = scope.tensor("bfloat16", count, heads * headDim);
      ops.ropeAppend(cache, layer, 0, random(10 * s + layer + 1, count, columns, 1), q, rope);
      if (codes) quantize(cache, layer, codes, 2 * steps);
    }
    cache.seek(count, 0);
    return cache;
  });
  const batch = scope.own(Batch.create(context, rows.length));
  batch.set(caches);
  batch.reserve(2 * steps);
  const qkvWeights = random(91, columns, hidden, 0.1);
  const outWeights = random(92, hidden, heads * headDim, 0.2);
  const x = random(93, rows.length, hidden, 1);
  const norm = scope.tensor("bfloat16", 1, hidden);
  norm.fill(1);
  const qkv = scope.tensor("bfloat16", rows.length, columns);
  const attended = scope.tensor("bfloat16", rows.length, heads * headDim);
  const q = scope.view(qkv, 0, rows.length, 0, heads * headDim);
  const step = () => {
    for (let layer = 0; layer < layers; layer++) {
      ops.rmsnorm(x, norm, 1e-5, x);
      ops.linear(x, qkvWeights, null, qkv);
      ops.ropeAppendBatch(batch, layer, qkv, q, rope);
      if (dropsTo !== undefined) batch.keepAtMost(0, rows.length, layer, dropsTo, 4);
      ops.attentionDecode(batch, layer, q, headDim ** -0.5, 0, attended);
      if (codes) flush(batch, 0, rows.length, layer);
      ops.linear(attended, outWeights, null, x);
    }
    batch.advance();
  };
  const queue = () => {
    step();
    if (twice) step();
  };
  return { queue, attended: () => attended.toFloats(), lengths: () => caches.map((cache) => cache.lengths(0)) };
}

eachBackend("reading ahead in a captured step", (backend) => {
  for (const given of cases) {
    test(given.name, () => {
      using scope = new Scope(backend.context);
      const eager = machine(scope, given);
      const graphed = machine(scope, given);
      eager.queue();
      graphed.queue(); // takes the scratch that the captured ones will use
      const graph = Graph.capture(backend.context, graphed.queue);
      try {
        for (let at = given.twice ? 2 : 1; at < steps; at += given.twice ? 2 : 1) {
          eager.queue();
          graph.launch();
          const expected = eager.attended();
          expect(expected.every(Number.isFinite)).toBe(true);
          expect(graphed.attended()).toEqual(expected);
        }
        expect(graphed.lengths()).toEqual(eager.lengths());
      } finally {
        graph.dispose();
      }
    });
  }
});

// Rows dropped one by one among KIVI's codes: marked, passed over, closed up; and the evictors that do so in the engine.
import { expect, test } from "bun:test";
import { dropLowestEvery } from "../../src/native/evict.ts";
import { Batch } from "../../src/native/kv.ts";
import { attentionDecode as nativeDecode, ropeAppendBatch } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { flush, keepChannels, quantize } from "../../src/native/segments.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { appendRandom, deviceRope, emptyTwin, padded, unrotating } from "../support/cache.ts";
import {
  expectSameTrace,
  generate,
  groupsOfFour,
  groupsOfSeven,
  methodOf,
  openEngine,
  randomIds,
  request,
  trace,
  traceOf,
} from "../support/engine.ts";
import { input, matrix, row } from "../support/guarded.ts";
import { scaleOf } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attentionDecode, ropeAppend } from "../support/reference-attention.ts";
import { MarkedHead } from "../support/reference-marked.ts";
import { causal, type Held, referenceLogits, type Sight } from "../support/reference-model.ts";
import { heldBytes, prunedLayer, readHead } from "../support/reference-segments.ts";
import { relativeError, rounding } from "../support/tolerance.ts";

eachBackend("rows dropped among codes", (backend) => {
  const cases = [
    {
      kvHeads: 2,
      groupSize: 4,
      headDim: 64,
      dtype: "float32",
      rows: 150,
      how: [4, 4, 32, 32],
      rule: "lowest",
      pruned: 0,
    },
    {
      kvHeads: 2,
      groupSize: 7,
      headDim: 128,
      dtype: "float16",
      rows: 200,
      how: [2, 2, 32, 64],
      rule: "lowest",
      pruned: 0,
    },
    {
      kvHeads: 1,
      groupSize: 1,
      headDim: 80,
      dtype: "bfloat16",
      rows: 20,
      how: [4, 2, 32, 64],
      rule: "oldest",
      pruned: 0,
    },
    {
      kvHeads: 2,
      groupSize: 4,
      headDim: 64,
      dtype: "float32",
      rows: 140,
      how: [2, 4, 64, 64],
      rule: "every",
      pruned: 27,
    },
  ] as const;
  test.each(cases)("attention, rows, positions and bytes are those of the marked head: %o", (one) => {
    using scope = new Scope(backend.context);
    const { kvHeads, groupSize, headDim, dtype, rows, rule, pruned } = one;
    const [keyBits, valueBits, group, residual] = one.how;
    const how = { keyBits, valueBits, group, residual };
    const random = new Random(rows);
    const twin = emptyTwin(scope, { kvHeads, groupSize, headDim, dtype, sideArrays: 1 });
    appendRandom(scope, twin, random, rows);
    const sides = Array.from({ length: kvHeads }, () =>
      Array.from({ length: rows }, () => Math.fround(random.uniform())),
    );
    twin.cache.side(0, 0, "write", input(scope, "float32", kvHeads, rows, sides.flat()).tensor);
    const kept = pruned > 0 ? Array.from({ length: kvHeads }, () => random.choose(headDim - pruned, 0, headDim)) : null;
    if (kept) {
      const width = headDim - pruned;
      keepChannels(twin.cache, 0, scope.own(Tensor.from(backend.context, padded(kept, width), kvHeads, width)), 8, 0);
      twin.layer.heads = prunedLayer(twin.layer, kept, 8).heads;
    }
    quantize(twin.cache, 0, how, 0);
    const heads = twin.layer.heads.map((whole, h) => new MarkedHead(whole, how, headDim, dtype, kept?.[h]));
    const side = sides.map((values) => new Map(values.map((value, position) => [position, value])));
    const batch = scope.own(Batch.create(backend.context, 1));
    batch.set([twin.cache]);
    const rope = deviceRope(scope, unrotating(headDim));
    const allowed = { float32: 3e-6, float16: 2e-3, bfloat16: 1.6e-2 }[dtype];
    const columns = (groupSize + 2) * kvHeads * headDim;
    let closings = 0;
    for (let step = 0; step < 2 * residual + 40; step++) {
      using inner = new Scope(backend.context);
      const qkv = input(inner, dtype, 1, columns, random.normals(columns));
      const q = inner.tensor(dtype, 1, kvHeads * groupSize * headDim);
      const out = inner.tensor(dtype, 1, q.columns);
      batch.reserve(1);
      ropeAppendBatch(batch, 0, qkv.tensor, q, rope);
      const now = rows + step;
      for (const rows of twin.layer.heads) rows.length = 0;
      const query = ropeAppend(
        twin.layer,
        now,
        matrix(1, columns, qkv.values.data),
        unrotating(headDim),
        exact,
        1,
      ).data;
      for (const [h, head] of heads.entries()) head.append(twin.layer.heads[h]![0]!);
      for (const of of side) of.set(now, 0);
      const probs = inner.tensor("float32", kvHeads, heads[0]!.rows.length);
      const wantsProbs = step % 9 === 0;
      nativeDecode(batch, 0, q, scaleOf(headDim), 0, out, wantsProbs ? probs : null);
      if (step % 7 === 0 || wantsProbs) {
        const seen = { ...twin.layer, heads: heads.map(({ live }) => live) };
        const expected = attentionDecode(seen, now, query, scaleOf(headDim), 0, exact);
        expect(relativeError(out.toFloats(), expected.out)).toBeLessThan(allowed);
        const all = heads.flatMap(({ rows }, h) => {
          const of = expected.probabilities[h]!;
          return rows.map(({ dropped }, r) =>
            dropped ? 0 : of[rows.slice(0, r).filter((one) => !one.dropped).length]!,
          );
        });
        if (wantsProbs) expect(relativeError(probs.toFloats(), all)).toBeLessThan(allowed);
      }
      const limit = rows;
      if (rule === "oldest") batch.keepAtMost(0, 1, 0, limit, 3);
      if (rule === "lowest") batch.dropLowest(0, 1, 0, limit, 0, 8);
      if (rule === "every") dropLowestEvery({ batch, first: 0, sequences: 1, layer: 0 }, limit, 0, 8, 7);
      heads.forEach((head, h) => {
        const { live } = head;
        if (live.length <= limit || (rule === "every" && live.length - limit < 7)) return;
        const value = (position: number) => (rule === "oldest" ? position : side[h]!.get(position)!);
        const old = rule === "oldest" ? live.slice(3) : live.filter(({ position }) => position <= now - 8);
        const order = old.map(({ position }) => position).sort((a, b) => value(a) - value(b) || a - b);
        for (const position of order.slice(0, live.length - limit)) head.drop(position);
      });
      flush(batch, 0, 1, 0);
      batch.advance();
      const before = heads[0]!.rows.length;
      for (const head of heads) head.flush();
      const closed = heads[0]!.rows.length < before;
      closings += closed ? 1 : 0;
      const held = heads[0]!.rows.length;
      expect(twin.cache.lengths(0)[0]).toBe(held);
      if (!closed && step % 29 > 0) continue;
      heads.forEach((head, h) => {
        const { keys, values } = readHead(inner, twin.cache, h);
        expect(keys).toEqual(Float32Array.from(head.rows.flatMap(({ key }) => Array.from(key, rounding[dtype]))));
        expect(values).toEqual(Float32Array.from(head.rows.flatMap(({ value }) => Array.from(value, rounding[dtype]))));
        expect(Array.from(twin.cache.positions(0, h))).toEqual(head.live.map(({ position }) => position));
      });
      if (!kept) {
        const bytes = heldBytes(held, headDim, dtype === "float32" ? 4 : 2, how);
        expect(twin.cache.info().heldBytes).toBe(kvHeads * (bytes + 8 * held));
      }
    }
    expect(closings).toBeGreaterThanOrEqual(2);
    const copy = scope.own(twin.cache.fork());
    expect(Array.from(copy.positions(0, 0))).toEqual(Array.from(twin.cache.positions(0, 0)));
  });
});

eachBackend("evictors that drop rows among codes", (backend) => {
  const steps = 80;
  const inputs = [120, 47, 20].map((rows, s) => traceOf(rows, steps, 70 + s));
  const capacity = 40;

  test.each([
    ["H2O[capacity=40]", groupsOfFour],
    ["StreamingLLM[capacity=40]", groupsOfSeven],
    ["TOVA[capacity=40]", groupsOfFour],
    ["SnapKV[capacity=40,window=8,decodeInterval=8]", groupsOfSeven],
    ["L2Compress[capacity=40,skipLayers=[],decode=true]", groupsOfSeven],
    ["H2O[capacity=40]+ThinK", groupsOfFour],
  ] as const)(
    "%s+KIVI: within the budget at every step, alone and together, eager and in graphs",
    async (name, model) => {
      const engine = openEngine(backend, model);
      const method = await methodOf(`${name}+KIVI[residual=32]`);
      const together = await trace(engine, method, inputs);
      expect(await trace(engine, method, inputs, false)).toEqual(together);
      for (const [s, one] of inputs.entries()) {
        expectSameTrace(backend, together[s]!, (await trace(engine, method, [one]))[0]!);
        together[s]!.kept.forEach((layers, step) => {
          const most = name.includes("decodeInterval") ? capacity + 7 : capacity;
          for (const positions of layers.flat()) {
            expect(positions.length).toBeLessThanOrEqual(most);
            expect(positions.length).toBeGreaterThanOrEqual(Math.min(capacity, one.promptTokens + step));
          }
        });
      }
      const [done] = await generate(engine, method, [request(randomIds(120, 5), { maxNewTokens: steps })]);
      expect(done!.cacheBytes).toBe(done!.expectedCacheBytes);
      engine.dispose();
    },
  );

  test("StreamingLLM beside KIVI keeps the first rows and the newest; its logits are those of the marked heads in float64", async () => {
    const engine = openEngine(backend, groupsOfFour);
    const { promptTokens, ids } = inputs[0]!;
    const method = await methodOf("StreamingLLM[capacity=40]+KIVI[kBits=2,vBits=2,residual=32]");
    const [traced] = await trace(engine, method, [inputs[0]!]);
    const kept = (end: number) => [0, 1, 2, 3, ...Array.from({ length: 36 }, (_, i) => end - 36 + i)];
    traced!.kept.forEach((layers, step) => {
      for (const positions of layers.flat()) expect(positions).toEqual(kept(promptTokens + step));
    });
    const sight: Sight = (layer, kvHead, query) => {
      if (query < promptTokens) return causal(layer, kvHead, query);
      return { rows: [...kept(query), query].map((token) => ({ token, position: token })), query };
    };
    const how = { keyBits: 2, valueBits: 2, group: 32, residual: 32 };
    const heads = new Map<string, MarkedHead>();
    const marked: Held = (rows, query, layer, kvHead) => {
      if (query < promptTokens) return rows;
      const name = `${layer} ${kvHead}`;
      const head = heads.get(name) ?? new MarkedHead(rows.slice(0, -1), how, engine.config.headDim, "float32");
      heads.set(name, head);
      head.append(rows.at(-1)!);
      const seen = head.live.map((one) => ({ ...one })); // as it is before the flush
      head.drop(seen[4]!.position);
      head.flush();
      return seen;
    };
    const expected = referenceLogits(engine, ids, sight, [], marked);
    const apart = traced!.logits.map((logits, step) => relativeError(logits, row(expected, promptTokens - 1 + step)));
    expect(Math.max(...apart)).toBeLessThan(2e-3); // a number near the middle of two codes may take either
    engine.dispose();
  });

  test("beside ThinK alone rows stay once the prompt is cut", async () => {
    await expect(methodOf("H2O[rolling=true]+ThinK")).rejects.toThrow(
      /rolling: must be false beside channels, not true/,
    );
    await expect(methodOf("KeyDiff[rolling=true]+KIVI")).rejects.toThrow(
      /rolling: must be false beside quantization, not true/,
    );
  });
});

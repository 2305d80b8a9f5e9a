// Pages that decode attention reads: bounds as rows come, scores, choice, and attention over the chosen pages alone.
import { expect, test } from "bun:test";
import { Graph } from "../../src/native/graph.ts";
import { attentionDecode } from "../../src/native/ops.ts";
import { attentionDecodePages, boundPages, choosePages, type PageSize, pageScores } from "../../src/native/pages.ts";
import { Scope } from "../../src/native/scope.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { appendStep, batchOf, padded, randomQueries, randomTwin, type Twin } from "../support/cache.ts";
import { input, type Matrix, matrix, output, row } from "../support/guarded.ts";
import { Random } from "../support/random.ts";
import { both } from "../support/reference.ts";
import { attentionDecode as referenceDecode } from "../support/reference-attention.ts";
import * as reference from "../support/reference-pages.ts";
import { floatDtypes } from "../support/tolerance.ts";

const scaleOf = (headDim: number) => Math.fround(1 / Math.sqrt(headDim));
const longestOf = (twins: readonly Twin[]) => Math.max(...twins.flatMap(({ cache }) => Array.from(cache.lengths(0))));

/** Where the choice of each head goes. */
function lists(scope: Scope, rows: number, most: number) {
  return { pages: scope.tensor("int32", rows, most), counts: scope.tensor("int32", 1, rows) };
}

/** Scores of a step's queries as the ops give them, against float64. */
function expectScores(twins: readonly Twin[], q: Matrix, scores: Float32Array, how: Bounds): void {
  const columns = scores.length / (twins.length * twins[0]!.shape.kvHeads);
  twins.forEach(({ layer, shape }, s) => {
    layer.heads.forEach((rows, h) => {
      const line = scores.subarray((s * shape.kvHeads + h) * columns, (s * shape.kvHeads + h + 1) * columns);
      const pages = Math.ceil(rows.length / how.pageRows);
      expect(line.subarray(0, pages)).toMatchReference(
        both("float32", (a) =>
          matrix(1, pages, reference.pageScores(layer, row(q, s), how.pageRows, how.reduce, a)[h]),
        ),
      );
      expect(line.subarray(pages).every(Number.isNaN)).toBe(true);
    });
  });
}

interface Bounds {
  pageRows: PageSize;
  reduce: "mean" | "max";
}

eachBackend("page_scores", (backend) => {
  for (const dtype of floatDtypes) {
    for (const [groupSize, headDim, pageRows, reduce] of [
      [4, dtype === "bfloat16" ? 128 : 64, 16, "mean"],
      [7, 42, 32, "max"],
    ] as const) {
      test(`${dtype}: group ${groupSize}, head ${headDim}, pages of ${pageRows}, ${reduce}; bounds follow new rows`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(headDim);
        const shape = { kvHeads: 2, groupSize, headDim, dtype };
        const twins = [
          randomTwin(scope, random, shape, 1),
          randomTwin(scope, random, shape, 111, [31, 97]),
          randomTwin(scope, random, shape, 200),
        ];
        for (const { cache } of twins) boundPages(cache, 0, pageRows);
        const batch = batchOf(scope, twins);
        for (let step = 0; step < 2; step++) {
          const q = randomQueries(scope, random, twins[0]!, twins.length);
          const scores = output(scope, "float32", 2 * twins.length, Math.ceil(longestOf(twins) / pageRows) + 2);
          pageScores({ batch, first: 0, sequences: twins.length, layer: 0 }, q.tensor, reduce, scores.tensor);
          expectScores(twins, q.values, scores.read(), { pageRows, reduce });
          for (let i = 0; i < 17; i++) {
            appendStep(scope, batch, twins, random);
            batch.advance();
          }
        }
      });
    }
  }

  test("bounds count as bytes held, are copied by a fork and given back with the cache", () => {
    const { context } = backend;
    const before = context.memory("cache").bytes;
    using scope = new Scope(context);
    const random = new Random(3);
    const twin = randomTwin(scope, random, { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "bfloat16" }, 100);
    const rows = twin.cache.info().heldBytes;
    boundPages(twin.cache, 0, 16);
    expect(twin.cache.info().heldBytes).toBe(rows + 2 * Math.ceil(100 / 16) * 2 * 64 * 2);
    const copy = { ...twin, cache: scope.own(twin.cache.fork()) };
    expect(copy.cache.info()).toEqual(twin.cache.info());
    expect(context.memory("cache").bytes - before).toBe(2 * twin.cache.info().allocatedBytes);
    const q = randomQueries(scope, random, twin, 1);
    const scores = [twin, copy].map((one) => {
      const out = output(scope, "float32", 2, 7);
      pageScores({ batch: batchOf(scope, [one]), first: 0, sequences: 1, layer: 0 }, q.tensor, "mean", out.tensor);
      return out.read();
    });
    expect(scores[1]).toEqual(scores[0]!);
  });
});

eachBackend("choose_pages", (backend) => {
  test("takes the last page and the best others in order, ties the lower page first, NaN last; all where the rows fit", () => {
    using scope = new Scope(backend.context);
    const random = new Random(5);
    const shape = { kvHeads: 2, groupSize: 2, headDim: 16, dtype: "float32" as const };
    const twins = [
      randomTwin(scope, random, shape, 64),
      randomTwin(scope, random, shape, 650, [65, 641]),
      randomTwin(scope, random, shape, 5000),
    ];
    for (const { cache } of twins) boundPages(cache, 0, 16);
    const batch = batchOf(scope, twins);
    const columns = Math.ceil(5000 / 16);
    const values = Array.from({ length: 6 * columns }, (_, i) =>
      i % 29 === 3 ? Number.NaN : Math.round(4 * random.normal()),
    );
    const scores = input(scope, "float32", 6, columns, values);
    for (const rows of [16, 64, 79, 640, 4999]) {
      const { pages, counts } = lists(scope, 6, Math.floor(rows / 16));
      choosePages({ batch, first: 0, sequences: 3, layer: 0 }, scores.tensor, rows, { pages, counts });
      const [found, numbers] = [pages.toInts(), counts.toInts()];
      twins.forEach(({ layer }, s) => {
        layer.heads.forEach((held, h) => {
          const at = s * 2 + h;
          const expected = reference.choosePages(row(scores.values, at), held.length, rows, 16);
          expect(numbers[at]).toBe(expected?.length ?? -1);
          const first = at * pages.columns;
          if (expected) expect(Array.from(found.subarray(first, first + expected.length))).toEqual(expected);
        });
      });
    }
  });

  test("acts on the sequences of its range only, and says all of layers without bounds", () => {
    using scope = new Scope(backend.context);
    const shape = { kvHeads: 1, groupSize: 2, headDim: 16, dtype: "float32" as const };
    const twins = [0, 1, 2].map((s) => randomTwin(scope, new Random(s), shape, 40));
    for (const s of [0, 2]) boundPages(twins[s]!.cache, 0, 16);
    const batch = batchOf(scope, twins);
    const { pages, counts } = lists(scope, 3, 2);
    counts.upload(Int32Array.of(7, 7, 7));
    const scores = input(scope, "float32", 3, 3, [1, 2, 3, 1, 2, 3, 1, 2, 3]).tensor;
    choosePages({ batch, first: 1, sequences: 2, layer: 0 }, scores, 32, { pages, counts });
    expect(Array.from(counts.toInts())).toEqual([7, -1, 2]);
    expect(Array.from(pages.toInts().subarray(4))).toEqual([1, 2]);
  });
});

eachBackend("attention_decode_pages", (backend) => {
  for (const dtype of floatDtypes) {
    for (const [groupSize, headDim, pageRows] of [
      [4, dtype === "bfloat16" ? 128 : 64, 16],
      [2, 80, 32],
    ] as const) {
      test(`${dtype}: group ${groupSize}, head ${headDim}, pages of ${pageRows}: as a cache that holds the read rows alone, bit for bit`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(pageRows + headDim);
        const shape = { kvHeads: 2, groupSize, headDim, dtype };
        const most = 272;
        const twins = [randomTwin(scope, random, shape, 30), randomTwin(scope, random, shape, 560, [551, 272])];
        const alone = twins.map((twin) => ({ ...twin, cache: scope.own(twin.cache.fork()) }));
        for (const { cache } of twins) boundPages(cache, 0, pageRows);
        const batch = batchOf(scope, twins);
        batch.reserve(1);
        const held = twins.map(({ layer }) => layer.heads.map(({ length }) => length));
        const places = Math.floor(most / pageRows);
        const chosen = held.map((lengths) =>
          lengths.map((length) => {
            const scores = Array.from({ length: Math.ceil(length / pageRows) }, () => random.uniform());
            return reference.choosePages(scores, length, most, pageRows);
          }),
        );
        const flat = chosen.flat();
        const pages = scope.own(
          Tensor.from(
            scope.context,
            padded(
              flat.map((one) => one ?? []),
              places,
            ),
            flat.length,
            places,
          ),
        );
        const counts = scope.ints(Int32Array.from(flat, (one) => one?.length ?? -1));
        const q = randomQueries(scope, random, twins[0]!, twins.length);
        const width = 2 * groupSize * headDim;
        const out = output(scope, dtype, twins.length, width);
        attentionDecodePages(batch, 0, q.tensor, scaleOf(headDim), most, { pages, counts }, out.tensor);
        const read = out.read();

        twins.forEach(({ layer }, s) => {
          const seen = reference.readLayer(layer, chosen[s]!, pageRows);
          expect(read.subarray(s * width, (s + 1) * width)).toMatchReference(
            both(dtype, (a) =>
              matrix(1, width, referenceDecode(seen, 0, row(q.values, s), scaleOf(headDim), 0, a).out),
            ),
          );
        });
        alone.forEach(({ cache }, s) => {
          const rows = chosen[s]!.map((one, h) => reference.rowsOfPages(one, held[s]![h]!, pageRows));
          const longest = Math.max(...rows.map(({ length }) => length));
          const index = scope.own(Tensor.from(scope.context, padded(rows, longest), 2, longest));
          cache.keep(
            0,
            index,
            0,
            0,
            4,
            Int32Array.from(rows, ({ length }) => length),
          );
        });
        const short = batchOf(scope, alone);
        short.reserve(1);
        const same = output(scope, dtype, twins.length, width);
        attentionDecode(short, 0, q.tensor, scaleOf(headDim), 0, same.tensor);
        expect(read).toEqual(same.read());
      });
    }
  }

  test("a replayed step of scores, choice and attention leaves the bits of an eager one while rows come", () => {
    const run = (graphs: boolean): Float32Array[] => {
      using scope = new Scope(backend.context);
      const random = new Random(9);
      const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "bfloat16" as const };
      const twins = [randomTwin(scope, random, shape, 40), randomTwin(scope, random, shape, 90, [30, 90])];
      for (const { cache } of twins) boundPages(cache, 0, 16);
      const batch = batchOf(scope, twins);
      batch.reserve(1);
      const q = randomQueries(scope, random, twins[0]!, 2).tensor;
      const out = scope.tensor("bfloat16", 2, 512);
      const scores = scope.tensor("float32", 4, 16);
      const found = lists(scope, 4, 3);
      const queue = () => {
        const range = { batch, first: 0, sequences: 2, layer: 0 };
        pageScores(range, q, "mean", scores);
        choosePages(range, scores, 48, found);
        attentionDecodePages(batch, 0, q, 0.125, 48, found, out);
      };
      let graph: Graph | null = null;
      let known = -1;
      const outs: Float32Array[] = [];
      for (let step = 0; step < 40; step++) {
        appendStep(scope, batch, twins, random);
        batch.advance();
        const generation = batch.reserve(0);
        if (graphs && generation !== known) {
          graph?.dispose();
          graph = Graph.capture(scope.context, queue);
          known = generation;
        }
        if (graph) graph.launch();
        else queue();
        outs.push(out.toFloats());
      }
      graph?.dispose();
      return outs;
    };
    expect(run(true)).toEqual(run(false));
  });
});

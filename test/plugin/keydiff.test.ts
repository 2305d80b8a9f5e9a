// KeyDiff: cosines to the mean of normalised keys, prompt and every step, against float64.
import { expect, test } from "bun:test";
import plugin from "../../plugins/keydiff.ts";
import { Scope } from "../../src/native/scope.ts";
import { eachBackend } from "../support/backends.ts";
import { expectBest, range } from "../support/choice.ts";
import { decoderOf, hooksOf, prompted, runPrefill } from "../support/hooks.ts";
import { Random } from "../support/random.ts";
import { keySimilarity } from "../support/reference-heads.ts";

const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };
const columns = 12 * 64;
/** Keys of a head lean to one side, as those of models do. */
const leaning = (random: Random, rows: number) =>
  Array.from(random.normals(rows * columns), (x, i) => x + 2 * Math.sin(i % columns));

eachBackend("KeyDiff on one layer", (backend) => {
  for (const recent of [0, 5]) {
    test(`keeps the keys least like the mean direction, and the ${recent} newest; queries and values have no part`, () => {
      using scope = new Scope(backend.context);
      const qkv = leaning(new Random(1), 120);
      const { hooks, shape: needed } = hooksOf(plugin, { capacity: 30, recent }, shape);
      const prompt = prompted(scope, needed, qkv);
      const kept = runPrefill(scope, hooks, prompt);
      kept.forEach((positions, h) => {
        const scores = keySimilarity(prompt.twin.layer.heads[h]!.map(({ key }) => key)).map((x) => -x);
        expect(positions.slice(30 - recent)).toEqual(range(120 - recent, 120));
        expectBest(positions.slice(0, 30 - recent), scores.slice(0, 120 - recent), 30 - recent);
      });
      const noise = new Random(2);
      const changed = qkv.map((x, i) => (i % columns < 8 * 64 || i % columns >= 10 * 64 ? noise.normal() : x));
      expect(runPrefill(scope, hooks, prompted(scope, needed, changed))).toEqual(kept);
    });
  }

  for (const interval of [1, 4]) {
    test(`while decoding, ${interval} rows at a time, those most like the mean of what is held go`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(3);
      const { hooks, shape: needed } = hooksOf(plugin, { capacity: 16, recent: 2, interval }, shape);
      const prompt = prompted(scope, needed, leaning(random, 40));
      const kept = runPrefill(scope, hooks, prompt);
      const { layer } = prompt.twin;
      layer.heads = layer.heads.map((rows, h) => rows.filter(({ position }) => kept[h]!.includes(position)));
      const step = decoderOf(scope, hooks, prompt);
      for (let i = 1; i <= 12; i++) {
        const { now, kept: held } = step(leaning(random, 1));
        layer.heads = layer.heads.map((rows) => {
          if (rows.length < 16 + interval) return rows;
          const scores = keySimilarity(rows.map(({ key }) => key));
          const old = rows.map((one, r) => ({ one, score: scores[r]! })).filter(({ one }) => one.position <= now - 2);
          const gone = old.sort((a, b) => b.score - a.score).slice(0, interval);
          return rows.filter((one) => !gone.some((other) => other.one === one));
        });
        expect(held).toEqual(layer.heads.map((rows) => rows.map(({ position }) => position)));
        expect(held[0]!.length).toBe(16 + (i % interval));
      }
    });
  }
});

// Eviction and merging while decoding against float64: many rows at once, pooled probabilities, by place or by rank, merges, and division by a ramp.
import { describe, expect, test } from "bun:test";
import * as evict from "../../src/native/evict.ts";
import { Batch } from "../../src/native/kv.ts";
import { Scope } from "../../src/native/scope.ts";
import { eachBackend } from "../support/backends.ts";
import { randomTwin, readRows, type Twin } from "../support/cache.ts";
import { input, output, row } from "../support/guarded.ts";
import { philox, unit } from "../support/philox.ts";
import { Random } from "../support/random.ts";
import type { Row } from "../support/reference-attention.ts";
import { floatDtypes, rounding } from "../support/tolerance.ts";

const shape = { kvHeads: 2, groupSize: 2, headDim: 64, dtype: "bfloat16" as const, sideArrays: 2 };

function batchOf(scope: Scope, twins: readonly Twin[]) {
  const batch = scope.own(Batch.create(scope.context, twins.length));
  batch.set(twins.map(({ cache }) => cache));
  return { batch, first: 0, sequences: twins.length, layer: 0 };
}

function setSide(scope: Scope, { cache, layer }: Twin, side: number, value: (r: number, head: number) => number): void {
  layer.heads.forEach((rows, h) => {
    rows.forEach((held, r) => {
      held.sides[side] = Math.fround(value(r, h));
    });
    const values = rows.map(({ sides }) => sides[side]!);
    cache.write(0, h, { side }, input(scope, "float32", 1, rows.length, values).tensor);
  });
}

const positionsOf = ({ cache }: Twin, h: number): number[] => Array.from(cache.positions(0, h));
const ascending = (list: readonly number[]): number[] => list.toSorted((a, b) => a - b);

/** All that belongs to each row still belongs to it, whatever the order. */
function expectIntact(
  scope: Scope,
  { cache, layer, shape: { headDim } }: Twin,
  kept: readonly (readonly Row[])[],
): void {
  layer.heads.forEach((_, h) => {
    const byPosition = new Map(kept[h]!.map((held) => [held.position, held]));
    const [keys, values] = [readRows(scope, cache, 0, h, "keys"), readRows(scope, cache, 0, h, "values")];
    const sides = output(scope, "float32", 1, cache.lengths(0)[h]!);
    cache.read(0, h, { side: 1 }, sides.tensor);
    const held = sides.read();
    cache.positions(0, h).forEach((position, r) => {
      const expected = byPosition.get(position)!;
      expect(Array.from(keys.subarray(r * headDim, (r + 1) * headDim))).toEqual(Array.from(expected.key));
      expect(Array.from(values.subarray(r * headDim, (r + 1) * headDim))).toEqual(Array.from(expected.value));
      expect(held[r]).toBe(expected.sides[1]!);
    });
    expect(cache.lengths(0)[h]).toBe(kept[h]!.length);
  });
}

eachBackend("kv_drop_lowest_every", (backend) => {
  test("waits for rows + interval, then drops the lowest down to rows; recent rows stay, ties go to the lower position", () => {
    using scope = new Scope(backend.context);
    const random = new Random(1);
    for (const [held, rows, recent, interval] of [
      [40, 20, 5, 20],
      [40, 20, 5, 21],
      [600, 11, 0, 3],
      [30, 12, 12, 1],
    ] as const) {
      const twin = randomTwin(scope, random, shape, held);
      twin.cache.seek(held - 1, 0);
      setSide(scope, twin, 1, () => Math.round(6 * random.uniform()));
      evict.dropLowestEvery(batchOf(scope, [twin]), rows, 1, recent, interval);
      const kept = twin.layer.heads.map((all) => {
        if (held < rows + interval) return all;
        const old = all.filter(({ position }) => position <= held - 1 - recent);
        const gone = new Set(
          old.toSorted((a, b) => a.sides[1]! - b.sides[1]! || a.position - b.position).slice(0, held - rows),
        );
        return all.filter((one) => !gone.has(one));
      });
      kept.forEach((all, h) => {
        expect(ascending(positionsOf(twin, h))).toEqual(all.map(({ position }) => position));
      });
      expectIntact(scope, twin, kept);
    }
  });
});

eachBackend("kv_note_norms", (backend) => {
  for (const dtype of floatDtypes) {
    test(`the newest row's side value is factor times its key's norm; no other changes (${dtype})`, () => {
      using scope = new Scope(backend.context);
      const twin = randomTwin(scope, new Random(2), { ...shape, dtype }, 9);
      setSide(scope, twin, 0, (r) => r);
      for (const p of [1, 2] as const) {
        evict.noteNorms(batchOf(scope, [twin]), 0, p, -2);
        twin.layer.heads.forEach((rows, h) => {
          const sides = output(scope, "float32", 1, 9);
          twin.cache.read(0, h, { side: 0 }, sides.tensor);
          const { key } = rows[8]!;
          const norm = p === 1 ? key.reduce((sum, x) => sum + Math.abs(x), 0) : Math.hypot(...key);
          const values = Array.from(sides.read());
          expect(values.slice(0, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
          expect(Math.abs(values[8]! / (-2 * norm) - 1)).toBeLessThan(1e-6);
        });
      }
    });
  }
});

eachBackend("kv_drop_pooled", (backend) => {
  test("drops the row whose neighbourhood got least, of those before the recent ones; the others keep their order", () => {
    using scope = new Scope(backend.context);
    const random = new Random(3);
    for (const [held, rows, recent, width] of [
      [20, 19, 4, 5],
      [20, 20, 4, 5],
      [700, 650, 32, 5],
      [9, 8, 8, 3],
      [40, 10, 0, 1],
    ] as const) {
      const twins = [0, 1].map(() => randomTwin(scope, random, shape, held));
      for (const twin of twins) setSide(scope, twin, 1, () => random.uniform());
      const probs = input(scope, "float32", 4, held + 3, random.normals(4 * (held + 3)).map(Math.abs));
      evict.dropPooled(batchOf(scope, twins), probs.tensor, rows, recent, width);
      twins.forEach((twin, s) => {
        const kept = twin.layer.heads.map((all, h) => {
          if (held <= rows) return all;
          const p = Array.from(row(probs.values, 2 * s + h).subarray(0, held - recent));
          const half = (width - 1) / 2;
          const pooled = p.map((_, r) => p.slice(Math.max(0, r - half), r + half + 1).reduce((sum, x) => sum + x, 0));
          return all.toSpliced(pooled.indexOf(Math.min(...pooled)), 1);
        });
        kept.forEach((all, h) => {
          expect(positionsOf(twin, h)).toEqual(all.map(({ position }) => position));
        });
        expectIntact(scope, twin, kept);
      });
    }
  });

  test("equal neighbourhoods: the lower row goes", () => {
    using scope = new Scope(backend.context);
    const twin = randomTwin(scope, new Random(4), shape, 12);
    const probs = input(scope, "float32", 2, 12, new Array(24).fill(0.5));
    evict.dropPooled(batchOf(scope, [twin]), probs.tensor, 11, 0, 1);
    expect(positionsOf(twin, 1)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  });
});

eachBackend("kv_keep_ranked", (backend) => {
  /** Positions that stay of one head, and their new side values. */
  function ranked(rows: readonly Row[], p: Float64Array, limit: number, newest: number, width: number, cut: number) {
    const old = rows.filter(({ position }) => position <= newest);
    const key = ({ position, sides }: Row) => (position === newest ? -Infinity : sides[1]!);
    old.sort((a, b) => key(b) - key(a) || a.position - b.position);
    const half = (width - 1) / 2;
    const pooled = old.map((one, at) => {
      const near = old.slice(Math.max(0, at - half), at + half + 1);
      return { position: one.position, score: near.reduce((sum, { position }) => sum + p[position]!, 0) / width };
    });
    if (rows.length <= limit) return { kept: rows.map(({ position }) => position), pooled: [] };
    pooled.sort((a, b) => b.score - a.score || a.position - b.position);
    const stays = pooled.slice(0, cut);
    const recent = rows.filter(({ position }) => position > newest);
    return { kept: ascending([...stays, ...recent].map(({ position }) => position)), pooled: stays };
  }

  test("pools in the order of side values, keeps the highest, and that order for the next time", () => {
    using scope = new Scope(backend.context);
    const random = new Random(13);
    for (const [held, rows, recent, width] of [
      [24, 23, 4, 5],
      [24, 24, 4, 5],
      [60, 31, 6, 5],
      [700, 650, 32, 5],
      [40, 10, 10, 3],
      [40, 12, 1, 1],
    ] as const) {
      const twins = [0, 1].map(() => randomTwin(scope, random, shape, held));
      for (const twin of twins) {
        setSide(scope, twin, 1, () => Math.round(8 * random.uniform()) / 8);
        twin.cache.seek(held - 1, 0);
      }
      const chances = random.normals(4 * (held + 3)).map((x) => Math.abs(Math.fround(x)));
      const probs = input(scope, "float32", 4, held + 3, chances);
      evict.keepRanked(batchOf(scope, twins), probs.tensor, 1, rows, recent, width);
      twins.forEach((twin, s) => {
        twin.layer.heads.forEach((all, h) => {
          const p = row(probs.values, 2 * s + h);
          const { kept, pooled } = ranked(all, p, rows, held - 1 - recent, width, rows - recent);
          expect(ascending(positionsOf(twin, h))).toEqual(kept);
          expect(kept).toHaveLength(Math.min(held, rows));
          const sides = output(scope, "float32", 1, kept.length);
          twin.cache.read(0, h, { side: 1 }, sides.tensor);
          const held_ = sides.read();
          for (const { position, score } of pooled) {
            expect(Math.abs(held_[positionsOf(twin, h).indexOf(position)]! / score - 1)).toBeLessThan(1e-6);
          }
          const values = readRows(scope, twin.cache, 0, h, "values");
          positionsOf(twin, h).forEach((position, r) => {
            expect(Array.from(values.subarray(64 * r, 64 * r + 64))).toEqual(Array.from(all[position]!.value));
          });
        });
      });
    }
  });
});

describe("Philox", () => {
  test("gives the specification's words and draw", () => {
    const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
    expect(hex(philox([0, 0], [0, 0, 0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    const words = philox([42, 7], [0, 100, 3, 0]);
    expect(hex(words)).toBe("cd575617 ef14af60 431b3aa8 ed21f38c");
    expect(unit(words[0]!)).toBeCloseTo(0.8021139, 7);
  });
});

eachBackend("kv_merge_oldest", (backend) => {
  interface Setting {
    decision: evict.MergeDecision;
    sinks: number;
    targets: number;
    rows?: number;
    seed?: number;
    stream?: number;
  }
  /** Merges once in a cache of 24 rows with random sides; each head's ratio and draw, and its rows as they must be. */
  function mergeOnce(scope: Scope, dtype: (typeof floatDtypes)[number], setting: Setting) {
    const { decision, sinks, targets, rows = 23, seed = 42, stream = 5 } = setting;
    const random = new Random(sinks + targets);
    const twin = randomTwin(scope, random, { ...shape, dtype }, 24);
    twin.cache.seek(23, stream);
    setSide(scope, twin, 1, (r) => (r === sinks ? 0.5 * random.uniform() : random.uniform()));
    const before = structuredClone(twin.layer.heads);
    evict.mergeOldest(batchOf(scope, [twin]), { side: 1, rows, sinks, targets, decision, seed });
    const heads = before.map((all, h) => {
      const gone = all[sinks]!;
      const into = all.slice(sinks + 1, sinks + 1 + targets);
      const mean = into.reduce((sum, { sides }) => sum + sides[1]!, 0) / into.length;
      const ratio = into.length === 0 ? 0 : Math.min(gone.sides[1]! / mean, 1);
      const draw = unit(philox([seed, 0], [stream, gone.position, h, 0])[0]!);
      const weights = {
        bernoulli: draw < ratio ? 1 : 0,
        threshold: ratio >= 1 ? 1 : 0,
        expected: ratio,
        always: 1,
        never: 0,
      };
      return { gone, into, ratio, weight: weights[decision] };
    });
    return { twin, before, heads };
  }

  for (const dtype of floatDtypes) {
    for (const decision of evict.mergeDecisions) {
      test(`C1, C2: values of the next rows gain M V_e / m, all else keeps its bits (${dtype}, ${decision})`, () => {
        using scope = new Scope(backend.context);
        for (const [sinks, targets] of [
          [3, 5],
          [0, 1],
          [4, 32],
        ] as const) {
          const { twin, before, heads } = mergeOnce(scope, dtype, { decision, sinks, targets });
          heads.forEach(({ gone, into, weight }, h) => {
            expect(ascending(positionsOf(twin, h))).toEqual(
              before[h]!.filter((one) => one !== gone).map(({ position }) => position),
            );
            const byPosition = new Map(before[h]!.map((one) => [one.position, one]));
            const [keys, values] = [
              readRows(scope, twin.cache, 0, h, "keys"),
              readRows(scope, twin.cache, 0, h, "values"),
            ];
            positionsOf(twin, h).forEach((position, r) => {
              const held = byPosition.get(position)!;
              expect(Array.from(keys.subarray(64 * r, 64 * r + 64))).toEqual(Array.from(held.key));
              const share = into.includes(held) ? weight / into.length : 0;
              held.value.forEach((value, d) => {
                const expected = rounding[dtype](value + share * gone.value[d]!);
                const tolerance =
                  share === 0 ? 0 : Math.max(1e-6, dtype === "float32" ? 0 : Math.abs(expected) * 2 ** -7);
                expect(Math.abs(values[64 * r + d]! - expected)).toBeLessThanOrEqual(tolerance);
              });
            });
          });
        }
      });
    }
  }

  test("the specification's example: 0.02 against 0.04 merges half of the time, and then adds V_e / 2", () => {
    using scope = new Scope(backend.context);
    const twin = randomTwin(scope, new Random(5), { ...shape, dtype: "float32", kvHeads: 1 }, 4);
    setSide(scope, twin, 1, (r) => [0.3, 0.02, 0.06, 0.02][r]!);
    const value = input(
      scope,
      "float32",
      4,
      64,
      Array.from({ length: 256 }, (_, i) => (i >= 64 && i < 128 ? 2 + 2 * (i % 2) : 0)),
    );
    twin.cache.write(0, 0, "values", value.tensor);
    twin.cache.seek(3, 0);
    evict.mergeOldest(batchOf(scope, [twin]), {
      side: 1,
      rows: 3,
      sinks: 1,
      targets: 2,
      decision: "expected",
      seed: 42,
    });
    const values = readRows(scope, twin.cache, 0, 0, "values");
    const gained = positionsOf(twin, 0).map((position, r) => [position, values[64 * r], values[64 * r + 1]]);
    expect(gained.toSorted((a, b) => a[0]! - b[0]!)).toEqual([
      [0, 0, 0],
      [2, expect.closeTo(0.5, 6), expect.closeTo(1, 6)],
      [3, expect.closeTo(0.5, 6), expect.closeTo(1, 6)],
    ]);
  });

  test("C3: a row without attention never merges, one above the mean always does; NaN counts as 0", () => {
    using scope = new Scope(backend.context);
    for (const [own, others, merges] of [
      [0, 0.1, false],
      [0.2, 0.1, true],
      [0, 0, false],
      [0.2, 0, true],
    ] as const) {
      for (const seed of [1, 2, 3, 4]) {
        const twin = randomTwin(scope, new Random(6), { ...shape, dtype: "float32" }, 8);
        setSide(scope, twin, 1, (r) => (r === 2 ? own : others));
        const before = readRows(scope, twin.cache, 0, 0, "values").slice(3 * 64, 4 * 64);
        evict.mergeOldest(batchOf(scope, [twin]), {
          side: 1,
          rows: 7,
          sinks: 2,
          targets: 3,
          decision: "bernoulli",
          seed,
        });
        const at = positionsOf(twin, 0).indexOf(3);
        const after = readRows(scope, twin.cache, 0, 0, "values").slice(at * 64, at * 64 + 64);
        expect(after.some((x, d) => x !== before[d])).toBe(merges);
      }
    }
  });

  test("C4: over 10,000 seeds the draw falls below p as often as p says, and each is Philox's", () => {
    const p = 0.37;
    let merged = 0;
    for (let seed = 0; seed < 10_000; seed++) merged += unit(philox([seed, 0], [5, 3, 0, 0])[0]!) < p ? 1 : 0;
    expect(Math.abs(merged / 10_000 - p)).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / 10_000));
    using scope = new Scope(backend.context);
    const outcomes = new Set<number>();
    for (let seed = 0; seed < 40; seed++) {
      const { twin, before, heads } = mergeOnce(scope, "float32", {
        decision: "bernoulli",
        sinks: 3,
        targets: 5,
        seed,
      });
      heads.forEach(({ weight, into }, h) => {
        const at = positionsOf(twin, h).indexOf(into[0]!.position);
        const value = readRows(scope, twin.cache, 0, h, "values").slice(at * 64, at * 64 + 64);
        const old = before[h]!.find(({ position }) => position === into[0]!.position)!.value;
        expect(value.some((x, d) => x !== old[d]) ? 1 : 0).toBe(weight);
        outcomes.add(weight);
      });
    }
    expect(outcomes).toEqual(new Set([0, 1]));
  });

  test("C4: a sequence merges alike alone and in any place of a batch", () => {
    using scope = new Scope(backend.context);
    const make = () => {
      const twin = randomTwin(scope, new Random(7), shape, 16);
      twin.cache.seek(15, 77);
      setSide(scope, twin, 1, (r) => 1 + Math.sin(r));
      return twin;
    };
    const other = randomTwin(scope, new Random(8), shape, 20);
    const [alone, beside] = [make(), make()];
    const merge = { side: 1, rows: 15, sinks: 2, targets: 4, decision: "bernoulli", seed: 9 } as const;
    evict.mergeOldest(batchOf(scope, [alone]), merge);
    evict.mergeOldest(batchOf(scope, [other, beside]), merge);
    for (const h of [0, 1]) {
      expect(readRows(scope, beside.cache, 0, h, "values")).toEqual(readRows(scope, alone.cache, 0, h, "values"));
    }
  });

  test("C6: within the budget nothing changes", () => {
    using scope = new Scope(backend.context);
    const { twin, before } = mergeOnce(scope, "float32", { decision: "always", sinks: 3, targets: 5, rows: 24 });
    expectIntact(scope, twin, before);
  });

  test("C7: with `always` into all rows, the output times the lost weight is the output before the eviction", () => {
    using scope = new Scope(backend.context);
    const twin = randomTwin(scope, new Random(9), { ...shape, dtype: "float32", kvHeads: 1 }, 9);
    const before = structuredClone(twin.layer.heads[0]!);
    const weights = before.map((_, r) => (r === 0 ? 0 : 1 + 0.3 * Math.cos(r)));
    weights[0] = weights.slice(1).reduce((sum, w) => sum + w, 0) / 8;
    evict.mergeOldest(batchOf(scope, [twin]), { side: 0, rows: 8, sinks: 0, targets: 8, decision: "always", seed: 0 });
    const values = readRows(scope, twin.cache, 0, 0, "values");
    const total = weights.reduce((sum, w) => sum + w, 0);
    for (let d = 0; d < 64; d++) {
      const full = before.reduce((sum, { value }, r) => sum + weights[r]! * value[d]!, 0) / total;
      const merged = positionsOf(twin, 0).reduce(
        (sum, position, r) => sum + weights[position]! * values[64 * r + d]!,
        0,
      );
      expect(merged / total).toBeCloseTo(full, 5);
    }
  });
});

eachBackend("kv_merge_recent", (backend) => {
  for (const dtype of floatDtypes) {
    test(`p is against all later rows, a target gains M V_e / targets, and the row stays (${dtype})`, () => {
      using scope = new Scope(backend.context);
      for (const [recent, targets, rows] of [
        [9, 4, 23],
        [3, 32, 23],
        [9, 4, 24],
        [30, 4, 23],
      ] as const) {
        const twin = randomTwin(scope, new Random(recent), { ...shape, dtype }, 24);
        twin.cache.seek(23, 5);
        setSide(scope, twin, 1, (r) => 1 + 0.5 * Math.sin(r));
        evict.mergeRecent(batchOf(scope, [twin]), { side: 1, rows, recent, targets, decision: "expected", seed: 1 });
        twin.layer.heads.forEach((all, h) => {
          const from = rows < 24 && recent < 24 ? all[23 - recent]! : null;
          const later = from ? all.slice(from.position + 1) : [];
          const mean = later.reduce((sum, { sides }) => sum + sides[1]!, 0) / later.length;
          const weight = from ? Math.min(from.sides[1]! / mean, 1) : 0;
          expect(positionsOf(twin, h)).toEqual(all.map(({ position }) => position));
          const values = readRows(scope, twin.cache, 0, h, "values");
          all.forEach(({ position, value }, r) => {
            const into = from !== null && position > from.position && position <= from.position + targets;
            value.forEach((x, d) => {
              const expected = rounding[dtype](into ? x + (weight * from.value[d]!) / targets : x);
              const tolerance = into ? Math.max(1e-6, dtype === "float32" ? 0 : Math.abs(expected) * 2 ** -7) : 0;
              expect(Math.abs(values[64 * r + d]! - expected)).toBeLessThanOrEqual(tolerance);
            });
          });
        });
      }
    });
  }
});

eachBackend("divide_ramp", (backend) => {
  test("out[r, c] = x[r, c] / (start + step * c), in place too", () => {
    using scope = new Scope(backend.context);
    for (const columns of [1, 7, 300]) {
      const x = input(scope, "float32", 3, columns, new Random(columns).normals(3 * columns));
      const expected = x.values.data.map((value, i) => Math.fround(value / (columns - (i % columns))));
      const out = output(scope, "float32", 3, columns);
      evict.divideRamp(x.tensor, columns, -1, out.tensor);
      expect(out.read()).toMatchReference({ reference: expected, plain: expected, dtype: "float32" });
      evict.divideRamp(x.tensor, columns, -1, x.tensor);
      expect(x.tensor.toFloats()).toEqual(out.read());
    }
  });
});

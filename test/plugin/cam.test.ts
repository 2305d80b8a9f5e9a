// CaM: the policy, accumulated attention and merges of every step against float64.
import { describe, expect, test } from "bun:test";
import plugin from "../../plugins/cam.ts";
import { Scope } from "../../src/native/scope.ts";
import { resolveParams } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { readRows } from "../support/cache.ts";
import { range } from "../support/choice.ts";
import { matrix, row } from "../support/guarded.ts";
import { decoderOf, hooksOf, prompted, runPrefill, scaleOf } from "../support/hooks.ts";
import { philox, unit } from "../support/philox.ts";
import { Random } from "../support/random.ts";
import { exact } from "../support/reference.ts";
import { attentionPrefill } from "../support/reference-attention.ts";
import { columnSums } from "../support/reference-scores.ts";

const shape = { kvHeads: 2, groupSize: 4, headDim: 64, dtype: "float32" as const };

describe("parameters", () => {
  test("a tenth first, a tenth recent, 32 targets, drawn with seed 42; C8: nothing is read on the host", () => {
    const { values } = resolveParams(plugin, "paper", {});
    expect(values).toMatchObject({
      startRatio: 0.1,
      recentRatio: 0.1,
      mergeCount: 32,
      decision: "bernoulli",
      compat: "none",
      seed: 42,
    });
    const { needs } = hooksOf(plugin, {}, shape).hooks;
    expect(needs?.hostSync).toBeUndefined();
    expect(needs?.perStep).toBeUndefined();
    expect(() => resolveParams(plugin, "paper", { startRatio: 0.6, recentRatio: 0.4 })).toThrow(/below 1 together/);
    expect(() => resolveParams(plugin, "paper", { compat: "helm", mergePrompt: true })).toThrow(/mergePrompt: false/);
  });
});

eachBackend("CaM on one layer", (backend) => {
  for (const attention of ["accumulated", "current"] as const) {
    for (const decision of ["bernoulli", "expected", "never"] as const) {
      test(`20 steps: rows, and values with their merges, are the formula's (${attention}, ${decision})`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(3);
        const { hooks, shape: needed } = hooksOf(plugin, { capacity: 13, mergeCount: 4, decision, attention }, shape);
        const prompt = prompted(scope, needed, random.normals(60 * 12 * 64));
        expect(runPrefill(scope, hooks, prompt)).toEqual(new Array(2).fill([...range(0, 6), ...range(53, 60)]));
        const { layer, cache } = prompt.twin;
        layer.heads = layer.heads.map((rows) => [...rows.slice(0, 6), ...rows.slice(53)]);
        const step = decoderOf(scope, hooks, prompt);
        for (let i = 0; i < 20; i++) {
          const { probabilities } = step(random.normals(12 * 64));
          layer.heads.forEach((rows, h) => {
            for (const [r, held] of rows.entries()) {
              held.sides[0] = (attention === "current" ? 0 : held.sides[0]!) + probabilities[h]![r]!;
            }
            const [gone] = rows.splice(6, 1);
            const into = rows.slice(6, 10);
            const mean = into.reduce((sum, { sides }) => sum + sides[0]!, 0) / into.length;
            const p = Math.min(gone!.sides[0]! / mean, 1);
            const draw = unit(philox([42, 0], [0, gone!.position, h, 0])[0]!);
            const weight = decision === "never" ? 0 : decision === "expected" ? p : draw < p ? 1 : 0;
            for (const { value } of into) {
              for (let d = 0; d < 64; d++) value[d]! += (weight * gone!.value[d]!) / into.length;
            }
            const values = readRows(scope, cache, 0, h, "values");
            const order = Array.from(cache.positions(0, h));
            expect(order.toSorted((a, b) => a - b)).toEqual(rows.map(({ position }) => position));
            for (const { position, value } of rows) {
              const at = 64 * order.indexOf(position);
              for (let d = 0; d < 64; d++) expect(Math.abs(values[at + d]! - value[d]!)).toBeLessThan(1e-4);
            }
          });
        }
      });
    }
  }

  for (const [mergeCount, recent] of [
    [4, 8],
    [32, 8],
    [4, 2],
  ] as const) {
    test(`compat helm is the authors' generation: masks, one row early, all later rows, a divisor of ${mergeCount}`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(8);
      const [startRatio, recentRatio] = [0.1, recent / 60];
      const params = { startRatio, recentRatio, mergeCount, compat: "helm", attention: "accumulated" };
      const { hooks, shape: needed } = hooksOf(plugin, params, shape);
      const prompt = prompted(scope, needed, random.normals(60 * 12 * 64));
      const { layer, cache } = prompt.twin;
      const all = layer.heads.map((rows) => [...rows]); // the authors mask: nothing ever leaves
      runPrefill(scope, hooks, prompt);
      const step = decoderOf(scope, hooks, prompt);
      let merged = 0;
      for (let i = 0; i < 20; i++) {
        layer.heads = all.map((rows) => [...rows.slice(0, 6), ...rows.slice(rows.length + 1 - recent)]);
        const { probabilities, kept } = step(random.normals(12 * 64));
        layer.heads.forEach((seen, h) => {
          const rows = all[h]!;
          rows.push(seen.at(-1)!);
          expect(seen).toHaveLength(6 + recent);
          const attention = new Map(seen.map(({ position }, r) => [position, probabilities[h]![r]!]));
          const early = rows.length - recent + 1;
          const later = range(early + 1, rows.length);
          const mean = later.reduce((sum, at) => sum + attention.get(at)!, 0) / later.length;
          const draw = unit(philox([42, 0], [0, early, h, 0])[0]!);
          if (later.length > 0 && draw < Math.min(attention.get(early)! / mean, 1)) {
            merged += 1;
            for (const { value } of rows.slice(early + 1, early + 1 + mergeCount)) {
              for (let d = 0; d < 64; d++) value[d]! += rows[early]!.value[d]! / mergeCount;
            }
          }
          expect(kept[h]).toEqual([...range(0, 6), ...range(rows.length + 1 - recent, rows.length)]);
          const values = readRows(scope, cache, 0, h, "values");
          cache.positions(0, h).forEach((position, r) => {
            for (let d = 0; d < 64; d++) {
              expect(Math.abs(values[64 * r + d]! - rows[position]!.value[d]!)).toBeLessThan(1e-4);
            }
          });
        });
      }
      expect(merged > 0).toBe(recent > 2);
    });
  }

  test("C6: a budget above prompt and answer changes nothing", () => {
    using scope = new Scope(backend.context);
    const random = new Random(5);
    const { hooks, shape: needed } = hooksOf(plugin, { capacity: 40 }, shape);
    const prompt = prompted(scope, needed, random.normals(20 * 12 * 64));
    runPrefill(scope, hooks, prompt);
    const step = decoderOf(scope, hooks, prompt);
    for (let i = 0; i < 5; i++)
      expect(step(random.normals(12 * 64)).kept).toEqual([range(0, 21 + i), range(0, 21 + i)]);
    const values = readRows(scope, prompt.twin.cache, 0, 1, "values");
    expect(Array.from(values)).toEqual(prompt.twin.layer.heads[1]!.flatMap(({ value }) => Array.from(value)));
  });

  test("mergePrompt: the prompt's rows merge oldest first, by the attention that the prompt gave them", () => {
    using scope = new Scope(backend.context);
    const random = new Random(6);
    const settings = { capacity: 12, mergeCount: 4, decision: "expected", mergePrompt: true };
    const { hooks, shape: needed } = hooksOf(plugin, settings, shape);
    const prompt = prompted(scope, needed, random.normals(40 * 12 * 64));
    const { layer, cache } = prompt.twin;
    const { lse } = attentionPrefill(layer, 0, prompt.queryValues, scaleOf(64), 0, exact);
    const sums = columnSums(layer, 0, prompt.queryValues, lse, scaleOf(64), "sum", matrix(2, 40), exact);
    for (const positions of runPrefill(scope, hooks, prompt, 11)) {
      expect(positions.toSorted((a, b) => a - b)).toEqual([...range(0, 6), ...range(34, 40)]);
    }
    layer.heads.forEach((rows, h) => {
      for (const [r, held] of rows.entries()) held.sides[0] = row(sums, h)[r]! / 4;
      while (rows.length > 12) {
        const [gone] = rows.splice(6, 1);
        const into = rows.slice(6).filter(({ position }) => position - gone!.position <= 4);
        const mean = into.reduce((sum, { sides }) => sum + sides[0]!, 0) / into.length;
        const weight = Math.min(gone!.sides[0]! / mean, 1);
        for (const { value } of into) {
          for (let d = 0; d < 64; d++) value[d]! += (weight * gone!.value[d]!) / into.length;
        }
      }
      const values = readRows(scope, cache, 0, h, "values");
      const order = Array.from(cache.positions(0, h));
      for (const { position, value } of rows) {
        const at = 64 * order.indexOf(position);
        for (let d = 0; d < 64; d++) expect(Math.abs(values[at + d]! - value[d]!)).toBeLessThan(1e-4);
      }
    });
  });
});

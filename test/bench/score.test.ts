// Scores, averages over lengths, intervals and comparisons, against values worked out by hand or published.
import { describe, expect, test } from "bun:test";
import { stream } from "../../src/bench/prng.ts";
import {
  effectiveLength,
  isNull,
  mean,
  postProcess,
  scoreSample,
  stringMatchAll,
  stringMatchPart,
  taskScore,
  taskSubsets,
  weightedAverage,
} from "../../src/bench/score.ts";
import { bootstrap, comparePaired } from "../../src/bench/statistics.ts";

describe("predictions", () => {
  test("are stripped, and their control characters become newlines", () => {
    expect(postProcess("  a\tb\u0000c\u001f \n")).toBe("a\nb\nc");
    expect(postProcess("\u0001 x \u0002")).toBe("x");
    expect(isNull(" \n\u0003 ")).toBe(true);
    expect(isNull(".")).toBe(false);
  });

  test("match a part of the references, ignoring case", () => {
    const refs = ["A", "B", "C", "D"];
    expect(stringMatchAll("it is a, then D", ["A,", "B", "C", "D"])).toBe(0.5);
    expect(taskScore([scoreSample("string_match_all", "x a y D", refs)])).toBe(50);
    expect(taskScore([scoreSample("string_match_part", "x a y D", refs)])).toBe(100);
    expect(stringMatchPart("nothing", ["Q", "Z"])).toBe(0);
    expect(stringMatchAll("", refs)).toBe(0);
  });

  test("an answer broken across lines does not match", () => {
    expect(stringMatchAll("12\t34", ["1234"])).toBe(0);
  });

  test("have a task score of two decimals", () => {
    expect(taskScore([1, 0, 0])).toBe(33.33);
    expect(taskScore([1, 1, 0])).toBe(66.67);
  });
});

describe("averages over lengths", () => {
  const published = [96.5, 95.8, 95.4, 94.8, 88.4, 66.6];

  test("are those of the published table", () => {
    const round = (value: number) => Math.round(10 * value) / 10;
    expect(round(mean(published))).toBe(89.6);
    expect(round(weightedAverage(published, "inc"))).toBe(85.5);
    expect(round(weightedAverage(published, "dec"))).toBe(93.7);
  });

  test("the effective length is the last before the first that fails", () => {
    const scores = new Map(published.map((score, i) => [4096 * 2 ** i, score]));
    expect(effectiveLength(scores)).toBe(65536);
    expect(
      effectiveLength(
        new Map([
          [8192, 99],
          [4096, 80],
        ]),
      ),
    ).toBeNull();
    expect(
      effectiveLength(
        new Map([
          [16384, 90],
          [4096, 90],
          [8192, 85.5],
        ]),
      ),
    ).toBe(4096);
    expect(effectiveLength(new Map([[4096, 85.6]]))).toBe(4096);
  });

  test("loom12 leaves out fwe", () => {
    expect(["vt", "fwe", "qa_1"].filter(taskSubsets.loom12!)).toEqual(["vt", "qa_1"]);
    expect(["vt", "fwe"].filter(taskSubsets.ruler13!)).toEqual(["vt", "fwe"]);
  });
});

describe("intervals", () => {
  const draws = (name: string, n: number, share: number) => {
    const rng = stream(name);
    return Array.from({ length: n }, () => (rng.below(1000) < 1000 * share ? 1 : 0));
  };

  test("of one seed are the same, hold the mean, and narrow with the number of samples", () => {
    const few = bootstrap([draws("few", 20, 0.7)], 42);
    const many = bootstrap([draws("many", 2000, 0.7)], 42);
    expect(bootstrap([draws("few", 20, 0.7)], 42)).toEqual(few);
    expect(bootstrap([draws("many", 2000, 0.7)], 43)).not.toEqual(many);
    expect(few.low).toBeLessThan(few.mean);
    expect(few.high).toBeGreaterThan(few.mean);
    expect(many.high - many.low).toBeLessThan((few.high - few.low) / 5);
    expect(few.n).toBe(20);
  });

  test("have the width of the normal approximation", () => {
    const { mean: center, low, high } = bootstrap([draws("wide", 400, 0.5)], 1);
    const half = 1.96 * Math.sqrt((center * (1 - center)) / 400);
    expect(Math.abs(high - low - 2 * half)).toBeLessThan(0.2 * half);
  });

  test("of constant scores have no width", () => {
    expect(
      bootstrap(
        [
          [1, 1, 1],
          [0, 0],
        ],
        42,
      ),
    ).toEqual({ mean: 0.5, low: 0.5, high: 0.5, n: 5 });
  });

  test("weigh each task alike, and resample within it", () => {
    const { mean: center, low, high } = bootstrap([[1], [0, 0, 0, 0, 0, 0, 0, 0, 0]], 42);
    expect([center, low, high]).toEqual([0.5, 0.5, 0.5]);
  });

  test("need a sample", () => {
    expect(() => bootstrap([[], []], 42)).toThrow("an interval needs at least one sample");
  });
});

describe("paired comparison", () => {
  const scores = (values: number[], task = "vt") =>
    new Map(values.map((value, i) => [`${task}/512/${i}`, value] as const));
  const varied = Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? 1 : 0));

  test("tells two methods apart where one is better on most samples", () => {
    const worse = varied.map((score, i) => (i % 4 === 0 ? 0 : score));
    const compared = comparePaired(scores(varied), scores(worse), 42)!;
    expect(compared).toMatchObject({ wins: 10, losses: 0, ties: 30, n: 40, mean: 0.25, distinct: true });
    expect(comparePaired(scores(worse), scores(varied), 42)).toMatchObject({ mean: -0.25, losses: 10, distinct: true });
  });

  test("does not rank two within noise", () => {
    const other = varied.map((score, i) => (i < 2 ? 1 - score : score));
    expect(comparePaired(scores(varied), scores(other), 42)!.distinct).toBe(false);
    expect(comparePaired(scores(varied), scores(varied), 42)).toMatchObject({
      mean: 0,
      low: 0,
      high: 0,
      ties: 40,
      distinct: false,
    });
  });

  test("of one sample a task is uncertain all the same, and of a handful never distinct", () => {
    const tasks = Array.from({ length: 12 }, (_, i) => `task${i}`);
    const one = (value: (i: number) => number, some = tasks) =>
      new Map(some.map((task, i) => [`${task}/512/0`, value(i)] as const));
    const mixed = comparePaired(
      one(() => 1),
      one((i) => (i % 2 === 0 ? 0 : 1)),
      42,
    )!;
    expect(mixed).toMatchObject({ mean: 0.5, n: 12, wins: 6, distinct: true });
    expect(mixed.low).toBeLessThan(0.4);
    expect(mixed.high).toBeGreaterThan(0.6);
    const few = comparePaired(
      one(() => 1, tasks.slice(0, 5)),
      one(() => 0, tasks.slice(0, 5)),
      42,
    )!;
    expect(few).toMatchObject({ mean: 1, wins: 5, distinct: false });
    expect(few.p).toBeGreaterThan(0.05);
  });

  test("uses the samples that both have, each task alike", () => {
    const a = new Map([...scores([1, 1, 1, 1]), ...scores([1], "cwe")]);
    const b = new Map([...scores([1, 1]), ...scores([0], "cwe")]);
    expect(comparePaired(a, b, 42)).toMatchObject({ n: 3, mean: 0.5, wins: 1, ties: 2 });
    expect(comparePaired(scores([1]), scores([1], "cwe"), 42)).toBeNull();
  });
});

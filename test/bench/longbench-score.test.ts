// LongBench's scorers against the reference's own numbers (scripts/golden/longbench.py), and the rules around them.
import { describe, expect, test } from "bun:test";
import { type LongbenchMetric, longbenchMetrics, longbenchScore } from "../../src/bench/longbench-score.ts";
import { segmentChinese } from "../../src/bench/segment-zh.ts";
import golden from "../golden/longbench.json" with { type: "json" };

interface Case {
  metric: LongbenchMetric;
  prediction: string;
  ref: string;
  classes?: string[];
  score: number;
}
const cases = golden as Case[];

describe.each(longbenchMetrics.map((metric) => [metric] as const))("%s", (metric) => {
  const mine = cases.filter((one) => one.metric === metric);

  test("gives the reference's score on every golden case", () => {
    expect(mine.length).toBeGreaterThan(8);
    const wrong = mine
      .map(({ prediction, ref, classes, score }) => ({
        prediction,
        ref,
        score,
        ours: longbenchScore(metric, prediction, [ref], { classes: classes ?? [] }),
      }))
      .filter(({ score, ours }) => Math.abs(score - ours) > 1e-12);
    expect(wrong).toEqual([]);
  });

  test("has golden cases of every kind of score", () => {
    const scores = mine.map(({ score }) => score);
    expect(Math.min(...scores)).toBe(0);
    expect(Math.max(...scores)).toBeGreaterThan(0.99);
    expect(scores.some((score) => score > 0 && score < 0.99)).toBe(true);
  });
});

test("the examples of the specification", () => {
  expect(longbenchScore("qa_f1", "the cat sat", ["a cat sat down"])).toBeCloseTo(0.8, 12);
  expect(longbenchScore("count", "there are 3 or 5", ["5"])).toBe(0.5);
  const red = { classes: ["red", "dark red", "blue"] };
  expect(longbenchScore("classification", "dark red", ["dark red"], red)).toBe(1);
  const very = { classes: ["red", "dark", "very dark red"] };
  expect(longbenchScore("classification", "very dark red", ["very dark red"], very)).toBe(0.5);
  expect(longbenchScore("code_sim", "```python\n# it is\nfoo()\nbar()", ["foo()"])).toBe(1);
});

test("the best of several references counts, and none counts as 0", () => {
  expect(longbenchScore("qa_f1", "Berlin", ["Paris", "in Berlin", "Berlin"])).toBe(1);
  expect(longbenchScore("qa_f1", "Berlin", [])).toBe(0);
});

test("where only the first line counts, leading newlines are passed over", () => {
  const facts = { firstLine: true };
  expect(longbenchScore("qa_f1", "\n\nBerlin\nParis", ["Berlin"], facts)).toBe(1);
  expect(longbenchScore("qa_f1", "Berlin\nParis", ["Berlin"])).toBeLessThan(1);
});

test("Chinese is cut as jieba does it, Latin letters and digits beside it too", () => {
  expect(segmentChinese("约12-15人用UTF-8编码，s-1GNU")).toEqual([
    "约",
    "12",
    "-",
    "15",
    "人用",
    "UTF",
    "-",
    "8",
    "编码",
    "，",
    "s",
    "-",
    "1GNU",
  ]);
  expect(segmentChinese("意见C++UTF-8").join("|")).toBe("意见|C++|UTF|-|8");
  expect(segmentChinese("增长3.5%").join("|")).toBe("增长|3.5%");
});

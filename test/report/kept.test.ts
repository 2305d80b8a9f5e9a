// Kept tokens in the report: which samples are shown, how much of them, the picture, and what is refused.
import { describe, expect, test } from "bun:test";
import { inflateSync } from "node:zlib";
import { bundledModel } from "../../src/model/locate.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { answerPositions, keptSamples } from "../../src/report/kept.ts";
import { keptChart } from "../../src/report/kept-chart.ts";
import { alphaPng } from "../../src/report/png.ts";
import { readRuns } from "../../src/report/run-data.ts";
import { accel } from "../support/accel.ts";
import { type FixtureOptions, fixture } from "./fixture.ts";

const prompt = "The code of the lamp is 4711. What is the code?";
const tokenizer = loadTokenizer(bundledModel);
const ids = tokenizer.encode(prompt);
const count = ids.length;

const withKept = (more: FixtureOptions = {}) =>
  fixture({
    model: bundledModel,
    row: (row) => ({ ...row, prompt, refs: ["4711"], prompt_tokens: count }),
    kept: ({ method }) => (method === "Full" ? [[`0-${count - 1}`]] : [["0-1"], [`0,${count - 1}`]]),
    ...more,
  });

describe("samples", () => {
  test("come shortest first, with the tokens' text, and without methods that keep all", () => {
    const samples = keptSamples(readRuns([withKept()]));
    expect(samples.map((sample) => sample.id).slice(0, 3)).toEqual([
      "niah_single_2/512/0",
      "niah_single_2/1024/0",
      "niah_single_2/512/1",
    ]);
    const [first] = samples;
    expect(first!.methods.map((method) => method.series)).toEqual(["Half", "Quarter"]);
    expect(first!.tokens!.join("")).toContain("The code of the lamp is 4711.");
    expect(first!.tokens).toHaveLength(count);
    expect(first!.methods[0]!.share).toBeCloseTo(2 / count, 6);
    expect(first!.methods[0]!.answerShare).toBe(0);
    expect(first!.methods[0]!.tenths).toBe(`a5${"0".repeat(count - 3)}5`);
  });

  test("are those asked for by id; an unknown one is refused with the nearest", () => {
    const runs = readRuns([withKept()]);
    expect(keptSamples(runs, ["niah_single_2/1024/3"]).map((sample) => sample.id)).toEqual(["niah_single_2/1024/3"]);
    expect(() => keptSamples(runs, ["niah_single_2/1024/9"])).toThrow(
      /--sample niah_single_2\/1024\/9: .*niah_single_2\/1024\//,
    );
  });

  test("have no text where the prompt was not logged, or the model is elsewhere, or the tokens do not match", () => {
    const tokens = (more: FixtureOptions) => keptSamples(readRuns([withKept(more)]))[0]!.tokens;
    expect(tokens({ row: (row) => ({ ...row, prompt_tokens: count }) })).toBeNull();
    expect(tokens({ model: "/gone" })).toBeNull();
    expect(tokens({ row: (row) => ({ ...row, prompt, prompt_tokens: count + 5 }) })).toBeNull();
  });

  test("of many heads keep their counts alone", () => {
    const scattered = Array.from({ length: 2000 }, (_, at) => 2 * at).join(",");
    const path = withKept({
      row: (row) => ({ ...row, prompt_tokens: 4000 }),
      kept: () => Array.from({ length: 8 }, () => Array.from({ length: 8 }, () => scattered)),
      lengths: [512],
      samples: 1,
    });
    const [sample] = keptSamples(readRuns([path]));
    expect(sample!.coarse).toBe(true);
    expect(sample!.methods[0]!.tenths.slice(0, 4)).toBe("a0a0");
  });

  test("accel report --sample says what is missing where nothing was logged", async () => {
    const { code, err } = await accel("report", fixture(), "--sample", "niah_single_2/512/0");
    expect(code).toBe(2);
    expect(err).toContain("--sample niah_single_2/512/0: there are no kept positions of that sample");
  });
});

test("answers are found across token borders, in any case", () => {
  expect(answerPositions(["a ", "Bo", "at", " an", "d a b", "oat"], ["boat"])).toEqual([1, 2, 4, 5]);
  expect(answerPositions(["a"], [""])).toEqual([]);
});

test("the picture has a pixel for each head and each column, as opaque as its tokens are held", () => {
  const [sample] = keptSamples(readRuns([withKept()]));
  const svg = keptChart(sample!, sample!.methods[0]!);
  expect(svg).toContain("niah_single_2/512/0 that Half keeps after the prompt");
  const png = Buffer.from(/base64,([^"]+)"/.exec(svg)![1]!, "base64");
  expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([count, 2]);
  const data = png.subarray(png.indexOf("IDAT") + 4, png.indexOf("IEND") - 8);
  const lines = inflateSync(data);
  const row = (at: number) => [...lines.subarray(at * (count + 1) + 1, (at + 1) * (count + 1))];
  expect(row(0).slice(0, 3)).toEqual([255, 255, 0]);
  expect([row(1)[0], row(1)[1], row(1).at(-1)]).toEqual([255, 0, 255]);
});

test("a PNG begins and ends as one", () => {
  const png = alphaPng({ width: 2, height: 1, alpha: Uint8Array.of(0, 255), colour: [1, 2, 3] });
  expect(png.subarray(0, 8).toString("latin1")).toBe("\x89PNG\r\n\x1a\n");
  expect(png.readUInt32BE(png.length - 4)).toBe(0xae426082);
  expect([...png.subarray(png.indexOf("PLTE") + 4).subarray(0, 3)]).toEqual([1, 2, 3]);
});

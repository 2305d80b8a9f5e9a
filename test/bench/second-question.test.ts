// Several questions over one compressed context: the samples, what is fed, and the test that methods which look at the question fail.
import { describe, expect, test } from "bun:test";
import { parseBenchmarkConfig } from "../../src/bench/config.ts";
import { rulerSample } from "../../src/bench/ruler.ts";
import { assemble, followUpIds } from "../../src/bench/sample.ts";
import { scoreSample } from "../../src/bench/score.ts";
import { runBenchmark } from "../../src/index.ts";
import { folder } from "../support/folder.ts";
import { assistant, bundled, chunkCodec, request } from "./data-support.ts";

const params = { questions: 3 };

describe("samples", () => {
  test.each(["niah_single_2", "niah_multikey_2", "niah_multivalue", "niah_multiquery", "vt"])(
    "%s: each question has answers of its own in the one context, within the budget",
    (task) => {
      const { sample, prompt } = rulerSample(request(task, 2048, { params }), 1);
      const later = sample.followUps!;
      expect(later).toHaveLength(2);
      const all = [sample.refs, ...later.map(({ refs }) => refs)];
      expect(new Set(all.flat()).size).toBe(3 * sample.refs.length);
      for (const ref of all.flat()) expect(sample.context).toContain(ref);
      for (const { question, opening, answer, refs } of later) {
        expect(question).not.toBe(sample.question);
        expect(scoreSample(sample.metric, answer, refs)).toBe(1);
        const ids = followUpIds(sample, prompt, { question, opening, answer, refs }, bundled, false);
        expect(prompt.ids.length + ids.length + sample.maxNewTokens).toBeLessThanOrEqual(2048 + 2);
      }
    },
  );

  test("one question is the default, and leaves the samples as they are", () => {
    const plain = rulerSample(request("niah_multikey_1", 1024), 0).sample;
    const one = rulerSample(request("niah_multikey_1", 1024, { params: { questions: 1 } }), 0).sample;
    expect(plain.followUps).toBeUndefined();
    expect(one).toEqual(plain);
  });

  test("the others have one question, and files too", () => {
    expect(() => rulerSample(request("cwe", 1024, { params }), 0)).toThrow("cwe: questions: cwe has no such parameter");
    expect(() => parseBenchmarkConfig("benchmark_name: LongBench\nquestions: 2", "c.yaml")).toThrow(
      "c.yaml:2:12: questions: only RULER's generated samples can be asked more than one question",
    );
  });
});

describe("what is fed", () => {
  const made = () => rulerSample(request("niah_multikey_1", 1024, { params }), 0);

  test("behind the sample's own question: its answer, then the next question", () => {
    const { sample, prompt } = made();
    const asked = sample.followUps![0]!;
    expect(bundled.decode(followUpIds(sample, prompt, asked, bundled, false)).trim()).toBe(
      `${sample.meta.answer}${asked.question}\n${asked.opening}`.trim(),
    );
  });

  test("behind the context alone: the question", () => {
    const { sample, prompt } = made();
    const asked = sample.followUps![1]!;
    expect(bundled.decode(followUpIds(sample, prompt, asked, bundled, true)).trim()).toBe(
      `${asked.question}\n${asked.opening}`.trim(),
    );
  });

  test("with a chat template: turns, of which the prompt and the fed tokens make one conversation", () => {
    const codec = chunkCodec();
    const { sample } = rulerSample(request("niah_multikey_1", 1024, { params, codec }), 0);
    const prompt = assemble(sample, codec, assistant);
    const asked = sample.followUps![0]!;
    const conversation = codec.applyChatTemplate!(
      [
        { role: "user", content: sample.lead + sample.context + sample.question },
        { role: "assistant", content: sample.opening + String(sample.meta.answer) },
        { role: "user", content: asked.question.trimStart() },
      ],
      { addGenerationPrompt: true, date: new Date(0) },
    );
    const fed = followUpIds(sample, prompt, asked, codec, false);
    const whole = codec.encode(conversation + asked.opening, { special: false });
    expect([...prompt.ids, ...fed].slice(-fed.length)).toEqual(whole.slice(-fed.length));
    expect(prompt.ids.length + fed.length).toBe(whole.length);
    const only = followUpIds(sample, prompt, asked, codec, true);
    const direct = assemble({ ...sample, question: asked.question, opening: asked.opening }, codec, assistant);
    expect(only).toEqual(direct.ids.slice(direct.questionStart!));
  });
});

test("a method that kept what its question asked for fails the later ones; the full cache answers them all", async () => {
  const { results, cells } = await runBenchmark({
    cfg_path: "benchmarks/quick.yaml",
    task_names: ["niah_multikey_2"],
    length: [512],
    num_samples: 6,
    questions: 3,
    acceleration: ["SnapKV[capacity=96]"],
    device: ["cpu"],
    output_path: folder(),
  });
  const findings = results.findings as { method: string; questions: { first: number; later: number; n: number } }[];
  const [full, snap] = findings.map(({ questions }) => questions);
  expect(full).toMatchObject({ n: 12 });
  expect(full!.later).toBeGreaterThanOrEqual(90);
  expect(snap!.first).toBeGreaterThanOrEqual(60);
  expect(snap!.later).toBeLessThanOrEqual(snap!.first - 40);
  expect(cells.accuracy).toHaveLength(2);
}, 60_000);

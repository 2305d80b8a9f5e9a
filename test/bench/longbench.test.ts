// LongBench's files and stand-in set: records, prompts, truncation, answers from 0 to 100, averages, mistakes with their line.
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { categoryMean, longbenchAverages } from "../../src/bench/averages.ts";
import { runCellJob } from "../../src/bench/cell-job.ts";
import { parseBenchmarkConfig } from "../../src/bench/config.ts";
import { type Cell, cellSamples } from "../../src/bench/dataset.ts";
import { findLongbenchFile, longbenchSamples, readLongbenchFile } from "../../src/bench/longbench.ts";
import { standIn } from "../../src/bench/longbench-stand-in.ts";
import {
  type LongbenchKind,
  lengthRange,
  longbenchDefaults,
  longbenchNames,
  longbenchTask,
} from "../../src/bench/longbench-tasks.ts";
import { cutSample } from "../../src/bench/longbench-truncate.ts";
import { scoreSample, taskScore } from "../../src/bench/score.ts";
import { folder } from "../support/folder.ts";
import { assistant, bundled, chunkCodec } from "./data-support.ts";

const request = (task: string, more = {}) => ({
  task,
  dataDir: null,
  promptFile: null,
  seed: 42,
  levenshtein: false,
  ...more,
});
const config = (more: string) => parseBenchmarkConfig(`benchmark_name: LongBench\n${more}`, "c.yaml");
const cell = (task: string): Cell => ({ task, length: null });
const record = {
  input: "Who?",
  context: "A text.",
  answers: ["Ann"],
  length: 3,
  dataset: "narrativeqa",
  language: "en",
  all_classes: null,
  _id: "x",
};

function write(name: string, rows: (object | string)[], dir = folder()): string {
  mkdirSync(dir, { recursive: true });
  const lines = rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`);
  writeFileSync(join(dir, `${name}.jsonl`), lines.join(""));
  return dir;
}

describe("the table", () => {
  test("has twenty-one sets, and thirteen of LongBench-E", () => {
    expect(longbenchDefaults).toHaveLength(21);
    expect(longbenchNames.filter((name) => name.endsWith("_e"))).toHaveLength(13);
    expect(config("").task_names).toEqual([...longbenchDefaults]);
    expect(longbenchTask("Repobench_P").name).toBe("repobench-p");
    expect(() => longbenchTask("qaspar")).toThrow("qaspar is no data set of LongBench; did you mean qasper?");
  });

  test("six sets get no chat template, four are read up to the first line", () => {
    const named = (wanted: (name: string) => boolean) => longbenchDefaults.filter(wanted);
    expect(named((name) => !longbenchTask(name).chat)).toEqual([
      "trec",
      "triviaqa",
      "samsum",
      "lsht",
      "lcc",
      "repobench-p",
    ]);
    expect(named((name) => longbenchTask(name).firstLine)).toEqual(["trec", "triviaqa", "samsum", "lsht"]);
  });
});

describe.each(longbenchNames.map((name) => [name] as const))("the stand-in of %s", (name) => {
  test("has the official form, a perfect answer scores 100 and none 0", () => {
    const records = standIn(longbenchTask(name), 42);
    const dir = write(
      name,
      records.map((one) => ({ ...one, dataset: longbenchTask(name).dataset, _id: "x" })),
    );
    expect(readLongbenchFile(findLongbenchFile(dir, name), name).map(({ answers }) => answers)).toEqual(
      records.map(({ answers }) => answers),
    );
    const samples = longbenchSamples(request(name), 0, 4);
    const score = (answer: (refs: string[]) => string) =>
      taskScore(
        samples.map(({ metric, refs, meta }) =>
          scoreSample(metric, answer(refs), refs, { classes: (meta.classes ?? []) as string[] }),
        ),
      );
    expect(score((refs) => refs[0]!)).toBe(100);
    expect(score(() => "")).toBe(0);
    expect(samples).toEqual(longbenchSamples(request(name), 0, 9).slice(0, 4));
    expect(samples.map(({ id }) => id).at(-1)).toBe(`${name}/all/3`);
  });
});

describe("prompts", () => {
  test("hold context and input where the wording says, braces as they are", () => {
    const dir = write("narrativeqa", [{ ...record, context: "A {input} {context}.", input: "Who {x}?" }]);
    const [sample] = longbenchSamples(request("narrativeqa", { dataDir: dir }), 0, 1);
    expect(sample!.context).toBe("A {input} {context}.");
    expect(sample!.question).toContain("Question: Who {x}?");
    expect(sample!.lead).not.toContain("{");
    expect(sample).toMatchObject({ source: "official-file", maxNewTokens: 128, metric: "qa_f1", refs: ["Ann"] });
  });

  test("come from a prompt file where there is one", () => {
    const dir = folder();
    const file = join(dir, "prompts.json");
    writeFileSync(file, JSON.stringify({ trec: "Begin.\n{context}\n[{input}]" }));
    const [sample] = longbenchSamples(request("trec_e", { promptFile: file }), 0, 1);
    expect(sample!.lead).toBe("Begin.\n");
    expect(sample!.question).toMatch(/^\n\[Question: .*\nType:\]$/);
    const bad = (content: unknown) => {
      const path = join(dir, `${Bun.hash(JSON.stringify(content))}.json`);
      writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
      return () => longbenchSamples(request("trec", { promptFile: path }), 0, 1);
    };
    expect(bad({ trek: "{context}" })).toThrow("trek is no data set; did you mean trec?");
    expect(bad({ trec: "{input}" })).toThrow("trec must hold {context} once");
    expect(bad("{")).toThrow("cannot be read as JSON");
    expect(bad({ trec: 3 })).toThrow("trec must be a text");
  });

  test("few-shot and code sets are plain text, documents may hold what looks like a template", () => {
    const dir = write("narrativeqa", [{ ...record, context: "It says <user> here." }]);
    write("lcc", [{ ...record, context: "int x;\n", input: "", answers: ["int y;"] }], dir);
    const both = config(`data_dir: ${dir}\ntask_names: [narrativeqa, lcc]\nnum_samples: null`);
    const [first] = [...cellSamples(both, cell("narrativeqa"), chunkCodec())];
    const [second] = [...cellSamples(both, cell("lcc"), chunkCodec())];
    expect(first!.prompt).toMatchObject({ templated: true, hadTemplate: false });
    expect(second!.prompt.templated).toBe(false);
  });

  test("samsum ends at a line's end, but not with its first token", () => {
    const [sample] = runCellJob(
      { config: config("num_samples: 1"), cell: cell("samsum"), from: 0, to: 1, contextLength: 8192, keepText: false },
      bundled,
    ).samples;
    expect(sample!.stopIds).toEqual([bundled.encode("\n", { special: false }).at(-1)!]);
    expect(sample).toMatchObject({ minNewTokens: 1, firstLine: true, metric: "rouge" });
  });
});

describe("truncation", () => {
  const sample = () => longbenchSamples(request("qasper"), 0, 1)[0]!;

  test("keeps both halves of the prompt's ids without a template", () => {
    const plain = { ...assistant, template: "none" as const };
    const whole = cutSample(sample(), bundled, plain, { text: Infinity, prompt: Infinity, how: "tokens" });
    expect(whole.truncated).toBe(false);
    const cut = cutSample(sample(), bundled, plain, { text: 801, prompt: Infinity, how: "tokens" });
    expect(cut.ids).toEqual([...whole.ids.slice(0, 400), ...whole.ids.slice(-400)]);
    expect(cut.truncated).toBe(true);
    expect(cut.ids.slice(cut.questionStart!)).toEqual(whole.ids.slice(whole.questionStart!));
  });

  test("leaves a chat template around the text whole, and counts it in the model's length", () => {
    const codec = chunkCodec();
    const whole = cutSample(sample(), codec, assistant, { text: Infinity, prompt: Infinity, how: "tokens" });
    const byText = cutSample(sample(), codec, assistant, { text: 200, prompt: Infinity, how: "tokens" });
    const around = byText.ids.length - 200;
    expect(around).toBeGreaterThan(0);
    expect(byText.ids[0]).toBe(whole.ids[0]!);
    expect(byText.ids.slice(-around)).toEqual(whole.ids.slice(-around));
    const byPrompt = cutSample(sample(), codec, assistant, { text: Infinity, prompt: 240, how: "tokens" });
    expect(byPrompt.ids.length).toBeLessThanOrEqual(240);
    expect(byPrompt.ids.length).toBeGreaterThanOrEqual(238);
  });

  test("as the reference does it, the halves become text and are tokenized anew", () => {
    const plain = { ...assistant, template: "none" as const };
    const cut = cutSample(sample(), bundled, plain, { text: 800, prompt: Infinity, how: "reference" });
    const ids = bundled.encode(sample().lead + sample().context + sample().question);
    const text = bundled.decode(ids.slice(0, 400)) + bundled.decode(ids.slice(-400));
    expect(cut.ids).toEqual(bundled.encode(text));
    expect(cut.sample.question).toBe(sample().question);
    expect(cut.questionStart).not.toBeNull();
  });

  test("is the default; an error or leaving out where the file says so", () => {
    const one = (more: string) => [
      ...cellSamples(config(`task_names: qasper\nnum_samples: 1\nmax_length: 100\n${more}`), cell("qasper"), bundled),
    ];
    expect(one("")[0]!.truncated).toBe(true);
    expect(one("on_overflow: skip")).toEqual([]);
    expect(() => one("on_overflow: error")).toThrow("qasper/all/0: the prompt has");
  });
});

describe("mistakes name file and line", () => {
  test.each([
    ["not JSON", "narrativeqa", "{ broken", /:2: not valid JSON: /],
    ["no answers", "narrativeqa", { ...record, answers: [] }, /:2: answers holds no answer$/],
    ["a wrong type", "narrativeqa", { ...record, context: 3 }, /:2: context must be a text$/],
    ["no classes", "trec", record, /:2: all_classes must list the classes$/],
    ["no number", "passage_retrieval_en", record, /:2: answers: "Ann" is not in the form Paragraph N$/],
  ])("%s", (_, name, row, message) => {
    const good = { ...record, all_classes: ["Ann"], answers: ["Paragraph 3"] };
    const path = findLongbenchFile(write(name, [good, row]), name);
    expect(() => readLongbenchFile(path, name)).toThrow(message);
    expect(readLongbenchFile(path, name, 1)).toHaveLength(1);
  });

  test("a set without a file, and one without records", () => {
    const dir = write("trec", [""]);
    expect(() => findLongbenchFile(dir, "lcc")).toThrow(
      `${dir} has no file for lcc; it may be lcc.jsonl or data/lcc.jsonl`,
    );
    expect(() => readLongbenchFile(join(dir, "trec.jsonl"), "trec")).toThrow("holds no records");
  });
});

describe("averages", () => {
  test("are means of categories, as published", () => {
    const kinds: LongbenchKind[] = ["single-doc", "multi-doc", "summarization", "few-shot", "code", "synthetic"];
    const means = new Map(kinds.map((kind, i) => [kind, [39.8, 38.7, 26.5, 67.1, 54.1, 37.8][i]!]));
    expect(categoryMean(means)).toBeCloseTo(44.0, 1);
    means.delete("code");
    expect(categoryMean(means)).toBeNull();
  });

  test("code counts for both languages, and the flat mean has sixteen sets", () => {
    const scores = longbenchDefaults.map((task) => {
      const { kind, language } = longbenchTask(task);
      return { task, length: null, score: kind === "code" ? 60 : language === "zh" ? 20 : 40, whole: true };
    });
    const found = longbenchAverages(scores);
    expect(found["longbench-official-en"]).toBeCloseTo((5 * 40 + 60) / 6, 10);
    expect(found["longbench-official-zh"]).toBeCloseTo((5 * 20 + 60) / 6, 10);
    expect(found["longbench-16"]).toBeCloseTo((14 * 40 + 2 * 60) / 16, 10);
    const partly = longbenchAverages(scores.map((one) => (one.task === "lcc" ? { ...one, whole: false } : one)));
    expect(partly["longbench-16"]).toBeNull();
  });

  test("of LongBench-E are by range of the record's length", () => {
    expect([3999, 4000, 7999, 8000].map(lengthRange)).toEqual(["0-4k", "4-8k", "4-8k", "8k+"]);
  });
});

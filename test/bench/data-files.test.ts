// RULER's files: every dialect is read, mistakes are named with their line, samples of ours survive the way out and back.
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { runCellJob } from "../../src/bench/cell-job.ts";
import { parseBenchmarkConfig } from "../../src/bench/config.ts";
import { benchmarkCells, cellSamples } from "../../src/bench/dataset.ts";
import { dialectLine, findRulerFile, placeInPath, readRulerFile, sampleLine } from "../../src/bench/jsonl.ts";
import { generateRuler, rulerSample } from "../../src/bench/ruler.ts";
import { rulerTaskNames } from "../../src/bench/ruler-tasks.ts";
import { assemble } from "../../src/bench/sample.ts";
import { folder } from "../support/folder.ts";
import { assistant, bundled, chunkCodec, request } from "./data-support.ts";

function write(path: string, rows: (object | string)[]): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`).join(""));
  return path;
}

const niah = { index: 17, input: "Hidden.\nA text.\nWhat is it?", outputs: ["1", "2"], length: 4001 };

describe("dialects", () => {
  test("A: the opening is in answer_prefix, repeated index values do not matter", () => {
    const path = write(join(folder(), "4096/data/niah_multivalue/validation.jsonl"), [
      { ...niah, length_w_model_temp: 4100, answer_prefix: " It is", token_position_answer: 3 },
      { ...niah, answer_prefix: " It is" },
      "",
      { ...niah, answer_prefix: " It is" },
    ]);
    const samples = readRulerFile(path);
    expect(samples.map(({ id }) => id)).toEqual([0, 1, 2].map((i) => `niah_multivalue/4096/${i}`));
    expect(samples[0]).toMatchObject({
      context: "Hidden.\nA text.",
      question: "\nWhat is it?",
      opening: " It is",
      refs: ["1", "2"],
      maxNewTokens: 128,
      metric: "string_match_all",
      source: "official-file",
      meta: { dialect: "A", sourceLength: 4001 },
    });
  });

  test("B: the opening stays at the end of the text", () => {
    const [sample] = readRulerFile(
      write(join(folder(), "8192/vt.jsonl"), [{ ...niah, input: "A\nB\nWhich? They are" }]),
    );
    expect(sample).toMatchObject({
      task: "vt",
      length: 8192,
      question: "\nWhich? They are",
      opening: "",
      maxNewTokens: 30,
    });
    expect(sample!.meta).toMatchObject({ dialect: "B", openingInInput: true });
  });

  test("C: answer is a text or a list; a question-answering boundary is two paragraphs from the end", () => {
    const row = { index: 0, input: "Do.\n\nDocs.\n\nDo.\n\nQuestion: who? Answer:", answer: "Ann", length: 1 };
    const [sample] = readRulerFile(write(join(folder(), "qa_1_16384.jsonl"), [row]));
    expect(sample).toMatchObject({
      task: "qa_1",
      length: 16384,
      refs: ["Ann"],
      metric: "string_match_part",
      maxNewTokens: 32,
    });
    expect(sample!.context).toBe("Do.\n\nDocs.");
    expect(sample!.question).toBe("\n\nDo.\n\nQuestion: who? Answer:");
    expect(sample!.meta).toMatchObject({ dialect: "C", openingInInput: true });
  });

  test("D: context and question are given, and the task and the cap in the line", () => {
    const row = {
      context: "A text.",
      question: "\nWho?",
      answer_prefix: "It is",
      answer: ["x"],
      task: "cwe",
      max_new_tokens: 7,
    };
    const [sample] = readRulerFile(write(join(folder(), "test.jsonl"), [row]), { length: 4096 });
    expect(sample).toMatchObject({
      id: "cwe/4096/0",
      context: "A text.",
      question: "\nWho?",
      opening: "It is",
      maxNewTokens: 7,
    });
    expect(sample!.meta.dialect).toBe("D");
  });
});

test("task and length are read from every layout", () => {
  expect(placeInPath("x/4096/data/vt/validation.jsonl")).toEqual({ task: "vt", length: 4096 });
  expect(placeInPath("x/4096/qa_1.jsonl")).toEqual({ task: "qa_1", length: 4096 });
  expect(placeInPath("x/niah_single_2_8192.jsonl")).toEqual({ task: "niah_single_2", length: 8192 });
  expect(placeInPath("x/niah_single_2.jsonl")).toEqual({ task: "niah_single_2", length: undefined });
  const dir = folder();
  const path = write(join(dir, "vt_512.jsonl"), [niah]);
  expect(findRulerFile(dir, "vt", 512)).toBe(path);
  expect(() => findRulerFile(dir, "cwe", 512)).toThrow(
    `${dir} has no file for cwe at length 512; it may be 512/data/cwe/validation.jsonl or 512/cwe.jsonl or cwe_512.jsonl`,
  );
});

test("as many lines are read as are asked for", () => {
  const path = write(join(folder(), "512/vt.jsonl"), [niah, niah, "{ broken"]);
  expect(readRulerFile(path, { limit: 2 })).toHaveLength(2);
});

describe("mistakes name file and line", () => {
  test.each([
    ["not JSON", "{ broken", /:2: not valid JSON: /],
    ["no answers", { ...niah, outputs: [] }, /:2: outputs holds no answer$/],
    [
      "an empty answer",
      { ...niah, outputs: [""] },
      /:2: outputs holds an empty answer, which every prediction would contain$/,
    ],
    ["no answer key", { input: "x" }, /:2: the line has neither outputs nor answer$/],
    ["no text", { outputs: ["x"] }, /:2: the line has neither input nor context and question$/],
    ["a wrong type", { ...niah, input: 3 }, /:2: input must be a text$/],
    ["a cap of zero", { ...niah, max_new_tokens: 0 }, /:2: max_new_tokens must be at least 1$/],
  ])("%s", (_, row, message) => {
    const path = write(join(folder(), "512/vt.jsonl"), [niah, row]);
    expect(() => readRulerFile(path)).toThrow(message);
    expect(() => readRulerFile(path)).toThrow(path);
  });

  test("a file that is absent, empty or of no known task", () => {
    const dir = folder();
    expect(() => readRulerFile(join(dir, "none.jsonl"))).toThrow("none.jsonl cannot be read: ");
    expect(() => readRulerFile(write(join(dir, "512/vt.jsonl"), [""]))).toThrow("512/vt.jsonl holds no samples");
    expect(() => readRulerFile(write(join(dir, "x.jsonl"), [niah]))).toThrow(
      "x.jsonl:1: the path names no RULER task, and the line has no task; name it",
    );
    expect(() => readRulerFile(write(join(dir, "y.jsonl"), [niah]), { task: "vtt" })).toThrow(
      "vtt is no RULER task; did you mean vt?",
    );
  });
});

describe("samples of ours", () => {
  test.each(rulerTaskNames.map((task) => [task] as const))("%s comes back whole from its file", (task) => {
    const made = generateRuler({ ...request(task, 4096), samples: 2 });
    const path = write(
      join(folder(), `${task}_4096.jsonl`),
      made.map((sample) => sampleLine(sample).trimEnd()),
    );
    const read = readRulerFile(path);
    expect(read).toEqual(made);
    for (const codec of [bundled, chunkCodec()]) {
      expect(assemble(read[0]!, codec, assistant).text).toBe(assemble(made[0]!, codec, assistant).text);
    }
  });

  test.each([
    ["ruler-2024", ["index", "input", "outputs", "length"], "B"],
    ["loom", ["input", "answer", "index", "length"], "C"],
    ["kvpress", ["context", "question", "answer_prefix", "answer", "task", "max_new_tokens"], "D"],
  ] as const)("are written in the dialect %s, and read again", (name, keys, letter) => {
    for (const task of ["niah_single_2", "cwe", "qa_1"]) {
      const { sample } = rulerSample(request(task, 4096), 0);
      const line = dialectLine(sample, name).trimEnd();
      expect(Object.keys(JSON.parse(line))).toEqual([...keys]);
      const [read] = readRulerFile(write(join(folder(), `${task}_4096.jsonl`), [line]));
      expect(read!.meta.dialect).toBe(letter);
      expect(read!.refs).toEqual(sample.refs);
      expect(read!.question).toContain(sample.question.trim().split("\n").at(-1)!);
      expect(read!.question + read!.opening).toContain(sample.opening);
      const prompt = assemble(read!, bundled, { ...assistant, template: "none" });
      expect(prompt.text.replaceAll(/\s+/g, " ")).toBe(
        assemble(sample, bundled, { ...assistant, template: "none" }).text.replaceAll(/\s+/g, " "),
      );
    }
  });

  test("carry the official keys, so that text and opening joined are the prompt", () => {
    const { sample, prompt } = rulerSample(request("cwe", 4096), 0);
    const line = sampleLine({ ...sample, refs: ["caf\u00e9"] });
    const row = JSON.parse(line);
    expect(line).toContain('"caf\\u00e9"');
    expect(row.input + row.answer_prefix).toBe(prompt.text);
    expect(row).toMatchObject({ index: 0, length: prompt.ids.length + sample.maxNewTokens, outputs: ["caf\u00e9"] });
  });
});

describe("samples of a benchmark file", () => {
  const config = (more: string) => parseBenchmarkConfig(`benchmark_name: RULER\nlength: 512\n${more}`, "c.yaml");

  test("are generated for every task and length", () => {
    const two = config("task_names: [vt, fwe]\nlimit: 1\nmax_new_tokens: {vt: 40}");
    expect(benchmarkCells(two)).toEqual([
      { task: "vt", length: 512 },
      { task: "fwe", length: 512 },
    ]);
    const [made, ...more] = [...cellSamples(two, benchmarkCells(two)[0]!, bundled)];
    expect(more).toEqual([]);
    expect(made!.sample.maxNewTokens).toBe(40);
    expect(made!.ids).toEqual(made!.prompt.ids);
  });

  test("are plain text for the tasks of no_template_tasks", () => {
    const some = config("no_template_tasks: [multikey]\ntask_names: [niah_multikey_1, vt]\nnum_samples: 1");
    const [plain, templated] = benchmarkCells(some).map((cell) => [...cellSamples(some, cell, chunkCodec())][0]!);
    expect(plain!.prompt.templated).toBe(false);
    expect(templated!.prompt.templated).toBe(true);
  });

  test("are cut in the middle where the file says so, and the question's place moves along", () => {
    const cut = config("task_names: niah_single_2\nnum_samples: 1\nmax_length: 200\non_overflow: truncate_middle");
    const [made] = [...cellSamples(cut, benchmarkCells(cut)[0]!, bundled)];
    expect(made!.truncated).toBe(true);
    expect(made!.ids).toHaveLength(200);
    expect(bundled.decode(made!.ids.slice(made!.questionStart!))).toBe(
      `${made!.sample.question}\n${made!.sample.opening}`,
    );
    expect(() => [
      ...cellSamples(config("task_names: vt\nmax_length: 200"), { task: "vt", length: 512 }, bundled),
    ]).toThrow("vt/512/0: the prompt has");
  });

  test("are loaded from official files, but not in view context_only where a template is inside", () => {
    const dir = folder();
    write(join(dir, "vt_512.jsonl"), [niah, { ...niah, input: "<user>A text.\nWhich?" }]);
    const loaded = (more: string) => [
      ...cellSamples(
        config(`task_names: vt\nbuild_data: false\ndata_dir: ${dir}\n${more}`),
        { task: "vt", length: 512 },
        chunkCodec(),
      ),
    ];
    expect(loaded("num_samples: null").map(({ prompt }) => prompt.hadTemplate)).toEqual([false, true]);
    expect(() => loaded("view: context_only")).toThrow(
      "vt_512.jsonl: it is not known where the question of vt/512/1 begins",
    );
  });
});

describe("a user's corpora", () => {
  test("essays replace the generated prose", () => {
    const dir = folder();
    const essay = 'Mr. Brown wrote this. It has words! Does it end? "Yes." Then it begins again.';
    writeFileSync(join(dir, "PaulGrahamEssays.json"), JSON.stringify({ text: essay }));
    const { context } = rulerSample(request("niah_single_2", 1024, { dataDir: dir }), 0).sample;
    expect(context).toContain(" Mr. Brown wrote this. It has words!");
    const needle = / The secret number of \S+ is \d+\./.exec(context)!;
    expect(context.slice(0, needle.index)).toMatch(/(^|[.!?]"?)$/);
    writeFileSync(join(dir, "PaulGrahamEssays.json"), "{}");
    const other = folder();
    writeFileSync(join(other, "PaulGrahamEssays.json"), JSON.stringify({ text: "" }));
    expect(() => rulerSample(request("niah_single_2", 1024, { dataDir: other }), 0)).toThrow(
      "PaulGrahamEssays.json: text: must not be empty",
    );
  });

  test("word lists make keys and common words; a missing list is the built-in one", () => {
    const dir = folder();
    const list = (stem: string, count: number) => Array.from({ length: count }, (_, i) => `${stem}${i}`).join("\n");
    writeFileSync(join(dir, "nouns.txt"), list("noun", 60));
    writeFileSync(join(dir, "adjectivelist.txt"), `${list("adj", 60)}\nadj0\n`);
    const { question } = rulerSample(request("niah_single_1", 512, { dataDir: dir }), 0).sample;
    expect(question).toMatch(/belongs to adj\d+-noun\d+\?$/);
    const short = rulerSample(request("cwe", 1024, { dataDir: dir }), 0).sample;
    for (const ref of short.refs) expect(ref).toMatch(/^(adj|noun)\d+$/);
    writeFileSync(join(dir, "english_words.txt"), list("word", 3000));
    const other = folder();
    writeFileSync(join(other, "nouns.txt"), list("noun", 60));
    writeFileSync(join(other, "english_words.txt"), list("word", 3000));
    const long = rulerSample(request("cwe", 8192, { dataDir: other }), 0).sample;
    for (const ref of long.refs) expect(ref).toMatch(/^word\d+$/);
  });

  test("the tables name what was taken, and a directory with nothing in it is refused", () => {
    const dir = folder();
    const job = (data_dir: string) => {
      const text = `benchmark_name: RULER\ntask_names: niah_single_1\nlength: 512\nnum_samples: 1\ndata_dir: ${data_dir}`;
      const config = parseBenchmarkConfig(text, "c.yaml");
      const cell = { task: "niah_single_1", length: 512 };
      return () => runCellJob({ config, cell, from: 0, to: 1, contextLength: 4096, keepText: false }, bundled);
    };
    expect(job(dir)).toThrow(
      `data_dir ${dir} has nothing for RULER's generators, which take PaulGrahamEssays.json, squad.json`,
    );
    expect(job("/nowhere/at/all")).toThrow("data_dir /nowhere/at/all is not there");
    writeFileSync(join(dir, "nouns.txt"), Array.from({ length: 60 }, (_, i) => `noun${i}`).join("\n"));
    expect(job(dir)().remarks).toContain("Samples: built-in texts, with your nouns.");
  });

  test("word lists that are too short, or hold more than a word on a line, are refused", () => {
    const dir = folder();
    writeFileSync(join(dir, "verbs.txt"), "run\nwalk\n");
    expect(() => rulerSample(request("cwe", 512, { dataDir: dir }), 0)).toThrow("verbs.txt holds 2 different words");
    const other = folder();
    writeFileSync(join(other, "words.txt"), "run\nwalk on\n");
    expect(() => rulerSample(request("cwe", 512, { dataDir: other }), 0)).toThrow(
      "words.txt:2: there must be one word on a line",
    );
  });

  test("SQuAD: unanswerable questions are left out, paragraphs of the article come first", () => {
    const dir = folder();
    const paragraph = (n: number) => ({
      context: `Paragraph ${n} of an article says that the answer is value${n}.`,
      qas: [
        {
          question: `What of ${n}?`,
          is_impossible: n === 0,
          answers: n === 0 ? [] : [{ text: `value${n}` }, { text: `value${n}` }],
        },
      ],
    });
    const article = (from: number) => ({ title: "x", paragraphs: [0, 1, 2].map((i) => paragraph(from + i)) });
    const data = [0, 10, 20, 30].map(article);
    writeFileSync(join(dir, "squad.json"), JSON.stringify({ data }));
    const { sample } = rulerSample(request("qa_1", 512, { dataDir: dir }), 0);
    expect(sample.question).toEndWith("Question: What of 1?");
    expect(sample.refs).toEqual(["value1"]);
    for (const near of [0, 1, 2]) expect(sample.context).toContain(`Paragraph ${near} of`);
  });

  test("HotpotQA: all paragraphs of a question are there, with their titles", () => {
    const dir = folder();
    const context = [0, 1, 2].map((i) => [`Title ${i}`, [`First ${i}.`, ` Second ${i}.`]]);
    writeFileSync(join(dir, "hotpotqa.json"), JSON.stringify([{ question: "Which?", answer: "Second", context }]));
    const { sample } = rulerSample(request("qa_2", 512, { dataDir: dir }), 0);
    for (const i of [0, 1, 2]) expect(sample.context).toContain(`Title ${i}\nFirst ${i}. Second ${i}.`);
    writeFileSync(join(dir, "squad.json"), "[]");
    expect(() => rulerSample(request("qa_1", 512, { dataDir: dir }), 0)).toThrow("squad.json: ");
  });
});

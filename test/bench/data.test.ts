// Generated RULER samples: budget, references, wording, determinism, and each task's own rules.
import { describe, expect, test } from "bun:test";
import { parseBenchmarkConfig } from "../../src/bench/config.ts";
import { fweCounts, zeta } from "../../src/bench/fwe.ts";
import { prepareSamples } from "../../src/bench/prepare.ts";
import { generateRuler, rulerSample } from "../../src/bench/ruler.ts";
import { rulerTask, rulerTaskNames } from "../../src/bench/ruler-tasks.ts";
import { scoreSample, taskScore } from "../../src/bench/score.ts";
import { bundledModel } from "../../src/model/locate.ts";
import { bundled, request } from "./data-support.ts";

const isQa = (task: string) => task.startsWith("qa");
const counts = (words: string[]) => {
  const found = new Map<string, number>();
  for (const word of words) found.set(word, (found.get(word) ?? 0) + 1);
  return found;
};
const listWords = (text: string) => [...text.matchAll(/ \d+\. (\S+)/g)].map((match) => match[1]!);

describe.each([4096, 8192, 32768])("every task at %d tokens", (length) => {
  test.each(rulerTaskNames.map((task) => [task] as const))(
    "%s fits, fills, and can be answered from its text",
    (task) => {
      for (const ordinal of [0, 1]) {
        const { sample, prompt } = rulerSample(request(task, length), ordinal);
        const used = prompt.ids.length + sample.maxNewTokens;
        expect(used).toBeLessThanOrEqual(length);
        expect(used).toBeGreaterThanOrEqual((isQa(task) ? 0.9 : 0.95) * length);
        expect(sample.maxNewTokens).toBeGreaterThanOrEqual(rulerTask(task).cap);
        expect(sample.id).toBe(`${task}/${length}/${ordinal}`);
        for (const ref of sample.refs) {
          expect(sample.context).toContain(ref);
          expect(sample.question.toLowerCase()).not.toContain(ref.toLowerCase());
        }
      }
    },
  );
});

describe("samples of one seed", () => {
  test.each(rulerTaskNames.map((task) => [task] as const))("%s: are the same in any order and number", (task) => {
    const three = generateRuler({ ...request(task, 2048), samples: 3 });
    const last = rulerSample(request(task, 2048), 2).sample;
    expect(last).toEqual(three[2]!);
    expect(three[0]!.context).not.toBe(three[1]!.context);
    expect(rulerSample(request(task, 2048, { seed: 43 }), 2).sample.context).not.toBe(last.context);
  });

  test("are the same in another process that makes them in another order", async () => {
    const script = `
      import { rulerSample } from "${new URL("../../src/bench/ruler.ts", import.meta.url).pathname}";
      import { request } from "${new URL("./data-support.ts", import.meta.url).pathname}";
      const made = ["qa_1", "vt", "niah_single_2"].flatMap((task) =>
        [1, 0].map((ordinal) => rulerSample(request(task, 1024), ordinal).prompt.text));
      console.log(Bun.hash(made.join("|")).toString());`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    const here = ["qa_1", "vt", "niah_single_2"].map((task) =>
      [0, 1].map((ordinal) => rulerSample(request(task, 1024), ordinal).prompt.text).reverse(),
    );
    expect((await new Response(child.stdout).text()).trim()).toBe(Bun.hash(here.flat().join("|")).toString());
  });
});

describe("answers", () => {
  test.each(rulerTaskNames.map((task) => [task] as const))("%s: a perfect one scores 100, none scores 0", (task) => {
    const samples = generateRuler({ ...request(task, 2048), samples: 2 });
    const score = (answer: (refs: string[]) => string) =>
      taskScore(samples.map(({ metric, refs }) => scoreSample(metric, answer(refs), refs)));
    expect(score((refs) => refs.join(", "))).toBe(100);
    expect(score(() => "")).toBe(0);
    for (const { metric, refs, meta } of samples) expect(scoreSample(metric, String(meta.answer), refs)).toBe(1);
  });

  test("one value of four scores 25 on niah_multivalue", () => {
    const { sample } = rulerSample(request("niah_multivalue", 1024), 0);
    expect(scoreSample(sample.metric, `The numbers are ${sample.refs[2]}.`, sample.refs)).toBe(0.25);
  });
});

describe("niah", () => {
  test("has the wording of the bundled model's README", () => {
    const one = rulerSample(request("niah_single_1", 512), 0).sample;
    const key = /belongs to (\S+)\?/.exec(one.question)![1]!;
    expect(one.lead).toBe("The text hides one secret number. Keep it in mind.\nText:");
    expect(one.context).toContain(` The secret number of ${key} is ${one.refs[0]}. The lamp is warm.`);
    expect(one.question).toBe(`\nQuestion: Which secret number belongs to ${key}?`);
    expect(one.opening).toBe(`Answer: The secret number of ${key} is`);
    const query = rulerSample(request("niah_multiquery", 1024), 0).sample;
    expect(query.lead).toBe("The text hides several secret numbers. Keep them in mind.\nText:");
    expect(query.question).toMatch(/^\nQuestion: Which secret numbers belong to \S+, \S+, \S+ and \S+\?$/);
    expect(query.opening).toBe("Answer: The secret number of");
    const values = rulerSample(request("niah_multivalue", 1024), 0).sample;
    expect(values.opening).toMatch(/^Answer: The secret numbers of \S+ are$/);
    expect(values.meta.answer).toBe(` ${values.refs.join(", ")}.`);
  });

  test("lists the values of a key in the order of the text", () => {
    const { context, refs } = rulerSample(request("niah_multivalue", 2048), 1).sample;
    const places = refs.map((ref) => context.indexOf(ref));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
  });

  test("ties each asked key to one value, and repeats no key or value", () => {
    const { context } = rulerSample(request("niah_multikey_3", 8192), 0).sample;
    const needles = [...context.matchAll(/The secret code of (\S+) is (\S+)\./g)];
    const all = needles.flatMap((needle) => [needle[1]!, needle[2]!]);
    expect(needles.length).toBeGreaterThan(50);
    expect(new Set(all).size).toBe(all.length);
    for (const uuid of all)
      expect(uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });

  test("records where each answer stands, in tokens", () => {
    const { sample, prompt } = rulerSample(request("niah_multivalue", 4096), 0);
    const depths = sample.meta.depths as number[];
    expect(depths).toHaveLength(4);
    sample.refs.forEach((ref, i) => {
      const needle = prompt.encode(
        sample.context.slice(sample.context.lastIndexOf(" The secret", sample.context.indexOf(ref))),
      );
      expect(prompt.ids.slice(depths[i], depths[i]! + 8)).toEqual(needle.slice(1, 9));
    });
  });

  test("follows its parameters", () => {
    const params = {
      type_needle_v: "words",
      numNeedleK: 6,
      "num-needle-v": 2,
      num_needle_q: 2,
      type_haystack: "noise",
    };
    const { lead, question, opening, refs, context } = rulerSample(
      request("niah_single_1", 2048, { params }),
      0,
    ).sample;
    expect(lead).toStartWith("The text hides several secret words.");
    expect(question).toMatch(/Which secret words belong to \S+ and \S+\?$/);
    expect(opening).toMatch(/^Answer: The secret words of \S+ and \S+ are$/);
    expect(refs).toHaveLength(4);
    expect([...context.matchAll(/The secret word of/g)]).toHaveLength(12);
  });
});

describe("vt", () => {
  test("asks for five variables, set in the order of their chain", () => {
    const { context, refs, question } = rulerSample(request("vt", 4096), 0).sample;
    const value = /value (\d{5})\?/.exec(question)![1]!;
    const expected = refs.map((name, i) => ` VAR ${name} = ${i === 0 ? value : `VAR ${refs[i - 1]}`}.`);
    expect([...context.matchAll(/ VAR [A-Z]{5} = (VAR [A-Z]{5}|\d{5})\./g)].map(([text]) => text)).toEqual(expected);
    expect(refs).toHaveLength(5);
  });

  test("has an example from 1024 tokens on, of at most a quarter of the length and 300 tokens, with other names", () => {
    expect(rulerSample(request("vt", 1023), 0).sample.lead).toBe("The text sets variables. Follow the chains.\nText:");
    for (const length of [1024, 2048, 8192]) {
      const { sample, prompt } = rulerSample(request("vt", length), 1);
      const example = sample.lead.slice(0, sample.lead.lastIndexOf("The text sets"));
      expect(example).toMatch(/\nAnswer: The variables that hold the value \d{5} are ([A-Z]{5}(, )?){4}\.\n\n$/);
      expect(prompt.encode(example).length).toBeLessThanOrEqual(Math.min(length / 4, 300) + 1);
      for (const ref of sample.refs) expect(example).not.toContain(ref);
      expect(example).not.toContain(/value (\d{5})\?/.exec(sample.question)![1]!);
    }
  });

  test("has distractor chains with other names and numbers", () => {
    const params = { numChains: 3, numHops: 2, typeHaystack: "essay" };
    const { context, refs } = rulerSample(request("vt", 2048, { params }), 0).sample;
    const statements = [...context.matchAll(/VAR ([A-Z]{5}) = (VAR [A-Z]{5}|\d{5})\./g)];
    expect(new Set(statements.map((statement) => statement[1]!)).size).toBe(9);
    expect(statements.filter((statement) => /^\d/.test(statement[2]!))).toHaveLength(3);
    expect(refs).toHaveLength(3);
  });
});

describe("cwe", () => {
  test.each([
    [512, 6, 1],
    [1024, 10, 1],
    [2048, 20, 2],
    [4096, 30, 3],
    [131072, 30, 3],
  ])("at %d tokens repeats common words %d times and others %d times", (length, common, other) => {
    const { sample } = rulerSample(request("cwe", length), 0);
    const found = counts(listWords(sample.context));
    for (const ref of sample.refs) expect(found.get(ref)).toBe(common);
    expect(new Set([...found].filter(([word]) => !sample.refs.includes(word)).map(([, count]) => count))).toEqual(
      new Set([other]),
    );
    expect(sample.refs).toHaveLength(10);
    expect(sample.example === undefined).toBe(length < 4096);
  });

  test("has an example with other words, ten times and three times", () => {
    const { example, context } = rulerSample(request("cwe", 4096), 0).sample;
    const found = counts(listWords(example!.user));
    const answer = example!.assistant
      .replace("Answer: The 10 words that occur most are ", "")
      .replace(".", "")
      .split(", ");
    expect([...found.values()].toSorted((a, b) => b - a)).toEqual([...Array(10).fill(10), ...Array(30).fill(3)]);
    for (const word of answer) expect(found.get(word)).toBe(10);
    for (const word of found.keys()) expect(listWords(context)).not.toContain(word);
  });
});

describe("fwe", () => {
  test("counts follow the power law", () => {
    expect(zeta(2)).toBeCloseTo(Math.PI ** 2 / 6, 12);
    expect(zeta(1.5)).toBeCloseTo(2.612375348685488, 12);
    const shares = fweCounts(1_000_000, 2, 6).map((count) => Math.round(count / 100) / 100);
    expect(shares).toEqual([60.79, 15.2, 6.75, 3.8, 2.43, 1.69]);
  });

  test.each([512, 4096, 32768])(
    "at %d tokens has the counts of its size, rank 1 as dots, ranks 2 to 4 as answers",
    (length) => {
      const { sample } = rulerSample(request("fwe", length), 0);
      const found = [...counts(sample.context.trim().split(" "))].sort((a, b) => b[1] - a[1]);
      const vocabulary = Math.floor((length - 50) / 50);
      expect(found.map(([, count]) => count)).toEqual(fweCounts(Number(sample.meta.units), 2, vocabulary));
      expect(found[0]![0]).toBe("...");
      expect(found.slice(1, 4).map(([word]) => word)).toEqual(sample.refs);
      expect(new Set(found.slice(1, 5).map(([, count]) => count)).size).toBe(4);
    },
  );
});

describe("qa", () => {
  test("the gold documents are among the numbered ones, wherever they stand", () => {
    const { sample, prompt } = rulerSample(request("qa_2", 4096), 0);
    expect(sample.meta.depths).toHaveLength(10);
    const headings = [...sample.context.matchAll(/^Document \d+:$/gm)].map(([text]) => text);
    expect(headings).toEqual(headings.map((_, i) => `Document ${i + 1}:`));
    const person = /where (\S+) works/.exec(sample.question)![1]!;
    const company = new RegExp(`${person} is a \\w+ and works at the company (\\w+)\\.`).exec(sample.context)![1]!;
    expect(sample.context).toContain(`It has its seat in ${sample.refs[0]}.`);
    expect(sample.context).toMatch(new RegExp(`^${company}$`, "m"));
    expect(prompt.text.endsWith(`${sample.question}\nAnswer:`)).toBe(true);
  });

  test("questions come in the order of the source, or in a seeded one", () => {
    const ask = (params: Record<string, unknown>) =>
      [0, 1, 2].map((ordinal) => rulerSample(request("qa_1", 1024, { params }), ordinal).sample.question);
    expect(ask({ shuffleQuestions: true })).not.toEqual(ask({}));
    expect(ask({ shuffleQuestions: true })).toEqual(ask({ shuffle_questions: true }));
  });
});

describe("errors", () => {
  test("a sample that cannot fit names task, length and the length it needs, which then fits", () => {
    const error = (() => {
      try {
        rulerSample(request("qa_2", 512), 0);
      } catch (thrown) {
        return thrown as Error;
      }
    })();
    const needed = /^qa_2 at length 512: the smallest sample \(10 documents\) needs a length of (\d+) tokens$/.exec(
      error!.message,
    );
    expect(rulerSample(request("qa_2", Number(needed![1]) + 200), 0).sample.refs).toHaveLength(1);
  });

  test("unknown tasks, parameters and lengths are named with what is valid", () => {
    expect(() => rulerSample(request("niah_multikey2", 512), 0)).not.toThrow();
    expect(() => rulerSample(request("niah_multykey_2", 512), 0)).toThrow(
      "niah_multykey_2 is no RULER task; did you mean niah_multikey_2?",
    );
    expect(() => rulerSample(request("vt", 512, { params: { num_hop: 2 } }), 0)).toThrow(
      "vt: num_hop: vt has no such parameter; did you mean numHops?",
    );
    expect(() => rulerSample(request("fwe", 512, { params: { alpha: 1 } }), 0)).toThrow(
      "fwe: alpha: must be a number above 1",
    );
    expect(() => rulerSample(request("vt", 100), 0)).toThrow(
      "vt: length is 100; it must be a whole number of at least 512",
    );
  });
});

test("a calibrated sample of 131072 tokens is made within a second", () => {
  rulerSample(request("niah_single_2", 131072), 0);
  let best = Infinity; // of several, for other processes may be in the way
  for (let ordinal = 1; ordinal <= 6 && best >= 1000; ordinal++) {
    const start = performance.now();
    const { prompt, sample } = rulerSample(request("niah_single_2", 131072), ordinal);
    best = Math.min(best, performance.now() - start);
    expect(prompt.ids.length + sample.maxNewTokens).toBeGreaterThan(0.95 * 131072);
  }
  expect(best).toBeLessThan(1000);
}, 20_000);

test("worker threads make the bytes that this thread makes, in the same order", async () => {
  const config = parseBenchmarkConfig(
    "benchmark_name: RULER\ntask_names: [vt, qa_1, niah_single_2]\nlength: [512, 1024]\nnum_samples: 3",
    "c.yaml",
  );
  const options = { contextLength: 4096, keepText: true, tokenizer: bundledModel };
  const [here, threads] = await Promise.all(
    [0, 3].map((workers) => prepareSamples(config, bundled, { ...options, workers })),
  );
  const plain = ({ samples, remarks }: typeof here & {}) => ({
    samples: samples.map(({ score, ...sample }) => ({ ...sample, oracle: score(sample.refs.join(" ")) })),
    remarks,
  });
  expect(plain(threads!)).toEqual(plain(here!));
  expect(here!.samples.map(({ id }) => id).slice(0, 4)).toEqual(["vt/512/0", "vt/512/1", "vt/512/2", "vt/1024/0"]);
  expect(here!.samples.every(({ score, refs }) => score(refs.join(" ")) === 1)).toBe(true);
});

test("a sample that a thread cannot make ends the preparation with its error", async () => {
  const config = parseBenchmarkConfig(
    "benchmark_name: RULER\ntask_names: [vt, qa_2]\nlength: 512\nnum_samples: 2",
    "c.yaml",
  );
  const options = { contextLength: 4096, keepText: false, tokenizer: bundledModel, workers: 2 };
  expect(prepareSamples(config, bundled, options)).rejects.toThrow("qa_2 at length 512: the smallest sample");
});

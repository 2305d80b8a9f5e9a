// The wizard as a state machine: whole conversations, what decides which question comes, checks, back, flags.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { answered, back, begin, flagsOf, nextQuestion, problem, type WizardState } from "../../src/cli/wizard.ts";
import { readMemory, rememberAnswers } from "../../src/cli/wizard-memory.ts";
import { compositions } from "../../src/cli/wizard-questions.ts";
import { repeatCommand } from "../../src/cli/wizard-summary.ts";
import type { Answer, Question, WizardFacts } from "../../src/cli/wizard-types.ts";
import { loadPlugins, type Registry } from "../../src/plugin/loader.ts";
import { PluginFolder, pluginText } from "../support/plugin-files.ts";
import { wizardFacts } from "../support/wizard-facts.ts";

const folder = new PluginFolder();
let registry: Registry;
let facts: WizardFacts;

beforeAll(async () => {
  const plain = { more: "", create: "() => ({ prefill() {} })" };
  folder.write("full.ts", pluginText({ name: "Full", category: "full", params: "", more: "", create: "() => ({})" }));
  const window = 'window: param.int({ default: 32, min: 1, about: "rows that vote" })';
  const check =
    "check: ({ budget, window }) => budget.rows(1e9) < window ? 'the window is larger than the capacity' : undefined,";
  const params = `budget: param.budget({ default: 1024 }), ${window}`;
  folder.write("snap.ts", pluginText({ name: "Snap", params, more: `presets: { kvcf: { window: 8 } }, ${check}` }));
  folder.write("stream.ts", pluginText({ name: "Stream" }));
  const bits = 'bits: param.choice({ default: "4", choices: ["2", "4"], about: "bits" })';
  folder.write("kivi.ts", pluginText({ ...plain, name: "Kivi", category: "quantization", params: bits }));
  folder.write("glm-only.ts", pluginText({ ...plain, name: "GlmOnly", params: "", more: 'families: ["glm4"],' }));
  registry = await loadPlugins([folder.dir]);
  facts = wizardFacts(registry);
});
afterAll(() => folder[Symbol.dispose]());

/** Gives the answers in order; each must be to the question of that id. */
function talk(answers: [id: string, answer: Answer][], from: WizardState = begin(facts)): WizardState {
  let state = from;
  for (const [id, answer] of answers) {
    const question = nextQuestion(state)!;
    expect(question.id).toBe(id);
    expect(problem(question, answer)).toBeUndefined();
    state = answered(state, question, answer);
  }
  return state;
}

const machine: [string, Answer][] = [
  ["model", "bundled"],
  ["device", "cpu"],
  ["torch_dtype", "bfloat16"],
];
const quick: [string, Answer][] = [
  ["benchmark", "quick"],
  ["quick.length", "512,1024"],
  ["quick.num_samples", "2"],
];
const next = (state: WizardState): Question => nextQuestion(state)!;

test("the shortest conversation: defaults everywhere", () => {
  const state = talk([...machine, ["methods", ["Snap"]], ["tuning", "defaults"], ...quick]);
  expect(next(state).id).toBe("start");
  expect(flagsOf(state)).toEqual({
    model_path: "bundled",
    device: ["cpu"],
    torch_dtype: "bfloat16",
    acceleration: ["Snap"],
    cfg_path: "quick",
    length: ["512", "1024"],
    num_samples: 2,
    plugin_dir: [folder.dir],
  });
  expect(nextQuestion(answered(state, next(state), "yes"))).toBeUndefined();
});

test("no method at all runs Full alone, and nothing is asked about parameters", () => {
  const state = talk([...machine, ["methods", []], ...quick]);
  expect(flagsOf(state).acceleration).toEqual(["Full"]);
  expect(flagsOf(state).plugin_dir).toBeUndefined();
});

test("another model is asked for by its directory, and refused with the reason", () => {
  const state = talk([["model", "other"]]);
  const question = next(state);
  expect([question.kind, question.id]).toEqual(["path", "model_path"]);
  expect(problem(question, "/nowhere")).toBe("there is no model directory /nowhere");
  expect(flagsOf(talk([["model_path", "org/Long-8B"]], state)).model_path).toBe("org/Long-8B");
});

test("the precision starts at the checkpoint's own", () => {
  expect(
    next(
      talk([
        ["model", "org/Long-8B"],
        ["device", "cpu"],
      ]),
    ),
  ).toMatchObject({ initial: "float16" });
});

test("GPUs come chosen, do not mix with the CPU, and bring the question of copies", () => {
  const gpu = (value: string) => ({ value, label: `GPU ${value}`, gpu: true });
  const cpu = { value: "cpu", label: "cpu", gpu: false };
  const state = talk([["model", "bundled"]], begin({ ...facts, devices: [gpu("0"), gpu("1"), cpu] }));
  const question = next(state);
  expect(question).toMatchObject({ kind: "many", initial: ["0", "1"] });
  expect(problem(question, ["0", "cpu"])).toStartWith("GPUs and the CPU do not run together");
  expect(problem(question, [])).toBe("choose at least one");
  expect(next(talk([["device", ["cpu"]]], state)).id).toBe("torch_dtype");
  const sizes = (chosen: string[]) =>
    (next(talk([["device", chosen]], state)) as Extract<Question, { kind: "one" }>).choices;
  expect(sizes(["0"]).map(({ value }) => value)).toEqual(["1", "1/2"]);
  expect(sizes(["0", "1"]).map(({ value }) => value)).toEqual(["1", "2", "1/2"]);
  const flags = flagsOf(
    talk(
      [
        ["device", ["0", "1"]],
        ["gp_num", "1/2"],
        ["torch_dtype", "float16"],
      ],
      state,
    ),
  );
  expect(flags).toMatchObject({ device: ["0", "1"], gp_num: "1/2" });
});

describe("parameters", () => {
  test("one budget for all goes to those that have one, and several values are several columns", () => {
    const state = talk([...machine, ["methods", ["Snap", "Stream"]], ["tuning", "budget"]]);
    const question = next(state);
    expect(problem(question, "0")).toBe("snap.capacity: must be a whole number of rows of at least 1, not 0");
    expect(problem(question, "few")).toStartWith("snap.capacity: must be a whole number");
    expect(problem(question, "")).toStartWith("snap.capacity: must be a whole number");
    expect(problem(question, "1024,16")).toBe("snap: the window is larger than the capacity");
    expect(flagsOf(talk([["capacity", "256, 1024"]], state)).set).toEqual([
      "snap.capacity=256,1024",
      "stream.capacity=256,1024",
    ]);
  });

  test("method by method: a preset, or values that are checked one by one and together", () => {
    const start = talk([...machine, ["methods", ["Snap", "Stream"]], ["tuning", "each"]]);
    expect(flagsOf(talk([["Snap.preset", "kvcf"], ["Stream.preset", "paper"], ...quick], start))).toMatchObject({
      acceleration: ["Snap@kvcf", "Stream"],
    });
    const capacity = talk([["Snap.preset", "values"]], start);
    expect(problem(next(capacity), "-3")).toStartWith("snap.capacity: must be");
    const window = talk([["Snap.capacity", "16"]], capacity);
    expect(problem(next(window), "1.5")).toBe("snap.window: must be a whole number of at least 1, not 1.5");
    expect(problem(next(window), "32")).toBe("snap: the window is larger than the capacity");
    const state = talk([["Snap.window", "8,16"], ["Stream.preset", "paper"], ...quick], window);
    expect(flagsOf(state).set).toEqual(["snap.capacity=16", "snap.window=8,16"]);
  });

  test("a share in place of a capacity is a keepRatio; values equal to the defaults are not set", () => {
    const state = talk([
      ...machine,
      ["methods", ["Snap"]],
      ["tuning", "each"],
      ["Snap.preset", "values"],
      ["Snap.capacity", "0.25"],
      ["Snap.window", "32"],
    ]);
    expect(flagsOf(state).set).toEqual(["snap.keepRatio=0.25"]);
  });

  test("without a budget among the methods, one budget for all is not offered", () => {
    const question = next(talk([...machine, ["methods", ["Kivi"]]])) as Extract<Question, { kind: "one" }>;
    expect(question.choices.map((choice) => choice.value)).toEqual(["defaults", "each"]);
  });
});

test("compositions are offered only where they are allowed", () => {
  const question = next(talk([...machine, ["methods", ["Snap", "Stream", "Kivi"]]])) as Extract<
    Question,
    { kind: "many" }
  >;
  expect(question.choices.map((choice) => choice.value)).toEqual(["Snap+Kivi", "Stream+Kivi"]);
  const state = talk([
    ...machine,
    ["methods", ["Snap", "Kivi"]],
    ["compositions", ["Snap+Kivi"]],
    ["tuning", "each"],
    ["Snap.preset", "kvcf"],
    ["Kivi.preset", "paper"],
  ]);
  const composed = flagsOf(state).acceleration.at(-1);
  expect(composed).toBe("Snap@kvcf+Kivi");
  expect(next(talk([...machine, ["methods", ["Snap", "Stream"]]])).id).toBe("tuning");
  expect(compositions([])).toEqual([]);
});

describe("benchmark", () => {
  const before: [string, Answer][] = [...machine, ["methods", []]];

  test("lengths and samples start at the benchmark's own and are checked", () => {
    const lengths = next(talk([...before, ["benchmark", "quick"]]));
    expect(lengths).toMatchObject({ initial: "512,1024,2048" });
    expect(problem(lengths, "512 100")).toBe('each length must be a whole number of at least 512, not "100"');
    expect(problem(lengths, "")).toStartWith("each length must be");
    expect(problem(lengths, "32768")).toBe("32768 is more than the 16384 tokens that the model takes");
    const samples = next(talk([...before, ["benchmark", "quick"], ["quick.length", "512"]]));
    expect(problem(samples, "0")).toBe("must be a whole number of at least 1");
  });

  test("what was chosen for one benchmark does not stand for another", () => {
    const state = back(talk([...before, ["benchmark", "quick"]], talk([], begin(facts, { "quick.length": "700" }))))!;
    expect(next(talk([["benchmark", "ruler"]], state))).toMatchObject({ initial: "4096,8192" });
    expect(next(talk([["benchmark", "quick"]], state))).toMatchObject({ initial: "700" });
  });

  test("lengths that the model does not take are left out of the start value", () => {
    const short = { ...facts, readModel: () => ({ ...facts.readModel("bundled"), contextLength: 4096 }) };
    expect(next(talk([...before, ["benchmark", "ruler"]], begin(short)))).toMatchObject({ initial: "4096" });
  });

  test("one without lengths asks for none", () => {
    expect(next(talk([...before, ["benchmark", "longbench"]])).id).toBe("longbench.num_samples");
  });

  test("a file of one's own is read before anything else is asked", () => {
    const state = talk([...before, ["benchmark", "own"]]);
    expect(problem(next(state), "absent.yaml")).toBe("absent.yaml cannot be read");
    const done = talk(
      [
        ["cfg_path", "mine.yaml"],
        ["mine.yaml.length", " 600 "],
        ["mine.yaml.num_samples", "3"],
      ],
      state,
    );
    expect(flagsOf(done)).toMatchObject({ cfg_path: "mine.yaml", length: ["600"], num_samples: 3 });
  });
});

test("back takes one question back at a time, keeps its answer as the initial value, and ends at the first", () => {
  let state = talk([...machine, ["methods", ["Snap"]], ["tuning", "budget"], ["capacity", "77"]]);
  state = back(state)!;
  expect(next(state)).toMatchObject({ id: "capacity", initial: "77" });
  state = back(back(state)!)!;
  expect(next(state)).toMatchObject({ id: "methods", initial: ["Snap"] });
  state = talk([["methods", ["Kivi"]], ["tuning", "defaults"], ...quick], state);
  expect(flagsOf(state)).toMatchObject({ acceleration: ["Kivi"] });
  expect(flagsOf(state).set).toBeUndefined();
  for (let left = state.trail.length; left > 0; left--) state = back(state)!;
  expect(next(state).id).toBe("model");
  expect(back(state)).toBeUndefined();
});

test("remembered answers are initial values, and decide nothing by themselves", () => {
  const remembered = { model: "other", model_path: "/gone", methods: ["Snap", "Vanished"], tuning: "each" };
  const state = talk([["from", "new"]], begin(facts, remembered));
  expect(next(state)).toMatchObject({ id: "model", initial: "other" });
  expect(next(talk(machine, state))).toMatchObject({ id: "methods", initial: ["Snap", "Vanished"] });
});

describe("what a conversation starts from", () => {
  const earlier = Object.fromEntries([
    ...machine,
    ["methods", ["Snap"]],
    ["tuning", "budget"],
    ["capacity", "77"],
    ...quick,
  ]);

  test("as last time goes straight to the summary, and from there back question by question", () => {
    const start = begin(facts, earlier);
    expect(next(start)).toMatchObject({ id: "from", initial: "last" });
    expect((next(start) as Extract<Question, { kind: "one" }>).choices[0]!.hint).toBe("Snap · quick · bundled");
    const state = talk([["from", "last"]], start);
    expect(next(state).id).toBe("start");
    expect(flagsOf(state)).toMatchObject({
      acceleration: ["Snap"],
      set: ["snap.capacity=77"],
      length: ["512", "1024"],
    });
    expect(next(back(state)!)).toMatchObject({ id: "quick.num_samples", initial: "2" });
  });

  test("it stops at the first answer that no longer holds", () => {
    const gone = talk([["from", "last"]], begin(facts, { ...earlier, device: "0" }));
    expect(next(gone).id).toBe("device");
    const wrong = talk([["from", "last"]], begin(facts, { ...earlier, capacity: "none" }));
    expect(next(wrong)).toMatchObject({ id: "capacity", initial: "none" });
  });

  test("a named setup gives its answers", () => {
    const setups = [{ value: "mine", label: "mine", hint: "named setup" }];
    const readSetup = () => ({ ...earlier, methods: ["Stream"], tuning: "defaults" });
    const start = begin({ ...facts, setups, readSetup });
    expect(next(start)).toMatchObject({ id: "from", initial: "new" });
    const state = talk([["from", "mine"]], start);
    expect(next(state).id).toBe("start");
    expect(flagsOf(state).acceleration).toEqual(["Stream"]);
  });

  test("without earlier answers or setups nothing is asked about it", () => {
    expect(next(begin(facts)).id).toBe("model");
  });
});

test("the answers survive in the state file; a foreign file is no trouble", () => {
  using state = new PluginFolder();
  const file = join(state.dir, "deep", "wizard.json");
  expect(readMemory(file).answers).toEqual({});
  rememberAnswers({ model: "bundled", methods: ["Snap"] }, file);
  expect(readMemory(file).answers).toEqual({ model: "bundled", methods: ["Snap"] });
  expect(readMemory(state.write("list.json", "[1, 2]")).answers).toEqual({});
  expect(readMemory(state.write("torn.json", '{"answers": {"mo')).answers).toEqual({});
});

test("what cannot run is said at the summary, and cannot be started", () => {
  const question = next(talk([...machine, ["methods", ["GlmOnly"]], ...quick])) as Extract<Question, { kind: "one" }>;
  expect(question.note!.lines).toEqual(["GlmOnly works with models of the families glm4; this one is llama"]);
  expect(question.choices.map((choice) => choice.value)).toEqual(["back", "no"]);
});

test("the command repeats the run in one line, quoted where a shell needs it", () => {
  const flags = { ...flagsOf(talk([...machine, ["methods", ["Snap"]], ["tuning", "defaults"], ...quick])) };
  expect(
    repeatCommand({ ...flags, cfg_path: "my file's.yaml", plugin_dir: ["mine"], set: ["snap.capacity=[1]"] }),
  ).toBe(
    "bun run accel run --model_path bundled --device cpu --torch_dtype bfloat16 --acceleration Snap " +
      "--cfg_path 'my file'\\''s.yaml' --length 512 1024 --num_samples 2 --plugin_dir mine --set 'snap.capacity=[1]'",
  );
});

// What the wizard finds: models that can be run; whether each method fits, and how long it takes; setups there and back.
import { afterEach, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readBenchmarkConfig } from "../../src/bench/config.ts";
import type { DeviceEntry } from "../../src/cli/devices.ts";
import { modelNeeds, readWanted } from "../../src/cli/devices-memory.ts";
import { effectiveConfig } from "../../src/cli/effective-config.ts";
import { Preflight } from "../../src/cli/preflight.ts";
import { readSettings } from "../../src/cli/settings.ts";
import { setupNameProblem, setupNames, setupPath, writeSetup } from "../../src/cli/setups.ts";
import { memoryLines, memoryNeeds, timeLine, type Wanted } from "../../src/cli/wizard-estimate.ts";
import { readMemory, rememberModel, rememberSpeed, speedKey } from "../../src/cli/wizard-memory.ts";
import { findModels } from "../../src/cli/wizard-models.ts";
import { answersOf } from "../../src/cli/wizard-setups.ts";
import { totalOf } from "../../src/engine/estimate.ts";
import { modelInfo } from "../../src/engine/model-info.ts";
import { bundledModel } from "../../src/model/locate.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, pluginDirs } from "../../src/plugin/loader.ts";
import { engineOptions } from "../support/fake-plan.ts";
import { folder } from "../support/folder.ts";
import { wizardFacts } from "../support/wizard-facts.ts";

const kept = { HF_HUB_CACHE: process.env.HF_HUB_CACHE, XDG_CONFIG_HOME: process.env.XDG_CONFIG_HOME };
afterEach(() => {
  for (const [key, value] of Object.entries(kept)) {
    if (value === undefined) delete process.env[key];
    else process.env[key] = value;
  }
});

test("the bundled model, those of the cache that can be run, and those used lately", () => {
  const hub = mkdtempSync(join(tmpdir(), "kvaccel-hub-"));
  process.env.HF_HUB_CACHE = hub;
  const snapshot = (name: string): string => {
    const repository = join(hub, `models--${name}`);
    mkdirSync(join(repository, "refs"), { recursive: true });
    writeFileSync(join(repository, "refs", "main"), "0123456789abcdef");
    mkdirSync(join(repository, "snapshots", "0123456789abcdef"), { recursive: true });
    return join(repository, "snapshots", "0123456789abcdef");
  };
  cpSync(bundledModel, snapshot("org--good"), { recursive: true });
  writeFileSync(join(snapshot("org--other"), "config.json"), '{"model_type": "mamba"}');
  snapshot("org--torn");

  expect(findModels().map((model) => model.value)).toEqual(["bundled", "org/good"]);
  expect(findModels([bundledModel, "org/good"]).at(-1)!.hint).toMatch(/^llama, 5 layers, 10\.\d MiB, used lately$/);
  expect(findModels(["/gone"]).map((model) => model.value)).toEqual(["bundled", "org/good"]);
  rmSync(hub, { recursive: true });
});

const config = shapeConfig("llama-3.1-8b");
const gib = 1024 ** 3;
const device = (id: string, free_bytes: number): DeviceEntry => ({
  id,
  name: "GPU",
  backend: "cuda",
  total_bytes: free_bytes,
  free_bytes,
  compute_capability: "9.0",
});
const registry = await loadPlugins(pluginDirs([], ""));

function wanted(more: Partial<Wanted> = {}): Wanted {
  return {
    config,
    dtype: "bfloat16",
    lengths: [4096, 131072],
    samples: 1,
    methods: parseMethods(["Full", "SnapKV[capacity=2048]"], [], registry, modelInfo(config)),
    devices: [device("cuda:0", 80 * gib), device("cuda:1", 24 * gib), device("cuda:2", gib)],
    copiesPerDevice: 1,
    devicesPerCopy: 1,
    ...more,
  };
}

test("memory of each method at the longest length, beside what each chosen device has free", () => {
  expect(memoryLines(wanted(), registry)).toEqual([
    "memory     at 128K tokens: Full 33.5 GiB, SnapKV[capacity=2048] 18.1 GiB",
    "           GPU 0: 80.0 GiB free, all fit",
    '           GPU 1: 24.0 GiB free, Full will not fit; what does not gets "-" in the tables',
    '           GPU 2: 1.00 GiB free, none fits; what does not gets "-" in the tables',
  ]);
  const full = (more: Partial<Wanted>) => memoryNeeds(wanted(more), registry)[0]!.devices[0]! / gib;
  // weights 14.96 in two bytes, all else 18.5
  expect(full({ dtype: "float32", copiesPerDevice: 2 })).toBeCloseTo(2 * 14.96 + 2 * (2 * 18.5), 0); // the weights are shared
  const devices = [device("cuda:0", 80 * gib), device("cuda:1", 80 * gib)];
  const [split] = memoryNeeds(wanted({ devices, devicesPerCopy: 2 }), registry);
  // half of the layers on each, with caches for as many samples as are in flight
  for (const bytes of split!.devices) expect(bytes / gib).toBeWithin(14.96 / 2 + 4 * 8, 14.96 / 2 + 4 * 8 + 4);
  expect(memoryLines(wanted({ devices, devicesPerCopy: 4 }), registry)).toEqual([]);
});

test("the wizard, a dry run and accel devices show the same figures", async () => {
  const [size, acceleration] = [
    { length: 32768, promptTokens: 32768, newTokens: 32 },
    ["SnapKV", "KIVI", "XAttention"],
  ];
  const devices = [device("cpu:0", 80 * gib)].map((entry) => ({ ...entry, backend: "cpu" as const }));
  const methods = parseMethods(["Full", ...acceleration], [], registry, modelInfo(config));
  const wizard = memoryNeeds(wanted({ lengths: [32768], methods, devices }), registry);
  const engines = [{ ...engineOptions, device: "cpu:0", dtype: "bfloat16" as const, prefillChunk: 4096 }];
  const dry = (await Preflight.of({ config, engines, methods, sizes: [size] })).rows([1]);
  const flags = { shape: "llama-3.1-8b", length: [32768], max_new_tokens: 32, acceleration };
  const { needs } = modelNeeds(await readWanted(flags), devices);
  expect(wizard.map((need) => need.devices[0])).toEqual(dry.map(({ need }) => totalOf(need)));
  expect(needs.map(({ peak_bytes }) => peak_bytes)).toEqual(dry.map(({ need }) => Math.round(totalOf(need))));
  expect(new Set(needs.map(({ peak_bytes }) => peak_bytes)).size).toBe(4);
});

test("time goes by an earlier run's speed, shared by the devices; without one it is a guess and says so", () => {
  const devices = [device("cuda:0", 80 * gib)];
  // 2 methods x 3 samples x 135168 tokens x 0.05 ms
  expect(timeLine(wanted({ devices, samples: 3 }), 0.05)).toBe(
    "time       about 40.6 s, as fast as the last run of this model",
  );
  const half = wanted({ samples: 3, devices: [...devices, ...devices] });
  expect(timeLine(half, 0.05)).toStartWith("time       about 20.3 s");
  expect(timeLine(wanted({ devices }), undefined)).toMatch(/^time {7}about \d.* a guess from the model's size$/);
  expect(timeLine(wanted({ lengths: [] }), 1)).toBeUndefined();
});

test("what is remembered: the models used lately, the last one first, and speeds; each leaves the others alone", () => {
  const file = join(folder(), "deep", "wizard.json");
  for (const model of ["a", "b", "a", "c", "d", "e", "f"]) rememberModel(model, file);
  rememberSpeed(speedKey("a", "cuda:1", "float16"), 0.5, file);
  expect(readMemory(file)).toEqual({
    answers: {},
    models: ["f", "e", "d", "c", "a"],
    speeds: { "a cuda float16": 0.5 },
  });
  writeFileSync(file, "{");
  expect(readMemory(file).models).toEqual([]);
});

test("a setup is a benchmark file that accel run takes by its name, and gives the same answers back", () => {
  process.env.XDG_CONFIG_HOME = folder();
  expect(setupNames()).toEqual([]);
  const flags = {
    model_path: "bundled",
    device: ["cpu"],
    torch_dtype: "bfloat16",
    acceleration: ["SnapKV@kvcf", "KIVI", "SnapKV@kvcf+KIVI"],
    cfg_path: "quick",
    length: ["512"],
    num_samples: 3,
  };
  const path = writeSetup("small-one", effectiveConfig(readSettings(flags)));
  expect(path).toBe(setupPath("small-one"));
  expect(readFileSync(path, "utf8")).toStartWith("# kvaccel setup: accel run --cfg_path small-one\n");
  expect(setupNames()).toEqual(["small-one"]);
  const { config, name } = readSettings({ cfg_path: "Small_One" });
  expect(name).toBe("small-one");
  expect(config).toMatchObject({ acceleration: flags.acceleration, length: [512], num_samples: 3, device: ["cpu"] });
  expect(config.task_names).toHaveLength(5);
  expect(answersOf(path, readBenchmarkConfig(path), wizardFacts(registry))).toMatchObject({
    model: "bundled",
    device: "cpu",
    torch_dtype: "bfloat16",
    methods: ["SnapKV", "KIVI"],
    compositions: ["SnapKV+KIVI"],
    tuning: "each",
    "SnapKV.preset": "kvcf",
    "KIVI.preset": "paper",
    benchmark: "own",
    cfg_path: path,
    [`${path}.length`]: "512",
    [`${path}.num_samples`]: "3",
  });
});

test("names of setups that are refused", () => {
  for (const name of ["", "../x", "a b", "-x"]) expect(setupNameProblem(name, [])).toStartWith("a name takes letters");
  expect(setupNameProblem("Quick", ["quick"])).toBe("Quick is the name of a benchmark");
  expect(setupNameProblem("my.setup-2", ["quick"])).toBeUndefined();
});

// What the wizard finds: models that can be run; whether each method fits, and how long it takes; setups there and back.
import { afterEach, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readBenchmarkConfig } from "../../src/bench/config.ts";
import type { DeviceEntry } from "../../src/cli/devices.ts";
import { effectiveConfig } from "../../src/cli/effective-config.ts";
import { readSettings } from "../../src/cli/settings.ts";
import { setupNameProblem, setupNames, setupPath, writeSetup } from "../../src/cli/setups.ts";
import { memoryLines, memoryNeeds, timeLine, type Wanted } from "../../src/cli/wizard-estimate.ts";
import { readMemory, rememberModel, rememberSpeed, speedKey } from "../../src/cli/wizard-memory.ts";
import { findModels } from "../../src/cli/wizard-models.ts";
import { answersOf } from "../../src/cli/wizard-setups.ts";
import { bundledModel } from "../../src/model/locate.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, pluginDirs } from "../../src/plugin/loader.ts";
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

const info = { family: "llama", layers: 32, heads: 32, kvHeads: 8, headDim: 128, hiddenSize: 4096 };
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
    facts: { info, dtype: "bfloat16", contextLength: 131072 },
    weights: 15 * gib,
    dtype: "bfloat16",
    lengths: [4096, 131072],
    samples: 1,
    methods: parseMethods(["Full", "SnapKV[capacity=2048]"], [], registry, info),
    devices: [device("cuda:0", 80 * gib), device("cuda:1", 24 * gib), device("cuda:2", gib)],
    copiesPerDevice: 1,
    devicesPerCopy: 1,
    ...more,
  };
}

test("memory of each method at the longest length, beside what each chosen device has free", () => {
  const [full, snap] = memoryNeeds(wanted(), registry);
  // weights 15, keys and values 2 x 32 x 8 x 128 x 2 B x 128K = 16, positions 4 B x 32 x 8 x 128K = 1/8, activations 4
  expect(full!.bytes / gib).toBeCloseTo(35.125, 3);
  // SnapKV: 2048 rows instead of 128K, and one layer's full cache of 0.5 beside them
  expect(snap!.bytes / gib).toBeCloseTo(15 + 4 + 16.125 / 64 + 16.125 / 32, 3);
  expect(memoryLines(wanted(), registry)).toEqual([
    "memory     at 128K tokens: Full 35.1 GiB, SnapKV[capacity=2048] 19.8 GiB",
    "           GPU 0: 80.0 GiB free, all fit",
    '           GPU 1: 24.0 GiB free, Full will not fit; what does not gets "-" in the tables',
    '           GPU 2: 1.00 GiB free, none fits; what does not gets "-" in the tables',
  ]);
  const [twice] = memoryNeeds(wanted({ dtype: "float32", copiesPerDevice: 2 }), registry);
  expect(twice!.bytes / gib).toBeCloseTo(30 + 2 * (2 * 20.125 - 0.125), 3); // the weights are shared
  const [split] = memoryNeeds(wanted({ devicesPerCopy: 2 }), registry);
  expect(split!.bytes / gib).toBeCloseTo((15 + 16.125) / 2 + 4, 3);
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

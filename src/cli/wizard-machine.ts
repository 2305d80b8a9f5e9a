// What this machine offers to the wizard beside models: devices, benchmarks, plugins, setups; and what a run will need.
import { join } from "node:path";
import { readBenchmarkConfig } from "../bench/config.ts";
import { formatBytes } from "../bench/format.ts";
import { readConfig } from "../model/config.ts";
import { locateModel } from "../model/locate.ts";
import { KvaError } from "../native/error.ts";
import { parseMethods } from "../plugin/compose.ts";
import { loadPlugins, pluginDirs } from "../plugin/loader.ts";
import { ensureLibraries } from "./build.ts";
import type { DeviceEntry, DeviceReport } from "./devices.ts";
import { effectiveConfig } from "./effective-config.ts";
import { modelInfo, readDtype } from "./engine-setup.ts";
import { benchmarkNames, benchmarkPath, readSettings } from "./settings.ts";
import { setupNameProblem, setupPath, writeSetup } from "./setups.ts";
import { memoryLines, timeLine, type Wanted } from "./wizard-estimate.ts";
import { type Memory, speedKey } from "./wizard-memory.ts";
import { answersOf } from "./wizard-setups.ts";
import type { BenchmarkChoice, DeviceChoice, ModelFacts, WizardFacts, WizardFlags } from "./wizard-types.ts";

function deviceChoice({ id, name, backend, free_bytes }: DeviceEntry): DeviceChoice {
  const value = backend === "cuda" ? id.replace("cuda:", "") : id.replace(/:0$/, "");
  return { value, label: value, hint: `${name}, ${formatBytes(free_bytes)} free`, gpu: backend === "cuda" };
}

/** Devices as `accel devices --json` sees them: a child, so that no CUDA context is made in this process. */
async function findDevices(): Promise<DeviceEntry[]> {
  await ensureLibraries();
  const main = join(import.meta.dir, "..", "main.ts");
  const child = Bun.spawn([process.execPath, main, "devices", "--json"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new KvaError("device", `no device opens: ${errors.trim()}`);
  const { devices } = JSON.parse(output) as DeviceReport;
  if (devices.length === 0) throw new KvaError("device", `no device opens: ${errors.trim()}`);
  return devices;
}

function readBenchmark(written: string): BenchmarkChoice {
  const { task_names, length, num_samples, benchmark_name } = readBenchmarkConfig(benchmarkPath(written));
  const tasks = `${task_names.length} task${task_names.length === 1 ? "" : "s"}`;
  const lengths = length.length === 0 ? "" : `, ${length[0]} to ${length.at(-1)} tokens`;
  const hint = `${benchmark_name}, ${tasks}${lengths}`;
  return {
    value: written,
    label: written,
    hint,
    lengths: length,
    samples: num_samples ?? 10,
    tasks: task_names.length,
  };
}

/** Quick first, the others by name. */
function findBenchmarks(): BenchmarkChoice[] {
  const names = benchmarkNames().sort();
  return [...names.filter((name) => name === "quick"), ...names.filter((name) => name !== "quick")].map(readBenchmark);
}

/** Completes the facts in place. */
export async function addFacts(facts: WizardFacts, memory: Memory): Promise<void> {
  const [devices, registry] = await Promise.all([findDevices(), loadPlugins(pluginDirs())]);
  const read = new Map<string, ModelFacts>();
  const readModel = (path: string): ModelFacts => {
    const before = read.get(path);
    if (before !== undefined) return before;
    const config = readConfig(locateModel(path));
    const known = { info: modelInfo(config), dtype: config.dtype, contextLength: config.contextLength };
    read.set(path, known);
    return known;
  };
  const wantedOf = (flags: WizardFlags): Wanted => {
    const config = readConfig(locateModel(flags.model_path));
    const benchmark = readBenchmark(flags.cfg_path);
    return {
      config,
      dtype: readDtype(flags.torch_dtype, config.dtype),
      lengths: (flags.length ?? []).map(Number),
      samples: flags.num_samples * (benchmark.tasks ?? 1),
      methods: parseMethods(
        ["Full", ...flags.acceleration],
        readSettings({ ...flags }).sets,
        registry,
        modelInfo(config),
      ),
      devices: devices.filter((device) => flags.device.includes(deviceChoice(device).value)),
      copiesPerDevice: Number(flags.gp_num?.split("/")[1] ?? 1),
      devicesPerCopy: Number(flags.gp_num?.split("/")[0] ?? 1),
    };
  };
  const more: Partial<WizardFacts> = {
    devices: devices.map(deviceChoice),
    benchmarks: findBenchmarks(),
    readModel,
    readBenchmark,
    readSetup: (name) => answersOf(setupPath(name), readBenchmarkConfig(setupPath(name)), facts),
    saveSetup: (name, flags) => writeSetup(name, effectiveConfig(readSettings({ ...flags }))),
    setupNameProblem: (name) => setupNameProblem(name, benchmarkNames()),
    estimate(flags) {
      const wanted = wantedOf(flags);
      const speed = memory.speeds[speedKey(flags.model_path, wanted.devices[0]?.id ?? "", flags.torch_dtype)];
      const time = timeLine(wanted, speed);
      return [...memoryLines(wanted, registry), ...(time === undefined ? [] : [time])];
    },
  };
  Object.defineProperties(facts, Object.getOwnPropertyDescriptors({ ...more, registry }));
}

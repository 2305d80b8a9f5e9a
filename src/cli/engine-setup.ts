// What run, bench, generate and score share: model, device, dtype and methods, from flags to what an engine is started with.
import { modelInfo } from "../engine/model-info.ts";
import type { EngineOptions, MethodSpec, ModelSource } from "../engine/protocol.ts";
import { type ModelConfig, readConfig } from "../model/config.ts";
import { shapeConfig } from "../model/shapes.ts";
import { KvaError } from "../native/error.ts";
import { baseline, parseMethods } from "../plugin/compose.ts";
import type { ModelInfo } from "../plugin/index.ts";
import { describeError, loadPlugins, pluginDirs, type Registry } from "../plugin/loader.ts";
import { suggestion } from "../plugin/nearest.ts";
import type { Sets } from "../plugin/sets.ts";
import { listOf } from "./argv.ts";
import { chooseDevices } from "./devices.ts";
import { fetchModel } from "./download.ts";
import type { EngineFlags, MethodFlags } from "./options.ts";
import { tell } from "./output.ts";
import { placeModels } from "./placement.ts";
import { whyNotShared } from "./sharing.ts";

export interface Model {
  config: ModelConfig;
  source: ModelSource;
}

const dtypeNames: Record<string, EngineOptions["dtype"]> = {
  bfloat16: "bfloat16",
  bf16: "bfloat16",
  float16: "float16",
  fp16: "float16",
  half: "float16",
  float32: "float32",
  fp32: "float32",
  float: "float32",
};

/** rows of a row chunk in prefill, where --prefill_chunk does not say */
export const defaultPrefillChunk = 4096;

export function readDtype(word: string | undefined, fallback: EngineOptions["dtype"]): EngineOptions["dtype"] {
  if (word === undefined || word === "auto") return fallback;
  const dtype = dtypeNames[word.toLowerCase().replace(/^torch\./, "")];
  if (dtype) return dtype;
  throw new KvaError("usage", `--torch_dtype ${word}: ${suggestion(word, ["bfloat16", "float16", "float32"])}`);
}

/** `20GiB`, `8 GB`, `1000000` */
export function readBytes(word: string | undefined): number {
  if (word === undefined) return 0;
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?$/i.exec(word.trim());
  if (!match) throw new KvaError("usage", `--memory_limit ${word}: it takes bytes, as in 20GiB or 8GB`);
  const power = "kmgt".indexOf(match[2]!.toLowerCase() || " ") + 1;
  return Math.round(Number(match[1]) * (match[3] ? 1024 : 1000) ** power);
}

/** The model of --model_path, downloaded where it is not here yet, or of a shape with random weights. */
export async function readModel(
  flags: EngineFlags,
  shape?: { shape: string; layers?: number; seed: number },
): Promise<Model> {
  if (!shape) {
    const dir = await fetchModel(flags.model_path ?? "bundled");
    return { config: readConfig(dir), source: { dir } };
  }
  if (flags.model_path !== undefined) throw new KvaError("usage", "--shape and --model_path exclude each other");
  return { config: shapeConfig(shape.shape, shape.layers), source: shape };
}

/**
 * One engine for each model copy; those on one device share its weights where the system lets them. Builds a missing library, so
 * everything else is checked before.
 */
export async function setUpEngines(flags: EngineFlags, { config, source }: Model): Promise<EngineOptions[]> {
  const common = {
    model: source,
    dtype: readDtype(flags.torch_dtype, config.dtype),
    prefillChunk: flags.prefill_chunk ?? defaultPrefillChunk,
    threads: flags.threads ?? 0,
    memoryLimit: readBytes(flags.memory_limit),
    graphs: flags.eager !== true,
  };
  const { groups, copies } = placeModels(await chooseDevices(listOf(flags.device)), flags.gp_num);
  if (copies === 1) return groups.map((device) => ({ ...common, device }));
  const reason = await whyNotShared(groups);
  if (reason !== undefined) tell(`${copies} copies of the weights on each device, not one: ${reason}`);
  const sharing = reason === undefined ? { sharedBy: copies } : {};
  return groups.flatMap((device) => Array.from({ length: copies }, () => ({ ...common, ...sharing, device })));
}

/** The one engine of a command that runs one model copy. */
export async function setUpEngine(flags: EngineFlags, model: Model): Promise<EngineOptions> {
  if (flags.gp_num?.includes("/")) {
    throw new KvaError(
      "usage",
      `--gp_num ${flags.gp_num}: this command runs one model copy; it takes 1, or devices per model`,
    );
  }
  return (await setUpEngines(flags, model))[0]!;
}

export { modelInfo };

/** Plugins of all folders; a broken file is told on stderr and stops nothing else. */
export async function readPlugins(flags: MethodFlags): Promise<Registry> {
  const registry = await loadPlugins(pluginDirs(flags.plugin_dir));
  for (const error of registry.errors) console.error(describeError(error));
  return registry;
}

/** The methods of a run, Full first unless it is not wanted. */
export async function readMethods(
  flags: MethodFlags,
  info: ModelInfo,
  noBaseline: boolean,
  sets: Sets = [],
): Promise<MethodSpec[]> {
  return methodsFrom(await readPlugins(flags), flags, info, noBaseline, sets);
}

export function methodsFrom(
  registry: Registry,
  flags: MethodFlags,
  info: ModelInfo,
  noBaseline: boolean,
  sets: Sets = [],
): MethodSpec[] {
  const methods = parseMethods(flags.acceleration ?? [], [sets, flags.set ?? []].flat(), registry, info);
  const full = baseline(registry);
  const others = methods.filter((method) => method.hash !== full.hash);
  if (!noBaseline) return [full, ...others];
  if (methods.length > 0) return methods;
  throw new KvaError("usage", "--no_baseline without --acceleration leaves no method to run");
}

/** The one method of a command that runs one; Full where none is named. */
export async function readMethod(flags: MethodFlags, config: ModelConfig): Promise<MethodSpec> {
  const methods = await readMethods(
    { ...flags, acceleration: flags.acceleration ?? ["Full"] },
    modelInfo(config),
    true,
  );
  if (methods.length === 1) return methods[0]!;
  throw new KvaError("usage", `this command runs one method at a time, not ${methods.map((m) => m.label).join(", ")}`);
}

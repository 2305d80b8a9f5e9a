// From a setup's file back to the wizard's answers, so that it can be looked at and changed before it runs.
import type { BenchmarkConfig } from "../bench/config-schema.ts";
import type { Registry } from "../plugin/loader.ts";
import { splitMethods } from "../plugin/split.ts";
import { stepOf } from "./wizard-questions.ts";
import type { Answer, WizardFacts } from "./wizard-types.ts";

type Source = Partial<Pick<BenchmarkConfig, "model_path" | "device" | "gp_num" | "torch_dtype" | "acceleration">> & {
  length: readonly number[];
  num_samples?: number | null;
};

/** The benchmark of the answers is the file itself: its parameters and tasks stay as they are. */
export function answersOf(path: string, config: Source, facts: WizardFacts): Record<string, Answer> {
  const models = facts.models.map((model) => model.value);
  const model = config.model_path ?? "bundled";
  const devices = [config.device ?? []].flat().map(String);
  const singles = facts.devices.length === 1;
  return {
    ...(models.includes(model) ? { model } : { model: "other", model_path: model }),
    ...(devices.length === 0 ? {} : { device: singles ? devices[0]! : devices }),
    ...(config.gp_num === undefined ? {} : { gp_num: config.gp_num }),
    ...(config.torch_dtype === undefined ? {} : { torch_dtype: config.torch_dtype }),
    ...methodAnswers([config.acceleration ?? []].flat(), facts.registry),
    benchmark: "own",
    cfg_path: path,
    [stepOf({ value: path }, "length")]: config.length.join(","),
    ...(config.num_samples == null ? {} : { [stepOf({ value: path }, "num_samples")]: String(config.num_samples) }),
  };
}

function methodAnswers(texts: readonly string[], registry: Registry): Record<string, Answer> {
  const written = splitMethods(texts).filter((parts) => parts[0]!.name.toLowerCase() !== "all");
  const named = written.map((parts) =>
    parts.map(({ name, preset }) => ({ name: registry.find(name).plugin.name, preset })),
  );
  const everything = written.length < splitMethods(texts).length;
  const all = registry.plugins.filter(({ plugin }) => plugin.category !== "full").map(({ plugin }) => plugin.name);
  const methods = everything
    ? all
    : [...new Set(named.flat().map(({ name }) => name))].filter((name) => name !== "Full");
  const presets = named.flat().filter(({ preset }) => preset !== "paper");
  return {
    methods,
    compositions: named.filter((parts) => parts.length > 1).map((parts) => parts.map(({ name }) => name).join("+")),
    tuning: presets.length > 0 ? "each" : "defaults",
    ...Object.fromEntries(methods.map((name) => [`${name}.preset`, "paper"])),
    ...Object.fromEntries(presets.map(({ name, preset }) => [`${name}.preset`, preset])),
  };
}

// What a run will need: memory of each method at the longest length, and time, as far as both can be known before it starts.
import { formatBytes, formatCount, formatDuration } from "../bench/format.ts";
import { estimateDevices, totalOf } from "../engine/estimate.ts";
import { methodFrom } from "../engine/method.ts";
import { modelInfo } from "../engine/model-info.ts";
import type { EngineOptions, MethodSpec } from "../engine/protocol.ts";
import type { ModelConfig } from "../model/config.ts";
import { weightBytes } from "../model/plan.ts";
import { splitLayers } from "../model/stages.ts";
import { elementBytes } from "../native/tensor.ts";
import type { Registry } from "../plugin/loader.ts";
import type { DeviceEntry } from "./devices.ts";
import { defaultPrefillChunk } from "./engine-setup.ts";

export interface Wanted {
  config: ModelConfig;
  dtype: EngineOptions["dtype"];
  /** prompt tokens, the longest last; empty where the benchmark has no lengths of its own */
  lengths: readonly number[];
  /** samples at each length, over all tasks */
  samples: number;
  methods: readonly MethodSpec[];
  /** those chosen */
  devices: readonly DeviceEntry[];
  /** engines that share the weights of a device */
  copiesPerDevice: number;
  /** over which the layers of a copy are split */
  devicesPerCopy: number;
}

export interface Need {
  label: string;
  /** bytes of each chosen device, at the longest length */
  devices: number[];
}

/** tokens that a sample's answer is taken to have */
const newTokens = 32;

/** What each method needs, as engine/estimate.ts has it; nothing where no copy of the model is possible. */
export function memoryNeeds(wanted: Wanted, registry: Registry): Need[] {
  const { config, dtype, devices, devicesPerCopy: size, copiesPerDevice: copies } = wanted;
  if (size > Math.min(devices.length, config.layers)) return [];
  const promptTokens = Math.max(0, ...wanted.lengths);
  const groups = Array.from({ length: Math.floor(devices.length / size) }, (_, at) =>
    devices.slice(at * size, (at + 1) * size),
  );
  return wanted.methods.map((spec) => {
    const method = methodFrom(spec, registry, modelInfo(config));
    const needs = groups.flatMap((group) => {
      const free = group.map(({ free_bytes }) => free_bytes);
      const layout = { ends: splitLayers(config, dtype, free), copies, sharedWeights: copies > 1 };
      const { backend } = group[0]!;
      const request = { config, dtype, method, promptTokens, newTokens, prefillChunk: defaultPrefillChunk, backend };
      return estimateDevices(request, layout).map(totalOf);
    });
    return { label: spec.label, devices: needs };
  });
}

/** One line a device: which methods fit there at the longest length. */
export function memoryLines(wanted: Wanted, registry: Registry): string[] {
  if (wanted.lengths.length === 0) return [];
  const needs = memoryNeeds(wanted, registry);
  if (needs.length === 0) return [];
  const tokens = formatCount(Math.max(...wanted.lengths));
  const texts = needs.map(({ label, devices }) => `${label} ${formatBytes(Math.max(...devices))}`);
  const verdicts = wanted.devices.slice(0, needs[0]!.devices.length).map(({ id, free_bytes }, at) => {
    const over = needs.filter(({ devices }) => devices[at]! > free_bytes).map(({ label }) => label);
    const name = id.replace("cuda:", "GPU ").replace(/:0$/, "");
    const free = `${name}: ${formatBytes(free_bytes)} free`;
    if (over.length === 0) return `${free}, all fit`;
    const none = over.length === needs.length;
    return `${free}, ${none ? "none fits" : `${over.join(", ")} will not fit`}; what does not gets "-" in the tables`;
  });
  return [`memory     at ${tokens} tokens: ${texts.join(", ")}`, ...verdicts.map((line) => `           ${line}`)];
}

/** Rough figures of a device for a model that it has not run yet. */
function roughRates({ backend, compute_capability }: DeviceEntry): { flops: number; bytes: number } {
  if (backend === "cpu") return { flops: 6e10, bytes: 1e10 };
  const capability = Number(compute_capability ?? 0);
  if (capability >= 9) return { flops: 4e14, bytes: 2.4e12 };
  return capability === 8 ? { flops: 1.5e14, bytes: 1.2e12 } : { flops: 6e13, bytes: 6e11 };
}

/** Milliseconds of a prompt token and its share of decode. */
export function roughSpeed({ config, dtype, lengths }: Wanted, device: DeviceEntry): number {
  const { flops, bytes } = roughRates(device);
  const weights = weightBytes(config, dtype);
  const parameters = weights / elementBytes[dtype];
  const tokens = lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, lengths.length);
  const attention = 2 * tokens * config.layers * config.heads * config.headDim;
  const decode = (newTokens * Math.max(weights / bytes, 0.001)) / Math.max(1, tokens);
  return 1000 * ((2 * parameters + attention) / flops + decode);
}

/** `speed`: milliseconds of a prompt token, as an earlier run measured it. */
export function timeLine(wanted: Wanted, speed: number | undefined): string | undefined {
  const { lengths, samples, methods, devices, copiesPerDevice, devicesPerCopy } = wanted;
  if (lengths.length === 0 || devices.length === 0) return undefined;
  const tokens = samples * methods.length * lengths.reduce((sum, length) => sum + length, 0);
  const perToken = speed ?? roughSpeed(wanted, devices[0]!);
  const time = formatDuration((tokens * perToken) / ((devices.length * copiesPerDevice) / devicesPerCopy));
  const why = speed === undefined ? "a guess from the model's size" : "as fast as the last run of this model";
  return `time       about ${time}, ${why}`;
}

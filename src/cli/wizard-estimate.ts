// What a run will need: memory of each method at the longest length, and time, as far as both can be known before it starts.
import { formatBytes, formatCount, formatDuration } from "../bench/format.ts";
import { expectedStorage, type LoadedMethod } from "../engine/method.ts";
import type { MethodSpec } from "../engine/protocol.ts";
import type { ModelInfo } from "../plugin/index.ts";
import type { Registry } from "../plugin/loader.ts";
import { resolveParams } from "../plugin/params.ts";
import type { DeviceEntry } from "./devices.ts";
import type { ModelFacts } from "./wizard-types.ts";

const elementBytes: Record<string, number> = { bfloat16: 2, float16: 2, float32: 4 };

export interface Wanted {
  facts: ModelFacts;
  /** bytes of all weights in the checkpoint's type */
  weights: number;
  dtype: string;
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
  /** of a device */
  bytes: number;
  /** what the cache holds after the prompt, on all devices of the copy */
  cacheBytes: number;
}

function loaded(spec: MethodSpec, registry: Registry, model: ModelInfo): LoadedMethod {
  const parts = spec.parts.map(({ name, preset, params }) => {
    const { plugin } = registry.find(name);
    return { plugin, values: resolveParams(plugin, preset, params, model).values };
  });
  return { spec, parts };
}

/**
 * Layer-major prefill: weights, hidden states, queries and output of the whole prompt, one layer's full cache, and what the
 * method keeps of all layers.
 */
export function memoryNeeds(wanted: Wanted, registry: Registry): Need[] {
  const { info } = wanted.facts;
  const unit = elementBytes[wanted.dtype] ?? 2;
  const stored = wanted.weights * (unit / (elementBytes[wanted.facts.dtype] ?? 2));
  const tokens = Math.max(0, ...wanted.lengths);
  const rows = info.kvHeads * tokens;
  const layerBytes = rows * (2 * info.headDim * unit + 4);
  const activations = (2 * info.hiddenSize + 2 * info.heads * info.headDim) * unit * tokens;
  return wanted.methods.map((spec) => {
    const method = loaded(spec, registry, info);
    let cacheBytes = 0;
    for (let layer = 0; layer < info.layers; layer++) {
      const head = expectedStorage(method, tokens, layer, info, unit);
      cacheBytes += info.kvHeads * (head.keyBytes + head.valueBytes + 4 * head.rows);
    }
    const full = cacheBytes >= info.layers * layerBytes;
    const own = cacheBytes / wanted.devicesPerCopy + activations + (full ? 0 : layerBytes);
    return { label: spec.label, bytes: stored / wanted.devicesPerCopy + wanted.copiesPerDevice * own, cacheBytes };
  });
}

/** One line a device: which methods fit there at the longest length. */
export function memoryLines(wanted: Wanted, registry: Registry): string[] {
  if (wanted.lengths.length === 0) return [];
  const needs = memoryNeeds(wanted, registry);
  const tokens = formatCount(Math.max(...wanted.lengths));
  const texts = needs.map(({ label, bytes }) => `${label} ${formatBytes(bytes)}`);
  const verdicts = wanted.devices.map(({ id, free_bytes }) => {
    const over = needs.filter(({ bytes }) => bytes > free_bytes).map(({ label }) => label);
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

const newTokens = 32;

/** Milliseconds of a prompt token and its share of decode. */
export function roughSpeed({ facts: { info, dtype }, weights, lengths }: Wanted, device: DeviceEntry): number {
  const { flops, bytes } = roughRates(device);
  const parameters = weights / (elementBytes[dtype] ?? 2);
  const tokens = lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, lengths.length);
  const attention = 2 * tokens * info.layers * info.heads * info.headDim;
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

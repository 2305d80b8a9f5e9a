// `accel devices --model_path …`: peak memory of a model under each method at each length, which devices hold it, and how long it loads.
import { statSync } from "node:fs";
import { formatBytes, formatCount, formatDuration } from "../bench/format.ts";
import { type TableData, text } from "../bench/table.ts";
import { estimateMemory, totalOf } from "../engine/estimate.ts";
import { type LoadedMethod, methodFrom } from "../engine/method.ts";
import type { EngineOptions, MethodSpec } from "../engine/protocol.ts";
import { type ModelConfig, readConfig } from "../model/config.ts";
import { ggufFiles, isGguf } from "../model/gguf.ts";
import { remoteFacts } from "../model/hub-facts.ts";
import { locateModel } from "../model/locate.ts";
import { weightBytes } from "../model/plan.ts";
import { readCheckpoint } from "../model/safetensors.ts";
import type { Backend } from "../native/library.ts";
import type { DeviceEntry } from "./devices.ts";
import { defaultPrefillChunk, methodsFrom, modelInfo, readDtype, readModel, readPlugins } from "./engine-setup.ts";
import type { MethodFlags } from "./options.ts";

export interface DevicesFlags extends MethodFlags {
  json?: boolean;
  model_path?: string;
  shape?: string;
  length?: number[];
  max_new_tokens?: number;
  torch_dtype?: string;
  prefill_chunk?: number;
}

export interface Wanted {
  name: string;
  config: ModelConfig;
  dtype: EngineOptions["dtype"];
  methods: readonly { spec: MethodSpec; method: LoadedMethod }[];
  lengths: readonly number[];
  newTokens: number;
  prefillChunk: number;
  /** of the checkpoint's files; null: no files, random weights */
  fileBytes: number | null;
}

/** Model and methods, without a device. */
export async function readWanted(flags: DevicesFlags): Promise<Wanted> {
  const { config, fileBytes } = await factsOf(flags);
  const info = modelInfo(config);
  const registry = await readPlugins(flags);
  const specs = methodsFrom(registry, { ...flags, acceleration: flags.acceleration ?? ["all"] }, info, false);
  return {
    name: flags.shape ?? flags.model_path!,
    config,
    dtype: readDtype(flags.torch_dtype, config.dtype),
    methods: specs.map((spec) => ({ spec, method: methodFrom(spec, registry, info) })),
    lengths: flags.length ?? [4096, 32768, 131072],
    newTokens: flags.max_new_tokens ?? 128,
    prefillChunk: flags.prefill_chunk ?? defaultPrefillChunk,
    fileBytes,
  };
}

/** A model of the hub that is not in the cache is asked for its configuration, not for its weights. */
async function factsOf(flags: DevicesFlags): Promise<Pick<Wanted, "config" | "fileBytes">> {
  if (flags.shape !== undefined) {
    const { config } = await readModel(flags, { shape: flags.shape, seed: 0 });
    return { config, fileBytes: null };
  }
  const remote = await remoteFacts(flags.model_path!);
  if (remote) return remote;
  const dir = locateModel(flags.model_path!);
  return { config: readConfig(dir), fileBytes: checkpointBytes(dir) };
}

function checkpointBytes(dir: string): number {
  const files = isGguf(dir) ? ggufFiles(dir) : new Set([...readCheckpoint(dir).values()].map(({ file }) => file));
  return [...files].reduce((sum, file) => sum + statSync(file).size, 0);
}

/** Bytes a second from the page cache to the device, the check for finite numbers included. */
const loadRates: Record<Backend, number> = { cuda: 2.5e9, cpu: 1.2e9 };

export interface Need {
  method: string;
  length: number;
  peak_bytes: number;
  cache_bytes: number;
  /** devices with that much free, by id */
  fits: string[];
}

export interface ModelNeeds {
  name: string;
  dtype: string;
  weight_bytes: number;
  /** by backend, from the page cache; null: a shape has no files */
  load_seconds: Partial<Record<Backend, number>> | null;
  needs: Need[];
  /** the least number of devices of each kind that hold the weights, by the device's name; absent where one does */
  split: Record<string, number>;
}

export function modelNeeds(wanted: Wanted, devices: readonly DeviceEntry[]): ModelNeeds {
  const { config, dtype, fileBytes, newTokens, prefillChunk } = wanted;
  const weights = weightBytes(config, dtype);
  const backends = [...new Set(devices.map(({ backend }) => backend))];
  const backend = backends.includes("cuda") ? "cuda" : "cpu";
  const needs = wanted.methods.flatMap(({ spec, method }) =>
    wanted.lengths.map((promptTokens): Need => {
      const estimate = estimateMemory({ config, dtype, method, promptTokens, newTokens, prefillChunk, backend });
      const peak = totalOf(estimate);
      const fits = devices.filter(({ free_bytes }) => peak <= free_bytes).map(({ id }) => id);
      return {
        method: spec.label,
        length: promptTokens,
        peak_bytes: Math.round(peak),
        cache_bytes: Math.round(estimate.cache),
        fits,
      };
    }),
  );
  const tight = devices.filter(({ backend, free_bytes }) => backend === "cuda" && weights > free_bytes);
  return {
    name: wanted.name,
    dtype,
    weight_bytes: weights,
    load_seconds:
      fileBytes === null
        ? null
        : Object.fromEntries(backends.map((backend) => [backend, Math.max(fileBytes, weights) / loadRates[backend]])),
    needs,
    split: Object.fromEntries(tight.map(({ name, total_bytes }) => [name, Math.ceil(weights / (0.9 * total_bytes))])),
  };
}

/** A row for each method, a column for each length; under a device's name what does not fit there. */
export function needsTable(
  { name, dtype, weight_bytes, load_seconds, needs, split }: ModelNeeds,
  devices: readonly DeviceEntry[],
): TableData {
  const lengths = [...new Set(needs.map(({ length }) => length))];
  const methods = [...new Set(needs.map(({ method }) => method))];
  const of = (method: string, length: number) =>
    needs.find((need) => need.method === method && need.length === length)!;
  const times = Object.entries(load_seconds ?? {}).map(([backend, s]) => `${formatDuration(1000 * s)} to ${backend}`);
  const lacks = devices.map(({ id, free_bytes }) => {
    const over = lengths.flatMap((length) => {
      const out = methods.filter((method) => !of(method, length).fits.includes(id));
      if (out.length === 0) return [];
      return [`${formatCount(length)} ${out.length === methods.length ? "no method" : `not ${out.join(", ")}`}`];
    });
    return `${id}: ${formatBytes(free_bytes)} free, ${over.length === 0 ? "all fit" : over.join("; ")}`;
  });
  const splits = Object.entries(split).map(
    ([device, count]) => `${device}: the weights need ${count} of them, --gp_num ${count}`,
  );
  return {
    title: `Peak memory: ${name}, ${dtype}, one sequence`,
    columns: [
      { title: "method", key: "method", align: "left" },
      ...lengths.map((length) => ({ title: formatCount(length), key: String(length) })),
    ],
    headColumns: 1,
    rows: methods.map((method) => [
      text(method),
      ...lengths.map((length) => text(formatBytes(of(method, length).peak_bytes))),
    ]),
    notes: [
      `weights ${formatBytes(weight_bytes)}${times.length > 0 ? `; loading from the page cache takes about ${times.join(", ")}` : ""}`,
      ...lacks,
      ...splits,
    ],
  };
}

// The memory of `make bench`: what a test needs, as the engine estimates it, what the device has, and how many layers of a shape fit.
import { formatBytes } from "../../src/bench/format.ts";
import { estimateMemory, type MemoryEstimate } from "../../src/engine/estimate.ts";
import { methodFrom } from "../../src/engine/method.ts";
import { modelInfo } from "../../src/engine/model-info.ts";
import type { MethodSpec } from "../../src/engine/protocol.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import type { Backend } from "../../src/native/library.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import type { Registry } from "../../src/plugin/loader.ts";
import type { Test } from "./end-to-end.ts";
import { engineOptions } from "./engine-options.ts";
import type { Room } from "./schedule.ts";

export function methodOf(name: string, registry: Registry, config: ModelConfig): MethodSpec {
  return parseMethods([name], [], registry, modelInfo(config))[0]!;
}

export function memoryOf(test: Test, config: ModelConfig, backend: Backend, registry: Registry): MemoryEstimate {
  const method = methodFrom(methodOf(test.method, registry, config), registry, modelInfo(config));
  const { prompt: promptTokens, newTokens, sequences: batch = 1 } = test;
  const { dtype, prefillChunk } = engineOptions;
  return estimateMemory({
    config,
    dtype,
    method,
    promptTokens,
    newTokens: newTokens + 1,
    prefillChunk,
    backend,
    batch,
  });
}

/** CUDA's own part of a process; the engine has one of its own */
const processBytes: Record<Backend, number> = { cuda: 2 ** 29, cpu: 0 };

/** Of a device with so many free bytes, for an engine whose allocator gives at most `limit`. */
export function roomFor(free: number, backend: Backend, limit = Number.POSITIVE_INFINITY): Room {
  const bytes = Math.max(0, free - processBytes[backend]);
  if (limit <= bytes) return { bytes: limit, words: `the limit is ${formatBytes(limit)}` };
  return { bytes, words: `${backend === "cuda" ? "the card" : "the machine"} has ${formatBytes(bytes)} free` };
}

/** The most of so many layers, halved as often as it takes, with which at least half of the tests fit. */
export function mostLayers(layers: number, room: number, needs: (layers: number) => readonly number[]): number {
  for (let most = layers; most > 1; most = Math.ceil(most / 2)) {
    const all = needs(most);
    if (2 * all.filter((bytes) => bytes <= room).length >= all.length) return most;
  }
  return 1;
}

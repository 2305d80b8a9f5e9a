// Engines on tiny random models, methods by name, and traces: the logits and kept rows of every step.
import { expect } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { breathe, greedy, request, type Trace, type TraceInput, traceMethod } from "../../src/check/trace.ts";
import { Engine } from "../../src/engine/engine.ts";
import { positionsOf } from "../../src/engine/kept.ts";
import { loadMethod } from "../../src/engine/method.ts";
import type { Completion, EngineOptions, MethodSpec, Request } from "../../src/engine/protocol.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import type { TestBackend } from "./backends.ts";
import { Random } from "./random.ts";
import { type TinyModel, writeTinyModel } from "./tiny-model.ts";
import { relativeError } from "./tolerance.ts";

export { breathe, greedy, request, type Trace, type TraceInput };

export interface TestModel extends TinyModel {
  /** a directory that is there already, in place of a tiny model */
  dir?: string;
}

/** An engine on a tiny model; its files are gone once it is loaded. */
export function openEngine(
  backend: { device: string },
  model: TestModel = {},
  options: Partial<EngineOptions> = {},
): Engine {
  const dir = mkdtempSync(join(tmpdir(), "kvaccel-engine-"));
  try {
    return Engine.load({
      model: { dir: model.dir ?? writeTinyModel(join(dir, "model"), model) },
      device: backend.device,
      dtype: "float32",
      prefillChunk: 4096,
      threads: 0,
      memoryLimit: 0,
      graphs: true,
      ...options,
    });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Shapes of tiny models whose groups have four and seven query heads. */
export const groupsOfFour: TinyModel = {};
export const groupsOfSeven: TinyModel = {
  config: { hidden_size: 112, num_attention_heads: 14, num_key_value_heads: 2, num_hidden_layers: 3 },
  seed: 7,
};

/** One method as the command line writes it: `SnapKV[capacity=32]`; other folders' plugins too. */
export async function methodOf(text: string, folders: readonly string[] = []): Promise<MethodSpec> {
  const registry = await loadPlugins([ownPlugins, ...folders]);
  const [spec, ...more] = parseMethods([text], [], registry);
  if (!spec || more.length > 0) throw new Error(`${text} is not one method`);
  return spec;
}

/** Token ids of a tiny model's vocabulary, the special ones left out. */
export const randomIds = (count: number, seed: number): number[] => Array.from(new Random(seed).ints(count, 3, 259));

/** A completion with its kept positions as numbers: [layer][kvHead]. */
export type Generated = Omit<Completion, "kept"> & {
  /** after the prompt */
  kept?: number[][][];
  /** when the sequence ended */
  keptAtEnd?: number[][][];
};

export async function generate(
  engine: Engine,
  method: MethodSpec,
  requests: Request[],
  breathing = breathe,
  pipeline?: number,
): Promise<Generated[]> {
  const numbers = (ranges: string[][]) => ranges.map((heads) => heads.map(positionsOf));
  return (await engine.generate(method, requests, { breathe: breathing }, pipeline)).map(({ kept, ...rest }) => ({
    ...rest,
    ...(kept && { kept: numbers(kept.prompt), keptAtEnd: numbers(kept.end) }),
  }));
}

/** Completions without what differs from run to run: times and peaks. */
export const settled = (completions: readonly Generated[]) =>
  completions.map(({ prefillMs, methodMs, decodeMethodMs, selectMs, decodeMs, tokenMs, peakBytes, ...rest }) => ({
    ...rest,
    steps: tokenMs.length,
  }));

/** Bytes and allocations of an engine while no request runs. */
export function footprint(engine: Engine) {
  const all = engine.decoder.stages.map(({ context }) => {
    context.sync();
    context.trim();
    return context.memory();
  });
  return {
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    allocations: all.reduce((sum, { allocations }) => sum + allocations, 0),
  };
}

/** Runs prompts and given tokens as one batch under a method. */
export async function trace(
  engine: Engine,
  method: MethodSpec,
  inputs: readonly TraceInput[],
  graphs = true,
): Promise<Trace[]> {
  return await traceMethod(engine, await loadMethod(method, engine.model), inputs, graphs);
}

export const traceOf = (promptTokens: number, steps: number, seed: number): TraceInput => ({
  ids: randomIds(promptTokens + steps, seed),
  promptTokens,
});

/** Same rows kept; logits bit for bit on the CPU, where sums never depend on what runs beside them, close on CUDA. */
export function expectSameTrace(backend: TestBackend, actual: Trace, expected: Trace): void {
  expect(actual.kept).toEqual(expected.kept);
  if (backend.name === "cpu") {
    expect(actual.logits).toEqual(expected.logits);
    return;
  }
  expect(actual.logits).toHaveLength(expected.logits.length);
  actual.logits.forEach((logits, step) => {
    expect(relativeError(logits, expected.logits[step]!)).toBeLessThan(2e-5);
  });
}

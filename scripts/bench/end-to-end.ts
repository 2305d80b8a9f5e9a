// Prompts and new tokens through the engine, as users run it, with raw samples kept.
import { EngineProcess } from "../../src/bench/engine-process.ts";
import { stream } from "../../src/bench/prng.ts";
import { modelInfo, readMethods } from "../../src/cli/engine-setup.ts";
import type { Completion, EngineOptions, MethodSpec, Request } from "../../src/engine/protocol.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import type { Ceilings } from "./device.ts";
import { engineOptions } from "./engine-options.ts";
import { gib, median, type Row } from "./row.ts";

export interface Plan {
  shape: string;
  layers?: number;
  device: string;
  memoryLimit?: number;
}

export interface Test {
  method: string;
  prompt: number;
  newTokens: number;
  sequences?: number;
  repetitions?: number;
  /** share of the blocks that a sparse method reads in prefill, in place of what it chose */
  density?: number;
}

export interface Sample {
  prefillMs: number[];
  methodMs: number[];
  tokenMs: number[];
  cacheBytes: number;
  peakBytes: number;
  /** of a sparse method: share of the blocks that were read, and the time of the choice in milliseconds */
  sparse?: { density: number; selectMs: number };
}

/** An engine with random weights, and the methods by name. */
export class Runner {
  private constructor(
    private readonly options: EngineOptions,
    private engine: EngineProcess,
    readonly config: ModelConfig,
  ) {}

  static async start({ shape, layers, device, memoryLimit = 0 }: Plan): Promise<Runner> {
    const options: EngineOptions = {
      model: { shape, ...(layers === undefined ? {} : { layers }), seed: 42 },
      device,
      ...engineOptions,
      memoryLimit,
    };
    return new Runner(options, await EngineProcess.start(options), shapeConfig(shape, layers));
  }

  async method(name: string): Promise<MethodSpec> {
    return (await readMethods({ acceleration: [name] }, modelInfo(this.config), true))[0]!;
  }

  /** Runs a test; the first run does not count where `warm` is not given. Throws where the engine fails. */
  async run(test: Test, warm = false): Promise<Sample> {
    const { method, prompt, newTokens, sequences = 1, repetitions = 1, density } = test;
    const spec = await this.method(method);
    if (!this.engine.alive) this.engine = await EngineProcess.start(this.options);
    const runs: Completion[][] = [];
    for (let repetition = warm ? 0 : -1; repetition < repetitions; repetition++) {
      const requests = Array.from({ length: sequences }, (_, at) => ({
        ...request(prompt, newTokens, at, repetition, this.config.vocabSize),
        ...(density === undefined ? {} : { density }),
      }));
      const completions = await this.engine.generate(spec, requests);
      const failed = completions.find(({ status }) => status !== "ok");
      if (failed) throw new Error(failed.error ?? failed.status);
      if (repetition >= 0) runs.push(completions);
    }
    const { numbers, selectMs } = runs[0]![0]!;
    const longest = (of: (completion: Completion) => number) => runs.map((run) => Math.max(...run.map(of)));
    return {
      prefillMs: longest((completion) => completion.prefillMs),
      methodMs: longest((completion) => completion.methodMs),
      tokenMs: runs.flatMap((run) => run[0]!.tokenMs),
      cacheBytes: runs[0]!.reduce((sum, { cacheBytes }) => sum + cacheBytes, 0),
      peakBytes: Math.max(...longest((completion) => completion.peakBytes)),
      ...(numbers.density === undefined ? {} : { sparse: { density: numbers.density, selectMs: selectMs ?? 0 } }),
    };
  }

  stop(): Promise<void> {
    return this.engine.stop();
  }
}

function request(prompt: number, newTokens: number, at: number, repetition: number, vocabulary: number): Request {
  const random = stream(42, prompt, repetition, at);
  return {
    id: String(at),
    ids: Array.from({ length: prompt }, () => random.below(vocabulary)),
    maxNewTokens: newTokens + 1,
    stopIds: [],
    ignoreStop: true,
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 42 },
  };
}

/** Elements of the weights that every token passes through; the output layer apart. */
function layerElements(c: ModelConfig): number {
  const attention = (2 * c.heads + 2 * c.kvHeads) * c.headDim * c.hiddenSize;
  return c.layers * (attention + 3 * c.hiddenSize * c.intermediateSize);
}

/** Operations of prompts over the GEMM ceiling; `density` of the attention is computed. */
function prefillFloorMs(c: ModelConfig, { gemm }: Ceilings, rows: number, sequences: number, density: number): number {
  const attention = 2 * density * c.layers * c.heads * c.headDim * rows * rows; // 4 * pairs * headDim, half of the pairs visible
  return (1000 * sequences * (2 * layerElements(c) * rows + attention)) / gemm;
}

/** Bytes of the weights and the cache over the copy ceiling. */
function decodeFloorMs(c: ModelConfig, { copy }: Ceilings, cacheBytes: number): number {
  return (1000 * (2 * (layerElements(c) + c.vocabSize * c.hiddenSize) + cacheBytes)) / copy;
}

export interface Wanted {
  prefillMs?: number;
  tokenMs?: number;
  peakBytes?: number;
}

/** The rows of a test: its prefill and, where it makes new tokens, its decode steps. */
export async function endToEnd(
  runner: Runner,
  top: Ceilings,
  table: Row["table"],
  test: Test,
  wanted: Wanted = {},
  warm = false,
): Promise<Row[]> {
  const { config } = runner;
  const { method, prompt, newTokens, sequences = 1, density } = test;
  const length = prompt % 1024 === 0 ? `${prompt / 1024}K` : String(prompt);
  const batch = sequences > 1 ? `, batch ${sequences}` : "";
  const name = `${method} ${length}${density === undefined ? "" : ` at density ${density}`}${batch}`;
  try {
    const sample = await runner.run(test, warm);
    const { sparse } = sample;
    const read = sparse?.density ?? 1;
    const chosen = sparse ? `, choice ${sparse.selectMs.toFixed(0)} ms, density ${read.toFixed(3)}` : "";
    const prefill: Row = {
      table,
      name: `prefill, ${name}`,
      ms: sample.prefillMs,
      floorMs: prefillFloorMs(config, top, prompt, sequences, read),
      peakBytes: sample.peakBytes,
      note: `hooks ${median(sample.methodMs).toFixed(1)} ms${chosen}`,
      ...(wanted.prefillMs === undefined ? {} : { targetMs: wanted.prefillMs }),
      ...(wanted.peakBytes === undefined ? {} : { targetPeakBytes: wanted.peakBytes }),
    };
    const decode: Row = {
      table,
      name: `decode, ${name}`,
      ms: sample.tokenMs,
      floorMs: decodeFloorMs(config, top, sample.cacheBytes),
      note: `cache ${gib(sample.cacheBytes).toFixed(3)} GiB`,
      ...(wanted.tokenMs === undefined ? {} : { targetMs: wanted.tokenMs }),
    };
    return newTokens > 0 ? (prompt > 1 ? [prefill, decode] : [decode]) : [prefill];
  } catch (error) {
    return [{ table, name, ms: [], error: error instanceof Error ? error.message : String(error) }];
  }
}

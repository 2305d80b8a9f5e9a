// Prompts and new tokens through the engine, as users run it, with raw samples kept.
import { EngineProcess } from "../../src/bench/engine-process.ts";
import { formatCount } from "../../src/bench/format.ts";
import { stream } from "../../src/bench/prng.ts";
import type { Completion, EngineOptions, MethodSpec, Request } from "../../src/engine/protocol.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import type { Ceilings } from "./device.ts";
import { engineOptions } from "./engine-options.ts";
import { decodeFloorMs, prefillFloorMs } from "./floors.ts";
import { gib, median, type Row } from "./row.ts";

export interface Plan {
  shape: string;
  layers: number;
  device: string;
  memoryLimit?: number;
}

export interface Test {
  method: string;
  prompt: number;
  newTokens: number;
  sequences?: number;
  /** samples of the prefill at most */
  repetitions?: number;
  /** share of the blocks that a sparse method reads in prefill, in place of what it chose */
  density?: number;
  /** the engine has run prompts already: the first run counts */
  warm?: boolean;
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

/** An engine with random weights. */
export class Runner {
  private constructor(
    private readonly options: EngineOptions,
    private engine: EngineProcess,
    private readonly lost: AbortSignal | undefined,
    readonly config: ModelConfig,
  ) {}

  /** `lost` ends the engine at once; its reason is the error's text. */
  static async start({ shape, layers, device, memoryLimit = 0 }: Plan, lost?: AbortSignal): Promise<Runner> {
    const model = { shape, layers, seed: 42 };
    const options: EngineOptions = { ...engineOptions, model, device, memoryLimit };
    return new Runner(options, await EngineProcess.start(options, { lost }), lost, shapeConfig(shape, layers));
  }

  /** Runs a test; `more` is asked before each sample but the first. Throws where the engine fails. */
  async run(spec: MethodSpec, test: Test, more: () => boolean): Promise<Sample> {
    const { prompt, newTokens, sequences = 1, repetitions = 1, density, warm = false } = test;
    const { lost } = this;
    if (!this.engine.alive) this.engine = await EngineProcess.start(this.options, { lost });
    const runs: Completion[][] = [];
    for (let repetition = warm ? 0 : -1; repetition < repetitions; repetition++) {
      if (repetition > 0 && !more()) break;
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

export interface Wanted {
  prefillMs?: number;
  tokenMs?: number;
  peakBytes?: number;
}

/** Names of a test's rows: its prefill, where there is a prompt, and its decode steps; `layers`, where they are not all. */
export function rowNames({ method, prompt, sequences = 1, density }: Test, layers?: string): string[] {
  const batch = sequences > 1 ? `, batch ${sequences}` : "";
  const share = density === undefined ? "" : ` at density ${density}`;
  const name = `${method} ${formatCount(prompt)}${share}${batch}${layers === undefined ? "" : `, ${layers}`}`;
  return prompt > 1 ? [`prefill, ${name}`, `decode, ${name}`] : [`decode, ${name}`];
}

/** The rows of a test that ran, in the order of their names. */
export function rowsOf(
  names: readonly string[],
  sample: Sample,
  { config, top, table, test, wanted }: Measured,
): Row[] {
  const { sparse } = sample;
  const read = sparse?.density ?? 1;
  const chosen = sparse ? `, choice ${sparse.selectMs.toFixed(0)} ms, density ${read.toFixed(3)}` : "";
  const prefill: Row = {
    table,
    name: names[0]!,
    ms: sample.prefillMs,
    floorMs: prefillFloorMs(config, top, test.prompt, test.sequences ?? 1, read),
    peakBytes: sample.peakBytes,
    note: `hooks ${median(sample.methodMs).toFixed(1)} ms${chosen}`,
    ...(wanted.prefillMs === undefined ? {} : { targetMs: wanted.prefillMs }),
    ...(wanted.peakBytes === undefined ? {} : { targetPeakBytes: wanted.peakBytes }),
  };
  const decode: Row = {
    table,
    name: names.at(-1)!,
    ms: sample.tokenMs,
    floorMs: decodeFloorMs(config, top, sample.cacheBytes),
    note: `cache ${gib(sample.cacheBytes).toFixed(3)} GiB`,
    ...(wanted.tokenMs === undefined ? {} : { targetMs: wanted.tokenMs }),
  };
  return names.length > 1 ? [prefill, decode] : [decode];
}

export interface Measured {
  config: ModelConfig;
  top: Ceilings;
  table: Row["table"];
  test: Test;
  wanted: Wanted;
}

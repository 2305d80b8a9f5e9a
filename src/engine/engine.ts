// An engine: a device with a model on it that runs requests under methods.
import type { ModelConfig } from "../model/config.ts";
import { Decoder } from "../model/decoder.ts";
import { type Stage, stagesOf } from "../model/stages.ts";
import { openBlock } from "../model/weight-block.ts";
import type { Weights } from "../model/weights.ts";
import { KvaError } from "../native/error.ts";
import type { DeviceInfo } from "../native/library.ts";
import { Context, elementBytes } from "../native/tensor.ts";
import type { ModelInfo } from "../plugin/index.ts";
import { type GenerateEvents, generate } from "./generate.ts";
import { loadMethod } from "./method.ts";
import { modelInfo } from "./model-info.ts";
import type {
  Completion,
  EngineInfo,
  EngineOptions,
  MethodSpec,
  Request,
  ScoreRequest,
  ScoreResult,
  StageInfo,
} from "./protocol.ts";
import { score } from "./score.ts";
import { configOf, makeWeights } from "./weight-source.ts";

export class Engine {
  readonly decoder: Decoder;

  private constructor(
    readonly options: EngineOptions,
    private readonly stages: readonly Stage[],
    readonly config: ModelConfig,
    private readonly weights: Weights,
    readonly info: EngineInfo,
  ) {
    this.decoder = new Decoder(stages, config, weights, options.dtype, options.prefillChunk);
  }

  /** Opens the devices and puts the model on them. `beat` is called every now and then meanwhile. */
  static load(options: EngineOptions, beat: () => void = () => {}): Engine {
    const start = performance.now();
    const config = configOf(options.model);
    const contexts: Context[] = [];
    try {
      for (const device of devicesOf(options)) contexts.push(Context.open(device, options.threads));
      const stages = stagesOf(
        contexts,
        config,
        options.dtype,
        contexts.map((context) => roomOf(context, options)),
      );
      if (options.memoryLimit > 0) for (const context of contexts) context.limitMemory(options.memoryLimit);
      const weights = weightsOf(stages, config, options, beat);
      for (const context of contexts) context.sync();
      return new Engine(options, stages, config, weights, describe(stages, config, options, performance.now() - start));
    } catch (error) {
      // a context whose things could not all be freed refuses; the process ends with the error
      for (const { library, pointer } of contexts) library.native.kva_context_destroy(pointer);
      if (error instanceof KvaError && error.code === "oom") {
        throw new KvaError("oom", `the model does not fit ${options.device}: ${error.message}`, { cause: error });
      }
      throw error;
    }
  }

  get model(): ModelInfo {
    return modelInfo(this.config);
  }

  /** pipeline: batches of so many requests fill the stages of a split model; absent: the requests are one batch */
  async generate(
    spec: MethodSpec,
    requests: readonly Request[],
    events: GenerateEvents,
    pipeline?: number,
  ): Promise<Completion[]> {
    const method = await loadMethod(spec, this.model);
    const { decoder, model } = this;
    const { graphs } = this.options;
    return await generate({ decoder, model, method, requests, graphs, ...(pipeline && { pipeline }) }, events);
  }

  async score(spec: MethodSpec, request: ScoreRequest, breathe: () => Promise<void>): Promise<ScoreResult> {
    const method = await loadMethod(spec, this.model);
    const { decoder, model } = this;
    return await score({ decoder, model, method, request, graphs: this.options.graphs }, breathe);
  }

  /** Frees everything; the native library then finds no live object. */
  dispose(): void {
    this.decoder.dispose();
    this.weights.dispose();
    for (const { context } of this.stages) context.dispose();
  }
}

/** The devices of an engine, in the order of the layers. */
const devicesOf = (options: EngineOptions): string[] => options.device.split("+");

const deviceInfo = (context: Context): DeviceInfo => context.library.device(context.device);

/** Bytes that a device has for weights and caches. */
function roomOf(context: Context, { memoryLimit }: EngineOptions): number {
  const free = deviceInfo(context).freeBytes;
  return memoryLimit > 0 ? Math.min(free, memoryLimit) : free;
}

/** Weights of its own, or those that a holder has on the device. */
function weightsOf(stages: readonly Stage[], config: ModelConfig, options: EngineOptions, beat: () => void): Weights {
  const { weights, dtype } = options;
  if (weights === undefined) return makeWeights(stages, config, options, beat);
  return openBlock(stages[0]!.context, config, dtype, weights.name);
}

function describe(stages: readonly Stage[], config: ModelConfig, options: EngineOptions, loadMs: number): EngineInfo {
  const devices = devicesOf(options);
  const infos = stages.map(({ context, first, end }, s) => {
    const info = deviceInfo(context);
    return {
      device: devices[s]!,
      name: info.name,
      first,
      end,
      totalBytes: info.totalBytes,
      freeBytes: info.freeBytes,
      weightBytes: context.memory("weights").bytes,
    };
  });
  const sum = (of: (info: StageInfo) => number) => infos.reduce((total, info) => total + of(info), 0);
  const { context } = stages[0]!;
  return {
    backend: context.backend,
    buildInfo: context.library.buildInfo,
    deviceName: [...new Set(infos.map(({ name }) => name))].join(" + "),
    computeCapability: deviceInfo(context).computeCapability,
    totalBytes: sum((info) => info.totalBytes),
    freeBytes: sum((info) => info.freeBytes),
    weightBytes: sum((info) => info.weightBytes),
    cacheBytesPerToken: config.layers * config.kvHeads * (2 * config.headDim * elementBytes[options.dtype] + 4),
    loadMs,
    ...(options.weights && { sharedWeights: { bytes: options.weights.bytes, loadMs: options.weights.loadMs } }),
    stages: infos,
  };
}

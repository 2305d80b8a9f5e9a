// The plugin under check: an engine on a tiny random model of its family, and the plugin's methods with their hooks watched.
import { Engine } from "../engine/engine.ts";
import { type GenerateEvents, generate } from "../engine/generate.ts";
import type { LoadedMethod } from "../engine/method.ts";
import type { Completion, Request } from "../engine/protocol.ts";
import { parseConfig } from "../model/config.ts";
import { families } from "../model/families.ts";
import { KvaError } from "../native/error.ts";
import type { Hooks, Layer, ModelInfo, Ops, Plugin } from "../plugin/index.ts";
import { fields, resolveParams } from "../plugin/params.ts";
import { breathe, request, type Trace, type TraceInput, traceMethod } from "./trace.ts";

export const steps = 12;
/** capacities to try, smallest first: one that the plugin accepts and that a prompt of 160 tokens exceeds */
const capacities = [24, 32, 48, 64, 96, 128];
const prompts = [160, 13, 60, 1];

/** Numbers of a full-period generator: the same prompts at every check. */
export function tokenIds(count: number, seed: number): number[] {
  let state = seed + 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % 256);
  });
}

function tinyConfig(family: string) {
  const known = families.find(({ name }) => name === family);
  if (!known) throw new KvaError("plugin", `families names ${family}, which is not a family that kvaccel runs`);
  return parseConfig(
    {
      architectures: [known.architecture],
      vocab_size: 259,
      hidden_size: 64,
      intermediate_size: 96,
      num_hidden_layers: 4,
      num_attention_heads: 8,
      num_key_value_heads: 2,
      head_dim: 16,
      max_position_embeddings: 4096,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      tie_word_embeddings: false,
    },
    "the check's model",
  );
}

export class Subject {
  readonly engine: Engine;
  readonly hasCapacity: boolean;
  /** values under which a long prompt loses rows; without a capacity, the defaults */
  readonly tight: Record<string, unknown>;
  /** what the plugin says to every small capacity, where it accepts none */
  readonly tightRefusal: string | undefined;
  readonly full: LoadedMethod = { spec: { label: "Full", parts: [], hash: "" }, parts: [] };
  readonly inputs: TraceInput[] = prompts.map((promptTokens, s) => ({
    ids: tokenIds(promptTokens + steps, s),
    promptTokens,
  }));

  /** onHook: told each call of the plugin before it is made */
  constructor(
    readonly plugin: Plugin,
    private readonly onHook: (where: string) => void,
  ) {
    this.engine = this.openEngine(4096);
    this.hasCapacity = fields(plugin).some(({ key }) => key === "capacity");
    const refusals = new Map(
      this.hasCapacity ? capacities.map((capacity) => [capacity, this.refusal({ capacity })]) : [],
    );
    const accepted = capacities.find((capacity) => refusals.has(capacity) && refusals.get(capacity) === undefined);
    this.tight = accepted === undefined ? {} : { capacity: accepted };
    this.tightRefusal = accepted === undefined ? refusals.get(capacities.at(-1)!) : undefined;
  }

  get name(): string {
    return this.plugin.name;
  }
  get model(): ModelInfo {
    return this.engine.model;
  }

  openEngine(prefillChunk: number): Engine {
    return Engine.load({
      model: { config: tinyConfig(this.plugin.families?.[0] ?? "llama"), seed: 1, deviation: 0.175 },
      device: "cpu:0",
      dtype: "float32",
      prefillChunk,
      threads: 0,
      memoryLimit: 0,
      graphs: true,
    });
  }

  /** Why the plugin does not take these values; undefined where it does. */
  refusal(overrides: Record<string, unknown>, preset = "paper"): string | undefined {
    try {
      this.values(overrides, preset);
    } catch (error) {
      if (error instanceof KvaError && error.code === "usage") return error.message;
      throw error;
    }
  }

  values(overrides: Record<string, unknown>, preset = "paper"): Record<string, unknown> {
    return resolveParams(this.plugin, preset, overrides, this.model).values;
  }

  /** `SnapKV[capacity=48]` */
  label(overrides: Record<string, unknown>, preset = "paper"): string {
    const values = Object.entries(overrides).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
    const suffix = preset === "paper" ? "" : `@${preset}`;
    return this.name + suffix + (values.length > 0 ? `[${values.join(",").replaceAll('"', "")}]` : "");
  }

  method(overrides: Record<string, unknown>, preset = "paper"): LoadedMethod {
    const label = this.label(overrides, preset);
    const { plugin } = this;
    const create: Plugin["create"] = (values, model) => {
      this.onHook(`${plugin.name}.create`);
      return this.watched(plugin.create(values, model));
    };
    const parts = [{ plugin: { ...plugin, create }, values: this.values(overrides, preset) }];
    return { spec: { label, parts: [], hash: "" }, parts };
  }

  private watched(hooks: Hooks): Hooks {
    const { select, chunk, prefill, decode, end } = hooks;
    const told = (hook: string, run: ((layer: Layer, ops: Ops) => void) | undefined) =>
      run && {
        [hook]: (layer: Layer, ops: Ops) => {
          this.onHook(`${this.name}.${hook} in layer ${layer.index}`);
          run.call(hooks, layer, ops);
        },
      };
    const chosen = select && {
      select: (layer: Layer, ops: Ops) => {
        this.onHook(`${this.name}.select in layer ${layer.index}`);
        return select.call(hooks, layer, ops);
      },
    };
    const last = end && {
      end: (kept: () => number[][][]) => {
        this.onHook(`${this.name}.end`);
        return end.call(hooks, kept);
      },
    };
    const { needs } = hooks;
    return {
      ...(needs && { needs }),
      ...chosen,
      ...told("chunk", chunk),
      ...told("prefill", prefill),
      ...told("decode", decode),
      ...last,
    };
  }

  /** Rows that the plugin's formula keeps of a prompt. */
  expectedRows(overrides: Record<string, unknown>, promptTokens: number, layer: number): number {
    const values = this.values(overrides);
    return this.plugin.expectedRows?.(values as never, promptTokens, 0, layer, this.model) ?? promptTokens;
  }

  trace(method: LoadedMethod, inputs: readonly TraceInput[] = this.inputs, engine = this.engine): Promise<Trace[]> {
    return traceMethod(engine, method, inputs);
  }

  async generate(
    method: LoadedMethod,
    ids: number[],
    more: Partial<Request> = {},
    events: GenerateEvents = { breathe },
  ): Promise<Completion> {
    const { decoder, model } = this.engine;
    const requests = [request(ids, more)];
    const [completion] = await generate({ decoder, model, method, requests, graphs: true }, events);
    return completion!;
  }

  dispose(): void {
    this.engine.dispose();
  }
}

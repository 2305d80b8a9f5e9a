// Before a run: what each method needs at each length and batch size, and what of it will not fit; the batch size that does.
import { freemem } from "node:os";
import { formatBytes, formatCount } from "../bench/format.ts";
import { blank, type Cell, type TableData, text } from "../bench/table.ts";
import { estimateDevices, type MemoryEstimate, totalOf } from "../engine/estimate.ts";
import { type LoadedMethod, loadMethod } from "../engine/method.ts";
import type { EngineOptions, MethodSpec } from "../engine/protocol.ts";
import type { ModelConfig } from "../model/config.ts";
import { splitLayers } from "../model/stages.ts";
import { gpusHere } from "./devices.ts";
import { modelInfo } from "./engine-setup.ts";

/** The longest prompt of a length, and the most tokens that follow one. */
export interface PromptSize {
  length: number | null;
  promptTokens: number;
  newTokens: number;
}

export interface PreflightRow extends PromptSize {
  method: string;
  batch: number;
  /** on the device that has least left */
  device: string;
  need: MemoryEstimate;
  free: number;
  fits: boolean;
}

export interface PreflightPlan {
  config: ModelConfig;
  engines: readonly EngineOptions[];
  methods: readonly MethodSpec[];
  sizes: readonly PromptSize[];
}

/** the largest batch that `auto` takes: past it a decode step's sums depend on the batch on CUDA */
const mostAuto = 16;

export class Preflight {
  private constructor(
    private readonly plan: PreflightPlan,
    private readonly methods: readonly LoadedMethod[],
    private readonly free: ReadonlyMap<string, number>,
  ) {}

  static async of(plan: PreflightPlan): Promise<Preflight> {
    const model = modelInfo(plan.config);
    const methods: LoadedMethod[] = [];
    for (const spec of plan.methods) {
      try {
        methods.push(await loadMethod(spec, model));
      } catch {
        // a method that refuses the model says so in its rows
      }
    }
    return new Preflight(plan, methods, await freeBytes(plan.engines));
  }

  /** Rows by length and method, at each batch size. */
  rows(batches: readonly number[]): PreflightRow[] {
    return this.plan.sizes.flatMap((size) =>
      batches.flatMap((batch) => this.methods.map((method) => this.row(method, size, batch))),
    );
  }

  /** The largest of 1, 2, 4, 8, 16 at which everything fits that fits alone. */
  autoBatch(): number {
    const alone = this.rows([1]);
    for (let batch = mostAuto; batch > 1; batch /= 2) {
      if (this.rows([batch]).every(({ fits }, at) => fits || !alone[at]!.fits)) return batch;
    }
    return 1;
  }

  private row(method: LoadedMethod, size: PromptSize, batch: number): PreflightRow {
    const { config, engines } = this.plan;
    const groups = new Map(engines.map((engine) => [engine.device, engine]));
    let tightest: PreflightRow | undefined;
    for (const [group, { dtype, prefillChunk, memoryLimit, sharedBy }] of groups) {
      const devices = group.split("+");
      const free = devices.map((device) =>
        Math.min(this.free.get(device) ?? 0, memoryLimit || Number.POSITIVE_INFINITY),
      );
      const copies = engines.filter(({ device }) => device === group).length;
      const sharedWeights = sharedBy !== undefined;
      const ends = splitLayers(config, dtype, free);
      const backend = devices[0]!.startsWith("cuda:") ? "cuda" : "cpu";
      const request = { config, dtype, method, batch, prefillChunk, backend, ...size } as const;
      estimateDevices(request, { ends, copies, sharedWeights }).forEach((need, at) => {
        const left = free[at]! - totalOf(need);
        if (tightest && tightest.free - totalOf(tightest.need) <= left) return;
        const where = { device: devices[at]!, free: free[at]!, fits: left >= 0 };
        tightest = { ...size, method: method.spec.label, batch, need, ...where };
      });
    }
    return tightest!;
  }
}

/** A child asks for the GPUs' free bytes; the CPU's devices share what the machine has. */
async function freeBytes(engines: readonly EngineOptions[]): Promise<Map<string, number>> {
  const devices = [...new Set(engines.flatMap(({ device }) => device.split("+")))];
  const gpus = devices.some((device) => device.startsWith("cuda:")) ? await gpusHere() : [];
  const posed = devices.filter((device) => device.startsWith("cpu:")).length;
  return new Map(
    devices.map((device) => [
      device,
      device.startsWith("cpu:") ? freemem() / posed : (gpus.find(({ id }) => id === device)?.free_bytes ?? 0),
    ]),
  );
}

/** What several engines on a device take together. */
function copiesNotes(engines: readonly EngineOptions[]): string[] {
  const { device, sharedBy } = engines[0]!;
  const copies = engines.filter((engine) => engine.device === device).length;
  if (copies === 1) return [];
  if (sharedBy === undefined) return [`${copies} workers on a device, each with weights of its own.`];
  return [
    `${copies} workers on a device: one copy of the weights, held by a process more, and ${copies} times the rest.`,
  ];
}

export const lengthName = (length: number | null) => (length === null ? "all" : formatCount(length));

/** `Full at 128K (batch 8) needs 45.6 GiB of 23.1 GiB on cuda:0` */
export function refusalText({ method, length, batch, need, free, device }: PreflightRow): string {
  const size = batch > 1 ? ` (batch ${batch})` : "";
  return `${method} at ${lengthName(length)}${size} needs ${formatBytes(totalOf(need))} of ${formatBytes(free)} on ${device}`;
}

export function preflightTable(
  rows: readonly PreflightRow[],
  measurements: number,
  engines: readonly EngineOptions[],
): TableData {
  const bytes = (value: number): Cell => ({ text: formatBytes(value), value: Math.round(value) });
  const over = rows.filter(({ fits }) => !fits);
  return {
    title: `What the run will need: ${measurements} measurements`,
    columns: [
      { title: "length", key: "length" },
      { title: "method", key: "method", align: "left" },
      { title: "batch", key: "batch" },
      { title: "weights", key: "weights_bytes" },
      { title: "cache", key: "cache_bytes" },
      { title: "activations", key: "activation_bytes" },
      { title: "in all", key: "needed_bytes" },
      { title: "free", key: "free_bytes" },
      { title: "device", key: "device", align: "left" },
      { title: "fits", key: "fits", align: "left" },
    ],
    headColumns: 3,
    rows: rows.map(({ length, method, batch, need, free, device, fits }) => [
      length === null ? blank : { text: formatCount(length), value: length },
      text(method),
      { text: String(batch), value: batch },
      bytes(need.weights),
      bytes(need.cache),
      bytes(need.activations),
      bytes(totalOf(need)),
      bytes(free),
      text(device),
      { text: fits ? "yes" : "no", value: fits },
    ]),
    notes: [
      "Estimates for the longest prompt of each length on the device that has least left; CUDA's own part (about 0.5 GiB a process) is not in them.",
      ...copiesNotes(engines),
      ...(over.length > 0 ? ['What does not fit gets "-" in the tables; the rest runs.'] : []),
    ],
  };
}

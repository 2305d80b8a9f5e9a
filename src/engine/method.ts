// A method in an engine process: its plugins loaded, its parameters checked, its needs added up.
import { KvaError } from "../native/error.ts";
import { EVERY_ROW } from "../native/kv.ts";
import type { Category, Hooks, ModelInfo, Needs, Plugin, Storage } from "../plugin/index.ts";
import { loadPluginFile, type Registry } from "../plugin/loader.ts";
import { resolveParams } from "../plugin/params.ts";
import type { MethodSpec } from "./protocol.ts";

export interface LoadedPart {
  plugin: Plugin;
  values: Record<string, unknown>;
}

export interface LoadedMethod {
  spec: MethodSpec;
  parts: LoadedPart[];
}

/** The hooks of one plugin for one sequence. */
export interface NamedHooks {
  name: string;
  category: Category;
  hooks: Hooks;
}

export type AllNeeds = Required<Omit<Needs, "queryMoments" | "unrotatedKeys" | "selects">> &
  Pick<Needs, "queryMoments"> & {
    /** keys of the first so many positions are kept unrotated, too; EVERY_ROW: those of all rows */
    unrotatedRows: number;
  };

/** The hooks that select in prefill, or for the tokens after it; absent: attention reads everything. */
export function selecting(all: readonly NamedHooks[], when: "prefill" | "decode"): NamedHooks | undefined {
  return all.find(({ hooks }) => {
    const { selects = "prefill" } = hooks.needs ?? {};
    return hooks.select && (selects === when || selects === "both");
  });
}

/** Loads the plugin files a method names and resolves their parameters for the model. */
export async function loadMethod(spec: MethodSpec, model: ModelInfo): Promise<LoadedMethod> {
  const parts: LoadedPart[] = [];
  for (const part of spec.parts) {
    const { plugin } = await loadPluginFile(part.file);
    if (plugin.families && !plugin.families.includes(model.family)) {
      throw new KvaError(
        "plugin",
        `${plugin.name} works with ${plugin.families.join(", ")}, not with ${model.family} models`,
      );
    }
    parts.push({ plugin, values: resolveParams(plugin, part.preset, part.params, model).values });
  }
  return { spec, parts };
}

/** A method whose plugins are loaded already. */
export function methodFrom(spec: MethodSpec, registry: Registry, model: ModelInfo): LoadedMethod {
  const parts = spec.parts.map(({ name, preset, params }) => {
    const { plugin } = registry.find(name);
    return { plugin, values: resolveParams(plugin, preset, params, model).values };
  });
  return { spec, parts };
}

/** Fresh hooks for one sequence, in pipeline order. */
export function createHooks(method: LoadedMethod, model: ModelInfo): NamedHooks[] {
  return method.parts.map(({ plugin, values }) => ({
    name: plugin.name,
    category: plugin.category,
    hooks: guarded(`${plugin.name}.create`, () => plugin.create(values, model)),
  }));
}

/** A side array's name among those of all plugins of a method. */
export function sideName(plugin: string, side: string): string {
  return `${plugin}.${side}`;
}

function momentsOf(needs: readonly Needs[]): Needs["queryMoments"] {
  const skips = new Set(needs.flatMap(({ queryMoments }) => queryMoments?.skip ?? []));
  if (skips.size > 1)
    throw new KvaError("plugin", "two plugins need queryMoments that skip different numbers of first tokens");
  return skips.size === 0 ? undefined : { skip: [...skips][0]! };
}

/** What the hooks of a method need together. */
export function sumNeeds(all: readonly NamedHooks[]): AllNeeds {
  const needs = all.map(({ hooks }) => hooks.needs ?? {});
  const syncs = needs.map((need) => need.hostSync);
  const prefill = syncs.some((sync) => sync === "prefill" || sync === "both");
  const decode = syncs.some((sync) => sync === "decode" || sync === "both");
  const decodeProbs = needs.some((need) => need.decodeProbs === true);
  const selects = selecting(all, "decode");
  if (selects && decodeProbs) {
    throw new KvaError(
      "plugin",
      `${selects.name} selects in decode: there are no probabilities of all rows (decodeProbs)`,
    );
  }
  return {
    queryRing: Math.max(0, ...needs.map((need) => need.queryRing ?? 0)),
    unrotatedRows: needs.some((need) => need.unrotatedKeys === "all")
      ? EVERY_ROW
      : Math.max(0, ...needs.map((need) => Number(need.unrotatedKeys ?? 0))),
    sideArrays: all.flatMap(({ name, hooks }) => (hooks.needs?.sideArrays ?? []).map((side) => sideName(name, side))),
    queryMoments: momentsOf(needs),
    lse: needs.some((need) => need.lse === true),
    decodeProbs,
    cascade: needs.some((need) => need.cascade === true),
    perStep: needs.some((need) => need.perStep === true),
    hostSync: (prefill && decode
      ? "both"
      : prefill
        ? "prefill"
        : decode
          ? "decode"
          : undefined) as AllNeeds["hostSync"],
  };
}

/** Bytes of a row of a head beside its key and value: position, side arrays, the unrotated key where every row has one. */
export function bytesBeside({ sideArrays, unrotatedRows }: AllNeeds, headDim: number, elementBytes: number): number {
  return 4 + 4 * sideArrays.length + (unrotatedRows === EVERY_ROW ? headDim * elementBytes : 0);
}

/** Whether a plugin's hooks run in a layer: rows that a sliding window hides anyway are not evicted, and where there is one, pages are not chosen. */
export function isHooked(
  category: Category,
  { slidingWindows }: ModelInfo,
  layer: number,
  promptTokens: number,
): boolean {
  const window = slidingWindows?.[layer] ?? 0;
  if (category === "sparse-decode") return window === 0;
  return category !== "eviction" || window === 0 || window >= promptTokens;
}

/** Rows that the method's own formula keeps in a layer, all KV heads alike. */
export function expectedRows(method: LoadedMethod, promptTokens: number, layer: number, model: ModelInfo): number {
  return method.parts.reduce((rows, { plugin, values }) => {
    if (!isHooked(plugin.category, model, layer, promptTokens)) return rows;
    return Math.min(rows, plugin.expectedRows?.(values, promptTokens, 0, layer, model) ?? rows);
  }, promptTokens);
}

/** Keys and values of one KV head of a layer after the prompt, as the method's own formulas say. */
export function expectedStorage(
  method: LoadedMethod,
  promptTokens: number,
  layer: number,
  model: ModelInfo,
  elementBytes: number,
): Storage {
  const rows = expectedRows(method, promptTokens, layer, model);
  const bytes = rows * model.headDim * elementBytes;
  const whole = { rows, keyBytes: bytes, valueBytes: bytes, keyChannels: model.headDim, elementBytes };
  return method.parts.reduce((before: Storage, { plugin, values }) => {
    if (!isHooked(plugin.category, model, layer, promptTokens)) return before;
    return plugin.expectedStorage?.(values, before, model, layer) ?? before;
  }, whole);
}

/** Runs plugin code; an error says which plugin, hook and layer. Running out of memory stays what it is. */
export function guarded<T>(where: string, run: () => T): T {
  try {
    return run();
  } catch (cause) {
    if (cause instanceof KvaError && cause.code === "oom") throw cause;
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new KvaError("plugin", `${where} failed: ${text}`, { cause });
  }
}

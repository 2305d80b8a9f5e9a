// The configuration of a run with its flags inside: a benchmark file that runs the same thing again.
import { stringify } from "yaml";
import { match } from "../plugin/nearest.ts";
import { layersOf, type Sets, splitPath } from "../plugin/sets.ts";
import type { Settings } from "./settings.ts";

/** A benchmark file that runs the same thing again. */
export function effectiveConfig(settings: Settings): string {
  const { fresh: _fresh, output: _output, set: _set, length, ...config } = settings.config;
  const set = mergedSets(settings.sets);
  const lengths = length.length > 0 ? { length } : {}; // LongBench has none
  return stringify({
    ...config,
    ...lengths,
    batch_size: settings.batches[0],
    ...(Object.keys(set).length > 0 ? { set } : {}),
  });
}

/** All sets as one record, later ones over earlier ones; of the two ways to give a budget the later one stays. */
export function mergedSets(sets: Sets): Record<string, Record<string, unknown>> {
  const merged: Record<string, Record<string, unknown>> = {};
  const put = (method: string, key: string, value: unknown) => {
    const name = match(method, Object.keys(merged)) ?? method;
    const values = merged[name] ?? {};
    merged[name] = values;
    const budget = ["capacity", "keepRatio"];
    const replaced = match(key, budget) ? budget : [key];
    for (const other of Object.keys(values)) if (match(other, replaced)) delete values[other];
    values[key] = value;
  };
  for (const layer of layersOf(sets)) {
    if (typeof layer === "string") put(...splitPath(layer));
    else
      for (const [method, values] of Object.entries(layer))
        for (const [key, value] of Object.entries(values)) put(method, key, value);
  }
  return merged;
}

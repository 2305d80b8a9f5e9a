// Parameter values for whole runs: a config's `set` and the command line's `--set method.key=value`.
import { basename } from "node:path";
import { KvaError } from "../native/error.ts";
import type { LoadedPlugin, Registry } from "./loader.ts";
import { match, nearest } from "./nearest.ts";
import { type Field, fields, findField, readValue } from "./params.ts";
import { splitOutside, splitSetting } from "./split.ts";

/** `{snapkv: {capacity: [256, 1024]}}`, as in a config file */
export type SetRecord = Readonly<Record<string, Readonly<Record<string, unknown>>>>;
/** A config's `set`, `--set` texts such as `snapkv.capacity=256,1024`, or both in a list: later ones win. */
export type Sets = SetRecord | readonly (string | SetRecord)[];
/** plugin name -> key -> values; several values make several columns */
export type SetValues = Map<string, Map<string, unknown[]>>;

/** The values that `sets` gives to each method of the registry. */
export function readSets(sets: Sets, registry: Registry): SetValues {
  const all: SetValues = new Map();
  const put = (method: string, key: string, value: unknown): void => {
    const { plugin } = registry.find(method);
    const field = findField(plugin, key);
    const keys = all.get(plugin.name) ?? new Map<string, unknown[]>();
    for (const other of fields(plugin)) if (other.param === field.param) keys.delete(other.key);
    const values = severalValues(field.type, value).map((one) => readValue(field, one));
    all.set(plugin.name, keys.set(field.key, values));
  };
  for (const layer of layersOf(sets)) {
    if (typeof layer === "string") {
      put(...splitPath(layer));
      continue;
    }
    for (const [method, values] of Object.entries(layer)) {
      if (isElsewhere(method, registry)) continue;
      refuseBoth(registry.find(method), Object.keys(values));
      for (const [key, value] of Object.entries(values)) put(method, key, value);
    }
  }
  return all;
}

/** A config may hold values for methods that are not here; a name that is nearly one of ours is a mistake. */
function isElsewhere(method: string, registry: Registry): boolean {
  const names = registry.plugins.map((loaded) => loaded.plugin.name);
  const broken = registry.errors.map((error) => basename(error.file, ".ts"));
  return match(method, names) === undefined && nearest(method, [...names, ...broken]) === undefined;
}

export function layersOf(sets: Sets): (string | SetRecord)[] {
  const layers = Array.isArray(sets) ? (sets as readonly (string | SetRecord)[]) : [sets as SetRecord];
  return layers.flatMap((layer): (string | SetRecord)[] =>
    typeof layer === "string" ? splitOutside(layer, /\s/) : [layer],
  );
}

/** `snapkv.capacity=256` into method, key and value. */
export function splitPath(text: string): [method: string, key: string, value: string] {
  const [path, value] = splitSetting(text, "--set");
  const dot = path.indexOf(".");
  if (dot < 1) throw new KvaError("usage", `--set ${text}: must be method.key=value, as in snapkv.capacity=1024`);
  return [path.slice(0, dot), path.slice(dot + 1), value];
}

/** In one config, capacity and keepRatio contradict each other. */
function refuseBoth({ plugin }: LoadedPlugin, keys: readonly string[]): void {
  const params = keys.map((key) => findField(plugin, key).param);
  const twice = params.find((param, i) => params.indexOf(param) !== i);
  if (twice === undefined) return;
  const given = keys.filter((_, i) => params[i] === twice).join(" and ");
  throw new KvaError("usage", `set.${plugin.name.toLowerCase()}: give one of ${given}, not both`);
}

/** `256,1024` or `[256, 1024]` from YAML is two values; of a list parameter only `[0,1],[2,3]` is, and a list of lists is one of shares. */
export function severalValues(type: Field["type"], value: unknown): unknown[] {
  const list = type === "ints";
  if (typeof value === "string") {
    const pieces = splitOutside(value, /,/);
    return list && !pieces.every((piece) => piece.startsWith("[")) ? [value] : pieces;
  }
  if (!Array.isArray(value) || (list && !value.some(Array.isArray))) return [value];
  return type === "shares" && value.every(Array.isArray) ? [value] : value;
}

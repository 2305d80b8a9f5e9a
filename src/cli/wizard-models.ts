// Models that the wizard offers: the bundled one, those of the Hugging Face cache that can be run, and those used lately.
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { formatBytes } from "../bench/format.ts";
import { readConfig } from "../model/config.ts";
import { hubCache, locateModel } from "../model/locate.ts";
import { KvaError } from "../native/error.ts";
import type { ModelChoice } from "./wizard-types.ts";

/** Bytes of a directory's safetensors files, or of a GGUF file. */
export function weightBytes(dir: string): number {
  if (statSync(dir).isFile()) return statSync(dir).size;
  const files = readdirSync(dir).filter((file) => file.endsWith(".safetensors"));
  return files.reduce((sum, file) => sum + (statSync(join(dir, file), { throwIfNoEntry: false })?.size ?? 0), 0);
}

function cachedIds(): string[] {
  try {
    const names = readdirSync(hubCache()).filter((name) => name.startsWith("models--"));
    return names.map((name) => name.slice("models--".length).replace("--", "/")).sort();
  } catch {
    return []; // no cache
  }
}

/** A model that can be run, described; undefined where it cannot. */
function described(value: string, where: string): ModelChoice | undefined {
  try {
    const dir = locateModel(value);
    const { family, layers } = readConfig(dir);
    return { value, label: value, hint: `${family}, ${layers} layers, ${formatBytes(weightBytes(dir))}, ${where}` };
  } catch (error) {
    if (error instanceof KvaError) return undefined;
    throw error;
  }
}

/** `recent`: model paths of earlier runs, the last one first. */
export function findModels(recent: readonly string[] = []): ModelChoice[] {
  const cached = cachedIds();
  const others = recent.filter((path) => path !== "bundled" && !cached.includes(path));
  const known = [
    described("bundled", "for trying things out"),
    ...cached.map((id) => described(id, "Hugging Face cache")),
    ...others.map((path) => described(path, "used lately")),
  ];
  return known.filter((model) => model !== undefined);
}

// GGUF files as models: one file, or the first of `name-00001-of-00003.gguf`. Headers are read once and kept.
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { KvaError } from "../native/error.ts";
import type { GgufHeader } from "./gguf-header.ts";
import type { StoredTensor } from "./safetensors.ts";

export const isGguf = (path: string): boolean => path.toLowerCase().endsWith(".gguf");

const shardName = /-(\d{5})-of-(\d{5})\.gguf$/i;

/** The file itself, or all files of a split model, in order. */
export function ggufFiles(path: string): string[] {
  const match = shardName.exec(path);
  if (!match) return [path];
  const [ending, first, count] = match;
  if (Number(first) !== 1) {
    throw new KvaError(
      "model",
      `${path} is part ${Number(first)} of ${Number(count)}; give part 1, ...-00001-of-${count}.gguf`,
    );
  }
  const base = path.slice(0, -ending!.length);
  const files = Array.from(
    { length: Number(count) },
    (_, i) => `${base}-${String(i + 1).padStart(5, "0")}-of-${count}.gguf`,
  );
  const absent = files.find((file) => !existsSync(file));
  if (absent !== undefined)
    throw new KvaError("model", `${path} is the first of ${Number(count)} parts, but ${absent} is not there`);
  return files;
}

const kept = new Map<string, GgufHeader>();

/**
 * Metadata of the first file, tensors of all. The header is read in a child process: the library reads asynchronously, loading a model
 * is one blocking call; and a header that lies about its size costs the child its memory and its time, not this process.
 */
export function readGguf(path: string): GgufHeader {
  const stat = statSync(path);
  const key = `${path} ${stat.size} ${stat.mtimeMs}`;
  const before = kept.get(key);
  if (before) return before;
  const headers = ggufFiles(path).map(readInChild);
  const tensors: Record<string, StoredTensor> = Object.create(null);
  for (const header of headers) Object.assign(tensors, header.tensors);
  const header = { metadata: headers[0]!.metadata, tensors };
  kept.set(key, header);
  return header;
}

const patienceMs = 60_000;

function readInChild(file: string): GgufHeader {
  const child = Bun.spawnSync([process.execPath, join(import.meta.dir, "gguf-child.ts"), file], {
    stdin: "ignore",
    timeout: patienceMs,
  });
  if (child.exitCode === 0) return JSON.parse(child.stdout.toString());
  const said = child.stderr.toString().trim();
  throw new KvaError(
    "model",
    said.startsWith(file) ? said : `${file}: reading its header failed: ${said || "no answer"}`,
  );
}

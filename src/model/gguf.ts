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
  const header = joined(ggufFiles(path).map(readInChild));
  kept.set(key, header);
  return header;
}

/** The same of files that are not here, in order; token: of the hub, or undefined. Reads the headers and no weights. */
export async function readRemoteGguf(
  files: readonly { url: string; bytes: number }[],
  token: string | undefined,
): Promise<GgufHeader> {
  const headers: GgufHeader[] = [];
  for (const { url, bytes } of files) {
    const child = Bun.spawn([...childCommand, url, String(bytes)], {
      ...childOptions,
      stderr: "pipe",
      env: { ...process.env, HF_TOKEN: token },
    });
    const [text, errors, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    headers.push(headerOf(url, code, text, errors));
  }
  return joined(headers);
}

function joined(headers: readonly GgufHeader[]): GgufHeader {
  const tensors: Record<string, StoredTensor> = Object.create(null);
  const factors: Record<string, number[]> = {};
  for (const header of headers) {
    Object.assign(tensors, header.tensors);
    Object.assign(factors, header.factors);
  }
  return { metadata: headers[0]!.metadata, tensors, factors };
}

const childCommand = [process.execPath, join(import.meta.dir, "gguf-child.ts")];
const childOptions = { stdin: "ignore", stdout: "pipe", timeout: 60_000 } as const;

function readInChild(file: string): GgufHeader {
  const child = Bun.spawnSync([...childCommand, file], childOptions);
  return headerOf(file, child.exitCode, child.stdout.toString(), child.stderr.toString());
}

function headerOf(file: string, exitCode: number | null, output: string, errors: string): GgufHeader {
  if (exitCode === 0) return JSON.parse(output);
  const said = errors.trim();
  throw new KvaError(
    "model",
    said.startsWith(file) ? said : `${file}: reading its header failed: ${said || "no answer"}`,
  );
}

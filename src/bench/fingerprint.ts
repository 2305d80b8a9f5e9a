// What a number was measured with: hashes of model and tokenizer, version and commit of kvaccel.
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { ggufFiles, isGguf } from "../model/gguf.ts";
import { ggufTokenizer } from "../model/gguf-tokenizer.ts";

const packageRoot = join(import.meta.dir, "..", "..");
const wholeBelow = 64 * 2 ** 20;
const pieces = 64;
const pieceBytes = 64 * 2 ** 10;

/** The files of a directory that fit, or a GGUF file by itself. */
function filesOf(path: string, fits: (name: string) => boolean): string[] {
  return isGguf(path)
    ? ggufFiles(path)
    : readdirSync(path)
        .filter(fits)
        .sort()
        .map((name) => join(path, name));
}

/**
 * SHA-256 over config.json and the weight files, or over a GGUF file: whole files below 64 MiB; of larger ones size, the first MiB (the header of a
 * safetensors file) and 64 pieces of 64 KiB spread evenly, so that a checkpoint of 100 GB takes milliseconds.
 */
export async function modelHash(dir: string): Promise<string> {
  const hash = createHash("sha256");
  for (const path of filesOf(dir, (name) => name === "config.json" || name.endsWith(".safetensors"))) {
    const file = Bun.file(path);
    hash.update(`${basename(path)} ${file.size}\n`);
    if (file.size < wholeBelow) {
      hash.update(await file.bytes());
      continue;
    }
    hash.update(await file.slice(0, 2 ** 20).bytes());
    for (let piece = 0; piece < pieces; piece++) {
      const at = Math.floor(((file.size - pieceBytes) * piece) / (pieces - 1));
      hash.update(await file.slice(at, at + pieceBytes).bytes());
    }
  }
  return hash.digest("hex");
}

export async function tokenizerHash(dir: string): Promise<string> {
  const hash = createHash("sha256");
  if (isGguf(dir)) return hash.update(JSON.stringify(ggufTokenizer(dir))).digest("hex");
  for (const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]) {
    const path = join(dir, name);
    if (existsSync(path)) hash.update(`${name}\n`).update(await Bun.file(path).bytes());
  }
  return hash.digest("hex");
}

export interface Build {
  version: string;
  /** of the checkout; `-dirty` where files differ from it; null outside of one */
  commit: string | null;
}

export async function thisBuild(): Promise<Build> {
  const version = packageJson.version;
  if (!existsSync(join(packageRoot, ".git")) || Bun.which("git") === null) return { version, commit: null };
  const git = async (...words: string[]) => {
    const child = Bun.spawn(["git", "-C", packageRoot, ...words], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "ignore",
    });
    const [text, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
    return code === 0 ? text.trim() : undefined;
  };
  const [commit, changes] = await Promise.all([git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")]);
  return { version, commit: commit ? `${commit}${changes ? "-dirty" : ""}` : null };
}

/** Versions of the NVIDIA driver's kernel module, where there is one. */
export async function driverVersion(): Promise<string | null> {
  const path = "/proc/driver/nvidia/version";
  if (!existsSync(path)) return null;
  const text = await Bun.file(path).text();
  return /\s(\d+\.\d+(?:\.\d+)?)\s/.exec(text)?.[1] ?? null;
}

/** The resume key of a sample: everything that its prediction depends on. */
export function resumeKey(parts: Record<string, unknown>): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 24);
}

// Files of a repository into the blobs and snapshots of the Hugging Face cache: resumed where an earlier try ended, checked by their hash.
import { createHash, type Hash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { downloadFile, HubApiError, type ListFileEntry } from "@huggingface/hub";
import { KvaError } from "../native/error.ts";

export interface Watch {
  /** bytes that are there, and that all files have together */
  progress?(done: number, total: number, file: string): void;
  /** a transfer broke and is tried again */
  retry?(file: string, reason: string): void;
  /** milliseconds without a byte after which a transfer counts as broken (30 s) */
  patienceMs?: number;
  /** milliseconds before the first new try, doubled each time (500) */
  pauseMs?: number;
  signal?: AbortSignal;
}

export interface Source {
  repo: string;
  revision: string;
  hubUrl: string;
  accessToken?: string;
  fetch: typeof fetch;
}

/** Tries of one file without a byte of progress between them. */
const maxTries = 6;

/** The innermost cause of a failure. */
export function reasonOf(error: unknown): string {
  const { cause } = error as { cause?: unknown };
  if (cause instanceof Error) return reasonOf(cause);
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\. For more information, pass `verbose: true`.*$/, ""); // advice to the caller of fetch
}

/** fetch that gives up where no answer begins within the patience. */
export function impatient({ patienceMs = 30_000, signal }: Watch): typeof fetch {
  const limited = async (input: string | URL | Request, init?: RequestInit) => {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`no answer within ${patienceMs / 1000} s`)), patienceMs);
    try {
      return await fetch(input, { ...init, signal: AbortSignal.any([late.signal, ...(signal ? [signal] : [])]) });
    } finally {
      clearTimeout(timer);
    }
  };
  return Object.assign(limited, { preconnect: fetch.preconnect });
}

export class Transfer {
  private readonly total: number;
  private done = 0;

  constructor(
    private readonly source: Source,
    /** models--org--name */
    private readonly folder: string,
    files: readonly ListFileEntry[],
    private readonly watch: Watch,
  ) {
    this.total = files.reduce((sum, { size }) => sum + size, 0);
    this.missingBytes = this.total - files.reduce((sum, file) => sum + this.present(file), 0);
  }

  /** bytes that are not there yet */
  readonly missingBytes: number;

  private blob(file: ListFileEntry): string {
    return join(this.folder, "blobs", file.lfs?.oid ?? file.oid!);
  }

  private present(file: ListFileEntry): number {
    const blob = this.blob(file);
    const found = [blob, `${blob}.incomplete`].find(existsSync);
    return found === undefined ? 0 : Math.min(file.size, statSync(found).size);
  }

  /** The file is in the cache and in the snapshot afterwards. */
  async take(file: ListFileEntry): Promise<void> {
    const blob = this.blob(file);
    const there = existsSync(blob);
    if (!there) await this.fetchBlob(file, blob);
    this.done += file.size;
    if (there) this.watch.progress?.(this.done, this.total, file.path);
    const link = join(this.folder, "snapshots", this.source.revision, file.path);
    mkdirSync(dirname(link), { recursive: true });
    if (lstatSync(link, { throwIfNoEntry: false })) rmSync(link);
    symlinkSync(relative(dirname(link), blob), link);
  }

  private async fetchBlob(file: ListFileEntry, blob: string): Promise<void> {
    const part = `${blob}.incomplete`;
    mkdirSync(dirname(blob), { recursive: true });
    let checked = false;
    for (let tries = 0, pause = this.watch.pauseMs ?? 500; ; ) {
      const before = existsSync(part) ? statSync(part).size : 0;
      try {
        if (before < file.size || file.size === 0) await this.append(file, part, before);
        const right = await hasHash(part, file);
        if (right) return renameSync(part, blob);
        rmSync(part);
        if (checked)
          throw new KvaError(
            "model",
            `${file.path} of ${this.source.repo} came twice with another hash than the hub says`,
          );
        checked = true;
        this.watch.retry?.(file.path, "its hash is wrong");
      } catch (error) {
        this.watch.signal?.throwIfAborted();
        if (error instanceof KvaError || isFinal(error)) throw error;
        const after = existsSync(part) ? statSync(part).size : 0;
        tries = after > before ? 0 : tries + 1;
        if (tries >= maxTries) throw brokenOff(this.source, file, after, error);
        this.watch.retry?.(file.path, reasonOf(error));
        if (tries > 0) {
          await Bun.sleep(pause);
          pause *= 2;
        }
      }
    }
  }

  /** Writes what comes from byte `start` on; throws where the transfer breaks or ends early. */
  private async append(file: ListFileEntry, part: string, start: number): Promise<void> {
    // a file that is longer than it may be is not ours to continue
    const from = start > file.size ? 0 : start;
    const blob = await downloadFile({ ...this.source, path: file.path });
    if (!blob) throw new KvaError("model", `${this.source.repo} lists ${file.path}, but does not have it`);
    const reader = blob.slice(from, file.size).stream().getReader();
    const descriptor = openSync(part, from === 0 ? "w" : "r+");
    let at = from;
    try {
      for (;;) {
        const { value, done } = await this.soon(reader.read());
        if (done) break;
        // a server that ignores ranges sends the file from its start: it is not taken for the rest
        if (at + value.length > file.size) throw new Error(`more bytes came than the ${file.size} of the file`);
        for (let written = 0; written < value.length; ) {
          written += writeSync(descriptor, value, written, value.length - written, at + written);
        }
        at += value.length;
        this.watch.progress?.(this.done + at, this.total, file.path);
      }
    } finally {
      closeSync(descriptor);
      reader.cancel().catch(() => {}); // it may be broken already
    }
    if (at < file.size) throw new Error(`the transfer ended at byte ${at} of ${file.size}`);
  }

  private async soon<T>(work: Promise<T>): Promise<T> {
    const { patienceMs = 30_000, signal } = this.watch;
    signal?.throwIfAborted();
    let timer: Timer | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no byte within ${patienceMs / 1000} s`)), patienceMs);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

function brokenOff({ repo }: Source, { path, size }: ListFileEntry, kept: number, cause: unknown): KvaError {
  const text = `${path} of ${repo}: the transfer broke ${maxTries} times without a byte between them, at last because of: ${reasonOf(cause)}`;
  return new KvaError("model", `${text}. ${kept} of ${size} bytes are kept: the same command goes on from there`, {
    cause,
  });
}

/** Answers that another try does not change, and a disk that is full. */
function isFinal(error: unknown): boolean {
  if (error instanceof HubApiError)
    return error.statusCode < 500 && error.statusCode !== 429 && error.statusCode !== 408;
  const { code } = error as { code?: string };
  return code === "ENOSPC" || code === "EACCES" || code === "EROFS" || code === "EDQUOT";
}

/** SHA-256 of large files; of small ones the hash that git gives them. */
async function hasHash(path: string, { lfs, oid, size }: ListFileEntry): Promise<boolean> {
  if (statSync(path).size !== size) return false;
  const hash: Hash = lfs ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
  for await (const piece of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(piece as Buffer);
  return hash.digest("hex") === (lfs?.oid ?? oid);
}

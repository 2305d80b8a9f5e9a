// How files of a run are written: JSONL line by line, a line on the disk before the next one; other files as a whole.
import { closeSync, fstatSync, fsyncSync, mkdirSync, openSync, readSync, renameSync, writeFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { KvaError, reason } from "../native/error.ts";

/** A file's name in the folder, and what becomes its next line. */
export type Line = readonly [name: string, value: unknown];

export class Appender {
  private readonly files = new Map<string, Promise<FileHandle>>();
  private writing: Promise<void> = Promise.resolve();

  constructor(readonly folder: string) {}

  /** In this order, and after everything that was appended before. */
  append(...lines: Line[]): Promise<void> {
    const write = this.writing.then(async () => {
      for (const [name, value] of lines) await this.line(name, value);
    });
    this.writing = write.catch(() => {});
    return write;
  }

  async close(): Promise<void> {
    await this.writing;
    for (const handle of await Promise.all(this.files.values())) await handle.close();
    this.files.clear();
  }

  private async line(name: string, value: unknown): Promise<void> {
    try {
      let file = this.files.get(name);
      if (file === undefined) {
        file = openAppender(join(this.folder, name));
        this.files.set(name, file);
      }
      const handle = await file;
      await handle.appendFile(`${JSON.stringify(value)}\n`);
      await handle.datasync();
    } catch (cause) {
      const handle = await this.files.get(name)?.catch(() => undefined);
      this.files.delete(name);
      await handle?.close().catch(() => {}); // what failed is said below
      throw new KvaError("io", `${join(this.folder, name)} cannot be written: ${reason(cause)}`, { cause });
    }
  }
}

// A line torn by a kill stays as it is, on a line of its own, where reading passes over it.
async function openAppender(path: string): Promise<FileHandle> {
  const handle = await open(path, "a+");
  const { size } = await handle.stat();
  if (size > 0) {
    const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
    if (buffer[0] !== 10) await handle.appendFile("\n");
  }
  return handle;
}

/** Many lines at once, as texts: on the disk when this returns. */
export function appendTexts(path: string, lines: readonly string[]): void {
  if (lines.length === 0) return;
  try {
    const file = openSync(path, "a+");
    try {
      const { size } = fstatSync(file);
      const last = Buffer.alloc(1);
      if (size > 0) readSync(file, last, 0, 1, size - 1);
      const torn = size > 0 && last[0] !== 10;
      writeFileSync(file, `${torn ? "\n" : ""}${lines.join("\n")}\n`);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    throw new KvaError("io", `${path} cannot be written: ${reason(cause)}`, { cause });
  }
}

/** So that a reader sees the old file or the new one. */
export function writeWhole(path: string, text: string): void {
  const draft = `${path}.${process.pid}.new`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(draft, text);
    const handle = openSync(draft, "r");
    fsyncSync(handle);
    closeSync(handle);
    renameSync(draft, path);
  } catch (cause) {
    throw new KvaError("io", `${path} cannot be written: ${reason(cause)}`, { cause });
  }
}

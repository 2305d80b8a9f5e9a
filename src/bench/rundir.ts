// A run directory: manifest, effective configuration, results, and rows appended one by one. Nothing in it is ever deleted.
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import type { KeptRow } from "./kept-rows.ts";
import { takeLock } from "./lock.ts";
import { identity, type Row, rowSchema, type TimingRow } from "./rows.ts";

const startSchema = v.looseObject({ run: v.number(), fresh: v.boolean(), started: v.string() });
const manifestSchema = v.looseObject({ runs: v.array(startSchema) });
export type RunStart = v.InferOutput<typeof startSchema>;

export interface OpenOptions {
  /** earlier rows are left alone and not used */
  fresh?: boolean;
}

export class RunDirectory {
  /** finished rows of earlier starts, by identity; the last one counts */
  readonly rows = new Map<string, Row>();
  readonly run: number;
  private readonly runs: RunStart[];
  private readonly appenders = new Map<string, Promise<FileHandle>>();
  private writing: Promise<void> = Promise.resolve();

  private constructor(
    readonly path: string,
    private readonly release: () => void,
    fresh: boolean,
  ) {
    const earlier = earlierRuns(path);
    this.run = Math.max(0, ...earlier.map((start) => start.run)) + 1;
    this.runs = [...earlier, { run: this.run, fresh, started: new Date().toISOString() }];
    const first = this.runs.findLast((start) => start.fresh)?.run ?? 0;
    for (const row of readRows(path)) if (row.run >= first) this.rows.set(identity(row), row);
  }

  /** Creates the directory if need be, takes its lock, and reads what earlier starts left. */
  static open(path: string, options: OpenOptions = {}): RunDirectory {
    try {
      mkdirSync(path, { recursive: true });
    } catch (cause) {
      throw new KvaError("io", `the run directory ${path} cannot be made: ${reason(cause)}`, { cause });
    }
    const release = locked(path);
    try {
      return new RunDirectory(path, release, options.fresh ?? false);
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Writes the manifest; facts of earlier starts stay in its list of runs. */
  writeManifest(facts: Record<string, unknown>): void {
    this.runs[this.runs.length - 1] = { ...this.runs.at(-1)!, ...facts };
    this.writeFile("manifest.json", `${JSON.stringify({ ...facts, runs: this.runs }, null, 2)}\n`);
  }

  /** Appends a sample's kept rows and raw times, then its row: the row is what says that the sample is done. */
  async append(row: Row, timing?: TimingRow, kept?: KeptRow): Promise<void> {
    const write = this.writing.then(async () => {
      if (kept !== undefined) await this.appendLine(keptFile(row), kept);
      if (timing !== undefined) await this.appendLine("timings.jsonl", timing);
      await this.appendLine(samplesFile(row), row);
      this.rows.set(identity(row), row);
    });
    this.writing = write.catch(() => {});
    return write;
  }

  /** Rows that no longer count: said in their files too, so that a later start measures them anew. */
  forget(rows: readonly Row[]): void {
    for (const row of rows) {
      const stale: Row = { ...row, run: this.run, status: "stale", score: null, prediction: null };
      this.rows.delete(identity(row));
      this.writing = this.writing.then(() => this.appendLine(samplesFile(row), stale)).catch(() => {});
    }
  }

  /** Writes a whole file so that a reader sees the old one or the new one. */
  writeFile(name: string, text: string): void {
    const path = join(this.path, name);
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

  async close(): Promise<void> {
    await this.writing;
    for (const handle of await Promise.all(this.appenders.values())) await handle.close();
    this.appenders.clear();
    this.release();
  }

  private async appendLine(name: string, value: unknown): Promise<void> {
    try {
      let appender = this.appenders.get(name);
      if (appender === undefined) {
        appender = openAppender(join(this.path, name));
        this.appenders.set(name, appender);
      }
      const handle = await appender;
      await handle.appendFile(`${JSON.stringify(value)}\n`);
      await handle.datasync();
    } catch (cause) {
      const handle = await this.appenders.get(name)?.catch(() => undefined);
      this.appenders.delete(name);
      await handle?.close().catch(() => {}); // what failed is said below
      throw new KvaError("io", `${join(this.path, name)} cannot be written: ${reason(cause)}`, { cause });
    }
  }
}

function locked(path: string): () => void {
  try {
    return takeLock(path);
  } catch (cause) {
    if (cause instanceof KvaError) throw cause;
    throw new KvaError("io", `the run directory ${path} cannot be written: ${reason(cause)}`, { cause });
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

/** What names the file of a row. */
export interface RowPlace {
  method: string;
  method_hash: string;
  task: string;
  length: number | null;
}

/** `samples_SnapKV_vt_4096.jsonl`; a label with parameters in brackets is told apart by its hash. */
export const samplesFile = (row: RowPlace): string => `samples_${fileEnding(row)}`;
/** `kept_SnapKV_vt_4096.jsonl`, beside it where kept rows are logged */
export const keptFile = (row: RowPlace): string => `kept_${fileEnding(row)}`;

const fileEnding = (row: RowPlace) => `${methodFile(row)}_${row.task}_${row.length ?? "all"}.jsonl`;

/** A method's name in file names. */
export function methodFile(row: Pick<RowPlace, "method" | "method_hash">): string {
  const name = row.method.replaceAll(/\[[^\]]*\]/g, "").replaceAll(/[^\w.+@-]+/g, "_");
  return row.method.includes("[") ? `${name}-${row.method_hash}` : name;
}

/** Every readable row of a run directory, in file order. Torn or foreign lines are passed over. */
export function readRows(path: string): Row[] {
  const names = readdirSync(path).filter((name) => name.startsWith("samples_") && name.endsWith(".jsonl"));
  return names.sort().flatMap((name) => readLines(join(path, name)));
}

function readLines(file: string): Row[] {
  const rows: Row[] = [];
  for (const line of readFileSync(file, "utf8").split("\n")) {
    if (line === "") continue;
    try {
      const result = v.safeParse(rowSchema, JSON.parse(line));
      if (result.success) rows.push(result.output);
    } catch {
      // a torn line: its sample is not done and runs again
    }
  }
  return rows;
}

function earlierRuns(path: string): RunStart[] {
  const file = join(path, "manifest.json");
  if (!existsSync(file)) return [];
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new KvaError("io", `${file} is not JSON: ${(cause as Error).message}; choose another --output_path`, {
      cause,
    });
  }
  const result = v.safeParse(manifestSchema, value);
  if (!result.success) throw new KvaError("io", `${file} is not the manifest of a run; choose another --output_path`);
  return result.output.runs;
}

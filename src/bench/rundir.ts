// A run directory: manifest, effective configuration, results, and rows appended one by one. Nothing in it is ever deleted.
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import { Appender, writeWhole } from "./appender.ts";
import type { KeptRow } from "./kept-rows.ts";
import { takeLock } from "./lock.ts";
import { mergeParts, withParts } from "./parts.ts";
import { readSamples, rowLines, samplesFile } from "./row-files.ts";
import { identity, type Row, type TimingRow } from "./rows.ts";

const startSchema = v.looseObject({ run: v.number(), fresh: v.boolean(), started: v.string() });
const manifestSchema = v.looseObject({ runs: v.array(startSchema) });
export type RunStart = v.InferOutput<typeof startSchema>;

export interface OpenOptions {
  /** earlier rows are left alone and not used */
  fresh?: boolean;
  /** no start of its own: what is written belongs to the last one */
  again?: boolean;
}

/** What the runner needs of a run directory, or of one writer's part of it. */
export interface RowStore {
  /** finished rows of earlier starts, by identity; the last one counts */
  readonly rows: Map<string, Row>;
  /** this start */
  readonly run: number;
  append(row: Row, timing?: TimingRow, kept?: KeptRow): Promise<void>;
  forget(rows: readonly Row[]): void;
}

export class RunDirectory implements RowStore {
  readonly rows: Map<string, Row>;
  readonly run: number;
  private readonly runs: RunStart[];
  private readonly lines: Appender;

  private constructor(
    readonly path: string,
    private readonly release: () => void,
    { fresh = false, again = false }: OpenOptions,
  ) {
    const earlier = readStarts(path);
    const last = Math.max(0, ...earlier.map((start) => start.run));
    const goesOn = again && last > 0;
    this.run = goesOn ? last : last + 1;
    this.runs = goesOn ? earlier : [...earlier, { run: this.run, fresh, started: new Date().toISOString() }];
    mergeParts(path);
    this.rows = rowsThatCount(readSamples(path), this.runs);
    this.lines = new Appender(path);
  }

  /** Creates the directory if need be, takes its lock, merges the parts of several writers, and reads what earlier starts left. */
  static open(path: string, options: OpenOptions = {}): RunDirectory {
    try {
      mkdirSync(path, { recursive: true });
    } catch (cause) {
      throw new KvaError("io", `the run directory ${path} cannot be made: ${reason(cause)}`, { cause });
    }
    const release = locked(path);
    try {
      return new RunDirectory(path, release, options);
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
    await this.lines.append(...rowLines(row, timing, kept));
    this.rows.set(identity(row), row);
  }

  /** Rows that no longer count: said in their files too, so that a later start measures them anew. */
  forget(rows: readonly Row[]): void {
    for (const row of rows) {
      const stale: Row = { ...row, run: this.run, status: "stale", score: null, prediction: null };
      this.rows.delete(identity(row));
      this.lines.append([samplesFile(row), stale]).catch(() => {});
    }
  }

  /** Writes a whole file so that a reader sees the old one or the new one. */
  writeFile(name: string, text: string): void {
    writeWhole(join(this.path, name), text);
  }

  async close(): Promise<void> {
    await this.lines.close();
    this.release();
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

/** Every readable row of a run directory, what several writers have not merged yet included. */
export const readRows = (path: string): Row[] => withParts(path);

/** Rows by identity: those of the last fresh start and later, the last one of each. */
export function rowsThatCount(rows: readonly Row[], starts: readonly RunStart[]): Map<string, Row> {
  const first = starts.findLast((start) => start.fresh)?.run ?? 0;
  return new Map(rows.filter((row) => row.run >= first).map((row) => [identity(row), row]));
}

/** The starts that the manifest lists. */
export function readStarts(path: string): RunStart[] {
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

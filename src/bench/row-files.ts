// The JSONL files of a run: their names, the lines of a sample, and how rows are read back.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import type { Line } from "./appender.ts";
import type { KeptRow } from "./kept-rows.ts";
import { type Row, rowSchema, type TimingRow } from "./rows.ts";

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
/** raw times of all samples */
export const timingsFile = "timings.jsonl";

const fileEnding = (row: RowPlace) => `${methodFile(row)}_${row.task}_${row.length ?? "all"}.jsonl`;

/** A method's name in file names. */
export function methodFile(row: Pick<RowPlace, "method" | "method_hash">): string {
  const name = row.method.replaceAll(/\[[^\]]*\]/g, "").replaceAll(/[^\w.+@-]+/g, "_");
  return row.method.includes("[") ? `${name}-${row.method_hash}` : name;
}

/** A sample's kept rows and raw times, then its row: the row is what says that the sample is done. */
export function rowLines(row: Row, timing?: TimingRow, kept?: KeptRow): Line[] {
  return [
    ...(kept === undefined ? [] : [[keptFile(row), kept] as const]),
    ...(timing === undefined ? [] : [[timingsFile, timing] as const]),
    [samplesFile(row), row],
  ];
}

/** The JSONL files of a folder that begin so, in order; none where it is not there. */
export function filesOf(folder: string, beginning: string): string[] {
  return ifThere(() => readdirSync(folder), [])
    .filter((name) => name.startsWith(beginning) && name.endsWith(".jsonl"))
    .sort();
}

/** The lines of a file that are whole JSON; torn ones are passed over, and a file that is not there has none. */
export function readLines(file: string): { text: string; value: unknown }[] {
  return ifThere(() => readFileSync(file, "utf8"), "")
    .split("\n")
    .flatMap((text) => {
      if (text === "") return [];
      try {
        return [{ text, value: JSON.parse(text) as unknown }];
      } catch {
        return []; // its sample is not done and runs again
      }
    });
}

/** What `read` finds; the other value where the path is not there, or no longer. */
export function ifThere<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return otherwise;
    throw error;
  }
}

/** Every readable row of a folder, in file order. Torn or foreign lines are passed over. */
export function readSamples(folder: string): Row[] {
  return filesOf(folder, "samples_").flatMap((name) =>
    readLines(join(folder, name)).flatMap(({ value }) => {
      const result = v.safeParse(rowSchema, value);
      return result.success ? [result.output] : [];
    }),
  );
}

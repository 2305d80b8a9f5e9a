// Several writers on one run: each appends to a folder of its own below parts/, and what they wrote is merged into the run's files.
// Nobody else writes into a part, so a file system that several nodes share needs no locks for it.
import { readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { appendTexts } from "./appender.ts";
import { isEnded } from "./pulse.ts";
import { filesOf, ifThere, readLines, readSamples, samplesFile, timingsFile } from "./row-files.ts";
import { identity, type Row } from "./rows.ts";

export const partsFolder = "parts";
const merged = ".merged";

/** Folders of writers whose rows may not be merged yet, in order. */
export function partFolders(path: string): string[] {
  return ifThere(() => readdirSync(join(path, partsFolder)), []) // not there: a run of one writer
    .filter((name) => !name.endsWith(merged))
    .sort()
    .map((name) => join(path, partsFolder, name));
}

/** Rows of a run's own files, and of its parts those that are not there yet; by start where there are any. */
export function withParts(path: string): Row[] {
  const parts = rowsOf(partFolders(path)); // first: what is merged meanwhile is found in the run's own files
  const own = readSamples(path);
  const added = notIn(own, parts).map(({ row }) => row);
  return added.length === 0 ? own : [...own, ...added].toSorted((a, b) => a.run - b.run);
}

/**
 * Appends to the run's files what only its parts have, so that afterwards they are those of a run with one writer; a second time changes
 * nothing, nor does a kill in between. Parts whose writer has ended are not read again. The caller holds the run's lock.
 */
export function mergeParts(path: string): void {
  const folders = partFolders(path);
  if (folders.length === 0) return;
  const added = Map.groupBy(notIn(readSamples(path), rowsOf(folders)), ({ part }) => part);
  for (const [part, of] of added) {
    const names = new Set(of.map(({ row }) => once(row)));
    for (const file of [...filesOf(part, "kept_"), timingsFile]) copyLines(file, part, path, names);
    for (const [file, list] of Map.groupBy(of, ({ row }) => samplesFile(row))) {
      appendTexts(
        join(path, file),
        list.map(({ row }) => JSON.stringify(row)),
      );
    }
  }
  for (const part of folders) if (isEnded(part)) renameSync(part, `${part}${merged}`);
}

const rowsOf = (folders: readonly string[]) =>
  folders.flatMap((part) => readSamples(part).map((row) => ({ row, part })));

/** One row for each sample and start. Of two, written by a writer that slept through its takeover and by its successor, an answer wins. */
function notIn<T extends { row: Row }>(own: readonly Row[], parts: readonly T[]): T[] {
  const known = new Set(own.map(once));
  const found = new Map<string, T>();
  for (const one of parts) {
    const name = once(one.row);
    const before = found.get(name);
    const better = before === undefined || (before.row.status !== "ok" && one.row.status === "ok");
    if (!known.has(name) && better) found.set(name, one);
  }
  return [...found.values()];
}

const once = (row: { key: string; batch: number; repeat: number; run: number }) => `${row.run} ${identity(row)}`;
const lineSchema = v.looseObject({ key: v.string(), batch: v.number(), repeat: v.number(), run: v.number() });

/** Lines that belong to these rows and are not in the run's file. */
function copyLines(file: string, part: string, path: string, rows: ReadonlySet<string>): void {
  const lines = (folder: string) =>
    readLines(join(folder, file)).flatMap(({ text, value }) => {
      const result = v.safeParse(lineSchema, value);
      return result.success ? [{ text, name: once(result.output) }] : [];
    });
  const mine = new Map(lines(part).flatMap(({ text, name }) => (rows.has(name) ? [[name, text] as const] : [])));
  const there = new Set(mine.size === 0 ? [] : lines(path).map(({ name }) => name));
  const missing = [...mine].flatMap(([name, text]) => (there.has(name) ? [] : [text]));
  appendTexts(join(path, file), missing);
}

// Where in its file a plugin's error lies: from the compiler, from a stack, or by looking for the property it is about.
import { existsSync, readFileSync } from "node:fs";
import { relative } from "node:path";

/** What is wrong with a plugin file, and where. */
export interface PluginError {
  file: string;
  line?: number;
  column?: number;
  text: string;
}

/** A plugin that loads but declares something wrong; `path` leads to it: `["presets", "kvcf", "window"]`. */
export class DeclarationError extends Error {
  constructor(
    readonly path: readonly string[],
    message: string,
  ) {
    super(message);
  }
}

interface Compiled {
  message: string;
  position?: { line: number; column: number; file?: string } | null;
  errors?: unknown[];
}

/** Position of a property: its name's first occurrence after that of the property around it. */
function findProperty(file: string, path: readonly string[]): { line: number; column: number } | undefined {
  if (!existsSync(file)) return undefined;
  const text = readFileSync(file, "utf8");
  let at = Math.max(0, text.search(/\bexport\s+default\b/));
  for (const key of path) {
    const found = text.slice(at).search(new RegExp(`(?<![\\w.])["']?${RegExp.escape(key)}["']?\\s*[:(,}]`));
    if (found < 0) break;
    at += found;
  }
  const before = text.slice(0, at).split("\n");
  return { line: before.length, column: before.at(-1)!.length + 1 };
}

/** The first frame of a stack that lies in one of the files. */
function findFrame(stack: string, files: readonly string[]): PluginError | undefined {
  for (const line of stack.split("\n")) {
    const match = /(?:\(|at (?:async )?)(?:file:\/\/)?([^():]+):(\d+):(\d+)\)?$/.exec(line.trim());
    const file = match?.[1];
    if (file !== undefined && files.includes(file)) {
      return { file, line: Number(match![2]), column: Number(match![3]), text: "" };
    }
  }
  return undefined;
}

/** An error of loading or checking `file` as one or more positions and texts. `files` are its sources. */
export function locate(error: unknown, file: string, files: readonly string[] = [file]): PluginError[] {
  if (error instanceof DeclarationError) return [{ file, ...findProperty(file, error.path), text: error.message }];
  const compiled = error as Compiled | null;
  if (Array.isArray(compiled?.errors) && compiled.errors.length > 0) {
    const all = compiled.errors.flatMap((one) => locate(one, file, files));
    const placed = all.filter((one) => one.line !== undefined);
    return placed.length > 0 ? placed : all;
  }
  if (!(error instanceof Error) && compiled?.position === undefined) return [{ file, text: `threw ${String(error)}` }];
  const text = compiled!.message;
  const position = compiled!.position;
  // the compiler puts what the end of the file lacks at line -1
  if (position && position.line > 0)
    return [{ file: position.file || file, line: position.line, column: position.column, text }];
  const frame = error instanceof Error ? findFrame(error.stack ?? "", files) : undefined;
  return [{ ...(frame ?? { file }), text }];
}

/** `plugins/snapkv.ts:6:13: text`; the path is relative where it lies under the current folder. */
export function describeError(error: PluginError): string {
  const near = relative(process.cwd(), error.file);
  const file = near.startsWith("..") || near === "" ? error.file : near;
  const place = [file, error.line, error.column].filter((part) => part !== undefined).join(":");
  return `${place}: ${error.text}`;
}

// An editor shows what a plugin author needs: every member of the types in src/plugin/index.ts, and every param, has a doc comment.
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const source = (name: string) =>
  readFileSync(join(import.meta.dir, "..", "..", "src", "plugin", name), "utf8").split("\n");

/** Members, by their first line, that no comment stands above. */
function bare(lines: readonly string[], begins: RegExp): { members: number; without: string[] } {
  let within: string | undefined;
  let members = 0;
  const without: string[] = [];
  for (const [at, line] of lines.entries()) {
    within = begins.exec(line)?.[1] ?? (line.startsWith("}") ? undefined : within);
    if (within === undefined || !/^ {2}(readonly )?\w+(\??:|\??\(|<)/.test(line)) continue;
    members += 1;
    if (!lines[at - 1]!.trimEnd().endsWith("*/")) without.push(`${within}: ${line.trim()}`);
  }
  return { members, without };
}

test("every member of what a plugin sees is documented", () => {
  const { members, without } = bare(source("index.ts"), /^export interface (\w+)/);
  expect(members).toBeGreaterThan(80);
  expect(without).toEqual([]);
});

test("every kind of parameter is documented", () => {
  const { members, without } = bare(source("param.ts"), /^export const (param) =/);
  expect(members).toBeGreaterThan(5);
  expect(without).toEqual([]);
});

// Named setups: benchmark files with everything in them, written by the wizard, run by `accel run --cfg_path NAME`.
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { basename, extname, join } from "node:path";
import { KvaError, reason } from "../native/error.ts";

/** `~/.config/kvaccel/setups`, or under XDG_CONFIG_HOME */
export function setupFolder(): string {
  return join(process.env.XDG_CONFIG_HOME || join(homedir(), ".config"), "kvaccel", "setups");
}

export function setupNames(): string[] {
  const folder = setupFolder();
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((file) => extname(file) === ".yaml")
    .map((file) => basename(file, ".yaml"))
    .sort();
}

export const setupPath = (name: string): string => join(setupFolder(), `${name}.yaml`);

/** A sentence where a setup cannot have this name; `taken` are the names of the package's own benchmarks. */
export function setupNameProblem(name: string, taken: readonly string[]): string | undefined {
  if (!/^[A-Za-z0-9][\w.-]{0,59}$/.test(name)) {
    return "a name takes letters, digits, '.', '-' and '_', up to 60 of them, a letter or digit first";
  }
  if (taken.some((own) => own.toLowerCase() === name.toLowerCase())) return `${name} is the name of a benchmark`;
  return undefined;
}

/** Replaces a setup of that name. */
export function writeSetup(name: string, yaml: string): string {
  const path = setupPath(name);
  try {
    mkdirSync(setupFolder(), { recursive: true });
    writeFileSync(path, `# kvaccel setup: accel run --cfg_path ${name}\n${yaml}`);
  } catch (cause) {
    throw new KvaError("io", `the setup cannot be written to ${path}: ${reason(cause)}`, { cause });
  }
  return path;
}

// Finds plugin files, loads them, and reloads them when they change. A broken file disturbs no other.
import { type FSWatcher, readdirSync, realpathSync, watch } from "node:fs";
import { basename, delimiter, join, resolve } from "node:path";
import { KvaError, reason } from "../native/error.ts";
import { evaluate } from "./evaluate.ts";
import type { Needs, Plugin } from "./index.ts";
import { readKnownGood, writeKnownGood } from "./known-good.ts";
import { describeError, locate, type PluginError } from "./locate.ts";
import { normalise, suggestion } from "./nearest.ts";
import { sourceFiles, sourceHash } from "./sources.ts";
import { tryFiles } from "./trial.ts";

export { describeError, type PluginError };

export interface LoadedPlugin {
  /** absolute path */
  file: string;
  plugin: Plugin;
  /** what it needs with its default values */
  needs: Needs;
  /** SHA-256 of the file and its relative imports */
  hash: string;
}

/** The package's own plugins. */
export const ownPlugins = realpathSync(join(import.meta.dir, "..", "..", "plugins"));

/** One save gives several events; they are answered once, so many milliseconds after the last. */
const debounceMs = 40;

/** Folders to search: the package's, those of `--plugin_dir`, those of KVACCEL_PLUGIN_PATH (separated as in PATH). */
export function pluginDirs(flags: readonly string[] = [], path = process.env.KVACCEL_PLUGIN_PATH ?? ""): string[] {
  return [ownPlugins, ...flags, ...path.split(delimiter).filter((dir) => dir !== "")];
}

function pluginFiles(dir: string): string[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch (error) {
    throw new KvaError("usage", `plugin folder ${dir} cannot be read: ${reason(error)}`);
  }
  return names
    .filter((name) => /^[^._].*\.ts$/.test(name) && !/\.(d|test)\.ts$/.test(name))
    .sort()
    .map((name) => join(dir, name));
}

/** The plugins that are there now. `reload` and `watch` change it in place. */
export class Registry {
  plugins: LoadedPlugin[] = [];
  /** what is wrong with files that did not load; the last good version of a file stays in `plugins` */
  errors: PluginError[] = [];
  #known = new Map<string, { hash: string; loaded?: LoadedPlugin; errors: PluginError[] }>();
  #reloading: Promise<unknown> = Promise.resolve();

  constructor(readonly dirs: readonly string[]) {}

  /** Reads the folders again; files that did not change are not evaluated. True where anything changed. */
  reload(): Promise<boolean> {
    const next = this.#reloading.then(() => this.#scan());
    this.#reloading = next.catch(() => undefined);
    return next;
  }

  async #scan(): Promise<boolean> {
    const found = new Map(this.dirs.flatMap(pluginFiles).map((file) => [file, sourceHash(sourceFiles(file))]));
    const changed = [...found].filter(([file, hash]) => this.#known.get(file)?.hash !== hash);
    const gone = [...this.#known.keys()].filter((file) => !found.has(file));
    for (const file of gone) this.#known.delete(file);
    const failed = await trial(changed);
    for (const [file, hash] of changed) {
      const before = this.#known.get(file)?.loaded;
      const result = failed.get(file) ?? (await load(file, hash));
      this.#known.set(
        file,
        Array.isArray(result) ? { hash, loaded: before, errors: result } : { hash, loaded: result, errors: [] },
      );
    }
    this.#publish([...found.keys()]);
    return changed.length + gone.length > 0;
  }

  /** Of two plugins with one name the first stays. */
  #publish(files: readonly string[]): void {
    const names = new Map<string, LoadedPlugin>();
    const errors: PluginError[] = [];
    for (const file of files) {
      const { loaded, errors: own } = this.#known.get(file)!;
      errors.push(...own);
      if (loaded === undefined) continue;
      const first = names.get(normalise(loaded.plugin.name));
      if (first === undefined) names.set(normalise(loaded.plugin.name), loaded);
      else
        errors.push({
          file,
          text: `${loaded.plugin.name} is already the name of ${first.file}; two plugins cannot share one`,
        });
    }
    this.plugins = [...names.values()];
    this.errors = errors;
  }

  /** Plugin files that do not load as they are on disk now. */
  get broken(): Set<string> {
    return new Set([...this.#known].filter(([, { errors }]) => errors.length > 0).map(([file]) => file));
  }

  /** The plugin of that name, ignoring case, '-' and '_'; otherwise an error with the nearest name. */
  find(name: string): LoadedPlugin {
    const typed = normalise(name);
    const loaded = this.plugins.find((one) => normalise(one.plugin.name) === typed);
    if (loaded !== undefined) return loaded;
    const broken = this.errors.find((error) => normalise(basename(error.file, ".ts")) === typed);
    if (broken !== undefined) throw new KvaError("plugin", `${name} did not load: ${describeError(broken)}`);
    const names = this.plugins.map((one) => one.plugin.name);
    throw new KvaError("usage", `unknown method ${name}; ${suggestion(name, names)}`);
  }

  /** Calls back after each change on disk that changed the registry. */
  watch(onChange: (registry: Registry) => void): { close(): void } {
    let timer: Timer | undefined;
    let closed = false;
    const changed = (): void => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        this.reload().then(
          (different) => different && !closed && onChange(this),
          () => undefined, // a folder that is gone for now; its plugins stay
        );
      }, debounceMs);
    };
    const watchers: FSWatcher[] = this.dirs.map((dir) => watch(dir, { recursive: true }, changed));
    return {
      close: () => {
        closed = true;
        clearTimeout(timer);
        for (const watcher of watchers) watcher.close();
      },
    };
  }
}

/** Files with something wrong, found in a child process; the package's own files only when they are new to this machine. */
async function trial(files: readonly [file: string, hash: string][]): Promise<Map<string, PluginError[]>> {
  const good = readKnownGood();
  const unknown = files.filter(([file, hash]) => !file.startsWith(ownPlugins) || !good.has(hash));
  const results = unknown.length > 0 ? await tryFiles(unknown.map(([file]) => file)) : new Map<string, PluginError[]>();
  const passed = unknown.filter(([file]) => file.startsWith(ownPlugins) && results.get(file)!.length === 0);
  if (passed.length > 0) {
    const now = files.filter(([file, hash]) => file.startsWith(ownPlugins) && good.has(hash));
    writeKnownGood([...now, ...passed].map(([, hash]) => hash));
  }
  return new Map([...results].filter(([, errors]) => errors.length > 0));
}

async function load(file: string, hash: string): Promise<LoadedPlugin | PluginError[]> {
  try {
    return { file, ...(await evaluate(file)), hash };
  } catch (error) {
    return locate(error, file, sourceFiles(file));
  }
}

/** All plugins of the folders. Broken files are in `errors`; a folder that cannot be read is a KvaError "usage". */
export async function loadPlugins(dirs: readonly string[]): Promise<Registry> {
  const real = dirs.map((dir) => {
    try {
      return realpathSync(resolve(dir));
    } catch {
      throw new KvaError("usage", `plugin folder ${dir} does not exist`);
    }
  });
  const registry = new Registry([...new Set(real)]);
  await registry.reload();
  return registry;
}

const current = new Map<string, LoadedPlugin>();

/** One plugin by path, as it is on disk now; the engine's process calls this before each sequence. */
export async function loadPluginFile(file: string): Promise<LoadedPlugin> {
  const hash = sourceHash(sourceFiles(file));
  const before = current.get(file);
  if (before?.hash === hash) return before;
  const loaded = await load(file, hash);
  if (Array.isArray(loaded)) throw new KvaError("plugin", loaded.map(describeError).join("\n"));
  current.set(file, loaded);
  return loaded;
}

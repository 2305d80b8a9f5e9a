// `accel run --watch`: a saved plugin file makes the rows of its methods stale, and the run measures them anew.
import type { Steering } from "../bench/steering.ts";
import { KvaError } from "../native/error.ts";
import { describeError, loadPlugins, pluginDirs, type Registry } from "../plugin/loader.ts";
import { methodsFrom, modelInfo } from "./engine-setup.ts";
import type { PreparedRun } from "./plan.ts";
import type { RunFlags, Settings } from "./settings.ts";

const hashes = (registry: Registry): Map<string, string> =>
  new Map(registry.plugins.map(({ file, hash }) => [file, hash]));

/** Replans the run after each save. A broken file is named, and its cells wait until it is mended. */
export async function watchPlugins(
  { config, sets }: Settings,
  run: PreparedRun,
  steering: Steering,
  say: (text: string) => void,
): Promise<{ close(): void }> {
  const flags = config as RunFlags;
  const registry = await loadPlugins(pluginDirs(flags.plugin_dir));
  let before = hashes(registry);
  return registry.watch(() => {
    const now = hashes(registry);
    const changed = new Set([...now].filter(([file, hash]) => before.get(file) !== hash).map(([file]) => file));
    const { broken } = registry;
    for (const error of registry.errors) say(describeError(error));
    try {
      const chosen = { plugin_dir: flags.plugin_dir, acceleration: config.acceleration ?? [] };
      run.methods = methodsFrom(registry, chosen, modelInfo(run.model), config.no_baseline === true, sets);
    } catch (error) {
      if (!(error instanceof KvaError)) throw error;
      return say(`${error.message}; the run goes on with the earlier methods`);
    }
    before = now;
    const of = (files: ReadonlySet<string>) =>
      run.methods.filter(({ parts }) => parts.some((part) => files.has(part.file)));
    const saved = of(changed);
    const waiting = of(broken);
    for (const { label } of saved) say(`${label}: saved, its cells are measured anew`);
    for (const { label } of waiting) say(`${label}: its cells wait until the file loads`);
    const [stale, held] = [saved, waiting].map((methods) => new Set(methods.map(({ hash }) => hash)));
    steering.replan({
      tasks: run.tasksFor(run.methods),
      stale: (row) => stale!.has(row.method_hash),
      held: ({ method }) => held!.has(method.hash),
    });
  });
}

// `accel run`: methods x lengths x tasks; tables on stdout, progress on stderr.
import { type Live, makeLive } from "../bench/live.ts";
import { identity } from "../bench/rows.ts";
import { cellName, Steering } from "../bench/steering.ts";
import { accuracyTable, costTable } from "../bench/tables.ts";
import { execute, type RunReport } from "./execute.ts";
import { Interrupted, type Interrupts, listenForInterrupts } from "./interrupt.ts";
import { type Keys, listenForKeys } from "./keys.ts";
import { colourOn, renderTables, tell } from "./output.ts";
import { prepareRun } from "./plan.ts";
import { preflightTable, refusalText } from "./preflight.ts";
import { type RunFlags, readSettings, type Settings } from "./settings.ts";
import { watchPlugins } from "./watch.ts";
import { rememberSpeed, speedKey } from "./wizard-memory.ts";

export async function run(flags: RunFlags): Promise<void> {
  const settings = readSettings(flags);
  if (flags.dry_run) return dryRun(settings);
  const watching = flags.watch === true;
  const steering = new Steering(watching);
  let say = (text: string) => tell(text);
  let live: Live | undefined;
  let keys: Keys | undefined;
  let watcher: Promise<{ close(): void }> | undefined;
  const interrupts = listenForInterrupts((text) => say(text));
  const frame = () => ({
    colour: colourOn(process.stderr),
    paused: steering.paused,
    watching,
    keys: keys !== undefined,
  });
  try {
    const report = await execute(
      settings,
      {
        say: (text) => say(text),
        event: (event) => live?.event(event),
        prepared(prepared, path, rows) {
          const { tasks } = prepared.plan;
          const done = tasks.filter((task) => rows.get(identity(task))?.status === "ok").length;
          say(`${path}: ${tasks.length} measurements, ${done === 0 ? "none done yet" : `${done} of them done before`}`);
          for (const row of prepared.preflight.filter(({ fits }) => !fits)) say(`will not fit: ${refusalText(row)}`);
          if (process.stderr.isTTY)
            keys = listenForKeys(
              process.stdin,
              keyActions(steering, interrupts, () => live),
            );
          live = makeLive({ stream: process.stderr, tasks, rows, frame });
          say = live.say;
          if (watching) watcher = watchPlugins(settings, prepared, steering, (text) => say(text));
        },
      },
      { stop: interrupts.stop, abort: interrupts.abort, steering },
    );
    live?.end();
    noteSpeed(report, settings);
    print(report, settings);
    finish(report, watching);
  } finally {
    (await watcher)?.close();
    live?.end();
    keys?.close();
    interrupts.dispose();
  }
}

/** Everything that a run checks before it starts, and what it will need. */
async function dryRun(settings: Settings): Promise<void> {
  const { plan, preflight } = await prepareRun(settings, tell);
  const table = preflightTable(preflight, plan.tasks.length, plan.engines);
  if (settings.output !== "json") process.stdout.write(renderTables([table], settings.output));
  else process.stdout.write(`${JSON.stringify({ measurements: plan.tasks.length, needs: preflight }, null, 2)}\n`);
}

function keyActions(
  steering: Steering,
  interrupts: Interrupts,
  live: () => Live | undefined,
): Record<string, () => void> {
  const redrawn = (act: () => void) => () => {
    act();
    live()?.draw();
  };
  const pause = redrawn(() => (steering.paused ? steering.resume() : steering.pause()));
  const skip = redrawn(() => {
    for (const { tasks } of live()?.state.doing.values() ?? []) {
      const { method, sample } = tasks[0]!;
      if (!steering.skip(cellName(tasks[0]!))) continue;
      live()?.say(`${method.label}, ${sample.length ?? "all lengths"}: skipped after the sample that runs`);
    }
  });
  return { p: pause, " ": pause, s: skip, q: interrupts.request, "\x03": interrupts.request };
}

/** For the wizard's next estimate: what a prompt token took, decode included. */
function noteSpeed({ cells, outcome, dtype }: RunReport, { config }: Settings): void {
  const device = outcome.infos[0];
  const first = cells.cost.filter((cell) => cell.batch === cells.batches[0] && cell.ttftMs !== null);
  const tokens = first.reduce((sum, cell) => sum + cell.n * (cell.length ?? 0), 0);
  const ms = first.reduce((sum, { n, ttftMs, msPerToken, steps }) => {
    return sum + n * (ttftMs!.median + steps * (msPerToken?.median ?? 0));
  }, 0);
  if (device === undefined || tokens === 0 || config.model_path === undefined) return;
  const key = speedKey(config.model_path, device.backend, dtype);
  rememberSpeed(key, ms / tokens);
}

function print(report: RunReport, { output }: Settings): void {
  if (output === "json") return void process.stdout.write(`${JSON.stringify(report.results, null, 2)}\n`);
  const tables = [accuracyTable(report.cells, report.context), costTable(report.cells, report.context)];
  process.stdout.write(renderTables(tables, output));
}

function finish({ path, failed, outcome }: RunReport, watching: boolean): void {
  if (outcome.interrupted && !(watching && outcome.missing === 0)) {
    tell(`Interrupted: ${outcome.missing} measurements are left. The same command goes on (${path}).`);
    throw new Interrupted();
  }
  if (failed > 0)
    tell(`${failed} measurements failed: their rows in ${path} say why; the same command tries them again.`);
  if (outcome.missing > 0) {
    tell(`${outcome.missing} measurements were not made: ${outcome.failures.join("; ")}. The same command goes on.`);
  }
  if (outcome.skipped > 0) tell(`${outcome.skipped} measurements were skipped; the same command runs them.`);
  if (failed > 0 || outcome.missing > 0) process.exitCode = 1;
  tell(`Report, rows, times, manifest and results.json: ${path}`);
}

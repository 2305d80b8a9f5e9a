// `accel run`: methods x lengths x tasks; tables on stdout, progress on stderr.
import { type Live, makeLive } from "../bench/live.ts";
import { identity } from "../bench/rows.ts";
import { cellName, Steering } from "../bench/steering.ts";
import { execute } from "./execute.ts";
import { type Interrupts, listenForInterrupts } from "./interrupt.ts";
import { type Keys, listenForKeys } from "./keys.ts";
import { colourOn, renderTables, tell } from "./output.ts";
import { prepareRun } from "./plan.ts";
import { preflightTable, refusalText } from "./preflight.ts";
import { finish, print } from "./present.ts";
import type { RunReport } from "./run-report.ts";
import { type RunFlags, readSettings, type Settings } from "./settings.ts";
import { watchPlugins } from "./watch.ts";
import { rememberSpeed, speedKey } from "./wizard-memory.ts";

export async function run(flags: RunFlags): Promise<void> {
  const settings = readSettings(flags);
  if (flags.dry_run) return dryRun(settings);
  if (flags.join !== undefined) return (await import("./join.ts")).joinRun(settings, flags.join, flags.takeover);
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

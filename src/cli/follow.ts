// Follows a job array to its end: its tasks from Slurm, its progress from the run directory; then what failed, and the tables.
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { formatDuration } from "../bench/format.ts";
import { endWriters, partsOfStart } from "../bench/members.ts";
import { filesOf, ifThere } from "../bench/row-files.ts";
import { KvaError } from "../native/error.ts";
import { Interrupted } from "./interrupt.ts";
import type { Launch } from "./launch-file.ts";
import { tell } from "./output.ts";
import { type PreparedRun, prepareRun } from "./plan.ts";
import { finish, print } from "./present.ts";
import { mergedReport } from "./run-report.ts";
import type { Settings } from "./settings.ts";
import { cancelWaiting, ended, queued, type SlurmJob, type TaskState } from "./slurm.ts";
import { logOf } from "./slurm-script.ts";

/** Where the nodes' devices are not: samples, methods and resume keys do not depend on them. */
export function prepareHere(settings: Settings): Promise<PreparedRun> {
  const { gp_num: _, ...config } = settings.config;
  return prepareRun({ ...settings, config: { ...config, device: ["cpu"] } }, tell);
}

export async function follow(
  path: string,
  launch: Launch & { job: SlurmJob },
  settings: Settings,
  prepared?: PreparedRun,
): Promise<void> {
  const { job, start, measurements, before } = launch;
  await untilOver(path, launch);
  endWriters(path, start);
  for (const task of await ended(job)) for (const failure of failureOf(path, job.id, task)) tell(failure);
  const made = new Progress(path, start).rows();
  if (before + made === 0) throw new KvaError("io", `job ${job.id} measured nothing of ${measurements} measurements`);
  const report = await mergedReport(settings, prepared ?? (await prepareHere(settings)), path);
  print(report, settings);
  finish(report);
}

/** Returns when Slurm no longer knows a task that waits or runs. Ctrl-C ends the following alone. */
async function untilOver(
  path: string,
  { job, start, measurements, before }: Launch & { job: SlurmJob },
): Promise<void> {
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const left = Promise.withResolvers<"left">();
  const leave = () => left.resolve("left");
  for (const signal of signals) process.on(signal, leave);
  const screen = new StatusLine();
  const progress = new Progress(path, start);
  const began = performance.now();
  let first: { made: number; at: number } | undefined;
  try {
    for (;;) {
      const tasks = await queued(job);
      if (tasks?.length === 0) return;
      const made = before + progress.rows();
      const now = performance.now();
      if (made > before) first ??= { made, at: now };
      const rate = first && made > first.made ? (now - first.at) / (made - first.made) : undefined;
      const time =
        rate === undefined || made >= measurements
          ? ""
          : ` · about ${formatDuration(rate * (measurements - made))} left`;
      screen.show(
        `job ${job.id}: ${statesText(tasks)} · ${Math.min(made, measurements)} of ${measurements} measurements${time}`,
      );
      if (made >= measurements && tasks?.some(({ state }) => state === "PENDING")) await cancelWaiting(job);
      // Short runs are looked at every second, long ones spare the controller.
      const pause = Math.min(15_000, Math.max(1000, (now - began) / 20));
      if ((await Promise.race([left.promise, Bun.sleep(pause)])) === "left") {
        screen.end();
        tell(`The job goes on. accel launch slurm --follow ${path} shows it again; scancel ${job.id} ends it.`);
        throw new Interrupted();
      }
    }
  } finally {
    screen.end();
    for (const signal of signals) process.off(signal, leave);
  }
}

/** `2 running (node1, node2), 1 pending (Resources)` */
function statesText(tasks: TaskState[] | undefined): string {
  if (tasks === undefined) return "squeue does not answer";
  const groups = Map.groupBy(tasks, ({ state }) => state);
  return [...groups]
    .map(([state, of]) => {
      const facts = new Set(
        of.map(({ node, reason }) => node || reason).filter((fact) => fact !== "" && fact !== "None"),
      );
      const shown = [...facts].slice(0, 4).join(", ");
      return `${of.length} ${state.toLowerCase()}${shown === "" ? "" : ` (${shown}${facts.size > 4 ? ", ..." : ""})`}`;
    })
    .join(", ");
}

/** What a task that did not end well leaves to read; nothing for one that did. */
function failureOf(path: string, job: string, { task, state, node, exit, reason }: TaskState): string[] {
  const ran = node !== "" && node !== "None assigned" && node !== "(null)";
  if (state === "COMPLETED" || (state === "CANCELLED" && !ran)) return [];
  const log = logOf(path, job, task);
  const where = ran ? ` on ${node}` : "";
  const head = `task ${job}_${task}${where}: ${state}`;
  if (existsSync(log)) {
    const last = readFileSync(log, "utf8").trimEnd().split("\n").at(-1)!;
    return [`${head}${last === "" ? "" : `, "${last.slice(0, 300)}"`}; its log: ${log}`];
  }
  // Slurm's mark of a batch script whose output file could not be opened
  const why =
    exit === "0:53" ? `${path} is not there; a run directory must be on a file system that all nodes share` : reason;
  return [`${head}${why === "" ? "" : `: ${why}`}; it left no log`];
}

/** Rows that the writers of a start have appended, merged or not; files are read again only where they grew. */
class Progress {
  private readonly files = new Map<string, { size: number; lines: number }>();

  constructor(
    private readonly path: string,
    private readonly start: number,
  ) {}

  rows(): number {
    for (const { folder, member } of partsOfStart(this.path, this.start)) {
      for (const name of filesOf(folder, "samples_")) {
        const key = `${member.host} ${member.pid} ${name}`; // a folder has another name when it is merged
        const size = ifThere(() => statSync(join(folder, name)).size, undefined);
        if (size === undefined || size === this.files.get(key)?.size) continue;
        const lines = ifThere(() => readFileSync(join(folder, name), "utf8"), "").split("\n").length - 1;
        this.files.set(key, { size, lines });
      }
    }
    return [...this.files.values()].reduce((sum, { lines }) => sum + lines, 0);
  }
}

/** One line that is drawn over on a terminal; elsewhere a line whenever it says something else. */
class StatusLine {
  private shown = "";

  show(text: string): void {
    const { isTTY, columns } = process.stderr;
    if (isTTY) process.stderr.write(`\r\x1b[K${text.slice(0, (columns || 80) - 1)}`);
    else if (text.replace(/ · about.*/, "") !== this.shown.replace(/ · about.*/, "")) tell(text);
    this.shown = text;
  }

  end(): void {
    if (process.stderr.isTTY && this.shown !== "") process.stderr.write("\n");
    this.shown = "";
  }
}

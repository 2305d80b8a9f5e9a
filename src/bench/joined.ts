// One of several writers on a start of a run directory: claims jobs, appends to its own part, shows that it lives.
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { KvaError } from "../native/error.ts";
import { Appender, writeWhole } from "./appender.ts";
import { ClaimedQueue } from "./claimed-queue.ts";
import { Claims } from "./claims.ts";
import type { KeptRow } from "./kept-rows.ts";
import { memberFile } from "./members.ts";
import { partsFolder } from "./parts.ts";
import { Heart, heartbeatMs } from "./pulse.ts";
import type { Job } from "./queue.ts";
import { rowLines } from "./row-files.ts";
import { identity, type Row, type TimingRow } from "./rows.ts";
import { type RowStore, readRows, readStarts, rowsThatCount } from "./rundir.ts";

export interface JoinOptions {
  /** the start that the directory's manifest lists last */
  start: number;
  /** a name for people: `4711_3` */
  task: string;
  /** the machine, as the user knows it */
  host?: string;
  /** silence after which a writer counts as gone */
  takeoverMs: number;
  heartbeatMs?: number;
  lookMs?: number;
}

export class JoinedRun implements RowStore {
  /** rows of earlier starts: the same for all writers, so that all form the same jobs */
  readonly rows: Map<string, Row>;
  readonly run: number;
  private readonly part: string;
  private readonly host: string;
  private readonly lines: Appender;
  private readonly heart: Heart;
  private readonly member: Record<string, unknown>;
  private queue: ClaimedQueue | undefined;

  constructor(
    readonly path: string,
    private readonly options: JoinOptions,
  ) {
    const { start, task } = options;
    const starts = readStarts(path);
    if (starts.at(-1)?.run !== start) throw tooLate(path, start, starts.at(-1)?.run);
    this.run = start;
    this.rows = rowsThatCount(
      readRows(path).filter(({ run }) => run < start),
      starts,
    );
    this.part = `${task.replaceAll(/[^\w-]+/g, "_")}-${randomBytes(3).toString("hex")}`;
    const folder = join(path, partsFolder, this.part);
    this.heart = new Heart(folder, options.heartbeatMs ?? Math.min(heartbeatMs, options.takeoverMs / 4));
    this.lines = new Appender(folder);
    this.host = options.host ?? hostname();
    this.member = { task, start, host: this.host, machine: hostname(), pid: process.pid };
    this.say({});
  }

  /** Facts about this writer, for the run's manifest. */
  say(facts: Record<string, unknown>): void {
    Object.assign(this.member, facts);
    writeWhole(join(this.lines.folder, memberFile), `${JSON.stringify(this.member)}\n`);
  }

  /** For the runner: jobs are claimed before they run. */
  makeQueue(jobs: Job[]): ClaimedQueue {
    const { path, part, run, host, options } = this;
    const me = { part, host, pid: process.pid, task: options.task };
    this.queue = new ClaimedQueue(jobs, {
      claims: new Claims(path, run, me),
      path,
      part,
      takeoverMs: options.takeoverMs,
      lookMs: options.lookMs ?? 1000,
      written: () => new Set(readRows(path).flatMap((row) => (row.run === run ? [identity(row)] : []))),
    });
    return this.queue;
  }

  async append(row: Row, timing?: TimingRow, kept?: KeptRow): Promise<void> {
    if (this.queue?.holds(row) !== true) return;
    await this.lines.append(...rowLines(row, timing, kept));
    this.queue.wrote(row);
  }

  /** Plugin files are not watched by several at once. */
  forget(): never {
    throw new KvaError("usage", "a run with several writers measures nothing anew");
  }

  async close(): Promise<void> {
    await this.lines.close();
    this.heart.end();
  }
}

function tooLate(path: string, start: number, last: number | undefined): KvaError {
  if (last !== undefined) {
    const text = `${path}: start ${start} is over, start ${last} took its place; what this task would run is done there`;
    return new KvaError("io", text);
  }
  const what = existsSync(path) ? "it has no manifest.json" : "it is not there";
  return new KvaError("io", `the run directory ${path} cannot be joined on ${hostname()}: ${what}`);
}

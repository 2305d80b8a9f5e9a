// The queue of one writer among several: a job is claimed before it is handed out, and taken over from a writer that is gone.
import { join } from "node:path";
import { type Claims, jobName } from "./claims.ts";
import { partsFolder } from "./parts.ts";
import { Watch } from "./pulse.ts";
import { type Job, JobQueue } from "./queue.ts";
import { identity, type Row } from "./rows.ts";

/** A job as all writers form it. */
interface Entry {
  job: Job;
  name: string;
}

/** A job that this writer holds under its claim of that number, and its measurements without a row. */
interface Held {
  name: string;
  number: number;
  left: Set<string>;
}

export interface ClaimedOptions {
  claims: Claims;
  /** the run directory, and this writer's folder in its parts/ */
  path: string;
  part: string;
  /** silence after which a writer counts as gone */
  takeoverMs: number;
  /** pause between two looks at jobs that others hold */
  lookMs: number;
  /** identities of the measurements that have a row of this start, whoever wrote it */
  written(): Set<string>;
}

export class ClaimedQueue extends JobQueue {
  private open: Entry[];
  /** claimed by others, as far as is known */
  private others: Entry[] = [];
  private readonly held = new Map<string, Held>();
  private readonly watch = new Watch();
  private taking: Promise<boolean> | undefined;

  constructor(
    jobs: readonly Job[],
    private readonly options: ClaimedOptions,
  ) {
    super([]);
    const { done, last } = options.claims.list();
    const entries = jobs.map((job) => ({ job, name: jobName(job) })).filter(({ name }) => !done.has(name));
    this.open = entries.filter(({ name }) => !last.has(name));
    this.others = entries.filter(({ name }) => last.has(name));
  }

  /** The next job that is this writer's now; undefined when all are done, or with writers that are seen to live. */
  override async next(): Promise<Job | undefined> {
    for (;;) {
      const own = await super.next();
      if (own !== undefined || this.isClosed) return own;
      const job = this.claimed();
      if (job !== undefined) return job;
      this.taking ??= this.takeOver().finally(() => {
        this.taking = undefined;
      });
      if (!(await this.taking)) return undefined;
    }
  }

  override get left(): number {
    return super.left + [...this.open, ...this.others].reduce((sum, { job }) => sum + job.tasks.length, 0);
  }

  /** False where another writer took the job of this measurement over: its row is the one that counts. */
  holds(row: Pick<Row, "key" | "batch" | "repeat">): boolean {
    const held = this.held.get(identity(row));
    return held !== undefined && !this.options.claims.isTakenOver(held.name, held.number);
  }

  /** The measurement's row is on the disk. */
  wrote(row: Pick<Row, "key" | "batch" | "repeat">): void {
    const name = identity(row);
    const held = this.held.get(name);
    if (held?.left.delete(name) && held.left.size === 0) this.options.claims.markDone(held.name);
  }

  private claimed(): Job | undefined {
    for (let entry = this.open.shift(); entry !== undefined; entry = this.open.shift()) {
      if (!this.options.claims.take(entry.name, 1, 0)) this.others.push(entry);
      else return this.hold(entry, 1, entry.job.tasks);
    }
    return undefined;
  }

  private hold({ job, name }: Entry, number: number, tasks: Job["tasks"]): Job {
    const left = new Set(tasks.map(identity));
    for (const one of left) this.held.set(one, { name, number, left });
    return { ...job, tasks };
  }

  /** True when a job was taken over; false when those that are left are done, or with writers that lived since this call. */
  private async takeOver(): Promise<boolean> {
    const { claims, lookMs, part, takeoverMs, path } = this.options;
    const since = performance.now();
    for (;;) {
      const { done, last } = claims.list();
      this.others = this.others.filter(({ name }) => !done.has(name));
      let unknown = false;
      for (const entry of this.others) {
        const number = last.get(entry.name) ?? 1;
        const claim = claims.read(entry.name, number);
        if (claim?.part === part) continue;
        // A claim without content is watched as if its writer had the claim's name.
        const sign = this.watch.look(join(path, partsFolder, claim?.part ?? `${entry.name}.${number}`));
        if (sign.ended || sign.silentMs > takeoverMs) {
          if (this.takeOverOne(entry, number, (claim?.deaths ?? 0) + (sign.ended ? 0 : 1))) return true;
          unknown = true;
        } else if ((sign.changedAt ?? 0) <= since) unknown = true;
      }
      if (!unknown || this.isClosed) return false;
      await Bun.sleep(lookMs);
    }
  }

  /**
   * The rows of the one who is gone stay; the rest of its job runs here, sample by sample where a writer died with it. `deaths` of writers
   * are laid to the first sample without a row: the one that was running.
   */
  private takeOverOne(entry: Entry, number: number, deaths: number): boolean {
    const { claims, written } = this.options;
    const rows = written();
    const tasks = entry.job.tasks.filter((task) => !rows.has(identity(task)));
    if (tasks.length === 0) claims.markDone(entry.name);
    else if (claims.take(entry.name, number + 1, deaths)) {
      this.others.splice(this.others.indexOf(entry), 1);
      const job = this.hold(entry, number + 1, tasks);
      const alone = tasks.map((task, at) => ({ tasks: [task], attempts: at === 0 ? deaths : Math.min(deaths, 1) }));
      this.giveBack(...(deaths === 0 ? [job] : alone));
      return true;
    }
    return false;
  }
}

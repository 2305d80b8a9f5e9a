// Rows one after the other within a time and a device's memory. What cannot run is emitted all the same, with the reason in words.
import { formatBytes } from "../../src/bench/format.ts";
import { allow, type Cost, Pace, Turn } from "./budget.ts";
import type { Row } from "./row.ts";

/** What is run at once: a row, or several that come from the same runs. */
export interface Job {
  table: Row["table"];
  /** of the rows that it gives */
  names: readonly string[];
  cost: Cost;
  /** of device memory, at the peak */
  needBytes: number;
  run(turn: Turn): Row[] | Promise<Row[]>;
}

/** Jobs that share an engine or a layer, which is there from the first that runs to the last. */
export interface Group {
  name: string;
  room: Room;
  jobs: readonly Job[];
  open(): void | Promise<void>;
  close(): void | Promise<void>;
}

export interface Room {
  bytes: number;
  /** `the card has 23.1 GiB free` */
  words: string;
}

export interface Settings {
  totalMs: number;
  /** milliseconds since the run began */
  now(): number;
  emit(rows: Row[]): void;
  /** a group has ended; what it could not give back */
  done(name: string, ms: number, failure?: string): void;
}

/** until a group has been opened */
const openingGuessMs = 5000;

const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
const fits = ({ needBytes }: Job, { room }: Pick<Group, "room">) => needBytes <= room.bytes;

export class Schedule {
  private readonly pace = new Pace();
  /** the longest so far */
  private openingMs: number | undefined;
  /** of the group whose turn it is; the error where it could not be opened */
  private state: "closed" | "open" | Error = "closed";

  constructor(
    private readonly groups: readonly Group[],
    private readonly settings: Settings,
  ) {}

  async run(): Promise<void> {
    const { now, emit, done } = this.settings;
    for (const [at, group] of this.groups.entries()) {
      const start = now();
      for (const index of group.jobs.keys()) emit(await this.rows(at, index));
      const failure = await this.close(group);
      done(group.name, now() - start, failure);
    }
  }

  /** The rows of a job, measured or with the reason why they are not. */
  private async rows(at: number, index: number): Promise<Row[]> {
    const group = this.groups[at]!;
    const job = group.jobs[index]!;
    const { totalMs, now } = this.settings;
    const without = (why: Pick<Row, "notRun" | "error">): Row[] =>
      job.names.map((name) => ({ table: job.table, name, ms: [], ...why }));
    if (!fits(job, group)) return without({ notRun: `needs ${formatBytes(job.needBytes)}, ${group.room.words}` });
    const laterMs = this.laterMs(at, index + 1);
    const before = this.allow(job, laterMs, this.state === "open" ? 0 : this.expectedOpeningMs);
    if ("refusal" in before) return without({ notRun: before.refusal });
    try {
      await this.open(group);
      const allowance = this.allow(job, laterMs, 0);
      if ("refusal" in allowance) return without({ notRun: allowance.refusal });
      const turn = new Turn(job.cost.leastRuns, allowance.allowedMs, now);
      const rows = await job.run(turn);
      this.pace.add(job.cost, turn.runs, turn.elapsedMs);
      return rows;
    } catch (error) {
      const reason = reasonOf(error);
      return without(now() < totalMs ? { error: reason } : { notRun: reason });
    }
  }

  /** Once for a group: where that failed, its other rows say so at once. */
  private async open(group: Group): Promise<void> {
    if (this.state === "open") return;
    if (this.state !== "closed") throw this.state;
    const start = this.settings.now();
    try {
      await group.open();
    } catch (error) {
      this.state = new Error(reasonOf(error));
      throw this.state;
    }
    this.state = "open";
    this.openingMs = Math.max(this.openingMs ?? 0, this.settings.now() - start);
  }

  private async close(group: Group): Promise<string | undefined> {
    try {
      if (this.state === "open") await group.close();
    } catch (error) {
      return reasonOf(error);
    } finally {
      this.state = "closed";
    }
  }

  private get expectedOpeningMs(): number {
    return this.openingMs ?? openingGuessMs;
  }

  private allow(job: Job, laterMs: number, openingMs: number) {
    const { totalMs, now } = this.settings;
    return allow(openingMs + this.pace.neededMs(job.cost), { totalMs, leftMs: totalMs - now(), laterMs });
  }

  /** What must be left for the rows after a job that fit into memory, with one sample each, the widest margin of them included. */
  private laterMs(at: number, next: number): number {
    const { pace, groups } = this;
    const later = [groups[at]!.jobs.slice(next), ...groups.slice(at + 1).map(({ jobs }) => jobs)];
    const costs = later.map((jobs, place) =>
      jobs.filter((job) => fits(job, groups[at + place]!)).map(({ cost }) => cost),
    );
    const openings = costs.filter((of, place) => place > 0 && of.length > 0).length;
    const all = costs.flat();
    const expected = all.reduce((sum, cost) => sum + pace.expectedMs(cost), openings * this.expectedOpeningMs);
    return expected + Math.max(0, ...all.map((cost) => pace.neededMs(cost) - pace.expectedMs(cost)));
  }
}

// The queue of a run: batches of measurements, longest first, handed to whichever engine is free.
import type { Task } from "./rows.ts";

/** Measurements that go to an engine in one call: one method, one batch size, lengths alike. */
export interface Job {
  tasks: Task[];
  attempts: number;
  /** batches of so many tasks fill the stages of a split model */
  pipeline?: number;
  /** its method's file was saved meanwhile: what comes back is of the earlier version */
  outdated?: boolean;
}

const size = (task: Task) => task.sample.length ?? task.sample.ids.length;

/** Of each method and length, so many batches run alone on a split model: times of one sample are theirs. */
const alone = 2;

/**
 * Forms batches by length within a method, and puts the longest first; equal lengths stay in the order of `tasks`.
 * stages: devices of a model copy. Over several, twice as many batches as stages go to the engine together.
 */
export function makeJobs(tasks: readonly Task[], stages = 1): Job[] {
  const groups = Map.groupBy(tasks, (task) =>
    [task.method.label, task.method.hash, task.batch, task.repeat, task.sample.length ?? "any"].join("\n"),
  );
  const jobs: Job[] = [];
  for (const group of groups.values()) {
    const batch = group[0]!.batch;
    const sorted = batch === 1 ? [...group] : group.toSorted((a, b) => b.sample.ids.length - a.sample.ids.length);
    const take = (count: number) => ({ tasks: sorted.splice(0, count), attempts: 0 });
    const singles = stages > 1 ? alone : Number.POSITIVE_INFINITY;
    for (let n = 0; n < singles && sorted.length > 0; n++) jobs.push(take(batch));
    while (sorted.length > batch) jobs.push({ ...take(2 * stages * batch), pipeline: batch });
    if (sorted.length > 0) jobs.push(take(batch));
  }
  const longest = (job: Job) => Math.max(...job.tasks.map(size));
  return jobs.toSorted((a, b) => longest(b) - longest(a));
}

export class JobQueue {
  private closed = false;
  private waiting: (() => void)[] = [];

  /** `holdsOpen`: an empty queue is not at its end, `refill` may come. */
  constructor(
    private jobs: Job[],
    private readonly holdsOpen = false,
  ) {}

  /** The next job; undefined when there is none and none will come. `idle` is called before a wait for more. */
  async next(idle: () => void = () => {}): Promise<Job | undefined> {
    for (;;) {
      if (this.closed) return undefined;
      const job = this.jobs.shift();
      if (job !== undefined || !this.holdsOpen) return job;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.waiting.push(resolve); // before `idle`, which may close or refill
      idle();
      await promise;
    }
  }

  /** Back to the front: it is the longest of what is left. */
  giveBack(...jobs: Job[]): void {
    this.jobs.unshift(...jobs);
    this.wake();
  }

  /** Other jobs in place of those that are left. */
  refill(jobs: Job[]): void {
    this.jobs = jobs;
    this.wake();
  }

  /** No more is handed out. */
  close(): void {
    this.closed = true;
    this.wake();
  }

  get isClosed(): boolean {
    return this.closed;
  }

  get left(): number {
    return this.jobs.reduce((sum, job) => sum + job.tasks.length, 0);
  }

  private wake(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}

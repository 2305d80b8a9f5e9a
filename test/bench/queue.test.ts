// Jobs: batches by length, longest first; over a split model pairs that run alone, then pipelines.
import { expect, test } from "bun:test";
import { makeJobs } from "../../src/bench/queue.ts";
import type { Task } from "../../src/bench/rows.ts";

function task(length: number, n: number, batch = 1, method = "Full"): Task {
  const sample = { id: `${length}/${n}`, task: "t", length, ids: new Int32Array(length - (n % 3)) };
  return {
    key: `${n}`,
    sample,
    method: { label: method, hash: method, parts: [] },
    batch,
    repeat: 0,
  } as unknown as Task;
}
const tasks = (length: number, count: number, batch = 1) =>
  Array.from({ length: count }, (_, n) => task(length, n, batch));
const shapes = (jobs: ReturnType<typeof makeJobs>) =>
  jobs.map((job) => [job.tasks[0]!.sample.length, job.tasks.length, job.pipeline]);

test("longest first, one by one", () => {
  expect(shapes(makeJobs([...tasks(512, 2), ...tasks(2048, 1)]))).toEqual([
    [2048, 1, undefined],
    [512, 1, undefined],
    [512, 1, undefined],
  ]);
});

test("a batch takes prompts of like length", () => {
  const jobs = makeJobs(tasks(512, 6, 3));
  expect(shapes(jobs)).toEqual([
    [512, 3, undefined],
    [512, 3, undefined],
  ]);
  const lengths = jobs.flatMap((job) => job.tasks.map(({ sample }) => sample.ids.length));
  expect(lengths).toEqual(lengths.toSorted((a, b) => b - a));
});

test("over two devices two samples run alone, then up to four at once", () => {
  expect(shapes(makeJobs(tasks(512, 11), 2))).toEqual([
    [512, 1, undefined],
    [512, 1, undefined],
    [512, 4, 1],
    [512, 4, 1],
    [512, 1, undefined],
  ]);
  expect(shapes(makeJobs(tasks(512, 10, 2), 2))).toEqual([
    [512, 2, undefined],
    [512, 2, undefined],
    [512, 6, 2],
  ]);
});

test("every task is in one job", () => {
  for (const stages of [1, 2, 4]) {
    const all = [...tasks(512, 13), ...tasks(1024, 7), ...tasks(4096, 3, 2)];
    const found = makeJobs(all, stages).flatMap((job) => job.tasks);
    expect(found.length).toBe(all.length);
    expect(new Set(found)).toEqual(new Set(all));
  }
});

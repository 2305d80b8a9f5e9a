// The time of `make bench`: what a row is taken to need, what it may take, and rows one after the other within a time.
import { describe, expect, test } from "bun:test";
import { allow, type Cost, Pace, Turn } from "../../scripts/bench/budget.ts";
import type { Row } from "../../scripts/bench/row.ts";
import { type Group, type Job, Schedule } from "../../scripts/bench/schedule.ts";

const cost = (kind: string, floorMs = 100, leastRuns = 2): Cost => ({ kind, floorMs, leastRuns });

describe("the pace", () => {
  test("takes the first row for twice its floor", () => {
    expect(new Pace().expectedMs(cost("Full"))).toBe(400);
  });

  test("of a kind is that of its own rows, of others that of all", () => {
    const pace = new Pace();
    pace.add(cost("Full"), 3, 390);
    pace.add(cost("H2O"), 1, 210);
    expect(pace.expectedMs(cost("Full"))).toBeCloseTo(260);
    expect(pace.expectedMs(cost("H2O"))).toBeCloseTo(420);
    expect(pace.expectedMs(cost("KIVI"))).toBeCloseTo(300);
  });

  test("leaves more room for a kind that has not been timed", () => {
    const pace = new Pace();
    pace.add(cost("Full"), 1, 100);
    expect(pace.neededMs(cost("Full"))).toBeCloseTo(240);
    expect(pace.neededMs(cost("KIVI"))).toBeCloseTo(300);
  });

  test("is mostly that of long rows", () => {
    const pace = new Pace();
    pace.add(cost("Full", 1), 1, 50);
    pace.add(cost("Full", 10_000), 1, 13_000);
    expect(pace.expectedMs(cost("Full", 1000, 1))).toBeWithin(1300, 1310);
  });
});

describe("what a row may take", () => {
  const time = { totalMs: 460_000, leftMs: 40_000, laterMs: 0 };

  test("is nothing where it needs more than is left, in words", () => {
    expect(allow(95_000, time)).toEqual({ refusal: "needs about 95 s, 40 s are left" });
    expect(allow(1234, { ...time, leftMs: -300 })).toEqual({ refusal: "needs about 1.2 s, 0.0 s are left" });
  });

  test("is all that the later rows leave", () => {
    expect(allow(5000, { ...time, laterMs: 10_000 })).toEqual({ allowedMs: 30_000 });
  });

  test("is its need where they leave less, and a fiftieth of the time in any case", () => {
    expect(allow(15_000, { ...time, laterMs: 39_000 })).toEqual({ allowedMs: 15_000 });
    expect(allow(100, { ...time, laterMs: 39_000 })).toEqual({ allowedMs: 9200 });
    expect(allow(100, { ...time, leftMs: 3000, laterMs: 39_000 })).toEqual({ allowedMs: 3000 });
  });

  test("ends with the last run that ends in time", () => {
    let now = 0;
    const turn = new Turn(2, 500, () => now);
    now = 200; // the least runs took 100 each
    let further = 0;
    while (turn.more()) {
      further++;
      now += 100;
    }
    expect(further).toBe(3);
    expect(turn).toMatchObject({ runs: 5, elapsedMs: 500 });
  });
});

/** A world in which runs take what they are said to. */
function world(totalMs: number) {
  const rows: Row[] = [];
  const ended: [string, string | undefined][] = [];
  const clock = { ms: 0 };
  const settings = {
    totalMs,
    now: () => clock.ms,
    emit: (made: Row[]) => void rows.push(...made),
    done: (name: string, _ms: number, failure?: string) => void ended.push([name, failure]),
  };
  /** a job that takes `ms` a run and would like `samples` */
  const job = (name: string, ms: number, more: Partial<Job> & { samples?: number } = {}): Job => ({
    table: "layer",
    names: [name],
    cost: cost("Full", ms, 1),
    needBytes: 0,
    run(turn) {
      let samples = 1;
      clock.ms += ms;
      while (samples < (more.samples ?? 1) && turn.more()) {
        samples++;
        clock.ms += ms;
      }
      return [{ table: "layer", name, ms: Array(samples).fill(ms) }];
    },
    ...more,
  });
  const group = (name: string, jobs: Job[], more: Partial<Group> = {}): Group => ({
    name,
    room: { bytes: 2 ** 30, words: "the card has 1.00 GiB free" },
    jobs,
    open() {},
    close() {},
    ...more,
  });
  return { rows, ended, clock, job, group, run: (groups: Group[]) => new Schedule(groups, settings).run() };
}

describe("a schedule", () => {
  test("gives further samples only the time that the rows behind leave", async () => {
    const { rows, job, group, run } = world(100_000);
    await run([group("one", [job("warm", 1000), job("first", 10_000, { samples: 9 }), job("last", 60_000)])]);
    expect(rows.map(({ name, ms }) => [name, ms.length])).toEqual([
      ["warm", 1],
      ["first", 2], // of the 99 s the last one may need 72
      ["last", 1],
    ]);
  });

  test("tells of every row that does not fit into the time, and goes on with those that do", async () => {
    const { rows, clock, job, group, run } = world(100_000);
    await run([
      group("one", [job("warm", 1000), job("a", 49_000), job("b", 80_000), job("c", 30_000), job("d", 30_000)]),
    ]);
    expect(rows.slice(1).map(({ name, ms, notRun }) => [name, ms.length, notRun])).toEqual([
      ["a", 1, undefined],
      ["b", 0, "needs about 96 s, 50 s are left"],
      ["c", 1, undefined],
      ["d", 0, "needs about 36 s, 20 s are left"],
    ]);
    expect(clock.ms).toBe(80_000);
  });

  test("tells of every row that does not fit into memory before it is run, and opens nothing for them", async () => {
    const { rows, job, group, run } = world(100_000);
    let opened = 0;
    const open = () => void opened++;
    const large = { needBytes: 33.5 * 2 ** 30, names: ["prefill, Full", "decode, Full"] };
    await run([group("one", [job("", 10, large)], { open }), group("two", [job("a", 10)], { open })]);
    expect(rows.map(({ name, notRun }) => [name, notRun])).toEqual([
      ["prefill, Full", "needs 33.5 GiB, the card has 1.00 GiB free"],
      ["decode, Full", "needs 33.5 GiB, the card has 1.00 GiB free"],
      ["a", undefined],
    ]);
    expect(opened).toBe(1);
  });

  test("opens a group once, counts that apart from its rows, and closes it", async () => {
    const { rows, ended, clock, job, group, run } = world(100_000);
    const log: string[] = [];
    const open = () => {
      log.push("open");
      clock.ms += 20_000;
    };
    const close = () => void log.push("close");
    const jobs = () => [job("a", 1000), job("b", 1000)];
    await run([group("one", jobs(), { open, close }), group("two", [job("c", 65_000)], { open, close })]);
    expect(log).toEqual(["open", "close"]);
    // 78 s are left and c takes 65, but an engine is 20 s on its way
    expect(rows.at(-1)?.notRun).toBe("needs about 98 s, 78 s are left");
    expect(ended).toEqual([
      ["one", undefined],
      ["two", undefined],
    ]);
  });

  test("tells of what fails, in every row that it concerns, and goes on", async () => {
    const { rows, ended, job, group, run } = world(100_000);
    const fails = (text: string) => () => {
      throw new Error(text);
    };
    await run([
      group("broken", [job("a", 10), job("b", 10)], { open: fails("no device") }),
      group("two", [job("c", 10, { run: fails("out of memory") }), job("d", 10)], { close: fails("still in use") }),
      group("three", [job("e", 10)]),
    ]);
    expect(rows.map(({ name, ms, error }) => [name, ms.length, error])).toEqual([
      ["a", 0, "no device"],
      ["b", 0, "no device"],
      ["c", 0, "out of memory"],
      ["d", 1, undefined],
      ["e", 1, undefined],
    ]);
    expect(ended.map(([, failure]) => failure)).toEqual([undefined, "still in use", undefined]);
  });

  test("calls a row that the end of the time has cut off not run", async () => {
    const { rows, clock, job, group, run } = world(100_000);
    const cut = () => {
      clock.ms = 100_000;
      throw new Error("the 100 s of this run were over");
    };
    await run([group("one", [job("a", 1000, { run: cut }), job("b", 10)])]);
    expect(rows.map(({ notRun }) => notRun)).toEqual([
      "the 100 s of this run were over",
      "needs about 0.0 s, 0.0 s are left",
    ]);
  });
});

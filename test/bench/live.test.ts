// Progress of a run: the table on terminals of 56, 80 and 200 columns, without colour, in a low window; plain lines without one.
import { expect, test } from "bun:test";
import { makeLive } from "../../src/bench/live.ts";
import { LiveState } from "../../src/bench/live-state.ts";
import { liveLines } from "../../src/bench/live-table.ts";
import { completedRow, failedRow, identity, type Row, type Task } from "../../src/bench/rows.ts";
import { sample, tasksOf } from "../support/fake-plan.ts";
import { VirtualScreen } from "../support/terminal.ts";

const labels = ["Full", "SnapKV", "H2O", "XAttention+SnapKV[capacity=256]+KIVI"];
const lengths = [4096, 8192, 16384, 32768, 65536, 131072];
const tasks = lengths
  .toReversed()
  .flatMap((length) =>
    tasksOf(
      [0, 1].map((at) => sample("vt", length, at)),
      labels,
    ),
  )
  .toSorted((a, b) => labels.indexOf(a.method.label) - labels.indexOf(b.method.label));

const context = { run: 1, attempts: 1, device: "cpu:0", sequences: 1, wallMs: 1000, logSamples: false };

function okRow(task: Task, score = 1): Row {
  const completion = {
    id: task.sample.id,
    status: "ok" as const,
    ids: [1, 2, 3],
    finish: "length" as const,
    promptTokens: task.sample.ids.length,
    prefillMs: 900,
    methodMs: 1,
    decodeMs: 100,
    tokenMs: [50, 50],
    cacheBytes: 1000 * task.sample.ids.length,
    cacheAllocatedBytes: 0,
    expectedCacheBytes: 0,
    peakBytes: 5 * 2 ** 30,
    numbers: {},
  };
  const row = completedRow(task, completion, "", context);
  return { ...row, score };
}

const of = (label: string, length: number) =>
  tasks.filter((task) => task.method.label === label && task.sample.length === length);

/** Full is measured at 128K and 64K, SnapKV is under way at 128K, H2O ran out of memory there. */
function midway(): LiveState {
  const state = new LiveState(tasks, new Map());
  const row = (one: Row) => state.note({ type: "row", row: one, done: 0, total: tasks.length });
  for (const task of [...of("Full", 131072), ...of("Full", 65536)]) row(okRow(task));
  row(okRow(of("SnapKV", 131072)[0]!, 0.5));
  for (const task of of("H2O", 131072)) row(failedRow(task, "oom", "12 GiB needed", context));
  state.note({ type: "start", engine: 0, tasks: [of("SnapKV", 131072)[1]!] });
  state.note({ type: "phase", engine: 0, phase: "decode", done: 5, total: 8 });
  return state;
}
const frame = { columns: 80, rows: 24, colour: false, paused: false, watching: false, keys: true };

test("80 columns without colour", () => {
  const lines = liveLines(midway(), frame);
  expect(lines.join("\n")).toMatchSnapshot();
  expect(Math.max(...lines.map((line) => Bun.stringWidth(line)))).toBeLessThan(80);
  expect(lines.join("")).not.toContain("\x1b");
});

test("200 columns have room for the whole name and for cost figures", () => {
  const lines = liveLines(midway(), { ...frame, columns: 200 });
  expect(lines.join("\n")).toMatchSnapshot();
});

test("56 columns show the lengths around the one that runs; nothing passes the edge", () => {
  const lines = liveLines(midway(), { ...frame, columns: 56 });
  expect(Math.max(...lines.map((line) => Bun.stringWidth(line)))).toBeLessThan(56);
  expect(lines[0]).toContain("128K");
  expect(lines[0]).not.toMatch(/\b4K\b/);
});

test("a low window keeps the method that runs, and says how many it hides", () => {
  const lines = liveLines(midway(), { ...frame, rows: 9 });
  expect(lines.length).toBeLessThan(9);
  expect(lines.join("\n")).toContain("> SnapKV");
  expect(lines.join("\n")).toContain("and 3 more; a taller window shows them");
});

test("colours are weights and red alone, which a light background shows as well as a dark one", () => {
  const codes = liveLines(midway(), { ...frame, colour: true })
    .join("")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC
    .matchAll(/\x1b\[(\d+)m/g);
  expect(new Set([...codes].map(([, code]) => code))).toEqual(new Set(["1", "22", "2", "31", "39"]));
});

test("a cell with errors, one in part out of memory and one in part skipped are marked, and the marks explained", () => {
  const state = new LiveState(tasks, new Map());
  const row = (one: Row) => state.note({ type: "row", row: one, done: 0, total: tasks.length });
  const [ok, other] = of("Full", 4096);
  row(okRow(ok!));
  row(failedRow(other!, "error", "no", context));
  row(okRow(of("SnapKV", 4096)[0]!));
  state.note({ type: "skipped", tasks: [of("SnapKV", 4096)[1]!] });
  row(okRow(of("H2O", 4096)[0]!));
  row(failedRow(of("H2O", 4096)[1]!, "oom", "no", context));
  const text = liveLines(state, frame).join("\n");
  expect(text).toMatch(/Full +100\.0!/);
  expect(text).toMatch(/SnapKV +100\.0-/);
  expect(text).toMatch(/H2O +100\.0\*/);
  expect(text).toContain("! with errors · * in part out of memory · - in part skipped");
});

test("time left goes by tokens, not by samples", () => {
  const state = new LiveState(tasks, new Map());
  state.note({ type: "row", row: okRow(of("Full", 131072)[0]!), done: 1, total: tasks.length });
  const tokens = tasks.slice(1).reduce((sum, { sample: { ids } }) => sum + ids.length + 4, 0);
  expect(state.timeLeft()! / ((1000 * tokens) / (131062 + 3))).toBeCloseTo(1, 2);
});

test("rows of an earlier start fill their cells; a replan empties them", () => {
  const done = new Map(of("Full", 4096).map((task) => [identity(task), okRow(task)]));
  const state = new LiveState(tasks, done);
  expect(state.done).toBe(2);
  state.note({ type: "replanned", tasks, rows: new Map() });
  expect(state.done).toBe(0);
});

test("on a terminal the table is redrawn in place, messages stand above it, and nothing is left at the end", () => {
  const screen = new VirtualScreen(80, 24);
  const stream = screen as unknown as NodeJS.WriteStream;
  const frameOf = () => ({ colour: true, paused: false, watching: false, keys: true });
  const live = makeLive({ stream, tasks, rows: new Map(), frame: frameOf });
  for (const task of of("Full", 131072)) live.event({ type: "row", row: okRow(task), done: 1, total: tasks.length });
  live.say("a message");
  live.draw();
  const text = screen.text();
  expect(text.match(/p: pause/g)).toHaveLength(1);
  expect(text.indexOf("a message")).toBeLessThan(text.indexOf("method"));
  expect(text).toMatch(/Full .* 100\.0/);
  live.end();
  expect(screen.text()).toBe("a message");
});

test("elsewhere a plain line comes now and then, and failures at once", () => {
  const lines: string[] = [];
  const stream = { isTTY: false, write: (text: string) => lines.push(text) } as unknown as NodeJS.WriteStream;
  const frameOf = () => ({ colour: false, paused: false, watching: false, keys: false });
  const live = makeLive({ stream, tasks, rows: new Map(), frame: frameOf, plainEveryMs: 0 });
  live.event({ type: "row", row: okRow(of("Full", 131072)[0]!), done: 1, total: tasks.length });
  live.event({
    type: "row",
    row: failedRow(of("H2O", 4096)[0]!, "error", "boom", context),
    done: 2,
    total: tasks.length,
  });
  live.end();
  expect(lines[0]).toMatch(/^1 of 48 {2}about .* left\n$/);
  expect(lines[1]).toBe("H2O, vt/4096/0: error: boom\n");
});

// Cells and tables from rows: scores, intervals, gaps, totals, column groups, formats.
import { expect, test } from "bun:test";
import { makeCells } from "../../src/bench/cells.ts";
import { formatBytes, formatDuration, formatMs } from "../../src/bench/format.ts";
import { identity, type Row, type Task } from "../../src/bench/rows.ts";
import { columnGroups, renderCsv, renderJsonLines, renderMarkdown, renderTerminal } from "../../src/bench/table.ts";
import { accuracyTable, costTable } from "../../src/bench/tables.ts";
import { sample, tasksOf } from "../support/fake-plan.ts";

const context = { benchmark: "RULER", model: "tiny", view: "question_aware", remarks: [] };

function row(task: Task, more: Partial<Row> = {}): Row {
  return {
    key: task.key,
    run: 1,
    id: task.sample.id,
    task: task.sample.task,
    length: task.sample.length,
    method: task.method.label,
    method_hash: task.method.hash,
    batch: task.batch,
    sequences: 1,
    repeat: task.repeat,
    status: "ok",
    score: 1,
    prediction: "x",
    refs: ["x"],
    ids: [1, 2, 3],
    finish: "length",
    attempts: 1,
    device: "cpu:0",
    prompt_tokens: 500,
    new_tokens: 3,
    ttft_ms: 100,
    method_ms: 0,
    decode_ms: 20,
    wall_ms: 120,
    cache_bytes: 1024 ** 2,
    cache_allocated_bytes: 1024 ** 2,
    expected_cache_bytes: 1024 ** 2,
    peak_bytes: 1024 ** 3,
    numbers: {},
    ...more,
  };
}

function rowsOf(tasks: Task[], of: (task: Task) => Row | undefined): Map<string, Row> {
  return new Map(
    tasks.flatMap((task) => {
      const made = of(task);
      return made ? [[identity(task), made] as const] : [];
    }),
  );
}

const samples = [512, 1024].flatMap((length) =>
  ["vt", "fwe"].flatMap((task) => [0, 1].map((at) => sample(task, length, at))),
);
const methods = ["Full", "SnapKV"];

test("a length's score is the mean over its tasks, in hundredths, with n and interval", () => {
  const tasks = tasksOf(samples, methods);
  const cells = makeCells(
    tasks,
    rowsOf(tasks, (task) => row(task, { score: task.sample.task === "vt" ? 1 : 0.5 })),
  );
  const cell = cells.accuracy.find((one) => one.method === "SnapKV" && one.length === 512)!;
  expect(cell).toMatchObject({ n: 4, score: 75, interval: [75, 75], status: "full" });
  expect(cells.byTask.find((one) => one.task === "fwe" && one.method === "Full")).toMatchObject({
    n: 2,
    score: 50,
    stderr: 0,
  });
});

test("speed-up counts as many new tokens as Full wrote, and the cache is a share of Full's", () => {
  const tasks = tasksOf(samples, methods);
  const snap = { ttft_ms: 50, decode_ms: 5, new_tokens: 2, cache_bytes: 1024 ** 2 / 4 };
  const cells = makeCells(
    tasks,
    rowsOf(tasks, (task) => row(task, task.method.label === "SnapKV" ? snap : {})),
  );
  const cell = cells.cost.find((one) => one.method === "SnapKV")!;
  expect(cell.cacheShare).toBe(0.25);
  expect(cell.speedUp).toBeCloseTo(120 / (50 + 2 * 5), 10);
  expect(cell.tokensPerSecond).toBeCloseTo(200, 10);
});

test("out of memory is a dash, a gap makes the cell and the totals partial", () => {
  const tasks = tasksOf(samples, methods);
  const rows = rowsOf(tasks, (task) => {
    if (task.method.label === "Full") return row(task);
    if (task.sample.length === 1024) return row(task, { status: "oom", score: null, wall_ms: 0 });
    return task.sample.id === "vt/512/1" ? undefined : row(task);
  });
  const text = renderMarkdown(accuracyTable(makeCells(tasks, rows), context));
  const line = (start: string) => text.split("\n").find((one) => one.startsWith(start))!;
  expect(line("| 1K")).toBe("| 1K | 0-4 | 100.0 [100, 100] | - |");
  expect(line("| 512")).toBe("| 512 | 3-4 | 100.0 [100, 100] | 100.0 partial |");
  expect(line("| mean")).toBe("| mean |  | 100.0 | 100.0 partial |");
  expect(line("| time")).toBe("| time |  | 0.960 s | 0.360 s partial |");
  expect(text).toContain("-: out of memory.");
});

test("a batch has its time row and its cost rows; scores come from the smallest batch", () => {
  const tasks = [...tasksOf(samples, methods), ...tasksOf(samples, methods, { batch: 8 })];
  const cells = makeCells(
    tasks,
    rowsOf(tasks, (task) => row(task, task.batch === 8 ? { wall_ms: 30, score: 0, sequences: 4 } : {})),
  );
  expect(cells.accuracy.every((cell) => cell.score === 100)).toBe(true);
  const text = renderMarkdown(accuracyTable(cells, context));
  expect(text).toContain("| time, batch 8 |  | 0.240 s | 0.240 s |");
  expect(renderCsv(costTable(cells, context)).split("\n")[0]).toStartWith("length,method,batch,n,ttft_ms");
});

test("a table wider than the terminal is split, head columns repeated", () => {
  const tasks = tasksOf(samples, ["Full", ...Array.from({ length: 12 }, (_, at) => `Method${at}`)]);
  const table = accuracyTable(makeCells(tasks, rowsOf(tasks, row)), context);
  const groups = columnGroups(table, 80);
  expect(groups.length).toBeGreaterThan(1);
  expect(groups.every((group) => group[0] === 0 && group[1] === 1)).toBe(true);
  expect(groups.flat().filter((at) => at > 1).length).toBe(13);
  for (const width of [80, 200]) {
    const lines = renderTerminal(table, { width, colour: false }).split("\n");
    expect(Math.max(...lines.map((one) => Bun.stringWidth(one)))).toBeLessThanOrEqual(width);
  }
  const cost = renderTerminal(costTable(makeCells(tasks, rowsOf(tasks, row)), context), { width: 80, colour: false });
  expect(Math.max(...cost.split("\n").map((one) => Bun.stringWidth(one)))).toBeLessThanOrEqual(80);
});

test("without colour there are no escapes", () => {
  const tasks = tasksOf(samples, methods);
  const table = accuracyTable(makeCells(tasks, rowsOf(tasks, row)), context);
  expect(renderTerminal(table, { width: 80, colour: false })).not.toContain("\x1b");
  expect(renderTerminal(table, { width: 80, colour: true })).toContain("\x1b[1m");
});

test("CSV and JSON lines carry numbers, not their pictures", () => {
  const tasks = tasksOf(samples, ["Full", 'A[x=1,y="2"]']);
  const cells = makeCells(tasks, rowsOf(tasks, row));
  expect(renderCsv(accuracyTable(cells, context)).split("\n")[0]).toBe('length,n,Full,"A[x=1,y=""2""]"');
  const first = JSON.parse(renderJsonLines(costTable(cells, context)).split("\n")[0]!);
  expect(first).toMatchObject({ length: 512, method: "Full", ttft_ms: 100, ms_per_token: 10, cache_bytes: 1024 ** 2 });
});

test("numbers are written in units that people read", () => {
  expect([0, 1023, 1024, 1.5 * 1024 ** 3].map(formatBytes)).toEqual(["0 B", "1023 B", "1.00 KiB", "1.50 GiB"]);
  expect([0.1234, 12.34, 999, 61_000].map(formatMs)).toEqual(["0.123 ms", "12.3 ms", "999 ms", "61.0 s"]);
  expect([125_000, 7_620_000].map(formatDuration)).toEqual(["2 min 05 s", "2 h 07 min"]);
});

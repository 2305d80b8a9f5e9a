// Several writers on one run: every sample once whoever is killed, stopped or asleep; merged, the files are those of one writer.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { Claims } from "../../src/bench/claims.ts";
import { JoinedRun } from "../../src/bench/joined.ts";
import { endWriters, livingWriters, readMembers } from "../../src/bench/members.ts";
import { mergeParts } from "../../src/bench/parts.ts";
import { readSamples } from "../../src/bench/row-files.ts";
import { identity, type Row } from "../../src/bench/rows.ts";
import type { RunPlan } from "../../src/bench/run-contract.ts";
import { RunDirectory, readRows } from "../../src/bench/rundir.ts";
import { runTasks } from "../../src/bench/runner.ts";
import { engineOptions, planOf, sample, tasksOf } from "../support/fake-plan.ts";
import { folder } from "../support/folder.ts";

let state: string;
beforeEach(() => {
  state = folder();
  process.env.FAKE_ENGINE_STATE = state;
});
afterEach(() => {
  delete process.env.FAKE_ENGINE_STATE;
});

const log = () => (existsSync(join(state, "log")) ? readFileSync(join(state, "log"), "utf8").trim().split("\n") : []);

/** A start for others to join; its number. */
async function started(path: string): Promise<number> {
  const directory = RunDirectory.open(path);
  directory.writeManifest({ version: "test" });
  await directory.close();
  return directory.run;
}

const joined = (path: string, start: number, task: string, takeoverMs = 300, heartbeatMs = 50) =>
  new JoinedRun(path, { start, task, takeoverMs, heartbeatMs, lookMs: 20 });
/** heartbeats so rare that a writer looks dead to the others */
const silent = 1e9;

async function work(run: JoinedRun, plan: RunPlan) {
  const outcome = await runTasks(plan, run, () => {}, { queue: (jobs) => run.makeQueue(jobs) });
  await run.close();
  return outcome;
}

const files = (path: string) =>
  readdirSync(path)
    .filter((name) => name.endsWith(".jsonl"))
    .sort();
const linesOf = (path: string) =>
  Object.fromEntries(files(path).map((name) => [name, readFileSync(join(path, name), "utf8").trim().split("\n")]));

test("two writers of two engines share the samples; merged, the directory is that of one writer, and merging again changes nothing", async () => {
  const path = folder();
  const start = await started(path);
  const plan = planOf(
    tasksOf(
      Array.from({ length: 12 }, (_, at) => sample("vt", 512, at)),
      ["Slow"],
    ),
    { logKept: true, engines: [engineOptions, { ...engineOptions, device: "cpu:1" }] },
  );
  await Promise.all(["a", "b"].map((task) => work(joined(path, start, task), plan)));
  expect(log().toSorted()).toEqual(plan.tasks.map(({ sample: { id } }) => `Slow ${id}`).toSorted());
  expect(files(path)).toEqual([]);
  expect(readRows(path)).toHaveLength(12);
  expect(readMembers(path, start).map(({ task }) => task)).toEqual(["a", "b"]);

  mergeParts(path);
  const merged = linesOf(path);
  expect(Object.entries(merged).map(([name, lines]) => [name, new Set(lines).size, lines.length])).toEqual([
    ["kept_Slow_vt_512.jsonl", 12, 12],
    ["samples_Slow_vt_512.jsonl", 12, 12],
    ["timings.jsonl", 12, 12],
  ]);
  expect(readRows(path)).toHaveLength(12);
  mergeParts(path);
  expect(linesOf(path)).toEqual(merged);

  const again = await started(path);
  expect(await work(joined(path, again, "c"), plan)).toMatchObject({ reused: 12, infos: [] });
  expect(() => joined(path, start, "late")).toThrow(`start ${start} is over, start ${again} took its place`);
});

test("a writer that stops gives back what it holds at once; one that dies has it tried once more, then marked", async () => {
  const path = folder();
  const start = await started(path);
  const plan = planOf(tasksOf([sample("vt", 512, 0)], ["Full"]));
  const claim = (task: string) => {
    const run = joined(path, start, task, 150, silent);
    return { run, queue: run.makeQueue([{ tasks: plan.tasks, attempts: 0 }]) };
  };
  const first = claim("stops");
  expect(await first.queue.next()).toMatchObject({ attempts: 0 });
  await first.run.close();
  for (const [attempts, task] of ["after a stop", "after a death", "after two"].entries()) {
    expect(await claim(task).queue.next()).toMatchObject({ attempts });
  }
  await work(joined(path, start, "last", 150), plan);
  expect(log()).toEqual([]);
  const [row] = readRows(path);
  expect(row).toMatchObject({ status: "error", error: "not run: 3 processes of the run ended while they ran it" });
  mergeParts(path);
  await work(joined(path, await started(path), "next start", 150), plan);
  expect(readRows(path).at(-1)).toMatchObject({ status: "ok", run: start + 1 });
});

test("a writer that slept through its takeover drops its row; had it come just before, one of the two would count", async () => {
  const path = folder();
  const start = await started(path);
  const plan = planOf(tasksOf([sample("vt", 512, 0)], ["Full"]));
  const sleeper = joined(path, start, "sleeper", 300, silent);
  const queue = sleeper.makeQueue([{ tasks: plan.tasks, attempts: 0 }]);
  expect(await queue.next()).toBeDefined();
  await work(joined(path, start, "successor"), plan);
  const [row] = readRows(path) as [Row];
  await sleeper.append({ ...row, attempts: 7 });
  expect(readRows(path)).toEqual([row]);

  const { lines } = sleeper as unknown as { lines: { append(line: readonly [string, unknown]): Promise<void> } };
  await lines.append(["samples_Full_vt_512.jsonl", { ...row, status: "error", score: null, prediction: null }]);
  expect(readRows(path)).toEqual([row]);
  mergeParts(path);
  expect(readSamples(path)).toEqual([row]);
  await sleeper.close();
});

test("of all who claim a job one gets it, and a claim that was never written is taken over like any other", async () => {
  const path = folder();
  const start = await started(path);
  const claims = ["a", "b", "c"].map((part) => new Claims(path, start, { part, host: "h", pid: 1, task: part }));
  expect(claims.map((one) => one.take("job", 1, 0)).filter(Boolean)).toHaveLength(1);
  const tasks = tasksOf([sample("vt", 512, 0)], ["Full"]);
  const run = joined(path, start, "d", 100);
  const queue = run.makeQueue([{ tasks, attempts: 0 }]);
  await queue.next();
  const [file] = readdirSync(join(path, "claims", String(start))).filter((name) => name !== "job.1");
  await Bun.write(join(path, "claims", String(start), file!), "");
  await run.close();
  const other = joined(path, start, "e", 100);
  expect(await other.makeQueue([{ tasks, attempts: 0 }]).next()).toMatchObject({ attempts: 1 });
  await other.close();
});

test("who still writes is seen by its heartbeat; a start whose writers are gone is closed", async () => {
  const path = folder();
  const start = await started(path);
  const run = joined(path, start, "7_1");
  expect((await livingWriters(path)).map(({ task }) => task)).toEqual(["7_1"]);
  await run.close();
  expect(await livingWriters(path)).toEqual([]);
  const lock = (pid: number) =>
    writeFileSync(join(path, "lock"), JSON.stringify({ pid, host: hostname(), started: "1" }));
  lock(process.pid); // of a writer that was killed while it merged
  endWriters(path, start);
  expect([existsSync(join(path, "claims", String(start))), existsSync(join(path, "lock"))]).toEqual([false, false]);
  lock(process.ppid);
  endWriters(path, start);
  expect(existsSync(join(path, "lock"))).toBe(true);
});

/** `make test-kills` takes 200: runs with four each. */
const kills = Number(process.env.KILLS ?? 4);

test(
  `two writers killed or stopped at ${kills} random moments lose no sample and have none twice`,
  async () => {
    for (let run = 0; run < kills / 4; run++) await killedRun();
  },
  60_000 + 10_000 * kills,
);

async function killedRun(): Promise<void> {
  const script = join(import.meta.dir, "..", "support", "fake-join-child.ts");
  const path = folder();
  let start = await started(path);
  const begin = (task: string) =>
    Bun.spawn([process.execPath, script, path, String(start), task], { stdout: "ignore", stderr: "inherit" });
  const writers = [begin("a"), begin("b")];
  for (let kill = 0; kill < 4; kill++) {
    await Bun.sleep(80 + 300 * Math.random());
    const writer = writers[kill % 2]!;
    writer.kill(Math.random() < 0.5 ? "SIGKILL" : "SIGTERM");
    await writer.exited;
    writers[kill % 2] = begin("ab"[kill % 2]!);
  }
  expect(await Promise.all(writers.map(({ exited }) => exited))).toEqual([0, 0]);
  mergeParts(path);
  const rows = readSamples(path);
  expect(new Set(rows.map((row) => `${row.run} ${identity(row)}`)).size).toBe(rows.length);
  // a sample with which two writers died is marked; the next start runs it
  start = await started(path);
  expect(await begin("c").exited).toBe(0);
  endWriters(path, start);
  mergeParts(path);
  const ok = readSamples(path).filter(({ status }) => status === "ok");
  expect({ rows: ok.length, different: new Set(ok.map(identity)).size }).toEqual({ rows: 60, different: 60 });
}

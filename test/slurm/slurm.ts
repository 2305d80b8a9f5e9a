// accel launch slurm on a real cluster of this machine: the rows of a local run, whoever is killed. `make test-slurm` runs it.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readMembers } from "../../src/bench/members.ts";
import { identity, type Row } from "../../src/bench/rows.ts";
import { readRows } from "../../src/bench/rundir.ts";
import { ended, startAccel } from "../support/accel.ts";
import { type Cluster, startCluster } from "./cluster.ts";

const folder = mkdtempSync(join(tmpdir(), "kvaccel-slurm-"));
const hidden = join(folder, "hidden");
let cluster: Cluster;
let local: { rows: Row[]; results: Results };

/** 16 measurements, about half a second each */
const benchmark =
  "--task_names niah_single_2 vt --length 2048 --num_samples 4 --acceleration SnapKV --device cpu --threads 1";
const flags = benchmark.split(" ");
const launch = (path: string, ...more: string[]) =>
  startAccel(["launch", "slurm", ...flags, "--copies", "2", "--output_path", path, ...more], cluster.env);

beforeAll(async () => {
  mkdirSync(hidden);
  cluster = await startCluster(hidden);
  const path = join(folder, "local");
  const { code, err } = await ended(startAccel(["run", ...flags, "--output_path", path]));
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  local = { rows: readRows(path), results: resultsOf(path) };
});
afterAll(async () => {
  await cluster?.stop();
  rmSync(folder, { recursive: true });
});

interface Results {
  results: Record<string, unknown>;
  groups: unknown;
  "n-samples": unknown;
}
function resultsOf(path: string): Results {
  const { results, groups, "n-samples": samples } = JSON.parse(readFileSync(join(path, "results.json"), "utf8"));
  return { results, groups, "n-samples": samples };
}

const slurm = (...words: string[]) =>
  Bun.$`${words}`.env({ ...process.env, ...cluster.env } as Record<string, string>).text();

async function untilRows(path: string, count: number): Promise<void> {
  const there = () => {
    try {
      return readRows(path).length;
    } catch {
      return 0;
    }
  };
  while (there() < count) await Bun.sleep(50);
}

/** Until the process has begun another sample, of start 1. */
async function untilClaim(path: string, pid: number): Promise<void> {
  const folder = join(path, "claims", "1");
  const claims = () =>
    readdirSync(folder).filter((name) => readFileSync(join(folder, name), "utf8").includes(`"pid":${pid},`)).length;
  const before = claims();
  while (claims() === before) await Bun.sleep(10);
}

/** Every sample once, with the prediction, score and cache of the local run, and its results.json. */
function expectLocalRows(path: string): void {
  const facts = (rows: Row[]) =>
    Object.fromEntries(
      rows.map((row) => [identity(row), [row.status, row.prediction, row.ids, row.score, row.cache_bytes]]),
    );
  const rows = readRows(path);
  expect(rows).toHaveLength(16);
  expect(facts(rows)).toEqual(facts(local.rows));
  expect(resultsOf(path)).toEqual(local.results);
}

const jobOf = (err: string) => /^job (\d+): /m.exec(err)![1]!;

test("a job array on two nodes leaves the rows and results of a local run", async () => {
  const path = join(folder, "two nodes");
  const { code, out, err } = await ended(launch(path));
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  expect(out).toContain("Accuracy: RULER (quick), tiny-ruler bfloat16");
  expect(err).toContain("16 of 16 measurements in 2 tasks");
  expectLocalRows(path);
  const { writers } = JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
  expect(writers.map(({ task, host }: { task: string; host: string }) => `${task.split("_")[1]} ${host}`)).toEqual([
    "0 node1",
    "1 node2",
  ]);
  expect(readdirSync(path).filter((name) => name.startsWith("samples_"))).toHaveLength(4);
});

test("a task that is killed: the other one takes its sample over, none is lost, none is there twice", async () => {
  const path = join(folder, "killed");
  const child = launch(path, "--takeover", "4");
  await untilRows(path, 2);
  const { task, pid } = readMembers(path, 1)[0]!;
  await untilClaim(path, pid);
  process.kill(pid, "SIGKILL"); // as for want of memory: it has no time to give back what it holds
  const { code, err } = await ended(child);
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  expect(err).toMatch(new RegExp(`task ${task} on node1: FAILED.*its log: ${path}/slurm/${task}.log`));
  expectLocalRows(path);
  expect(readRows(path).filter(({ attempts }) => attempts === 2)).toHaveLength(1);
});

test("Ctrl-C leaves the job alone and a second one is refused; after scancel the same command does what is left", async () => {
  const path = join(folder, "cancelled");
  const child = launch(path);
  await untilRows(path, 2);
  child.kill("SIGINT");
  const left = await ended(child);
  expect(left.code).toBe(130);
  const job = jobOf(left.err);
  expect(left.err).toContain(`accel launch slurm --follow ${path} shows it again; scancel ${job} ends it`);
  expect(await slurm("squeue", "-h", "-j", job)).not.toBe("");
  const second = await ended(launch(path));
  expect([second.code, second.err]).toEqual([1, expect.stringContaining(`job ${job} is at work on ${path}`)]);

  await slurm("scancel", "--signal=KILL", "--full", `${job}_0`);
  await slurm("scancel", job);
  const followed = await ended(startAccel(["launch", "slurm", "--follow", path, "-o", "md"], cluster.env));
  expect(followed.code).toBe(1);
  expect(followed.err).toMatch(/task \d+_1 on node2: CANCELLED/);
  expect(followed.err).toMatch(/\d+ measurements were not made/);
  expect(followed.out).toContain("| length |");
  const before = readRows(path);
  expect(before.length).toBeGreaterThanOrEqual(2);
  expect(before.length).toBeLessThan(16);

  const { code, err } = await ended(launch(path));
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  expect(err).toContain(`: ${16 - before.length} of 16 measurements in 2 tasks`);
  expectLocalRows(path);
  expect(readRows(path).filter(({ run }) => run === 1)).toEqual(before);
});

test("a directory that a node does not share, and a submission that Slurm rejects, are said in so many words", async () => {
  const path = join(hidden, "run");
  const apart = await ended(launch(path, "--partition", "apart", "--copies", "1"));
  expect(apart.code).toBe(1);
  expect(apart.err).toContain(
    `on node3: FAILED: ${path} is not there; a run directory must be on a file system that all nodes share`,
  );
  const { code, err } = await ended(launch(join(folder, "rejected"), "--partition", "nowhere"));
  expect(code).toBe(1);
  expect(err).toContain("sbatch did not take the job");
  expect(err).toContain("Invalid partition name specified");
});

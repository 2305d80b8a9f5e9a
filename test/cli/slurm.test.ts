// accel launch slurm with Slurm's commands played by scripts: sizes, batch script, errors, a whole run. test/slurm has the real ones.
import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readRows } from "../../src/bench/rundir.ts";
import { readArguments } from "../../src/cli/argv.ts";
import { runMain } from "../../src/cli/entry.ts";
import { follow } from "../../src/cli/follow.ts";
import { readSettings } from "../../src/cli/settings.ts";
import { ended, queued, submit } from "../../src/cli/slurm.ts";
import { arrayOf, batchScript, type SlurmFlags } from "../../src/cli/slurm-script.ts";
import { ended as endOf, startAccel } from "../support/accel.ts";
import { fakeSlurm } from "../support/fake-slurm.ts";
import { folder } from "../support/folder.ts";

let slurm: ReturnType<typeof fakeSlurm>;
beforeEach(() => {
  slurm = fakeSlurm();
});
afterEach(() => slurm.remove());

test.each([
  ["", {}, 1, ["0"], { gres: "gpu:1", "cpus-per-task": 2 }],
  ["2", { copies: 3 }, 3, ["0", "1"], { gres: "gpu:2", "cpus-per-task": 2 }],
  ["1/4", { copies: 2, gres: "gpu:a100:1" }, 2, ["0"], { gres: "gpu:a100:1", "cpus-per-task": 5 }],
  ["", { nodes: 4 }, 4, undefined, { nodes: 1, exclusive: true as const }],
])("a task for each copy: gp_num %p and %p", (gpNum, flags: SlurmFlags, tasks, device, resources) => {
  const run = gpNum === "" ? {} : { gp_num: gpNum };
  expect(arrayOf(run, flags)).toEqual({ tasks, device, resources });
});

test("devices say how many copies there are, CPUs take no GPUs, and sizes that do not fit are refused", () => {
  expect(arrayOf({ device: ["0", "1", "2", "3"], gp_num: "2" }, {})).toMatchObject({ tasks: 2, device: ["0", "1"] });
  expect(arrayOf({ device: ["cpu"] }, { copies: 2, cpus_per_task: 4 })).toEqual({
    tasks: 2,
    device: ["cpu"],
    resources: { "cpus-per-task": 4 },
  });
  expect(() => arrayOf({ device: ["0", "1", "2"], gp_num: "2" }, {})).toThrow(
    "3 devices do not make whole groups of 2",
  );
  expect(() => arrayOf({}, { copies: 2, nodes: 2 })).toThrow("exclude each other");
});

test("a batch script quotes what is odd, and hands on what only sbatch understands", () => {
  const { argv } = readArguments([
    "launch",
    "slurm",
    "--sbatch",
    "--mail-type=END --constraint=a100",
    "--cpus-per-task=4",
  ]);
  expect(argv).toEqual(["launch", "slurm", "--sbatch=--mail-type=END --constraint=a100", "--cpus_per_task=4"]);
  const text = batchScript({
    path: "/scratch/it's 50% done",
    cwd: "/home/me",
    name: "it's 50% done",
    array: arrayOf({ gp_num: "2" }, { copies: 3 }),
    flags: { time: "1:00:00", partition: "gpu", sbatch: "--mail-type=END" },
    command: ["/opt/bun", "/opt/main.ts", "run", "--join", "1"],
  });
  expect(text).toStartWith(`#!/bin/bash
# Written by accel launch slurm; sbatch takes it as it is, once for each start of the run.
#SBATCH --job-name=accel_it_s_50_done
#SBATCH --array=0-2
#SBATCH --output='/scratch/it'"'"'s 50%% done/slurm/%A_%a.log'
#SBATCH --open-mode=append
#SBATCH --chdir=/home/me
#SBATCH --gres=gpu:2
#SBATCH --cpus-per-task=2
#SBATCH --partition=gpu
#SBATCH --time=1:00:00
#SBATCH --requeue
#SBATCH --mail-type=END
`);
  expect(text).toEndWith("exec /opt/bun /opt/main.ts run --join 1\n");
  const script = join(folder(), "job.sh");
  writeFileSync(script, text);
  const { stdout, exitCode } = Bun.spawnSync(["bash", script]);
  expect([exitCode, stdout.toString()]).toEqual([1, expect.stringContaining("/scratch/it's 50% done is not there")]);
});

test("sbatch's refusal is shown as it is, with a hint where the GPUs have another name", async () => {
  slurm.say("refusal", "sbatch: error: Invalid generic resource (gres) specification\n");
  expect(submit("job.sh")).rejects.toThrow(
    /did not take the job \(job.sh\):\nsbatch: error: Invalid generic resource.*\n--gres names this cluster's GPUs/,
  );
  slurm.say("silence", "");
  expect(await queued({ id: "7" })).toBeUndefined();
});

test("tasks that ended come from the accounts, or without them from the controller", async () => {
  slurm.say(
    "jobs",
    "JobId=8 ArrayJobId=7 ArrayTaskId=1 JobName=x JobState=FAILED Reason=NonZeroExitCode ExitCode=0:53 NodeList=node2\n",
  );
  const failed = { task: "1", state: "FAILED", node: "node2", reason: "NonZeroExitCode", exit: "0:53" };
  expect(await ended({ id: "7" })).toEqual([failed]);
  slurm.say(
    "accounts",
    "7_0|COMPLETED|0:0|node1\n7_1|CANCELLED by 1000|0:15|node2\n7_[2-4]|PENDING|0:0|None assigned\n",
  );
  expect((await ended({ id: "7" })).map(({ task, state }) => [task, state])).toEqual([
    ["0", "COMPLETED"],
    ["1", "CANCELLED"],
  ]);
});

test("a job that measured nothing: which tasks failed, where, and what their logs say last", async () => {
  const path = folder();
  mkdirSync(join(path, "slurm"));
  writeFileSync(join(path, "slurm", "7_0.log"), "loading\naccel: no GPU opens on node1\n");
  slurm.say(
    "accounts",
    "7_0|FAILED|1:0|node1\n7_1|FAILED|0:53|node2\n7_2|TIMEOUT|0:0|node3\n7_3|PREEMPTED|0:15|node4\n7_4|CANCELLED|0:0|None assigned\n",
  );
  const said: string[] = [];
  const write = spyOn(process.stderr, "write").mockImplementation((text) => said.push(String(text)) > 0);
  const launch = { job: { id: "7" }, start: 1, tasks: 5, measurements: 9, before: 0, cfg: "quick.yaml", batches: [1] };
  const following = follow(path, launch, readSettings({}));
  await expect(following).rejects.toThrow("job 7 measured nothing of 9 measurements");
  write.mockRestore();
  expect(said.join("")).toBe(
    `task 7_0 on node1: FAILED, "accel: no GPU opens on node1"; its log: ${path}/slurm/7_0.log
task 7_1 on node2: FAILED: ${path} is not there; a run directory must be on a file system that all nodes share; it left no log
task 7_2 on node3: TIMEOUT; it left no log
task 7_3 on node4: PREEMPTED; it left no log
`,
  );
});

test.each([
  ["launch slurm --batch_size auto", "this machine does not see the nodes' GPUs"],
  ["launch slurm --copies 2 --nodes 2", "--copies and --nodes exclude each other"],
  ["launch slurm --watch", "unknown option '--watch'"],
  ["launch slurm --follow /tmp", "no job was launched into this directory"],
  ["run --join 1", "--join needs --output_path"],
])("bad usage: accel %s", async (line, text) => {
  const said = spyOn(console, "error").mockImplementation(() => {});
  const code = await runMain(line.split(" "));
  expect([code, String(said.mock.calls.at(-1)?.[0])]).toEqual([2, expect.stringContaining(text)]);
  said.mockRestore();
});

test("without sbatch on PATH it is said so", async () => {
  slurm.remove();
  slurm = fakeSlurm(["sbatch"]);
  const said = spyOn(console, "error").mockImplementation(() => {});
  const path = process.env.PATH;
  process.env.PATH = slurm.dir;
  expect(await runMain(["launch", "slurm"])).toBe(1);
  process.env.PATH = path;
  expect(String(said.mock.calls.at(-1)?.[0])).toContain("sbatch was not found on PATH");
  said.mockRestore();
});

test("a run is submitted and followed, its tasks share the samples; then nothing is left to launch, and the tables come at once", async () => {
  const path = join(folder(), "run");
  const words = ["launch", "slurm", "--task_names", "niah_single_2", "--length", "512", "--num_samples", "3"];
  const flags = [...words, "--acceleration", "Full", "--device", "cpu", "--threads", "1", "--copies", "2"];
  const launch = (...more: string[]) =>
    endOf(startAccel([...flags, "--output_path", path, "-o", "csv", ...more], { PATH: slurm.path }));
  const detached = await launch("--detach");
  expect([detached.code, detached.out]).toEqual([0, "7\n"]);
  expect(detached.err).toContain(`job 7: 3 of 3 measurements in 2 tasks; ${path}`);
  const follower = startAccel(["launch", "slurm", "--follow", path, "-o", "csv"], { PATH: slurm.path });
  const { code, out, err } = await endOf(follower);
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  expect(out).toMatch(/^length,.*\n512,.*\b100\b/m);
  expect(readRows(path)).toHaveLength(3);
  const manifest = JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
  expect(manifest.writers.map(({ task, host }: Record<string, string>) => [task, host])).toEqual([
    ["7_0", "node0"],
    ["7_1", "node1"],
  ]);
  expect(manifest.devices[0].deviceName).toEqual(expect.any(String));
  expect(existsSync(join(path, "claims", "1"))).toBe(false);

  const again = await launch();
  expect([again.code, again.out]).toEqual([0, out]);
  expect(again.err).toContain("3 measurements, all of them done before");
});

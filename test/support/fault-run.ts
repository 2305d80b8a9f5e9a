// A run whose notes are kept, and the processes that it starts: to be ended at any moment.
import { readFileSync } from "node:fs";
import type { RunEvent, RunPlan } from "../../src/bench/run-contract.ts";
import { RunDirectory } from "../../src/bench/rundir.ts";
import { runTasks } from "../../src/bench/runner.ts";

export async function run(path: string, plan: RunPlan, watch: (event: RunEvent) => void = () => {}) {
  const directory = RunDirectory.open(path);
  directory.writeManifest({ version: "test" });
  const notes: string[] = [];
  try {
    const outcome = await runTasks(plan, directory, (event) => {
      if (event.type === "note") notes.push(event.text);
      watch(event);
    });
    return { outcome, notes, rows: [...directory.rows.values()] };
  } finally {
    await directory.close();
  }
}

/** Engines and holders of weights that a process has started. */
export function workersOf(parent = process.pid): { engines: number[]; holders: number[] } {
  const { stdout } = Bun.spawnSync(["pgrep", "-P", `${parent}`, "-f", "engine/worker.ts"]);
  const pids = `${stdout}`.split("\n").filter(Boolean).map(Number);
  const holds = (pid: number) => commandOf(pid).includes("\0weights\0");
  return { engines: pids.filter((pid) => !holds(pid)), holders: pids.filter(holds) };
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return ""; // it ended meanwhile
  }
}

/** Ends this process's engines. */
export function killEngines(): void {
  for (const pid of workersOf().engines) process.kill(pid, "SIGKILL");
}

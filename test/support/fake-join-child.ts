// One of several writers on a run with the fake engine, to be killed at any moment. Arguments: the run directory, the start, a name.
import { JoinedRun } from "../../src/bench/joined.ts";
import { runTasks } from "../../src/bench/runner.ts";
import { killedTasks, planOf } from "./fake-plan.ts";

const [path, start, task] = process.argv.slice(2);
const run = new JoinedRun(path!, {
  start: Number(start),
  task: task!,
  takeoverMs: 500,
  heartbeatMs: 100,
  lookMs: 50,
});
process.on("SIGTERM", () => stop.abort());
const stop = new AbortController();
await runTasks(planOf(killedTasks()), run, () => {}, {
  queue: (jobs) => run.makeQueue(jobs),
  stop: stop.signal,
  graceMs: 50,
});
await run.close();

// A whole run with the fake engine in a process of its own, to be killed at any moment. Argument: the run directory.
import { RunDirectory } from "../../src/bench/rundir.ts";
import { runTasks } from "../../src/bench/runner.ts";
import { killedTasks, planOf } from "./fake-plan.ts";

const directory = RunDirectory.open(process.argv[2]!);
directory.writeManifest({ version: "test" });
await runTasks(planOf(killedTasks()), directory);
await directory.close();

// Slurm's commands: submit a job array, ask for its tasks, cancel what waits.
import { KvaError } from "../native/error.ts";

export interface SlurmJob {
  id: string;
  /** where several clusters are one command away */
  cluster?: string;
}

export interface TaskState {
  task: string;
  /** Slurm's word: PENDING, RUNNING, TIMEOUT, ... */
  state: string;
  node: string;
  /** why it waits */
  reason: string;
  /** `status:signal`; empty while it runs */
  exit: string;
}

interface Said {
  code: number;
  out: string;
  err: string;
}

const onPath = (command: string) => Bun.which(command, { PATH: process.env.PATH ?? "" }) !== null;

async function call(command: string, ...words: string[]): Promise<Said> {
  if (!onPath(command)) return { code: 127, out: "", err: `${command} was not found on PATH` };
  const child = Bun.spawn([command, ...words], { stdin: "ignore", stdout: "pipe", stderr: "pipe", env: process.env });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, out: out.trim(), err: err.trim() };
}

const at = ({ cluster }: SlurmJob) => (cluster === undefined ? [] : [`--clusters=${cluster}`]);

export function need(command: "sbatch" | "squeue"): void {
  if (onPath(command)) return;
  throw new KvaError(
    "io",
    `${command} was not found on PATH: launch from a node of the cluster that has Slurm's commands; accel run runs on this machine`,
  );
}

export async function submit(script: string): Promise<SlurmJob> {
  const { code, out, err } = await call("sbatch", "--parsable", script);
  const [, id, , cluster] = /^(\d+)(;(.+))?$/m.exec(out) ?? [];
  if (code === 0 && id !== undefined) return { id, ...(cluster === undefined ? {} : { cluster }) };
  const text = [err, out].filter((part) => part !== "").join("\n") || `it ended with exit code ${code}`;
  const hint = /gres|generic resource/i.test(text)
    ? "\n--gres names this cluster's GPUs, as in gpu:a100:1 (sinfo -o %G lists them); --device cpu runs without"
    : "";
  throw new KvaError("io", `sbatch did not take the job (${script}):\n${text}${hint}`);
}

/** Tasks that wait or run; none when the job is over; undefined when the controller does not answer. */
export async function queued(job: SlurmJob): Promise<TaskState[] | undefined> {
  const { code, out, err } = await call("squeue", "-h", "-r", "-j", job.id, "-o", "%K|%T|%N|%r", ...at(job));
  if (code !== 0) return /invalid job id/i.test(err) ? [] : undefined;
  return out.split("\n").flatMap((line) => {
    const [task, state, node, reason] = line.split("|");
    return state === undefined ? [] : [{ task: task!, state, node: node!, reason: reason!, exit: "" }];
  });
}

/** How the tasks of a job that is over ended: from the accounts, or where there are none from what the controller still knows. */
export async function ended(job: SlurmJob): Promise<TaskState[]> {
  const format = "--format=JobID,State,ExitCode,NodeList";
  const accounts = await call("sacct", "-n", "-P", "-X", "-j", job.id, format, ...at(job));
  const known = accounts.code === 0 ? accounts.out.split("\n").flatMap(fromSacct) : [];
  if (known.length > 0) return known;
  const { out } = await call("scontrol", "show", "job", job.id, "-o", ...at(job));
  return out.split("\n").flatMap(fromScontrol);
}

/** `4711_3|CANCELLED by 0|0:15|node7` */
function fromSacct(line: string): TaskState[] {
  const [name, state, exit, node] = line.split("|");
  const task = /_(\d+)$/.exec(name ?? "")?.[1];
  return task === undefined ? [] : [{ task, state: state!.split(" ")[0]!, node: node ?? "", reason: "", exit: exit! }];
}

function fromScontrol(line: string): TaskState[] {
  const field = (name: string) => new RegExp(`(?:^|\\s)${name}=(\\S*)`).exec(line)?.[1] ?? "";
  const task = field("ArrayTaskId");
  return /^\d+$/.test(task)
    ? [{ task, state: field("JobState"), node: field("NodeList"), reason: field("Reason"), exit: field("ExitCode") }]
    : [];
}

/** For tasks that would find nothing left to do. */
export async function cancelWaiting(job: SlurmJob): Promise<void> {
  await call("scancel", "--state=PENDING", ...at(job), job.id);
}

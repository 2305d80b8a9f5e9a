// The lock file of a run directory: two runs never write into one; the lock of a dead process is taken over.
import { existsSync, linkSync, readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError } from "../native/error.ts";

const ownerSchema = v.object({ pid: v.number(), host: v.string(), started: v.string() });
type Owner = v.InferOutput<typeof ownerSchema>;

/** Takes the lock or throws, naming who holds it. The result releases it. */
export function takeLock(directory: string): () => void {
  const path = join(directory, "lock");
  const mine = JSON.stringify({ pid: process.pid, host: hostname(), started: startOf(process.pid) });
  for (let attempt = 0; attempt < 5; attempt++) {
    if (created(path, mine)) return () => release(path, mine);
    const held = content(path);
    if (held === undefined) continue;
    const owner = parse(held);
    if (owner !== undefined && alive(owner)) throw refusal(directory, path, owner);
    removeStale(path, held);
  }
  throw new KvaError("io", `the lock file ${path} keeps changing: other runs are starting in ${directory} too`);
}

/** For a lock of another machine whose process is known to be gone. */
export function removeLockOf(directory: string, isGone: (owner: Pick<Owner, "host" | "pid">) => boolean): void {
  const path = join(directory, "lock");
  const held = content(path);
  const owner = held === undefined ? undefined : parse(held);
  if (held !== undefined && owner !== undefined && isGone(owner)) removeStale(path, held);
}

function created(path: string, text: string): boolean {
  const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  writeFileSync(draft, text);
  try {
    linkSync(draft, path); // the lock appears with its content, or not at all
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    unlinkSync(draft);
  }
}

// Another process may take the stale lock over between our reading and our moving it: what was moved is compared and put back.
function removeStale(path: string, judged: string): void {
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
  } catch {
    return;
  }
  if (content(aside) !== judged && !existsSync(path)) linkSync(aside, path);
  unlinkSync(aside);
}

function release(path: string, mine: string): void {
  if (content(path) === mine) unlinkSync(path);
}

function content(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function parse(text: string): Owner | undefined {
  try {
    const result = v.safeParse(ownerSchema, JSON.parse(text));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}

function alive(owner: Owner): boolean {
  if (owner.host !== hostname()) return true;
  const started = startOf(owner.pid);
  return started !== "" && started === owner.started;
}

// Field 22 of /proc/PID/stat, the start in clock ticks: a later process with the same number is another one. Elsewhere: "running".
function startOf(pid: number): string {
  if (existsSync("/proc/self/stat")) {
    const stat = content(`/proc/${pid}/stat`);
    const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ") ?? [];
    return fields[0] === "Z" ? "" : (fields[19] ?? ""); // a zombie writes nothing any more
  }
  try {
    process.kill(pid, 0);
    return "running";
  } catch {
    return "";
  }
}

function refusal(directory: string, path: string, owner: Owner): KvaError {
  const where = owner.host === hostname() ? "" : ` on ${owner.host}`;
  const hint = where === "" ? "" : `, or remove ${path} if that run is gone`;
  return new KvaError(
    "io",
    `process ${owner.pid}${where} is writing to ${directory}: wait for it, choose another --output_path${hint}`,
  );
}

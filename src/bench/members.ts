// Facts about the writers of a run with several: which task on which machine, its engines and devices.
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { claimsFolder } from "./claims.ts";
import { removeLockOf } from "./lock.ts";
import { partFolders, partsFolder } from "./parts.ts";
import { heartbeatMs, isEnded, markEnded, Watch } from "./pulse.ts";
import { ifThere, readLines } from "./row-files.ts";

/** in a writer's part, one line */
export const memberFile = "member.json";

const memberSchema = v.looseObject({
  task: v.string(),
  start: v.number(),
  /** as the user knows it, and as the machine calls itself */
  host: v.string(),
  machine: v.string(),
  pid: v.number(),
  engines: v.optional(v.array(v.looseObject({ device: v.string() }))),
  devices: v.optional(v.array(v.looseObject({ deviceName: v.string() }))),
  wall_ms: v.optional(v.number()),
});
export type Member = v.InferOutput<typeof memberSchema>;

function readMember(part: string): Member | undefined {
  const result = v.safeParse(memberSchema, readLines(join(part, memberFile))[0]?.value);
  return result.success ? result.output : undefined;
}

/** The folders of a start's writers, merged or not. */
export function partsOfStart(path: string, start: number): { folder: string; member: Member }[] {
  return ifThere(() => readdirSync(join(path, partsFolder)), []).flatMap((name) => {
    const folder = join(path, partsFolder, name);
    const member = readMember(folder);
    return member?.start === start ? [{ folder, member }] : [];
  });
}

/** The writers of a start, by task. */
export function readMembers(path: string, start: number): Member[] {
  const members = partsOfStart(path, start).map(({ member }) => member);
  return members.toSorted((a, b) => a.task.localeCompare(b.task, "en", { numeric: true }));
}

/** The writers that still show signs of life; those that do not for two heartbeats are from now on known to have ended. */
export async function livingWriters(path: string, say: (text: string) => void = () => {}): Promise<Member[]> {
  const open = partFolders(path).filter((part) => !isEnded(part));
  if (open.length === 0) return [];
  say(`${path}: looking whether a task of an earlier launch still writes there (${(2.5 * heartbeatMs) / 1000} s)`);
  const watch = new Watch();
  const changed = (part: string) => watch.look(part).changedAt !== undefined;
  for (const part of open) watch.look(part);
  const until = performance.now() + 2.5 * heartbeatMs;
  while (performance.now() < until && !open.some(changed)) await Bun.sleep(heartbeatMs / 10);
  const living = open.filter((part) => !isEnded(part) && changed(part));
  if (living.length === 0) open.forEach(markEnded);
  return living.flatMap((part) => readMember(part) ?? []);
}

/** For a start whose writers are known to be gone: their parts need no more watching, its claims and their lock are of no use. */
export function endWriters(path: string, start: number): void {
  const gone = readMembers(path, start);
  removeLockOf(path, ({ host, pid }) => gone.some((member) => member.machine === host && member.pid === pid));
  for (const part of partFolders(path)) if (!isEnded(part)) markEnded(part);
  rmSync(claimsFolder(path, start), { recursive: true, force: true });
}

// Who runs which job of a run with several writers: files that only one of them can create, and that nobody changes or deletes.
// NAME.1 is the first claim of a job, NAME.2 that of the one who took it over, and so on; NAME.done says that its rows are written.
// Creating a file that must not exist is atomic on NFS (3 and later), Lustre, GPFS and BeeGFS; nothing here needs their locks or links.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import type { Job } from "./queue.ts";
import { ifThere } from "./row-files.ts";
import { identity } from "./rows.ts";

const claimSchema = v.object({
  part: v.string(),
  host: v.string(),
  pid: v.number(),
  task: v.string(),
  deaths: v.number(),
});
/** `part`: folder name of the writer; `deaths`: writers that ended without a word while they had the job */
export type Claim = v.InferOutput<typeof claimSchema>;

/** The claims of one start, as a listing shows them. */
export interface Listing {
  done: Set<string>;
  /** number of each job's last claim */
  last: Map<string, number>;
}

export class Claims {
  private readonly folder: string;

  constructor(
    path: string,
    start: number,
    private readonly me: Omit<Claim, "deaths">,
  ) {
    this.folder = claimsFolder(path, start);
    try {
      mkdirSync(this.folder, { recursive: true });
    } catch (cause) {
      throw new KvaError("io", `${this.folder} cannot be made: ${reason(cause)}`, { cause });
    }
  }

  list(): Listing {
    const listing: Listing = { done: new Set(), last: new Map() };
    for (const file of readdirSync(this.folder)) {
      const [name, ending] = file.split(".") as [string, string];
      if (ending === "done") listing.done.add(name);
      else listing.last.set(name, Math.max(listing.last.get(name) ?? 0, Number(ending)));
    }
    return listing;
  }

  /** True for exactly one of all who ask for this number of this job. */
  take(name: string, number: number, deaths: number): boolean {
    return this.create(`${name}.${number}`, JSON.stringify({ ...this.me, deaths } satisfies Claim));
  }

  /** Undefined while its maker is writing it. */
  read(name: string, number: number): Claim | undefined {
    try {
      const text = ifThere(() => readFileSync(join(this.folder, `${name}.${number}`), "utf8"), "");
      const result = v.safeParse(claimSchema, JSON.parse(text));
      return result.success ? result.output : undefined;
    } catch {
      return undefined;
    }
  }

  /** Somebody claimed the job after this claim. */
  isTakenOver(name: string, number: number): boolean {
    return existsSync(join(this.folder, `${name}.${number + 1}`));
  }

  markDone(name: string): void {
    this.create(`${name}.done`, "");
  }

  private create(file: string, text: string): boolean {
    try {
      writeFileSync(join(this.folder, file), text, { flag: "wx" });
      return true;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false;
      throw new KvaError("io", `${join(this.folder, file)} cannot be written: ${reason(cause)}`, { cause });
    }
  }
}

export const claimsFolder = (path: string, start: number): string => join(path, "claims", String(start));

/** The same on every writer: all form the same jobs from the same rows. */
export function jobName({ tasks }: Job): string {
  return createHash("sha256").update(tasks.map(identity).join("\n")).digest("hex").slice(0, 20);
}

// Whether another writer lives: it changes its heartbeat file, and those who wait for it watch for changes, each by its own clock.
// No time of one machine is ever compared with that of another, or of the file server.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { KvaError, reason } from "../native/error.ts";
import { ifThere } from "./row-files.ts";

/** how often a writer changes its file, at least */
export const heartbeatMs = 5000;
const fileName = "heartbeat";
const ended = "ended";

const read = (part: string): string => ifThere(() => readFileSync(join(part, fileName), "utf8"), "");

/** The writer said itself that it is done, or it was said to be gone. */
export const isEnded = (part: string): boolean => read(part) === ended;

/** For a writer that is known to be gone. */
export const markEnded = (part: string): void => writeFileSync(join(part, fileName), ended);

/** A writer's own sign of life, from now until `end`. */
export class Heart {
  private beats = 0;
  private readonly timer: Timer;

  constructor(
    private readonly part: string,
    everyMs: number,
  ) {
    try {
      mkdirSync(part, { recursive: true });
      this.beat();
    } catch (cause) {
      throw new KvaError("io", `${part} cannot be written: ${reason(cause)}`, { cause });
    }
    this.timer = setInterval(() => {
      try {
        this.beat();
      } catch {
        // others take over what a writer holds that cannot write
      }
    }, everyMs);
    this.timer.unref();
  }

  end(): void {
    clearInterval(this.timer);
    try {
      markEnded(this.part);
    } catch {
      // the others find out by the silence
    }
  }

  private beat(): void {
    this.beats += 1;
    writeFileSync(join(this.part, fileName), String(this.beats));
  }
}

export interface Sign {
  ended: boolean;
  /** milliseconds in which nothing changed while this process looked */
  silentMs: number;
  /** by performance.now(); undefined until a change was seen */
  changedAt?: number;
}

/** What one process has seen of the others. */
export class Watch {
  private readonly seen = new Map<string, { text: string; at: number; changedAt?: number }>();

  look(part: string): Sign {
    const now = performance.now();
    const text = read(part);
    const before = this.seen.get(part);
    const sight =
      before === undefined ? { text, at: now } : before.text === text ? before : { text, at: now, changedAt: now };
    this.seen.set(part, sight);
    const { at, changedAt } = sight;
    return { ended: text === ended, silentMs: now - at, ...(changedAt === undefined ? {} : { changedAt }) };
  }
}

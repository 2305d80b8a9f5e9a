// Progress of a run on stderr: a table that fills cell by cell on a terminal, a plain line now and then elsewhere.
import { formatDuration, formatRate } from "./format.ts";
import { LiveState } from "./live-state.ts";
import { type Frame, liveLines } from "./live-table.ts";
import type { Row, Task } from "./rows.ts";
import type { RunEvent } from "./run-contract.ts";

export interface LiveOptions {
  stream: NodeJS.WriteStream;
  /** measurements of the run, those already done included */
  tasks: readonly Task[];
  /** those already done, by identity */
  rows: ReadonlyMap<string, Row>;
  /** what the frame says beside the state; asked at every drawing */
  frame(): Pick<Frame, "colour" | "paused" | "watching" | "keys">;
  /** pause between two plain lines */
  plainEveryMs?: number;
}

export interface Live {
  readonly state: LiveState;
  event(event: RunEvent): void;
  /** a line of its own, above the progress */
  say(text: string): void;
  /** draws at once: a key was pressed */
  draw(): void;
  end(): void;
}

export function makeLive(options: LiveOptions): Live {
  const state = new LiveState(options.tasks, options.rows);
  return options.stream.isTTY ? terminalLive(options, state) : plainLive(options, state);
}

const hideCursor = "\x1b[?25l";
const showCursor = "\x1b[?25h";

function terminalLive({ stream, frame }: LiveOptions, state: LiveState): Live {
  let drawn: string[] = [];
  const columns = () => stream.columns || 80;
  // A window that became narrower has wrapped what was drawn.
  const height = () => drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(Bun.stringWidth(line) / columns())), 0);
  const cleared = () => `\r${drawn.length > 0 ? `\x1b[${height()}A` : ""}\x1b[J`;
  const draw = (said = "") => {
    const lines = liveLines(state, { ...frame(), columns: columns(), rows: stream.rows || 24 });
    stream.write(`${cleared()}${said}${lines.map((line) => `${line}\n`).join("")}`);
    drawn = lines;
  };
  stream.write(hideCursor);
  draw();
  const timer = setInterval(draw, 150);
  const resized = () => draw();
  stream.on("resize", resized);
  const say = (text: string) => draw(`${text}\n`);
  let ended = false;
  return {
    state,
    event(event) {
      state.note(event);
      const text = worthSaying(event);
      if (text !== undefined) say(text);
    },
    say,
    draw: () => draw(),
    end() {
      if (ended) return;
      ended = true;
      clearInterval(timer);
      stream.off("resize", resized);
      stream.write(`${cleared()}${showCursor}`);
    },
  };
}

function plainLive({ stream, plainEveryMs = 10_000 }: LiveOptions, state: LiveState): Live {
  const say = (text: string) => void stream.write(`${text}\n`);
  let last = performance.now();
  return {
    state,
    event(event) {
      state.note(event);
      const text = worthSaying(event);
      if (text !== undefined) say(text);
      if (event.type === "idle") say("all measured; a saved plugin file is measured anew");
      if (event.type !== "row" || (performance.now() - last < plainEveryMs && event.done < event.total)) return;
      last = performance.now();
      say(plainLine(state));
    },
    say,
    draw() {},
    end() {},
  };
}

/** What is worth a line of its own. */
function worthSaying(event: RunEvent): string | undefined {
  switch (event.type) {
    case "loaded":
      return `${event.info.deviceName}: model loaded in ${formatDuration(event.info.loadMs)}`;
    case "row": {
      const { status, method, id, error } = event.row;
      return status === "ok" ? undefined : `${method}, ${id}: ${status}: ${error ?? ""}`;
    }
    case "note":
      return event.text;
    default:
      return undefined;
  }
}

function plainLine(state: LiveState): string {
  const { done, tasks } = state;
  const parts = [`${done} of ${tasks.length}`];
  for (const { tasks: own } of state.doing.values()) parts.push(`${own[0]!.method.label} ${own[0]!.sample.id}`);
  const rate = state.tokensPerSecond();
  if (rate !== null) parts.push(`${formatRate(rate)} tokens/s`);
  const left = done < tasks.length ? state.timeLeft() : null;
  if (left !== null) parts.push(`about ${formatDuration(left)} left`);
  return parts.join("  ");
}

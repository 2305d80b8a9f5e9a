// The live table as lines of text: methods down, lengths across, each cell its score or how far it is; below, what runs now.
import type { MethodSpec } from "../engine/protocol.ts";
import { formatBytes, formatCount, formatDuration, formatMs, formatRate } from "./format.ts";
import type { Doing, LiveCell, LiveState } from "./live-state.ts";

export interface Frame {
  columns: number;
  rows: number;
  colour: boolean;
  paused: boolean;
  /** the run waits for saved files when it is done */
  watching: boolean;
  /** keys are listened to */
  keys: boolean;
}

type Tone = "plain" | "bold" | "dim" | "bad";
interface Piece {
  text: string;
  tone: Tone;
}

// Only weights and red: readable on a dark background and on a light one.
const codes: Record<Exclude<Tone, "plain">, [on: number, off: number]> = { bold: [1, 22], dim: [2, 22], bad: [31, 39] };

function painted(pieces: readonly Piece[], { columns, colour }: Frame): string {
  let room = columns - 1;
  let line = "";
  for (const { text, tone } of pieces) {
    const shown = cut(text, room);
    room -= Bun.stringWidth(shown);
    if (!colour || tone === "plain") line += shown;
    else line += `\x1b[${codes[tone][0]}m${shown}\x1b[${codes[tone][1]}m`;
  }
  return line.trimEnd();
}

/** The text in at most so many columns, its end as an ellipsis where it is cut. */
export function cut(text: string, columns: number): string {
  if (Bun.stringWidth(text) <= columns) return text;
  let shown = "";
  for (const character of text) {
    if (Bun.stringWidth(shown + character) > columns - 1) break;
    shown += character;
  }
  return columns > 0 ? `${shown}…` : "";
}

const plain = (text: string): Piece => ({ text, tone: "plain" });
const dim = (text: string): Piece => ({ text, tone: "dim" });

const cellWidth = 8;
const extras = [
  { title: "cache", width: 11 },
  { title: "ms/token", width: 10 },
  { title: "at", width: 6 },
];

export function liveLines(state: LiveState, frame: Frame): string[] {
  const foot = footLines(state, frame);
  const table = tableLines(state, frame, frame.rows - foot.length - 2);
  return [...table, ...foot].map((pieces) => painted(pieces, frame));
}

/** Hashes of method and length that are on an engine now. */
function active(state: LiveState): Set<string> {
  return new Set([...state.doing.values()].map(({ tasks: [task] }) => `${task!.method.hash}/${task!.sample.length}`));
}

function tableLines(state: LiveState, frame: Frame, room: number): Piece[][] {
  const running = active(state);
  const isActive = (method: MethodSpec, length: number | null) => running.has(`${method.hash}/${length}`);
  const longest = Math.max(...state.methods.map(({ label }) => Bun.stringWidth(label)), "method".length);
  const nameWidth = Math.min(
    longest,
    Math.max(12, frame.columns - 3 - cellWidth * Math.min(state.lengths.length, 6)),
    60,
  );
  const columns = Math.max(1, Math.floor((frame.columns - 3 - nameWidth) / cellWidth));
  const at = state.lengths.findIndex((length) => state.methods.some((method) => isActive(method, length)));
  const lengths = windowOf(state.lengths, Math.max(0, at), columns);
  const left = frame.columns - 3 - nameWidth - lengths.length * cellWidth;
  const more = extras.reduce((sum, extra) => sum + extra.width, 0) <= left;
  const row = state.methods.findIndex((method) => lengths.some((length) => isActive(method, length)));
  const methods = windowOf(state.methods, Math.max(0, row), Math.max(1, room - 2));
  const titles = lengths.map((length) => (length === null ? "all" : formatCount(length)).padStart(cellWidth));
  const head = [
    dim(`  ${"method".padEnd(nameWidth)}`),
    ...titles.map(dim),
    ...(more ? extras.map(({ title, width }) => dim(title.padStart(width))) : []),
  ];
  const body = methods.map((method): Piece[] => {
    const now = lengths.some((length) => isActive(method, length));
    const name = cut(method.label, nameWidth);
    return [
      plain(now ? "> " : "  "),
      { text: name + " ".repeat(nameWidth - Bun.stringWidth(name)), tone: now ? "bold" : "plain" },
      ...lengths.map((length) => cellPiece(state, state.cell(method, length), isActive(method, length))),
      ...(more ? figurePieces(state, method) : []),
    ];
  });
  const hidden = state.methods.length - methods.length;
  return [head, ...body, ...(hidden > 0 ? [[dim(`  and ${hidden} more; a taller window shows them`)]] : [])];
}

/** At most `count` neighbours, with item `at` among them. */
function windowOf<T>(items: readonly T[], at: number, count: number): T[] {
  const start = Math.max(0, Math.min(at - Math.floor(count / 2), items.length - count));
  return items.slice(start, start + count);
}

/** `77.0` when it is full, `3/10` while it fills, a dot before that. */
function cellPiece(state: LiveState, cell: LiveCell | undefined, now: boolean): Piece {
  const { text, tone } = cellText(state, cell);
  return { text: text.padStart(cellWidth), tone: now ? "bold" : tone };
}

function cellText(state: LiveState, cell: LiveCell | undefined): Piece {
  if (cell === undefined) return plain("");
  const { done, total, oom, errors, skipped } = cell;
  if (done + skipped < total) return done === 0 ? dim("·") : plain(`${done}/${total}`);
  const score = state.score(cell);
  const mark = partialMark(cell);
  if (score !== null) return { text: `${score.toFixed(1)}${mark}`, tone: errors > 0 ? "bad" : "plain" };
  if (errors > 0) return { text: "error", tone: "bad" };
  return oom > 0 ? { text: "memory", tone: "bad" } : dim("skipped");
}

const marks = { "!": "with errors", "*": "in part out of memory", "-": "in part skipped" };

/** What a full cell's score lacks. */
function partialMark({ errors, oom, skipped }: LiveCell): keyof typeof marks | "" {
  if (errors > 0) return "!";
  if (oom > 0) return "*";
  return skipped > 0 ? "-" : "";
}

/** What the marks mean that stand in the table. */
function legend(state: LiveState): Piece[] {
  const cells = state.methods.flatMap((method) => state.lengths.map((length) => state.cell(method, length)));
  const used = new Set(cells.map((cell) => (cell && cell.scores.size > 0 ? partialMark(cell) : "")));
  const texts = Object.entries(marks).filter(([mark]) => used.has(mark as keyof typeof marks));
  return texts.length === 0 ? [] : [dim(`  ${texts.map(([mark, text]) => `${mark} ${text}`).join(" · ")}`)];
}

function figurePieces(state: LiveState, method: MethodSpec): Piece[] {
  const figures = state.figures(method);
  if (figures === undefined) return [];
  const { cacheBytes, msPerToken, length } = figures;
  const texts = [
    formatBytes(cacheBytes),
    msPerToken === null ? "-" : formatMs(msPerToken).replace(" ms", ""),
    length === null ? "all" : formatCount(length),
  ];
  return texts.map((text, at) => dim(text.padStart(extras[at]!.width)));
}

const mostDoing = 4;

function footLines(state: LiveState, frame: Frame): Piece[][] {
  const doing = [
    ...[...state.loading.values()].map((device) => plain(`loading the model on ${device}`)),
    ...[...state.doing.values()].map((one) => plain(doingText(one))),
  ];
  const shown = doing.slice(0, mostDoing);
  if (doing.length > mostDoing) shown.push(dim(`and ${doing.length - mostDoing} more`));
  if (shown.length === 0) shown.push(plain(waitingText(state, frame)));
  const explained = legend(state);
  return [
    ...(explained.length > 0 ? [explained] : []),
    [],
    ...shown.map((piece) => [piece]),
    [progressPiece(state)],
    ...(frame.keys ? [[keysPiece(frame)]] : []),
  ];
}

function waitingText(state: LiveState, { paused, watching }: Frame): string {
  if (paused) return "paused";
  return state.idle && watching ? "all measured; a saved plugin file is measured anew" : "between two samples";
}

function doingText({ tasks, phase, done, total }: Doing): string {
  const { method, sample, batch } = tasks[0]!;
  const more = tasks.length > 1 ? ` and ${tasks.length - 1} more` : batch > 1 ? ` (batch ${batch})` : "";
  const place = phase === "decode" ? `token ${done} of at most ${total}` : `prefill of ${sample.ids.length} tokens`;
  return `${method.label} · ${sample.id}${more} · ${place}`;
}

function progressPiece(state: LiveState): Piece {
  const { done, tasks } = state;
  const total = tasks.length;
  const filled = total === 0 ? 12 : Math.floor((12 * done) / total);
  const rate = state.tokensPerSecond();
  const left = done < total ? state.timeLeft() : null;
  const parts = [
    `[${"#".repeat(filled)}${".".repeat(12 - filled)}] ${done}/${total}`,
    rate === null ? "" : `${formatRate(rate)} tokens/s`,
    state.peakBytes === 0 ? "" : `peak ${formatBytes(state.peakBytes)}`,
    left === null ? "" : `about ${formatDuration(left)} left`,
  ];
  return plain(parts.filter((part) => part !== "").join(" · "));
}

function keysPiece({ paused, watching }: Frame): Piece {
  const stop = watching ? "q: end" : "q: stop, to go on later";
  return dim(`p: ${paused ? "go on" : "pause"} · s: skip this cell · ${stop}`);
}

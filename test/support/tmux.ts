// accel in a real terminal: tmux with real keys. Where there is no tmux, its tests are left out, unless KVACCEL_TMUX=required.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const found = Bun.which("tmux");
if (!found && process.env.KVACCEL_TMUX === "required")
  throw new Error("KVACCEL_TMUX=required, and no tmux was found: apt-get install tmux");
export const hasTmux = Boolean(found);
if (!hasTmux) console.error("no tmux was found: the conversations in a real terminal are left out");

const main = join(import.meta.dir, "..", "..", "src", "main.ts");
let made = 0;

export interface TmuxOptions {
  columns?: number;
  rows?: number;
  env?: Record<string, string>;
}

/** A shell in a terminal of its own, in `folder`, with homes and caches below it. `accel` runs this checkout. */
export class Tmux {
  readonly #socket = `kvaccel-${process.pid}-${made++}`;

  constructor(folder: string, { columns = 80, rows = 24, env = {} }: TmuxOptions = {}) {
    mkdirSync(join(folder, "bin"), { recursive: true });
    const script = join(folder, "bin", "accel");
    writeFileSync(script, `#!/bin/sh\nexec "${process.execPath}" "${main}" "$@"\n`, { mode: 0o755 });
    const all = {
      PATH: `${join(folder, "bin")}:${process.env.PATH}`,
      XDG_STATE_HOME: join(folder, "state"),
      XDG_CONFIG_HOME: join(folder, "config"),
      HF_HUB_CACHE: join(folder, "hub"),
      CUDA_VISIBLE_DEVICES: "",
      LANG: "C.UTF-8",
      PS1: "$ ",
      ...env,
    };
    const words = Object.entries(all).map(([key, value]) => `${key}=${value}`);
    this.#tmux(
      "-f",
      "/dev/null",
      "new-session",
      "-d",
      "-x",
      `${columns}`,
      "-y",
      `${rows}`,
      "-c",
      folder,
      "env",
      ...words,
      "/bin/sh",
      "-i",
    );
    this.#tmux("set-option", "-g", "history-limit", "5000");
  }

  #tmux(...words: string[]): string {
    const { stdout, stderr, exitCode } = Bun.spawnSync([found!, "-u", "-L", this.#socket, ...words]);
    if (exitCode !== 0) throw new Error(`tmux ${words[0]}: ${stderr.toString()}`);
    return stdout.toString();
  }

  /** Keys by tmux's names, `Enter`, `Down`, `C-c`, `Escape`, `Space`. */
  press(...keys: string[]): void {
    this.#tmux("send-keys", ...keys);
  }

  type(text: string): void {
    this.#tmux("send-keys", "-l", text);
  }

  /** A line at the shell's prompt. */
  run(command: string): void {
    this.type(command);
    this.press("Enter");
  }

  /** What stands in the window, and above it where `all`. */
  screen(all = false): string {
    const lines = this.#tmux("capture-pane", "-p", ...(all ? ["-S", "-5000"] : [])).split("\n");
    return lines
      .map((line) => line.trimEnd())
      .join("\n")
      .trimEnd();
  }

  /** The window with its colours, as escape sequences. */
  colours(): string {
    return this.#tmux("capture-pane", "-p", "-e");
  }

  resize(columns: number, rows: number): void {
    this.#tmux("resize-window", "-x", `${columns}`, "-y", `${rows}`);
  }

  /** Waits until window and history show it; the whole text then. */
  async shows(wanted: string | RegExp, limitMs = 40_000): Promise<string> {
    const end = performance.now() + limitMs;
    for (;;) {
      const text = this.screen(true);
      if (typeof wanted === "string" ? text.includes(wanted) : wanted.test(text)) return text;
      if (performance.now() > end) throw new Error(`the terminal does not show ${wanted}:\n${text}`);
      await Bun.sleep(30);
    }
  }

  /** Answers questions in turn: waits for a title, presses the keys. */
  async answers(...steps: [title: string, ...keys: string[]][]): Promise<void> {
    for (const [title, ...keys] of steps) {
      await this.shows(`◆  ${title}`);
      await Bun.sleep(50); // the prompt listens once it is drawn
      this.press(...keys);
    }
  }

  [Symbol.dispose](): void {
    Bun.spawnSync([found!, "-L", this.#socket, "kill-server"]);
  }
}

/** Figures that differ from run to run, and the padding that follows them, made alike. */
export function steady(text: string): string {
  return text
    .replaceAll(/[\d.]+ (B|KiB|MiB|GiB)\b/g, "# $1")
    .replaceAll(/about [\d.]+ (ms|s|min( \d\d s)?|h( \d\d min)?)\b/g, "about #")
    .replaceAll(/loaded in [\d.]+ m?s/g, "loaded in #")
    .replaceAll(/^.*(?=: model loaded)/gm, "DEVICE")
    .replaceAll(/ +│$/gm, " │")
    .replaceAll(/─{4,}/g, "────");
}

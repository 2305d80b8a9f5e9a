// A terminal without a pty: keys go in, and what a screen of so many columns would show comes out.
import { PassThrough, Writable } from "node:stream";

/** Understands what prompts write: text, newlines, cursor movements and erasing. Colours are dropped. */
export class VirtualScreen extends Writable {
  readonly isTTY = true;
  #lines: string[][] = [[]];
  #row = 0;
  #column = 0;

  constructor(
    readonly columns = 80,
    readonly rows = 40,
  ) {
    super({ decodeStrings: false });
  }

  override _write(chunk: string | Buffer, _encoding: string, done: () => void): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC
    for (const [piece] of chunk.toString().matchAll(/\x1b\[[?\d;]*[A-Za-z]|[^\x1b]/gu)) {
      if (piece.startsWith("\x1b")) this.#control(piece);
      else this.#print(piece);
    }
    done();
  }

  #print(character: string): void {
    if (character === "\n") [this.#row, this.#column] = [this.#row + 1, 0];
    else if (character === "\r") this.#column = 0;
    else {
      if (this.#column >= this.columns) [this.#row, this.#column] = [this.#row + 1, 0];
      this.#line()[this.#column] = character;
      this.#column += 1;
    }
  }

  #line(): string[] {
    while (this.#lines.length <= this.#row) this.#lines.push([]);
    return this.#lines[this.#row]!;
  }

  #control(sequence: string): void {
    const count = Number(/\d+/.exec(sequence)?.[0] ?? 1);
    const top = Math.max(0, this.#lines.length - this.rows);
    switch (sequence.at(-1)) {
      case "A":
        this.#row = Math.max(top, this.#row - count);
        break;
      case "B":
        this.#row += count;
        break;
      case "C":
        this.#column = Math.min(this.columns - 1, this.#column + count);
        break;
      case "D":
        this.#column = Math.max(0, this.#column - count);
        break;
      case "G":
        this.#column = count - 1;
        break;
      case "K":
        if (sequence === "\x1b[2K") this.#line().length = 0;
        else this.#line().length = Math.min(this.#line().length, this.#column);
        break;
      case "J":
        this.#line().length = Math.min(this.#line().length, this.#column);
        this.#lines.length = this.#row + 1;
        break;
      case "m":
      case "h":
      case "l":
        break;
      default:
        throw new Error(`the virtual screen does not know ${JSON.stringify(sequence)}`);
    }
  }

  /** What stands on the screen, and in what was scrolled out of it. */
  text(): string {
    const rows = this.#lines.map((line) =>
      Array.from(line, (character) => character ?? " ")
        .join("")
        .trimEnd(),
    );
    return rows.join("\n").trimEnd();
  }

  widest(): number {
    return Math.max(
      ...this.text()
        .split("\n")
        .map((line) => [...line].length),
    );
  }
}

const keys: Record<string, string> = {
  enter: "\r",
  space: " ",
  up: "\x1b[A",
  down: "\x1b[B",
  esc: "\x1b",
  tab: "\t",
  "ctrl-c": "\x03",
  "ctrl-u": "\x15",
};

/** Input and output for a conversation. */
export class FakeTerminal {
  readonly input = new PassThrough();
  readonly output: VirtualScreen;

  constructor(columns?: number, rows?: number) {
    this.output = new VirtualScreen(columns, rows);
  }

  /** Presses keys by name, `down down enter`; a word that is no key's name is typed. */
  async press(names: string): Promise<void> {
    for (const name of names.split(" ")) {
      this.input.write(keys[name] ?? name);
      // readline holds an escape back for a moment, in case it begins a sequence
      await Bun.sleep(name === "esc" ? 80 : 5);
    }
  }

  /** Waits until the screen shows a text. */
  async shows(text: string, limitMs = 3000): Promise<void> {
    const end = performance.now() + limitMs;
    while (!this.output.text().includes(text)) {
      if (performance.now() > end)
        throw new Error(`the screen does not show ${JSON.stringify(text)}:\n${this.output.text()}`);
      await Bun.sleep(5);
    }
  }
}

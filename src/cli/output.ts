// Where output goes: data on stdout, everything else on stderr; width and colour of the terminal.
import type { TerminalOptions } from "../bench/table.ts";
import { renderCsv, renderJsonLines, renderMarkdown, renderTerminal, type TableData } from "../bench/table.ts";

/** A line for people, on stderr; bun's console.error would print it in red, as if it were an error. */
export function tell(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Colour only on a terminal, and never where NO_COLOR is set. */
export function colourOn(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

/** The terminal's width, COLUMNS where there is none, else 80. */
export function terminal(): TerminalOptions {
  const asked = Number(process.env.COLUMNS);
  const width = process.stdout.columns || (Number.isInteger(asked) && asked > 0 ? asked : 80);
  return { width: Math.max(40, width), colour: colourOn(process.stdout) };
}

export type TableFormat = "table" | "md" | "json" | "jsonl" | "csv";

export function renderTables(tables: readonly TableData[], format: Exclude<TableFormat, "json">): string {
  const render = {
    table: (table: TableData) => renderTerminal(table, terminal()),
    md: renderMarkdown,
    csv: renderCsv,
    jsonl: renderJsonLines,
  }[format];
  return `${tables.map(render).join(format === "jsonl" ? "\n" : "\n\n")}\n`;
}

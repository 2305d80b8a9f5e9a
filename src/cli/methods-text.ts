// The methods as text: parameters, presets, needs and the composition matrix, for the terminal (80 columns) and for docs/.
import { relative } from "node:path";
import { compositionMatrix, whyNot } from "../plugin/compose.ts";
import { categories, type Needs } from "../plugin/index.ts";
import type { LoadedPlugin, Registry } from "../plugin/loader.ts";
import { type Field, fields, presetNames } from "../plugin/params.ts";

const width = 80;

/** Words into lines of at most `columns`. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = [""];
  for (const word of text.split(/\s+/)) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > columns) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines;
}

/** `whole number >= 1`, `max | avg` */
export function rangeText(field: Field): string {
  const noun = {
    int: field.odd ? "odd" : "whole",
    number: "number",
    flag: "true | false",
    choice: "",
    ints: "list",
    shares: "share, table or list of layers,",
  }[field.type];
  if (field.choices !== null) return field.choices.join(" | ");
  if (field.min !== null && field.max !== null) return `${noun} ${field.min} to ${field.max}`;
  if (field.min !== null) return `${noun} >= ${field.min}`;
  return field.max === null ? noun : `${noun} <= ${field.max}`;
}

export function valueText(value: unknown): string {
  if (value === null || value === undefined) return "-";
  if (Array.isArray(value)) return `[${value.join(",")}]`;
  if (typeof value !== "object") return String(value);
  return Object.entries(value)
    .map(([key, inner]) => `${key}=${valueText(inner)}`)
    .join(" ");
}

export function needsText(needs: Needs): string {
  const entries = Object.entries(needs).filter(([, value]) => value !== undefined && value !== false && value !== 0);
  return entries.map(([key, value]) => (value === true ? key : `${key} ${value}`)).join(", ") || "nothing";
}

/** Methods that may stand beside this one. */
export function composesWith(registry: Registry, loaded: LoadedPlugin): string[] {
  return registry.plugins.filter((other) => whyNot(loaded, other) === undefined).map((other) => other.plugin.name);
}

function labelled(label: string, text: string): string[] {
  return wrap(text, width - 12).map((line, i) => `  ${(i === 0 ? label : "").padEnd(9)} ${line}`);
}

function paramLines(all: readonly Field[]): string[] {
  const cells = all.map((field) => [field.key, valueText(field.default), rangeText(field)] as const);
  const widths = [0, 1, 2].map((i) => Math.max(...cells.map((row) => row[i]!.length)));
  const indent = 4 + widths.reduce((sum, one) => sum + one + 2, 0);
  return all.flatMap((field, i) => {
    const head = cells[i]!.map((cell, j) => cell.padEnd(widths[j]!)).join("  ");
    const about = wrap(field.about, Math.max(20, width - indent));
    return about.map((line, j) => `    ${(j === 0 ? head : "").padEnd(indent - 4)}${line}`);
  });
}

function methodText(registry: Registry, loaded: LoadedPlugin): string {
  const { plugin, file, needs } = loaded;
  const all = fields(plugin);
  const presets = presetNames(plugin).map((name) => {
    const values = valueText(plugin.presets?.[name] ?? {});
    return values === "" ? name : `${name} (${values})`;
  });
  const near = relative(process.cwd(), file);
  return [
    `${plugin.name}  (${plugin.category})`,
    ...labelled("does", plugin.about),
    ...labelled("paper", plugin.paper),
    ...labelled("file", near.startsWith("..") ? file : near),
    ...(all.length > 0 ? ["  parameters: name, default, range", ...paramLines(all)] : []),
    ...labelled("presets", presets.join(", ")),
    ...labelled("needs", needsText(needs)),
    ...labelled("families", plugin.families?.join(", ") ?? "all"),
    ...labelled("beside", composesWith(registry, loaded).join(", ") || "none of the methods that are here"),
  ].join("\n");
}

function matrixText(registry: Registry): string {
  const { names, reasons } = compositionMatrix(registry);
  const longest = Math.max(0, ...names.map((name) => name.length));
  const head = names.map((_, i) => String(i + 1).padStart(4)).join("");
  const rows = names.map((name, i) => {
    const cells = reasons[i]!.map((reason) => (reason === null ? "+" : "-").padStart(4)).join("");
    return `  ${String(i + 1).padStart(2)} ${name.padEnd(longest)}${cells}`;
  });
  return ["Which compose (+) and which do not (-):", `     ${" ".repeat(longest)}${head}`, ...rows].join("\n");
}

const inOrder = (registry: Registry): LoadedPlugin[] =>
  [...registry.plugins].sort((a, b) => categories.indexOf(a.plugin.category) - categories.indexOf(b.plugin.category));

/** What `accel methods` prints. */
export function methodsText(registry: Registry): string {
  const methods = inOrder(registry).map((loaded) => methodText(registry, loaded));
  return `${[...methods, matrixText(registry)].join("\n\n")}\n`;
}

/** docs/composition.md for the methods of a registry. */
export function compositionPage(registry: Registry): string {
  const { names, reasons } = compositionMatrix(registry);
  const kinds = categories.filter((category) => category !== "full");
  const members = kinds.map((kind) => {
    const of = registry.plugins.filter((loaded) => loaded.plugin.category === kind).map((loaded) => loaded.plugin.name);
    return `| ${kind} | ${of.join(", ") || "none yet"} |`;
  });
  const rows = names.map(
    (name, i) => `| **${name}** | ${reasons[i]!.map((reason) => (reason === null ? "yes" : "-")).join(" | ")} |`,
  );
  return `# Composition of methods

\`XAttention+SnapKV+KIVI\` runs several methods on one sequence. At most one method of each kind composes; whatever the order in
which they are written, they run in this one:

| kind | methods |
|---|---|
${members.join("\n")}

Sparse prefill changes which blocks attention reads while all rows stay; eviction then chooses the rows that stay; sparse decode chooses which
of them each new token reads; channels are dropped from the surviving keys; what is left is stored in fewer bits. Full is the cache without a
method and composes with none.
A row that is dropped while decoding among KIVI's codes shares its scales with others, so it is marked and attention passes over it. When as
many rows are marked as the residual holds, the first so many go for good: the others close up, a group of keys that stays together keeps its
codes, any other is quantised anew from what its codes stand for. CakeKV, KeyDiff and CaM do more than drop a row: beside KIVI the first two evict
once, after the prompt, and CaM is refused. Beside ThinK alone all evict once, and beside Quest, whose pages have bounds of the keys in them; CaM is
refused. H2O and StreamingLLM keep original positions beside the three. The effective parameters say so (\`rolling: false\`), and asking for another
value is refused. Quest reads rows in full precision: ThinK and KIVI are refused beside it. With ThinK and KIVI, rows that ThinK shortened stay so, and every
later group of keys is quantised on the same channels. Groups are formed over the rows in the order that eviction left.
A pair that does not compose is refused before anything loads, with the reason and exit code 2.

| | ${names.join(" | ")} |
|---|${names.map(() => "---|").join("")}
${rows.join("\n")}

This page is what \`accel methods --markdown\` prints.
`;
}

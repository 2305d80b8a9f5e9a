// HTML of the report's parts. Every text from outside goes through `escaped`.
import type { Cell, Column, TableData } from "../bench/table.ts";
import { escaped } from "./escaped.ts";
import type { Figure } from "./figure.ts";
import { keptHtml } from "./kept-html.ts";
import type { Section, Sheet } from "./sections.ts";

export function sectionHtml(section: Section): string {
  const { id, title, lead, legend, figures, sheets, texts, kept } = section;
  const keys = legend.map(({ key, colour }) => `<li><span style="background:${colour}"></span>${escaped(key)}</li>`);
  return [
    `<section id="${id}" aria-labelledby="${id}-title">`,
    `<h2 id="${id}-title">${escaped(title)}</h2>`,
    `<p>${escaped(lead)}</p>`,
    keys.length > 0 ? `<ul class="legend">${keys.join("")}</ul>` : "",
    figures.length > 0 ? `<div class="figures">${figures.map(figureHtml).join("\n")}</div>` : "",
    keptHtml(kept),
    ...sheets.map((sheet, at) => sheetHtml(sheet, `${id}-table-${at + 1}`)),
    ...texts.map(({ name, text }) => {
      const name_ = escaped(name);
      return `<details><summary>${name_}</summary><pre tabindex="0" aria-label="${name_}">${escaped(text)}</pre></details>`;
    }),
    "</section>",
  ]
    .filter((part) => part !== "")
    .join("\n");
}

const figureHtml = ({ title, svg }: Figure) => `<figure><figcaption>${escaped(title)}</figcaption>${svg}</figure>`;

function sheetHtml({ table, folded }: Sheet, id: string): string {
  const title = escaped(table.title);
  const body = [
    `<div class="scroll" role="region" aria-label="${title}" tabindex="0">`,
    tableHtml(table, id),
    "</div>",
    ...table.notes.map((note) => `<p class="note">${escaped(note)}</p>`),
    `<p class="tools"><button type="button" class="csv" data-table="${id}">Download CSV<span class="hidden">: ${title}</span></button></p>`,
  ].join("\n");
  return folded
    ? `<details><summary>${title} (${table.rows.length} ${table.rows.length === 1 ? "row" : "rows"})</summary>\n${body}\n</details>`
    : `<h3>${title}</h3>\n${body}`;
}

function tableHtml(table: TableData, id: string): string {
  const side = (column: Column) => (column.align === "left" ? "" : ' class="number"');
  const heads = table.columns.map(
    (column) =>
      `<th scope="col"${side(column)} data-key="${escaped(column.key)}"><button type="button">${escaped(column.title.replaceAll("\n", " "))}</button></th>`,
  );
  const rows = table.rows.map((row) => {
    const cells = row.map((cell, at) => cellHtml(cell, table.columns[at]!, at === 0));
    return `<tr>${cells.join("")}</tr>`;
  });
  return [
    `<table id="${id}"><caption class="hidden">${escaped(table.title)}</caption>`,
    `<thead><tr>${heads.join("")}</tr></thead>`,
    `<tbody>${rows.join("\n")}</tbody></table>`,
  ].join("\n");
}

// The value stands beside the text only where the two differ.
function cellHtml({ text, value }: Cell, column: Column, first: boolean): string {
  const shown = text.replaceAll("\n", " ");
  const written = value === null ? "" : String(value);
  const data = written === shown ? "" : ` data-value="${escaped(written)}"`;
  const tag = first ? 'th scope="row"' : "td";
  const side = column.align === "left" ? "" : ' class="number"';
  return `<${tag}${side}${data}>${escaped(shown)}</${first ? "th" : "td"}>`;
}

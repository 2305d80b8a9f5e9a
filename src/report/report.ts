// report.html: one file with style, script, charts and tables in it, that asks nothing of a network; same runs, same bytes.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { escaped } from "./escaped.ts";
import { sectionHtml } from "./html.ts";
import { type RunData, readRuns } from "./run-data.ts";
import { makeSections, type Section } from "./sections.ts";

const own = (name: string) => readFileSync(join(import.meta.dir, name), "utf8");

export interface ReportOptions {
  /** ids of the samples whose kept tokens are shown; default: the shortest ones */
  samples?: readonly string[];
}

/** The report of run directories as HTML. */
export function makeReport(paths: readonly string[], options: ReportOptions = {}): string {
  return pageHtml(readRuns(paths), options);
}

export function pageHtml(runs: readonly RunData[], { samples }: ReportOptions = {}): string {
  const sections = makeSections(runs, samples);
  const title = `kvaccel report: ${runs.map((run) => run.name).join(", ")}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${escaped(title)}</title>
<style>
${own("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">To the results</a>
${headHtml(runs, sections)}
<main id="main" tabindex="-1">
${sections.map(sectionHtml).join("\n")}
</main>
<script>
${own("page.js")}${own("page-kept.js")}</script>
</body>
</html>
`;
}

function headHtml(runs: readonly RunData[], sections: readonly Section[]): string {
  const links = sections.map(({ id, title }) => `<li><a href="#${id}">${escaped(title)}</a></li>`);
  return [
    "<header>",
    `<h1>${escaped(
      runs
        .map((run) => run.context.benchmark)
        .filter((name, at, all) => all.indexOf(name) === at)
        .join(", "),
    )}</h1>`,
    ...runs.map(runLine),
    `<nav aria-label="Sections"><ul>${links.join("")}</ul></nav>`,
    "</header>",
  ].join("\n");
}

function runLine({ name, context, manifest, cells, unfinished }: RunData): string {
  const devices = [...new Set(manifest.devices.map((device) => device.deviceName))].join(", ");
  const day = manifest.runs.at(-1)?.started.slice(0, 10);
  const said = [
    context.model,
    context.view,
    `${cells.methods.length} method${cells.methods.length === 1 ? "" : "s"}`,
    devices,
    day,
  ].filter(Boolean);
  const warning = unfinished ? " The run is not finished: these are the figures of the rows written so far." : "";
  return `<p><strong>${escaped(name)}</strong>: ${escaped(said.join(" · "))}.${escaped(warning)}</p>`;
}

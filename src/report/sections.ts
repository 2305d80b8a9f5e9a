// The report as data: sections of text, charts and tables, in reading order.
import type { TableData } from "../bench/table.ts";
import { costTable } from "../bench/tables.ts";
import { accuracyCharts } from "./accuracy-chart.ts";
import { cacheCharts, peakCharts, timeCharts, timeParts } from "./bar-charts.ts";
import { depthCharts } from "./depth-chart.ts";
import { depthCells } from "./depths.ts";
import type { Figure } from "./figure.ts";
import { type KeptSample, keptSamples } from "./kept.ts";
import { keptSheet } from "./kept-html.ts";
import { cacheCost, paretoCharts, timeCost } from "./pareto-chart.ts";
import { chartPoints, makePoints } from "./points.ts";
import { factSheet, failureSheet, methodSheet } from "./provenance.ts";
import type { RunData } from "./run-data.ts";
import { accuracySheet, depthSheet, memorySheet, paretoSheet, taskSheet, timeSheet } from "./sheets.ts";

export interface Sheet {
  table: TableData;
  /** closed until asked for */
  folded: boolean;
}

export interface Section {
  id: string;
  title: string;
  /** how to read it */
  lead: string;
  legend: readonly { key: string; colour: string }[];
  figures: Figure[];
  sheets: Sheet[];
  /** raw text, folded: file name and content */
  texts: { name: string; text: string }[];
  /** samples whose kept tokens are shown */
  kept: KeptSample[];
}

const shown = (table: TableData): Sheet => ({ table, folded: false });
const folded = (table: TableData): Sheet => ({ table, folded: true });
const bare = { legend: [], figures: [], sheets: [], texts: [], kept: [] };

export function makeSections(runs: readonly RunData[], samples: readonly string[] = []): Section[] {
  const points = makePoints(runs);
  const drawn = chartPoints(points);
  const needles = depthCells(runs);
  const kept = keptSamples(runs, samples);
  const failures = failureSheet(runs);
  const sections: Section[] = [
    {
      ...bare,
      id: "accuracy",
      title: "Accuracy by length",
      lead: "Score 0 to 100 by prompt length; bars: 95 % bootstrap interval; dashed: the full cache.",
      figures: accuracyCharts(drawn),
      sheets: [shown(accuracySheet(runs, points)), folded(taskSheet(runs))],
    },
    {
      ...bare,
      id: "cache",
      title: "Accuracy against cache",
      lead:
        "Up and to the left is better. Filled points are on the Pareto front: no method holds less and scores as high. " +
        "Square: the full cache. Thin lines: 95 % interval of the score.",
      figures: paretoCharts(drawn, cacheCost),
      sheets: [folded(paretoSheet(drawn))],
    },
    {
      ...bare,
      id: "speed",
      title: "Accuracy against time",
      lead: "Time of one sample: time to first token and all decode steps. Marks as above; their figures are in the table above.",
      figures: paretoCharts(drawn, timeCost),
    },
    {
      ...bare,
      id: "time",
      title: "Where the time goes",
      lead: "Medians of a sample: prefill without the method's hooks, the hooks, and decode.",
      legend: timeParts,
      figures: timeCharts(drawn),
      sheets: [folded(timeSheet(points)), ...runs.map((run) => folded(costTable(run.cells, run.context)))],
    },
    {
      ...bare,
      id: "memory",
      title: "Memory",
      lead: "Cache: bytes of the rows held after the prompt, measured. Peak: the allocator's, weights included.",
      figures: [...cacheCharts(drawn), ...peakCharts(drawn)],
      sheets: [folded(memorySheet(points))],
    },
    {
      ...bare,
      id: "depth",
      title: "Needle depth by length",
      lead:
        needles.length > 0
          ? "Per cent of the needles that the answers name, by where in the prompt they stood."
          : "No row carries its prompt, so depths are not known; accel run --log_samples records them.",
      figures: depthCharts(needles),
      sheets: needles.length > 0 ? [folded(depthSheet(needles))] : [],
    },
    {
      ...bare,
      id: "kept",
      title: "Kept tokens",
      lead:
        kept.length > 0
          ? "Which tokens of a prompt a method still holds after it, by layer and KV head. Methods that hold all are left out; accel report --sample chooses other samples."
          : "No row says which tokens were kept; accel run --log_kept --log_samples records them, and the prompts beside them.",
      kept,
      sheets: kept.length > 0 ? [folded(keptSheet(kept))] : [],
    },
    {
      ...bare,
      id: "provenance",
      title: "Provenance",
      lead: "What every figure above was measured with. The rows behind a score are in the file that the table by task names.",
      sheets: [...runs.map((run) => shown(factSheet(run))), folded(methodSheet(runs))],
      texts: runs.map((run) => ({ name: `${run.name}/manifest.json`, text: run.manifestText })),
    },
  ];
  if (failures.rows.length === 0) return sections;
  const lead = "Out of memory and errors, with the first line of the reason.";
  return sections.toSpliced(-1, 0, { ...bare, id: "failures", title: "Failures", lead, sheets: [folded(failures)] });
}

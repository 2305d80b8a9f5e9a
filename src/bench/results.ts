// results.json: lm-eval's layout (results by task with metric,filter keys; the filter is the method), and all cells as they are.
import type { Cells, TaskCell } from "./cells.ts";
import type { MethodFindings, Pipeline } from "./findings.ts";

export interface ResultsContext {
  /** version of the way a task's samples are made, and its metric */
  tasks: Record<string, { metric: string; version: number; source: string; params: Record<string, unknown> }>;
  /** effective configuration */
  config: Record<string, unknown>;
  facts: Record<string, unknown>;
  findings: readonly MethodFindings[];
  pipeline: Pipeline | null;
}

/** `4096,SnapKV`: the metric of lm-eval's RULER tasks is the length. */
const metricKey = (cell: TaskCell, suffix = "") => `${cell.length ?? "score"}${suffix},${cell.method}`;

export function makeResults(cells: Cells, context: ResultsContext): Record<string, unknown> {
  const results: Record<string, Record<string, unknown>> = {};
  for (const cell of cells.byTask) {
    const entry = results[cell.task] ?? { alias: cell.task };
    results[cell.task] = entry;
    entry[metricKey(cell)] = cell.score;
    entry[metricKey(cell, "_stderr")] = cell.stderr ?? "N/A";
    entry[metricKey(cell, "_interval")] = cell.interval;
    entry[metricKey(cell, "_n")] = cell.n;
    entry[metricKey(cell, "_nulls")] = cell.nulls;
    if (cell.truncated) entry[metricKey(cell, "_truncated")] = cell.truncated;
  }
  const groups: Record<string, unknown> = {};
  for (const cell of cells.accuracy) groups[`${cell.length ?? "score"},${cell.method}`] = cell.score;
  return {
    results,
    groups: { mean: groups },
    configs: context.tasks,
    versions: Object.fromEntries(Object.entries(context.tasks).map(([task, { version }]) => [task, version])),
    "n-samples": Object.fromEntries(cells.tasks.map((task) => [task, samplesOf(cells, task)])),
    higher_is_better: Object.fromEntries(
      Object.entries(context.tasks).map(([task, { metric }]) => [task, { [metric]: true }]),
    ),
    config: context.config,
    ...context.facts,
    methods: cells.methods,
    findings: context.findings,
    pipeline: context.pipeline,
    cells: { by_task: cells.byTask, accuracy: cells.accuracy, cost: cells.cost, totals: cells.totals },
  };
}

/** Samples of a task that were asked for and that have a score, over its lengths, for one method. */
function samplesOf(cells: Cells, task: string): { original: number; effective: number } {
  const mine = cells.byTask.filter((cell) => cell.task === task);
  const sum = (of: (cell: TaskCell) => number) =>
    Math.min(
      ...cells.methods.map(({ label }) =>
        mine.filter((cell) => cell.method === label).reduce((total, cell) => total + of(cell), 0),
      ),
    );
  return { original: sum((cell) => cell.n + cell.oom + cell.errors + cell.missing), effective: sum((cell) => cell.n) };
}

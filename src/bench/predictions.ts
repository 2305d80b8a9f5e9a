// Predictions in the forms that the reference scorers of RULER and LongBench read, a file for each method, length and task.
import type { BenchmarkName } from "./config-schema.ts";
import { jsonLine } from "./jsonl.ts";
import { methodFile } from "./row-files.ts";
import { identity, type Row, type Task } from "./rows.ts";
import { isNull, taskScore } from "./score.ts";

/** The keys that RULER's scorer reads; `index` is our ordinal, `input` is there when rows carry their prompts. */
export function rulerPrediction(row: Pick<Row, "id" | "refs" | "length" | "prediction" | "prompt">): string {
  return jsonLine({
    index: Number(row.id.slice(row.id.lastIndexOf("/") + 1)),
    pred: row.prediction ?? "",
    input: row.prompt ?? "",
    outputs: row.refs,
    others: { id: row.id },
    truncation: -1,
    length: row.length ?? -1,
  });
}

/** The keys that LongBench's scorer reads. */
export function longbenchPrediction(
  row: Pick<Row, "refs" | "prediction" | "source_length">,
  classes: readonly string[] | undefined,
): string {
  return jsonLine({
    pred: row.prediction ?? "",
    answers: row.refs,
    all_classes: classes ?? null,
    length: row.source_length ?? 0,
  });
}

/** Files below `predictions/` by name; samples without an answer are left out. */
export function predictionFiles(
  benchmark: BenchmarkName,
  tasks: readonly Task[],
  rows: ReadonlyMap<string, Row>,
): Map<string, string> {
  const files = new Map<string, string>();
  const smallest = Math.min(...tasks.map(({ batch }) => batch));
  const first = tasks.filter(({ batch, repeat }) => batch === smallest && repeat === 0);
  const done = first.flatMap((task) => {
    const row = rows.get(identity(task));
    return row?.status === "ok" ? [{ row, classes: task.sample.classes }] : [];
  });
  for (const [folder, of] of Map.groupBy(done, ({ row }) => folderOf(benchmark, row))) {
    const byTask = Map.groupBy(of, ({ row }) => row.task);
    for (const [name, list] of byTask) {
      const lines = list.map(({ row, classes }) =>
        benchmark === "RULER" ? rulerPrediction(row) : longbenchPrediction(row, classes),
      );
      files.set(`${folder}/${name.replace(/_e$/, "")}.jsonl`, lines.join(""));
    }
    const summed = [...byTask].map(([name, list]) => [name, list.map(({ row }) => row)] as const);
    if (benchmark === "RULER") files.set(`${folder}/summary.csv`, summary(summed));
  }
  return files;
}

/** LongBench-E has folders of its own and names without `_e`, as its scorer wants them. */
function folderOf(benchmark: BenchmarkName, row: Row): string {
  if (benchmark === "RULER") return `predictions/${methodFile(row)}/${row.length}`;
  return `${row.task.endsWith("_e") ? "predictions_e" : "predictions"}/${methodFile(row)}`;
}

/** RULER's summary: a column for each task, its score and the number of empty predictions. */
function summary(tasks: readonly (readonly [string, Row[]])[]): string {
  const line = (title: string, values: (string | number)[]) => `${[title, ...values].join(",")}\n`;
  return (
    line(
      "Tasks",
      tasks.map(([name]) => name),
    ) +
    line(
      "Score",
      tasks.map(([, rows]) => taskScore(rows.map(({ score }) => score ?? 0))),
    ) +
    line(
      "Nulls",
      tasks.map(([, rows]) => rows.filter(({ prediction }) => isNull(prediction ?? "")).length),
    )
  );
}

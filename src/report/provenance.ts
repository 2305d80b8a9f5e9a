// What the figures were measured with, as tables: a run's facts, its methods with their parameters, and the samples that failed.
import { type Cell, type TableData, text } from "../bench/table.ts";
import { seriesName } from "./points.ts";
import type { RunData } from "./run-data.ts";

const fact = (name: string, value: unknown): Cell[] => [text(name), text(value === null ? "none" : String(value))];
const leftColumns = (...names: string[]) =>
  names.map((name) => ({ title: name, key: name.replaceAll(" ", "_"), align: "left" as const }));

export function factSheet({ name, manifest, context }: RunData): TableData {
  const { model } = manifest;
  const starts = manifest.runs.map(({ started, fresh }) => `${started}${fresh ? " (fresh)" : ""}`);
  return {
    title: `Run ${name}`,
    columns: leftColumns("fact", "value"),
    headColumns: 1,
    rows: [
      fact("benchmark", `${context.benchmark}, ${context.view}`),
      ...context.remarks.map((remark) => fact("remark", remark)),
      fact("model", `${model.path}, ${model.dtype}`),
      fact("model SHA-256", model.hash),
      fact("tokenizer SHA-256", model.tokenizer_hash),
      ...manifest.devices.map((device) => fact("device", device.deviceName)),
      ...[...new Set(manifest.devices.map((device) => device.buildInfo))].map((info) => fact("library", info)),
      fact("driver", manifest.driver),
      fact("kvaccel", `${manifest.version}, commit ${manifest.commit ?? "unknown"}`),
      fact("bun", `${manifest.bun}, ${manifest.platform}`),
      fact("seed", manifest.seed ?? "default"),
      ...starts.map((start) => fact("started", start)),
    ],
    notes: [],
  };
}

export function methodSheet(runs: readonly RunData[]): TableData {
  const rows = runs.flatMap((run) =>
    run.manifest.methods.map((method) => [
      text(seriesName(runs, run, method.label)),
      text(method.hash),
      text(method.parts.map((part) => `${part.name} ${JSON.stringify(part.params)}`).join("; ")),
      text(method.parts.map((part) => part.preset).join("; ")),
      text(method.parts.map((part) => part.file).join("; ")),
    ]),
  );
  const columns = leftColumns("method", "hash", "parameters", "preset", "file");
  return { title: "Methods and their parameters", columns, headColumns: 1, rows, notes: [] };
}

/** The first line of an error is enough to tell which it is; the rows hold all of it. */
export function failureSheet(runs: readonly RunData[]): TableData {
  const rows = runs.flatMap((run) =>
    run.rows
      .filter((row) => row.status === "oom" || row.status === "error")
      .map((row) => [
        text(seriesName(runs, run, row.method)),
        text(row.id),
        text(row.status === "oom" ? "out of memory" : row.status),
        text((row.error ?? "").split("\n")[0]!.slice(0, 500)),
      ]),
  );
  const columns = leftColumns("method", "sample", "status", "why");
  return { title: "Samples without a score", columns, headColumns: 1, rows, notes: [] };
}

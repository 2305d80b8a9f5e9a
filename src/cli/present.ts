// The end of a run on the terminal: its tables on stdout; what failed or is left, and the exit code.
import { accuracyTable, costTable } from "../bench/tables.ts";
import { Interrupted } from "./interrupt.ts";
import { renderTables, tell } from "./output.ts";
import type { RunReport } from "./run-report.ts";
import type { Settings } from "./settings.ts";

export function print(report: RunReport, { output }: Settings): void {
  if (output === "json") return void process.stdout.write(`${JSON.stringify(report.results, null, 2)}\n`);
  const tables = [accuracyTable(report.cells, report.context), costTable(report.cells, report.context)];
  process.stdout.write(renderTables(tables, output));
}

export function finish({ path, failed, outcome }: RunReport, watching = false): void {
  if (outcome.interrupted && !(watching && outcome.missing === 0)) {
    tell(`Interrupted: ${outcome.missing} measurements are left. The same command goes on (${path}).`);
    throw new Interrupted();
  }
  if (failed > 0)
    tell(`${failed} measurements failed: their rows in ${path} say why; the same command tries them again.`);
  if (outcome.missing > 0) {
    const why = outcome.failures.length > 0 ? `: ${outcome.failures.join("; ")}` : "";
    tell(`${outcome.missing} measurements were not made${why}. The same command goes on.`);
  }
  if (outcome.skipped > 0) tell(`${outcome.skipped} measurements were skipped; the same command runs them.`);
  if (failed > 0 || outcome.missing > 0) process.exitCode = 1;
  tell(`Report, rows, times, manifest and results.json: ${path}`);
}

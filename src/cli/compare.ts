// `accel compare`: run directories side by side, with differences on the same samples and whether they are more than noise.
import { compareRuns } from "../report/compare.ts";
import { comparisonTables } from "../report/compare-tables.ts";
import { renderTables, type TableFormat } from "./output.ts";

export interface CompareFlags {
  output?: TableFormat;
}

export function compare(directories: readonly string[], { output = "table" }: CompareFlags): void {
  const comparison = compareRuns(directories);
  if (output === "json") process.stdout.write(`${JSON.stringify(comparison, null, 2)}\n`);
  else process.stdout.write(renderTables(comparisonTables(comparison), output));
}

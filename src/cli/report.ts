// `accel report`: run directories as one HTML file; and report.html at the end of a run.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { KvaError, reason } from "../native/error.ts";
import { makeReport } from "../report/report.ts";

export interface ReportFlags {
  output_path?: string;
  open?: boolean;
  sample?: string[];
}

const reportName = "report.html";

export async function report(directories: readonly string[], flags: ReportFlags): Promise<void> {
  const html = makeReport(directories, { samples: flags.sample ?? [] });
  const path = flags.output_path ?? (directories.length === 1 ? join(directories[0]!, reportName) : reportName);
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, html);
  } catch (cause) {
    throw new KvaError("io", `${path} cannot be written: ${reason(cause)}`, { cause });
  }
  process.stdout.write(`${path}\n`);
  if (flags.open) await openFile(path);
}

/** Hands a file to the system's own opener and goes on. */
async function openFile(path: string): Promise<void> {
  const name = process.platform === "darwin" ? "open" : "xdg-open";
  const opener = Bun.which(name);
  if (opener === null) throw new KvaError("io", `--open: there is no ${name} here; open ${path} in a browser`);
  const child = Bun.spawn([opener, path], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const [err, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  if (code !== 0) throw new KvaError("io", `${opener} could not open ${path}: ${err.trim() || `exit code ${code}`}`);
}

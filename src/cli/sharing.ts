// Whether the processes of a run can share memory on its devices, found out before the run needs it.
import { join } from "node:path";

const probe = join(import.meta.dir, "..", "engine", "share-probe.ts");

/** Why the engines of a device cannot read one copy of the weights; undefined where they can. All devices of a backend are alike. */
export async function whyNotShared(devices: readonly string[]): Promise<string | undefined> {
  if (process.env.KVACCEL_SHARE_WEIGHTS === "0") return "KVACCEL_SHARE_WEIGHTS is 0";
  const alike = new Map(devices.map((device) => [device.split(":")[0], device]));
  for (const device of alike.values()) {
    const child = Bun.spawn([process.execPath, probe, device], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: process.env,
      timeout: 60_000,
      killSignal: "SIGKILL",
    });
    const [text, errors, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    if (code !== 0) return text.trim() || errors.trim().split("\n").at(-1) || `the trial on ${device} did not end`;
  }
  return undefined;
}

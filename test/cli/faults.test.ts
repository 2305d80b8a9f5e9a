// What goes wrong around a run, as the command line ends with it: the rows, the exit code and the message of each fault.
import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readRows } from "../../src/bench/rundir.ts";
import { libraryPath } from "../../src/native/library.ts";
import { ended, startAccel } from "../support/accel.ts";
import { workersOf } from "../support/fault-run.ts";
import { folder } from "../support/folder.ts";

/** Plugins that end their own process; each runs alone in a process of the run. */
function faulty(): string {
  const dir = folder();
  const marks = JSON.stringify(folder());
  const write = (name: string, hooks: string) =>
    writeFileSync(
      join(dir, `${name.toLowerCase()}.ts`),
      `import { appendFileSync, readFileSync, unlinkSync } from "node:fs";
import { definePlugin } from "kvaccel/plugin";
const die = () => process.kill(process.pid, "SIGKILL");
/** how often this was called by now, in all processes */
const calls = (name: string) => {
  appendFileSync(\`\${${marks}}/\${name}\`, "x");
  return readFileSync(\`\${${marks}}/\${name}\`).length;
};
export default definePlugin({
  name: "${name}", about: "ends its process", paper: "https://example.org", category: "eviction", params: {},
  create: () => (${hooks}),
});
`,
    );
  // the first call is the warm-up's
  write("InPrefill", `{ prefill(layer) { if (layer.index === 0 && calls("prefill") === 2) die(); } }`);
  write("InDecode", `{ decode(layer) { if (layer.index === 0 && calls("decode") === 2) die(); } }`);
  write("InRow", `{ end() { if (calls("end") === 2) setTimeout(die, 2); return {}; } }`);
  write("Always", `{ prefill() { if (calls("always") > 5) die(); } }`);
  write("Device", `{ prefill() { unlinkSync(process.env.KVACCEL_LIB); die(); } }`);
  return dir;
}

const plugins = (methods: string) => ["--plugin_dir", faulty(), "--acceleration", methods, "--no_baseline"];
const sample = ["run", "--task_names", "niah_single_2", "--length", "512", "--num_samples", "1", "--device", "cpu"];

function start(path: string, more: string[], env: Record<string, string> = {}) {
  return startAccel([...sample, "--threads", "1", "-o", "jsonl", "--output_path", path, ...more], env);
}

async function until(met: () => boolean): Promise<void> {
  for (let waited = 0; !met(); waited += 5) {
    if (waited > 20_000) throw new Error("it did not come to it in 20 s");
    await Bun.sleep(5);
  }
}

const rowsOf = (path: string) => readRows(path).map(({ method, status, attempts }) => [method, status, attempts]);

test("a worker killed while it loads, in prefill, in decode, while its row is written: every row, exit code 0; a second run is refused", async () => {
  const path = folder();
  const run = start(path, plugins("InPrefill,InDecode,InRow"));
  await until(() => workersOf(run.pid).engines.length > 0);
  process.kill(workersOf(run.pid).engines[0]!, "SIGKILL");
  const second = await ended(start(path, ["--acceleration", "SnapKV"]));
  const { code, err } = await ended(run);
  expect([code, second.code]).toEqual([0, 1]);
  expect(second.err).toContain(`process ${run.pid} is writing to ${path}: wait for it, choose another --output_path`);
  expect(err).toContain("cpu:0, while loading: the engine process was ended by SIGKILL; it is started again");
  for (const method of ["InPrefill", "InDecode"])
    expect(err).toContain(`${method}, niah_single_2/512/0: the engine process was ended by SIGKILL; it is run again`);
  const [decode, prefill, row] = rowsOf(path).toSorted();
  expect([decode, prefill]).toEqual([
    ["InDecode", "ok", 2],
    ["InPrefill", "ok", 2],
  ]);
  expect(row!.slice(0, 2)).toEqual(["InRow", "ok"]); // the answer may have been on its way, or written
  expect(readRows(path)).toHaveLength(3);
}, 60_000);

test("faults that cost a row or the run: the row or none, exit code 1, and a sentence that names it", async () => {
  const [always, full, gone] = [folder(), folder(), folder()];
  symlinkSync("/dev/full", join(full, "timings.jsonl")); // takes nothing: ENOSPC
  const library = join(folder(), "libkvaccel_cpu.so");
  symlinkSync(libraryPath("cpu"), library);
  const locked = join(folder(), "locked");
  mkdirSync(locked);
  chmodSync(locked, 0o555);
  const readOnly = process.getuid?.() === 0 ? "/proc/nowhere" : locked; // root writes where it likes
  const [dies, disk, device, refused] = await Promise.all([
    ended(start(always, plugins("Always"))),
    ended(start(full, ["--acceleration", "Full"])),
    ended(start(gone, plugins("Device"), { KVACCEL_LIB: library })),
    ended(start(readOnly, ["--acceleration", "Full"])),
  ]);
  expect([dies, disk, device, refused].map(({ code }) => code)).toEqual([1, 1, 1, 1]);

  expect(rowsOf(always)).toEqual([["Always", "error", 2]]);
  expect(readRows(always)[0]!.error).toBe("the engine process was ended by SIGKILL");
  expect(dies.err).toContain(
    `1 measurements failed: their rows in ${always} say why; the same command tries them again.`,
  );

  expect(rowsOf(full)).toEqual([]);
  expect(disk.err).toContain(`${join(full, "timings.jsonl")} cannot be written: the disk is full`);
  expect(existsSync(join(full, "lock"))).toBe(false);

  expect(rowsOf(gone)).toEqual([]);
  expect(device.err).toContain(`1 measurements were not made: there is no cpu library at ${library}`);
  expect(device.err).toContain("The same command goes on.");

  expect(refused.err).toContain(readOnly);
  expect(refused.err).toMatch(/cannot be (made|written)/);
}, 60_000);

// What a run needs, before it runs: the estimate against what the allocator counts, what will not fit, the batch that does.
import { expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execute } from "../../src/cli/execute.ts";
import { prepareRun } from "../../src/cli/plan.ts";
import { Preflight, preflightTable } from "../../src/cli/preflight.ts";
import { readSettings } from "../../src/cli/settings.ts";
import { totalOf } from "../../src/engine/estimate.ts";
import type { EngineOptions } from "../../src/engine/protocol.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { ended, startAccel } from "../support/accel.ts";
import { engineOptions, method } from "../support/fake-plan.ts";

const flags = {
  task_names: ["niah_single_2"],
  length: [1024],
  num_samples: 2,
  device: ["cpu:0"],
  acceleration: ["SnapKV"],
};

test("the estimate is what the allocator counts, within 3 percent", async () => {
  const output_path = mkdtempSync(join(tmpdir(), "kvaccel-preflight-"));
  const settings = readSettings({ ...flags, output_path, batch_size: [1, 2] });
  const { preflight } = await prepareRun(settings, () => {});
  const { cells } = await execute(settings);
  for (const batch of [1, 2]) {
    for (const label of ["Full", "SnapKV"]) {
      const need = preflight.find((row) => row.method === label && row.batch === batch)!;
      const cell = cells.cost.find((one) => one.method === label && one.batch === batch)!;
      const off = totalOf(need.need) / cell.peakBytes! - 1;
      expect(Math.abs(off), `${label}, batch ${batch}: ${totalOf(need.need)} for ${cell.peakBytes}`).toBeLessThan(0.03);
    }
  }
  rmSync(output_path, { recursive: true });
}, 60_000);

const engines = (memoryLimit: number, ...devices: string[]): EngineOptions[] =>
  devices.map((device) => ({ ...engineOptions, device, dtype: "bfloat16", memoryLimit }));
const size = { length: 1024, promptTokens: 1000, newTokens: 24 };
const full = [method("Full")];
const preflight = (shape: string, on: EngineOptions[], sizes = [size]) =>
  Preflight.of({ config: shapeConfig(shape), engines: on, methods: full, sizes });

test("weights are counted by device, caches as many as are in flight", async () => {
  const [whole] = (await preflight("tiny-ruler", engines(0, "cpu:0"))).rows([1]);
  const [half] = (await preflight("tiny-ruler", engines(0, "cpu:0+cpu:1"))).rows([1]);
  const [four] = (await preflight("tiny-ruler", engines(0, "cpu:0", "cpu:0", "cpu:0", "cpu:0"))).rows([1]);
  const [batch] = (await preflight("tiny-ruler", engines(0, "cpu:0"))).rows([8]);
  expect(half!.need.weights).toBeLessThan(0.9 * whole!.need.weights);
  expect(half!.need.cache).toBeGreaterThan(1.5 * whole!.need.cache); // four samples, of about half the layers
  expect(four!.need.cache).toBe(4 * whole!.need.cache);
  expect(batch!.need.cache).toBe(8 * whole!.need.cache);
  const sharing = engines(0, "cpu:0", "cpu:0", "cpu:0", "cpu:0").map((engine) => ({ ...engine, sharedBy: 4 }));
  const [once] = (await preflight("tiny-ruler", sharing)).rows([1]);
  expect(four!.need.weights).toBe(4 * whole!.need.weights);
  expect(once!.need).toEqual({ ...four!.need, weights: whole!.need.weights });
});

test("shared weights count once in what a run will need, each worker's where sharing is off, and both are said", async () => {
  const said = spyOn(process.stderr, "write").mockImplementation(() => true);
  const table = async (switchedTo: string | undefined) => {
    process.env.KVACCEL_SHARE_WEIGHTS = switchedTo;
    const settings = readSettings({ ...flags, length: [512], num_samples: 1, acceleration: ["Full"], gp_num: "1/2" });
    const { preflight, plan } = await prepareRun(settings, () => {});
    const { rows, notes } = preflightTable(preflight, plan.tasks.length, plan.engines);
    return [rows[0]![3]!.text, notes.at(-1)];
  };
  try {
    expect(await table("")).toEqual([
      "10.1 MiB",
      "2 workers on a device: one copy of the weights, held by a process more, and 2 times the rest.",
    ]);
    expect(said).not.toHaveBeenCalled();
    expect(await table("0")).toEqual(["20.2 MiB", "2 workers on a device, each with weights of its own."]);
    expect(said).toHaveBeenCalledWith("2 copies of the weights on each device, not one: KVACCEL_SHARE_WEIGHTS is 0\n");
  } finally {
    delete process.env.KVACCEL_SHARE_WEIGHTS;
    said.mockRestore();
  }
});

test("auto takes the largest batch that fits, and one where not even that does", async () => {
  const one = totalOf((await preflight("tiny-ruler", engines(0, "cpu:0"))).rows([1])[0]!.need);
  const eight = totalOf((await preflight("tiny-ruler", engines(0, "cpu:0"))).rows([8])[0]!.need);
  const chosen = async (limit: number) => (await preflight("tiny-ruler", engines(limit, "cpu:0"))).autoBatch();
  expect(await chosen(0)).toBe(16);
  expect(await chosen(eight)).toBe(8);
  expect(await chosen(eight - 1)).toBe(4);
  expect(await chosen(one)).toBe(1);
  const long = { ...size, length: 32768, promptTokens: 32000 };
  const both = await preflight("tiny-ruler", engines(eight, "cpu:0"), [size, long]);
  expect(both.rows([1]).map(({ fits }) => fits)).toEqual([true, false]);
  expect(both.autoBatch()).toBe(8); // what never fits does not keep the rest small
});

test("a dry run prints what is needed, names what will not fit, and leaves nothing behind", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kvaccel-dry-"));
  const words = ["run", "--task_names", "vt", "--length", "512", "--num_samples", "1", "--device", "cpu"];
  const path = join(folder, "run");
  const dry = (...more: string[]) => ended(startAccel([...words, "--output_path", path, "--dry_run", ...more]));
  const [table, json] = await Promise.all([
    dry("--memory_limit", "13MiB", "-o", "md"),
    dry("--batch_size", "auto", "-o", "json"),
  ]);
  expect([table.code, json.code]).toEqual([0, 0]);
  expect(table.out).toMatch(/\| 512 \| Full \| 1 \| .* MiB \| cpu:0 \| no \|/);
  expect(table.out).toContain('What does not fit gets "-" in the tables');
  const { measurements, needs } = JSON.parse(json.out);
  expect(measurements).toBe(needs.length); // one sample of each method
  expect(needs[0]).toMatchObject({ method: "Full", length: 512, batch: 16, fits: true });
  expect(await Bun.file(join(path, "manifest.json")).exists()).toBe(false);
  rmSync(folder, { recursive: true });
}, 30_000);

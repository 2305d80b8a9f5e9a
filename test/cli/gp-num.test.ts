// Four devices that the CPU poses as: however a model lies on them, every sample gets the same prediction.
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readRows } from "../../src/bench/rundir.ts";
import { ended, startAccel } from "../support/accel.ts";

test("gp_num 1, 2, 4 and 1/2 give identical predictions; a split model runs most samples in a pipeline, 1/2 shares its weights", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kvaccel-gp-"));
  const words = ["run", "--task_names", "niah_single_2", "--length", "512", "--num_samples", "7", "--device", "cpu"];
  const runs = ["1", "2", "4", "1/2"].map(async (gpNum) => {
    const path = join(folder, gpNum.replace("/", "-"));
    const more = ["--acceleration", "SnapKV", "--gp_num", gpNum, "--threads", "1", "--output_path", path];
    const { code, err } = await ended(startAccel([...words, ...more], { KVACCEL_CPU_DEVICES: "4" }));
    expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
    return readRows(path);
  });
  const [one, two, four, shared] = await Promise.all(runs);
  const predictions = (rows: typeof one) =>
    Object.fromEntries(rows!.map((row) => [`${row.method} ${row.id}`, [row.prediction, row.ids, row.cache_bytes]]));
  expect(Object.keys(predictions(one))).toHaveLength(14);
  for (const other of [two, four, shared]) expect(predictions(other)).toEqual(predictions(one));
  expect(new Set(one!.map(({ device }) => device))).toEqual(new Set(["cpu:0", "cpu:1", "cpu:2", "cpu:3"]));
  expect(new Set(four!.map(({ device }) => device))).toEqual(new Set(["cpu:0+cpu:1+cpu:2+cpu:3"]));
  expect(four!.filter(({ pipelined }) => pipelined === 5)).toHaveLength(10);
  expect(two!.every((row) => row.device_peak_bytes?.length === 2)).toBe(true);
  const { bytes } = JSON.parse(readFileSync(join(folder, "1-2", "manifest.json"), "utf8")).devices[0].sharedWeights;
  expect(bytes).toBeGreaterThan(10_000_000);
  expect(shared!.every((row) => row.shared_weight_bytes === bytes && row.peak_bytes > bytes)).toBe(true);
  expect(one!.every((row) => row.shared_weight_bytes === undefined)).toBe(true);
  rmSync(folder, { recursive: true });
}, 60_000);

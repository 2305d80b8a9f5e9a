// What `accel devices --model_path` and `--shape` say of memory: who fits where, at which length.
import { expect, test } from "bun:test";
import { join } from "node:path";
import type { DeviceEntry } from "../../src/cli/devices.ts";
import { modelNeeds, needsTable, readWanted } from "../../src/cli/devices-memory.ts";
import { bundledModel } from "../../src/model/locate.ts";

const GiB = 2 ** 30;
const gpu = (index: number, gib: number): DeviceEntry => ({
  id: `cuda:${index}`,
  name: `GPU of ${gib} GiB`,
  backend: "cuda",
  total_bytes: gib * GiB,
  free_bytes: gib * GiB,
  compute_capability: "9.0",
});
const methods = { acceleration: ["SnapKV[capacity=2048]", "KIVI"] };

test("an 8B shape at 128K tokens: 24 GB hold an evicting method, not Full; the figures are the design's", async () => {
  const wanted = await readWanted({ shape: "llama-3.1-8b", length: [131072], ...methods });
  const devices = [gpu(0, 24), gpu(1, 80)];
  const { needs, weight_bytes, load_seconds, split } = modelNeeds(wanted, devices);
  const of = (method: string) => needs.find((need) => need.method === method)!;
  expect(weight_bytes / GiB).toBeCloseTo(14.96, 2);
  expect(of("Full").fits).toEqual(["cuda:1"]);
  expect(of("Full").peak_bytes / GiB).toBeWithin(33, 35);
  expect(of("SnapKV[capacity=2048]").fits).toEqual(["cuda:0", "cuda:1"]);
  expect(of("SnapKV[capacity=2048]").peak_bytes / GiB).toBeWithin(18, 18.6);
  expect(of("SnapKV[capacity=2048]").cache_bytes / GiB).toBeWithin(0.25, 0.28);
  expect(of("KIVI").cache_bytes).toBeLessThan(of("Full").cache_bytes / 2.5);
  expect([load_seconds, split]).toEqual([null, {}]);
  const { notes } = needsTable(modelNeeds(wanted, devices), devices);
  expect(notes).toContain("cuda:0: 24.0 GiB free, 128K not Full");
  expect(notes).toContain("cuda:1: 80.0 GiB free, all fit");
});

test("the peaks of an 8B shape are those that an H100 counted, within 1 %", async () => {
  // accel bench --shape llama-3.1-8b -p 4096,32768,131072 -n 0, November 2026
  const measured = { "Full 4096": 17088336160, "Full 32768": 21345554720, "Full 131072": 35941732640 };
  const evicting = { "SnapKV[capacity=2048] 131072": 19447956768 };
  const acceleration = ["SnapKV[capacity=2048]"];
  const flags = { shape: "llama-3.1-8b", length: [4096, 32768, 131072], max_new_tokens: 1, acceleration };
  const { needs } = modelNeeds(await readWanted(flags), [gpu(0, 80)]);
  for (const [row, bytes] of Object.entries({ ...measured, ...evicting })) {
    const need = needs.find(({ method, length }) => `${method} ${length}` === row)!;
    expect(Math.abs(need.peak_bytes / bytes - 1)).toBeLessThan(0.01);
  }
});

test.each([
  ["llama-3.2-1b", 2.3],
  ["qwen2.5-7b", 14.2],
  ["llama-3.1-8b", 15],
  ["qwen2.5-14b", 27.5],
  ["llama-3.1-70b", 131.4],
])("the weights of %s are %d GiB in bf16", async (shape, gib) => {
  const { weight_bytes } = modelNeeds(await readWanted({ shape, length: [4096], acceleration: [] }), [gpu(0, 80)]);
  expect(weight_bytes / GiB).toBeWithin(gib - 0.1, gib + 0.1);
});

test("a model that no single device holds says how many it takes", async () => {
  const wanted = await readWanted({ shape: "llama-3.1-70b", length: [4096], acceleration: ["SnapKV"] });
  const report = modelNeeds(wanted, [gpu(0, 80)]);
  expect(report.split).toEqual({ "GPU of 80 GiB": 2 });
  expect(report.needs.every(({ fits }) => fits.length === 0)).toBe(true);
  expect(needsTable(report, [gpu(0, 80)]).notes).toContain("GPU of 80 GiB: the weights need 2 of them, --gp_num 2");
});

test("a directory and a GGUF file also have a time to load", async () => {
  const gguf = join(import.meta.dir, "..", "golden", "gguf", "llama.gguf");
  for (const model_path of [bundledModel, gguf]) {
    const report = modelNeeds(await readWanted({ model_path, length: [512], acceleration: [] }), [gpu(0, 80)]);
    expect(report.load_seconds!.cuda).toBeWithin(1e-4, 0.1);
    expect(needsTable(report, []).notes![0]).toContain("loading from the page cache takes about");
  }
});

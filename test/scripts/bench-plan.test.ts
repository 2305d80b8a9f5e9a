// The plan of `make bench` on cards of many sizes and speeds: what fits, what is left out and why, and that the time holds.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Card } from "../../scripts/bench/engine-jobs.ts";
import { mostLayers, roomFor } from "../../scripts/bench/fit.ts";
import { layerLengths } from "../../scripts/bench/layer-jobs.ts";
import { gpuParts } from "../../scripts/bench/parts.ts";
import { head, isTargetCard, line, type Row } from "../../scripts/bench/row.ts";
import { type Group, type Job, Schedule } from "../../scripts/bench/schedule.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";

const GIB = 2 ** 30;
const registry = await loadPlugins([ownPlugins]);
const measured: { ceilings: Card["top"]; rows: Row[] } = JSON.parse(
  readFileSync(join(import.meta.dir, "../../docs/measurements/speed-h100.json"), "utf8"),
);

/** A card so many times slower than the measured H100, with so much free memory. */
function cardOf(slower: number, gib: number): Card {
  const { device, copy, gemm } = measured.ceilings;
  const top = { device, copy: copy / slower, gemm: gemm / slower };
  return { shape: "llama-3.1-8b", device: "cuda:0", backend: "cuda", top, free: gib * GIB, registry };
}

const groupsOf = (card: Card, quick = false): Group[] =>
  Object.values(gpuParts(layerLengths, quick)).flatMap((part) => part(card));
/** A row's name without its layers. */
const whole = (name: string) => name.replace(/, \d+ of 32 layers$/, "");

/** Runs the plan in no time: each run takes its floor by `ratio`, and the end of the time ends an engine. */
async function simulate(card: Card, ratio: (job: Job) => number, totalMs = 460_000) {
  let now = 6000;
  const rows: Row[] = [];
  const groups = groupsOf(card).map((group) => ({
    ...group,
    open() {
      now += group.name.startsWith("layer") ? 300 : 4000;
    },
    close() {},
    jobs: group.jobs.map((job) => ({
      ...job,
      run(turn: Parameters<Job["run"]>[0]) {
        const runMs = job.cost.floorMs * ratio(job);
        const take = (runs: number) => {
          now += runs * runMs;
          if (group.name.startsWith("layer") || now <= totalMs) return;
          now = totalMs;
          throw new Error("the time of this run was over");
        };
        take(job.cost.leastRuns);
        const wanted = job.table === "end to end" || job.table === "layer" ? 3 : 1;
        let samples = 1;
        while (samples < wanted && turn.more()) {
          samples++;
          take(1);
        }
        return job.names.map((name): Row => ({ table: job.table, name, ms: Array(samples).fill(runMs) }));
      },
    })),
  }));
  await new Schedule(groups, { totalMs, now: () => now, emit: (made) => void rows.push(...made), done() {} }).run();
  return { rows, ms: now, names: groups.flatMap(({ jobs }) => jobs.flatMap(({ names }) => names)) };
}

/** as on the H100: H2O's prefill takes longer beside its floor than the others' */
const usual = ({ cost }: Job) => (cost.kind.startsWith("H2O") ? 1.85 : 1.3);

describe("the time holds", () => {
  test("on the measured card with every row, and with every sample of the design's", async () => {
    const { rows, ms } = await simulate(cardOf(1, 79), usual);
    expect(ms).toBeLessThan(460_000);
    const without = rows.filter((row) => row.ms.length === 0);
    expect(without.map(({ name, notRun }) => [name, notRun])).toEqual([
      ["prefill, Full 128K", expect.stringMatching(/^needs 33\.\d GiB, the limit is 23\.0 GiB$/)],
      ["decode, Full 128K", expect.stringMatching(/^needs 33\.\d GiB, the limit is 23\.0 GiB$/)],
    ]);
    expect(rows.filter((row) => row.table === "end to end").every((row) => row.ms.length === 3)).toBe(true);
  });

  const cards = [0.3, 1, 2, 3, 5, 8, 12, 20, 50].flatMap((slower) => [79, 47, 23, 15].map((gib) => [slower, gib]));
  test.each(cards)("on a card %d times as slow with %d GiB, with every row told of", async (slower, gib) => {
    for (const factor of [0.8, 1, 2.5]) {
      const { rows, ms, names } = await simulate(cardOf(slower, gib), (job) => factor * usual(job));
      expect(ms).toBeLessThan(480_000);
      expect(rows.map(({ name }) => name)).toEqual(names);
      for (const row of rows)
        if (row.ms.length === 0) expect(row.notRun).toMatch(/^needs .* (left|free|is 23\.0 GiB)$/);
    }
  });

  test("on slower cards by fewer samples, then by fewer rows, the design's last", async () => {
    const timed = async (slower: number) => {
      const { rows } = await simulate(cardOf(slower, 79), usual);
      const ran = rows.filter((row) => row.ms.length > 0);
      const samples = ran.filter(({ table }) => table === "end to end").reduce((sum, row) => sum + row.ms.length, 0);
      return { samples, rows: ran.length, design: ran.filter(({ table }) => table === "end to end").length };
    };
    const [one, two, three] = [await timed(1), await timed(1.4), await timed(3)];
    expect(two!.rows).toBe(one!.rows);
    expect(two!.samples).toBeLessThan(one!.samples);
    expect(three!.rows).toBeLessThan(two!.rows);
    expect(three!.design).toBe(one!.design);
  });

  test("where one method is thirty times as far from its floor as the others", async () => {
    const { rows, ms } = await simulate(cardOf(3, 79), (job) => (job.cost.kind === "KIVI" ? 39 : 1.3));
    expect(ms).toBeLessThan(480_000);
    expect(rows.filter(({ notRun }) => notRun === "the time of this run was over").length).toBeGreaterThan(0);
  });
});

describe("memory", () => {
  test("is what the engine took on an H100, within 3 %", () => {
    const groups = groupsOf(cardOf(1, 79));
    const peaks = measured.rows.filter(({ peakBytes, table }) => peakBytes !== undefined && table !== "layer");
    expect(peaks.length).toBeGreaterThan(50);
    for (const { name, table, peakBytes } of peaks) {
      const jobs = groups.flatMap((group) => group.jobs).filter((job) => job.table === table);
      const job = jobs.find(({ names }) => names.map(whole).includes(whole(name)))!;
      expect(Math.abs(job.needBytes / peakBytes! - 1), `${table}: ${name}`).toBeLessThan(0.03);
    }
  });

  test("leaves CUDA its part, and a limit below what is free wins", () => {
    expect(roomFor(24 * GIB, "cuda")).toEqual({ bytes: 23.5 * GIB, words: "the card has 23.5 GiB free" });
    expect(roomFor(79 * GIB, "cuda", 23 * GIB)).toEqual({ bytes: 23 * GIB, words: "the limit is 23.0 GiB" });
    expect(roomFor(16 * GIB, "cuda", 23 * GIB)).toEqual({ bytes: 15.5 * GIB, words: "the card has 15.5 GiB free" });
    expect(roomFor(2 ** 20, "cpu")).toEqual({ bytes: 2 ** 20, words: "the machine has 1.00 MiB free" });
  });

  test("halves the layers until half of the rows fit", () => {
    const needs = (layers: number) => [layers, 2 * layers, 3 * layers, 100 * layers];
    expect(mostLayers(32, 64, needs)).toBe(32);
    expect(mostLayers(32, 63, needs)).toBe(16);
    expect(mostLayers(32, 31, needs)).toBe(8);
    expect(mostLayers(32, 1, needs)).toBe(1);
    expect(mostLayers(5, 6, needs)).toBe(3);
  });

  test.each([
    [79, 32],
    [47, 32],
    [23.2, 32],
    [19.5, 32],
    [15.3, 16],
    [11.5, 8],
    [7.5, 4],
  ])("of %d GiB holds %d layers of the 8B shape, and the rows' names say so", (gib, layers) => {
    const names = groupsOf(cardOf(1, gib))[0]!.jobs.flatMap((job) => job.names);
    const suffix = layers === 32 ? "" : `, ${layers} of 32 layers`;
    expect(names.slice(0, 3)).toEqual([
      `decode, Full 1${suffix}`,
      `prefill, Full 4K${suffix}`,
      `decode, Full 4K${suffix}`,
    ]);
  });

  test("of a 24 GB card: the design's rows that fit are run, the others have their figures", async () => {
    const { rows } = await simulate(cardOf(3, 23.2), usual);
    const design = rows.filter(({ table }) => table === "end to end");
    expect(design.map(({ name, notRun }) => [name, notRun])).toEqual([
      ["decode, Full 1", undefined],
      ["prefill, Full 4K", undefined],
      ["decode, Full 4K", undefined],
      ["prefill, Full 32K", undefined],
      ["decode, Full 32K", undefined],
      ["prefill, Full 128K", "needs 33.5 GiB, the card has 22.7 GiB free"],
      ["decode, Full 128K", "needs 33.5 GiB, the card has 22.7 GiB free"],
      ["prefill, SnapKV[capacity=2048] 128K", undefined],
      ["decode, SnapKV[capacity=2048] 128K", undefined],
      ["prefill, KIVI 128K", "needs 23.0 GiB, the card has 22.7 GiB free"],
      ["decode, KIVI 128K", "needs 23.0 GiB, the card has 22.7 GiB free"],
    ]);
  });
});

describe("the table", () => {
  const row: Row = { table: "layer", name: "dense attention, 4K", ms: [2, 1, 3], floorMs: 1, targetMs: 1.5 };

  test("says whether a target is met where the card is the targets' own", () => {
    expect(head("layer", true)).toContain("| share | target | met | peak GiB | target |  |\n");
    expect(line(row, true)).toBe("| dense attention, 4K | 2.00 | 1.00..3.00 (3) | 1.00 | 50 % | 1.50 | no |  |  |  |");
    expect(head("layer", false)).toContain("| share | H100 target | peak GiB | H100 target |  |\n");
    expect(line(row, false)).toBe("| dense attention, 4K | 2.00 | 1.00..3.00 (3) | 1.00 | 50 % | 1.50 |  |  |  |");
  });

  test("has as many cells in each line as in its head, peaks and reasons included", () => {
    const peak: Row = { ...row, peakBytes: 18 * GIB, targetPeakBytes: 19.5 * GIB, note: "hooks 1.0 ms" };
    const absent: Row = { table: "layer", name: "decode", ms: [], notRun: "needs about 95 s, 40 s are left" };
    for (const verdicts of [true, false]) {
      const cells = (text: string) => text.split("|").length;
      const [, , titles = "", rule = ""] = head("layer", verdicts).split("\n");
      for (const text of [rule, ...[row, peak, absent].map((one) => line(one, verdicts))])
        expect(cells(text)).toBe(cells(titles));
    }
    expect(line(peak, true)).toContain("| 18.00 | 19.5 yes | hooks 1.0 ms |");
    expect(line(peak, false)).toContain("| 18.00 | 19.5 | hooks 1.0 ms |");
    expect(line(absent, true)).toContain("| not run: needs about 95 s, 40 s are left |");
  });

  test("knows the targets' card by its name", () => {
    expect(isTargetCard("NVIDIA H100 80GB HBM3")).toBe(true);
    for (const other of [
      "NVIDIA H100 PCIe",
      "NVIDIA H100 NVL",
      "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
      "NVIDIA H200",
      "NVIDIA A100-SXM4-80GB",
      "NVIDIA GeForce RTX 4090",
      "AMD EPYC (avx512bf16)",
    ])
      expect(isTargetCard(other)).toBe(false);
  });
});

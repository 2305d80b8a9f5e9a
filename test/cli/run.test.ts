// accel run with the bundled model: tables, files, resuming, interruptions, failing methods.
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readKept } from "../../src/bench/kept-rows.ts";
import { identity } from "../../src/bench/rows.ts";
import { readRows } from "../../src/bench/rundir.ts";
import { positionsOf } from "../../src/engine/kept.ts";
import { expectWithin, runBenchmark } from "../../src/index.ts";
import { accel, ended, startAccel } from "../support/accel.ts";
import { range } from "../support/choice.ts";
import { folder } from "../support/folder.ts";

/** A benchmark of seconds; the tests set the methods. */
function small(more = ""): string {
  const path = join(folder(), "small.yaml");
  writeFileSync(
    path,
    `benchmark_name: RULER\ntask_names: [niah_single_2, vt]\nlength: [512]\nnum_samples: 2\nmax_new_tokens: { vt: 48 }\n${more}`,
  );
  return path;
}

test("a run prints both tables and leaves a directory that says how each number came about", async () => {
  const path = folder();
  const words = [
    "run",
    "--cfg_path",
    small(),
    "--output-path",
    path,
    "--acceleration",
    "SnapKV",
    "--set",
    "snapkv.capacity=96",
    "--log_kept",
  ];
  const { code, out } = await accel(...words);
  expect(code).toBe(0);
  expect(out).toContain("Accuracy: RULER (small), tiny-ruler bfloat16, question aware");
  expect(out).toMatch(/Cost: RULER[\s\S]*TTFT[\s\S]*cache/);
  expect(out).not.toContain("\x1b");
  expect(Math.max(...out.split("\n").map((line) => Bun.stringWidth(line)))).toBeLessThanOrEqual(80);
  expect(readdirSync(path).sort()).toEqual([
    "config.yaml",
    "kept_Full_niah_single_2_512.jsonl",
    "kept_Full_vt_512.jsonl",
    "kept_SnapKV_niah_single_2_512.jsonl",
    "kept_SnapKV_vt_512.jsonl",
    "manifest.json",
    "predictions",
    "report.html",
    "results.json",
    "samples_Full_niah_single_2_512.jsonl",
    "samples_Full_vt_512.jsonl",
    "samples_SnapKV_niah_single_2_512.jsonl",
    "samples_SnapKV_vt_512.jsonl",
    "timings.jsonl",
  ]);
  const manifest = JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
  expect(manifest).toMatchObject({
    version: expect.any(String),
    seed: 42,
    view: "question_aware",
    model: { hash: expect.stringMatching(/^[0-9a-f]{64}$/), tokenizer_hash: expect.any(String), dtype: "bfloat16" },
    devices: [{ buildInfo: expect.any(String), deviceName: expect.any(String) }],
  });
  expect(manifest.methods[1].parts[0].params.budget).toEqual({ capacity: 96 });

  const kept = readKept(join(path, "kept_SnapKV_vt_512.jsonl"));
  const rows = readRows(path).filter((row) => row.method === "SnapKV" && row.task === "vt");
  expect(kept.map(({ key, prompt_tokens }) => [key, prompt_tokens])).toEqual(
    rows.map(({ key, prompt_tokens }) => [key, prompt_tokens]),
  );
  for (const [at, { prompt, end, prompt_tokens, tokens }] of kept.entries()) {
    for (const ranges of prompt.flat()) {
      const positions = positionsOf(ranges);
      expect(positions).toHaveLength(96);
      expect(positions.slice(64)).toEqual(range(prompt_tokens - 32, prompt_tokens));
    }
    expect(tokens).toBe(prompt_tokens + rows[at]!.new_tokens - (rows[at]!.finish === "length" ? 1 : 0));
    end.flat().forEach((ranges, i) => {
      expect(positionsOf(ranges)).toEqual([...positionsOf(prompt.flat()[i]!), ...range(prompt_tokens, tokens)]);
    });
  }

  const again = await accel(...words, "-o", "json");
  expect(again.err).toContain("8 measurements, 8 of them done before");
  const results = JSON.parse(again.out);
  expect(results).toEqual(JSON.parse(readFileSync(join(path, "results.json"), "utf8")));
  expect(results.results.vt["512,Full"]).toBe(100);
  expect(results.results.vt["512_n,SnapKV"]).toBe(2);
  const full = results.cells.cost.find((cell: { method: string }) => cell.method === "Full");
  const snap = results.cells.cost.find((cell: { method: string }) => cell.method === "SnapKV");
  expect(snap.cacheShare).toBeLessThan(0.25);
  expect(full.cacheBytes).toBe(full.expectedCacheBytes);
});

test("the effective configuration runs the same thing again", async () => {
  const path = folder();
  const words = [
    "--acceleration",
    "SnapKV,StreamingLLM",
    "--set",
    "snapkv.capacity=64,96",
    "--num-samples=1",
    "--no-baseline",
  ];
  const config = small("set: {snapkv: {keepRatio: 0.5}}\n");
  await accel("run", "--cfg_path", config, "--output_path", path, ...words);
  const { code, err } = await accel("--cfg_path", join(path, "config.yaml"));
  expect(code).toBe(0);
  expect(err).toContain("6 measurements, 6 of them done before");
});

test("Ctrl-C prints what there is and ends with 130; the same command goes on; kill -9 loses and doubles nothing", async () => {
  const path = folder();
  const words = [
    "run",
    "--cfg_path",
    small(),
    "--output_path",
    path,
    "--acceleration",
    "SnapKV",
    "--num_samples",
    "12",
  ];
  const interrupted = startAccel(words);
  const rowsNow = () => (existsSync(path) ? readRows(path).length : 0);
  const until = async (rows: number) => {
    while (rowsNow() < rows) await Bun.sleep(10);
  };
  await until(3);
  interrupted.kill("SIGINT");
  const { code, out, err } = await ended(interrupted);
  expect(code).toBe(130);
  expect(out).toContain("partial");
  expect(err).toContain("The same command goes on");
  const before = rowsNow();
  expect(before).toBeLessThan(48);

  const killed = startAccel(words);
  await until(before + 5);
  killed.kill("SIGKILL");
  await killed.exited;
  const last = await accel(...words);
  expect(last.code).toBe(0);
  const rows = readRows(path);
  expect(rows.length).toBe(48);
  expect(new Set(rows.map(identity)).size).toBe(48);
}, 120_000);

test("a failing method is an error in its own column, and the exit code is 1", async () => {
  const plugins = folder();
  writeFileSync(
    join(plugins, "breaks.ts"),
    `import { definePlugin } from "kvaccel/plugin";
export default definePlugin({
  name: "Breaks", about: "throws in prefill", paper: "https://example.org", category: "eviction", params: {},
  create: () => ({ prefill() { throw new Error("this is how it breaks"); } }),
});
`,
  );
  const words = ["--cfg_path", small(), "--output_path", folder(), "--plugin_dir", plugins, "--acceleration", "Breaks"];
  const { code, out, err } = await accel("run", ...words, "--num_samples", "1", "-o", "md");
  expect(code).toBe(1);
  expect(out).toMatch(/\| 512 \| 0-2 \| 100\.0 \| error \|/);
  expect(err).toContain("this is how it breaks");
});

test("a batch runs beside single samples and scores the same", async () => {
  const words = ["--cfg_path", small(), "--output_path", folder(), "--batch_size", "1,4", "-o", "json"];
  const { code, out } = await accel("run", ...words);
  expect(code).toBe(0);
  const { cells } = JSON.parse(out);
  expect(cells.totals.map((cell: { batch: number; partial: boolean }) => [cell.batch, cell.partial])).toEqual([
    [1, false],
    [4, false],
  ]);
});

test.each([
  [["--cfg_path", "quik"], "did you mean quick?"],
  [["--task_names", "niah_singel_1"], "did you mean niah_single_1?"],
  [["--length", "100"], "at least 512"],
  [["--view", "question-aware-ish"], "must be one of question_aware, context_only"],
  [["--gp_num", "2/3"], "must be GPUs per model"],
  [["--batch_size", "0"], "whole numbers of at least 1"],
  [["--resume", "--fresh"], "exclude each other"],
  [["--device", "gpu7"], "GPU numbers"],
  [["--set", "snapkv.capasity=5"], "did you mean capacity?"],
  [["--no_baseline"], "leaves no method"],
])("run refuses %p", async (words, text) => {
  const { code, err, out } = await accel("run", "--cfg_path", small(), "--acceleration", "SnapKV", ...words);
  const lonely = words.includes("--no_baseline")
    ? await accel("run", "--cfg_path", small(), ...words)
    : { code, err, out };
  expect(lonely.err).toContain(text);
  expect([lonely.code, lonely.out]).toEqual([2, ""]);
});

test("a bad benchmark file is named with line and column", async () => {
  const path = join(folder(), "bad.yaml");
  writeFileSync(path, "benchmark_name: RULER\nnum_samples: lots\n");
  const { code, err } = await accel("--cfg_path", path);
  expect(code).toBe(2);
  expect(err).toContain("bad.yaml:2:14: num_samples");
});

test("a length that the model does not take is an error before anything runs", async () => {
  const path = join(folder(), "run");
  const { code, err } = await accel(
    "run",
    "--cfg_path",
    small(),
    "--length",
    "65536",
    "--num_samples",
    "1",
    "--output_path",
    path,
  );
  expect(code).toBe(1);
  expect(err).toContain("the model takes 32768 in all");
  expect(existsSync(path)).toBe(false);
});

test("runBenchmark gives the cells of the tables, and expectWithin compares them with a recorded run", async () => {
  const path = folder();
  const options = {
    cfg_path: small(),
    output_path: path,
    acceleration: ["SnapKV"],
    set: ["snapkv.capacity=96"],
    num_samples: 1,
  };
  const report = await runBenchmark(options);
  const cell = report.cells.accuracy.find(({ method }) => method === "Full")!;
  expect(cell).toMatchObject({ n: 2, score: 100, status: "full" });
  expectWithin(report, join(path, "results.json"));
  const stricter = structuredClone(report.results) as { cells: typeof report.cells };
  for (const one of stricter.cells.cost) one.cacheBytes = 1;
  expect(() => expectWithin(report, stricter)).toThrow(/Full, 512: cache .* the baseline has 1 B/);
});

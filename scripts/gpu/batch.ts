// Batches of 8 beside single samples, for every method: equal scores on the bundled model, and the speed-up on a large shape.
// bun scripts/gpu/batch.ts [scores] [speed]; without a GPU: BACKEND=cpu LENGTH=512 SAMPLES=4 SHAPE=tiny-ruler bun scripts/gpu/batch.ts
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { average } from "../../src/bench/cells.ts";
import { formatBytes, formatFactor, formatMs, formatRate } from "../../src/bench/format.ts";
import type { Row } from "../../src/bench/rows.ts";
import { readRows } from "../../src/bench/rundir.ts";
import type { SpeedRow } from "../../src/bench/speed.ts";
import { execute } from "../../src/cli/execute.ts";
import { readSettings } from "../../src/cli/settings.ts";

const {
  BACKEND = "cuda",
  LENGTH = "4096",
  SAMPLES = "8",
  SHAPE = "llama-3.1-8b",
  NEW = "64",
  METHODS = "all",
  REPEAT = "2",
} = process.env;
const many = 8;
const device = `${BACKEND}:0`;
const row = (...cells: unknown[]) => console.log(`| ${cells.join(" | ")} |`);
const head = (...cells: string[]) => {
  row(...cells);
  console.log(`|${cells.map((_, at) => (at === 0 ? "---" : "---:")).join("|")}|`);
};

/** RULER on the bundled model, budgets of benchmarks/quick.yaml: the same samples one by one and in batches. */
async function scores(): Promise<void> {
  const output_path = mkdtempSync(join(tmpdir(), "kvaccel-batch-"));
  const settings = readSettings({
    cfg_path: "quick",
    task_names: ["niah_single_2", "niah_multikey_2", "vt"],
    length: [LENGTH],
    num_samples: Number(SAMPLES),
    batch_size: [1, many],
    acceleration: [METHODS],
    device: [device],
    output_path,
  });
  const { dtype } = await execute(settings, { say: (text) => console.error(text) });
  const all = Map.groupBy(readRows(output_path), ({ method }) => method);
  console.log(`RULER at ${LENGTH} tokens, tiny-ruler ${dtype}, ${device}: ${SAMPLES} samples of each of 3 tasks`);
  head(
    "method",
    "score, batch 1",
    `score, batch ${many}`,
    "samples",
    "equal tokens",
    "time, batch 1",
    `time, batch ${many}`,
    "speed-up",
  );
  for (const [method, rows] of all) {
    const [single, batched] = [1, many].map((batch) => rows.filter((one) => one.batch === batch)) as [Row[], Row[]];
    const score = (some: Row[]) => (100 * average(some.map((one) => one.score ?? 0))).toFixed(1);
    const time = (some: Row[]) => some.reduce((sum, one) => sum + one.wall_ms, 0);
    const ids = new Map(single.map((one) => [one.id, one.ids.join(" ")]));
    const equal = batched.filter((one) => one.status === "ok" && ids.get(one.id) === one.ids.join(" ")).length;
    const factor = formatFactor(time(single) / time(batched));
    row(
      method,
      score(single),
      score(batched),
      batched.length,
      equal,
      formatMs(time(single)),
      formatMs(time(batched)),
      factor,
    );
  }
  rmSync(output_path, { recursive: true });
}

/** `accel bench` on a shape: a prompt and new tokens after it, one sequence and eight together. */
async function speed(): Promise<void> {
  const main = join(import.meta.dir, "..", "..", "src", "main.ts");
  const sizes = ["-p", "0", "-n", NEW, "-d", LENGTH, "-b", `1,${many}`, "-r", REPEAT];
  const words = ["bench", "--shape", SHAPE, "--acceleration", METHODS, "--device", device, ...sizes, "-o", "json"];
  const child = Bun.spawn([process.execPath, main, ...words], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  const rows = JSON.parse(await new Response(child.stdout).text()) as SpeedRow[];
  console.log(
    `${SHAPE}, random weights, bf16, ${device}: prompts of ${LENGTH} tokens, ${NEW} new ones; mean of ${REPEAT}`,
  );
  head(
    "method",
    "TTFT, 1",
    `TTFT, ${many}`,
    "step, 1",
    `step, ${many}`,
    "new tokens/s, 1",
    `new tokens/s, ${many}`,
    `peak, ${many}`,
    "speed-up",
  );
  for (const [method, pair] of Map.groupBy(rows, (one) => one.method)) {
    const [one, batch] = [1, many].map((n) => pair.find(({ n_seqs }) => n_seqs === n)!) as [SpeedRow, SpeedRow];
    if (one.error !== undefined || batch.error !== undefined) {
      row(method, one.error ?? batch.error);
      continue;
    }
    const time = ({ ttft_ms, avg_ns }: SpeedRow) => ttft_ms! + avg_ns! / 1e6;
    const ms = [one.ttft_ms, batch.ttft_ms, one.ms_per_token_p50, batch.ms_per_token_p50].map((value) =>
      formatMs(value!),
    );
    const rates = [one, batch].map(({ avg_ts }) => formatRate(avg_ts!));
    row(method, ...ms, ...rates, formatBytes(batch.peak_bytes!), formatFactor((many * time(one)) / time(batch)));
  }
}

const parts: Record<string, () => Promise<void>> = { scores, speed };
const wanted = process.argv.slice(2);
for (const name of wanted.length > 0 ? wanted : Object.keys(parts)) {
  await parts[name]!();
  console.log("");
}

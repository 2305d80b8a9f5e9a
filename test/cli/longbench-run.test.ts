// accel run on LongBench's stand-in set with the bundled model: results by data set, predictions, the same thing again.
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { runBenchmark } from "../../src/index.ts";
import { folder } from "../support/folder.ts";

test("LongBench runs from records to averages without a download, says so, and is not run twice", async () => {
  const path = folder();
  const run = await runBenchmark({
    cfg_path: "LongBench",
    task_names: ["trec", "samsum", "qasper_e", "lcc"],
    num_samples: 2,
    max_length: 600,
    acceleration: ["SnapKV"],
    device: ["cpu"],
    output_path: path,
  });
  const { results, configs, versions, findings } = run.results as {
    results: Record<string, Record<string, unknown>>;
    configs: Record<string, { metric: string; source: string }>;
    versions: Record<string, number>;
    findings: { longbench: Record<string, number | null>; ranges: Record<string, object> }[];
  };
  expect(Object.keys(results)).toEqual(["trec", "samsum", "qasper_e", "lcc"]);
  expect(results.qasper_e).toMatchObject({ "score_n,Full": 2, "score_truncated,Full": 2 });
  expect(configs.lcc).toMatchObject({ metric: "code_sim", source: "stand-in" });
  expect(versions.trec).toBe(1);
  expect(findings[0]).toMatchObject({
    longbench: { "longbench-16": null },
    ranges: { qasper_e: { "0-4k": { n: 2 } } },
  });
  expect(run.context.remarks.join(" ")).toContain("the built-in stand-in set; its scores say nothing about LongBench");
  expect(run.context.remarks.join(" ")).toContain("cut in the middle: ");
  for (const name of ["predictions/SnapKV/trec.jsonl", "predictions_e/Full/qasper.jsonl", "report.html"])
    expect(existsSync(join(path, name))).toBe(true);
  const line = JSON.parse(readFileSync(join(path, "predictions/Full/trec.jsonl"), "utf8").split("\n")[0]!);
  expect(Object.keys(line)).toEqual(["pred", "answers", "all_classes", "length"]);
  const again = await runBenchmark({ cfg_path: join(path, "config.yaml") });
  expect(again.outcome).toMatchObject({ reused: 16, missing: 0 });
}, 60_000);

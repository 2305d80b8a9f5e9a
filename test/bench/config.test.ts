// Benchmark files: what they mean, other toolkits' files, and mistakes named with line, column and the nearest valid name.
import { describe, expect, test } from "bun:test";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseBenchmarkConfig, readBenchmarkConfig } from "../../src/bench/config.ts";
import { configKeys } from "../../src/bench/config-schema.ts";
import { promptOptions } from "../../src/bench/dataset.ts";
import { rulerTaskNames } from "../../src/bench/ruler-tasks.ts";
import { KvaError } from "../../src/native/error.ts";
import { folder } from "../support/folder.ts";

const shipped = new URL("../../benchmarks", import.meta.url).pathname;
const parse = (more: string) => parseBenchmarkConfig(`benchmark_name: RULER\n${more}`, "c.yaml");

describe("files", () => {
  test.each(readdirSync(shipped).map((name) => [name] as const))("benchmarks/%s is read", (name) => {
    expect(readBenchmarkConfig(join(shipped, name)).task_names.length).toBeGreaterThan(0);
  });

  test("quick.yaml has the tasks, lengths and budgets of a run of a minute and a half", () => {
    expect(readBenchmarkConfig(join(shipped, "quick.yaml"))).toMatchObject({
      task_names: ["niah_single_2", "niah_multikey_2", "niah_multivalue", "vt", "fwe"],
      length: [512, 1024, 2048],
      num_samples: 2,
      model_path: "bundled",
      acceleration: ["all"],
      set: { snapkv: { capacity: 96 }, xattention: { minLen: 256, block: 64 } },
    });
  });

  test("without further keys mean all tasks at six lengths, ten samples each", () => {
    const config = parse("");
    expect(config).toMatchObject({ num_samples: 10, seed: 42, build_data: true, view: "question_aware" });
    expect(config.task_names).toEqual([...rulerTaskNames]);
    expect(config.length).toEqual([4096, 8192, 16384, 32768, 65536, 131072]);
    expect(config.batch_size).toBeUndefined();
  });

  test("of LOOM-Scope load unchanged", () => {
    const text = [
      'task_names: ["cwe","niah_multikey_1", "qa_2", "vt"]',
      "length: [4096,8192,16384,32768,65536,131072] ",
      "",
      "num_samples: 10 # Set the number of samples for each task to num_samples",
      'no_template_tasks: ["fwe"]  # task_names or "all" ',
      "template: NULL  # choose from ./models/utils/build_chat.py",
    ].join("\n");
    const config = parse(text);
    expect(config).toMatchObject({ template: "auto", no_template_tasks: ["fwe"], num_samples: 10 });
    const other = parse(
      "task_names: [vt]\nbuild_data: False\ndata_dir: data\nno_template_tasks: all\ntemplate: default",
    );
    expect(other).toMatchObject({ build_data: false, no_template_tasks: ["all"], template: "auto" });
    expect(promptOptions(other, "vt").template).toBe("none");
    expect(promptOptions(config, "vt").template).toBe("auto");
    expect(parse("template: llama3").template).toBe("llama3");
    const longbench = parseBenchmarkConfig(
      [
        "benchmark_name: LongBench",
        'task_name: ["narrativeqa","qasper","2wikimqa","trec","lcc","repobench-p","gov_report_e"]',
        'no_template_tasks: ["trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"]',
        'template: "chatglm" # choose from ./models/utils/build_chat.py',
      ].join("\n"),
      "LongBench.yaml",
    );
    expect(longbench).toMatchObject({ on_overflow: "truncate_middle", template: "chatglm", length: [] });
    expect(longbench.task_names).toContain("gov_report_e");
    expect(promptOptions(longbench, "qasper").template).toBe("chatglm");
    expect(promptOptions(longbench, "lcc").template).toBe("none");
  });

  test("may be JSON, and spell keys, tasks and parameters in camel, snake or kebab case", () => {
    const json = JSON.stringify({
      benchmarkName: "ruler",
      "task-names": "NIAH-single-1, vt",
      batchSize: 8,
      params: { VT: { num_hops: 8 } },
    });
    expect(parseBenchmarkConfig(json, "c.json")).toMatchObject({
      benchmark_name: "RULER",
      task_names: ["niah_single_1", "vt"],
      batch_size: 8,
      params: { vt: { numHops: 8 } },
    });
  });

  test("take run flags, with other toolkits' names for them", () => {
    const config = parse(
      "gpu_ids: 0 1 3\ngpu_allocation: 1/2\ntorch_dtype: torch.float16\nacceleration: SnapKV[capacity=64], H2O\noutput_dir: out\nset: [snapkv.window=8]",
    );
    expect(config).toMatchObject({
      device: ["0", "1", "3"],
      gp_num: "1/2",
      torch_dtype: "float16",
      acceleration: ["SnapKV[capacity=64]", "H2O"],
      output_path: "out",
      set: ["snapkv.window=8"],
    });
    expect(parse("device: cpu\ngp_num: 2")).toMatchObject({ device: ["cpu"], gp_num: "2" });
    expect(parse("acceleration: 'SnapKV[capacity=64,window=8] KIVI'").acceleration).toEqual([
      "SnapKV[capacity=64,window=8]",
      "KIVI",
    ]);
  });

  test("accept a number of samples of null for files only", () => {
    expect(parse("num_samples: null\nbuild_data: false\ndata_dir: d").num_samples).toBeNull();
    expect(() => parse("num_samples: null")).toThrow(
      "c.yaml:2:14: num_samples: must be a number where samples are generated",
    );
  });
});

describe("mistakes are named with their place", () => {
  test.each([
    ["lenght: 4", "c.yaml:2:1: lenght: unknown key; did you mean length?"],
    ["length: [512, 100]", "c.yaml:2:15: length.1: must be a whole number of at least 512"],
    ["length: lots", "c.yaml:2:9: length: must be a whole number of at least 512"],
    ["task_names: [vt, cwee]", "c.yaml:2:18: task_names.1: there is no task cwee; did you mean cwe?"],
    ["task_names: []", "c.yaml:2:13: task_names: must name at least one"],
    [
      "params:\n  vt: {num_chain: 2}",
      "c.yaml:3:19: params.vt.num_chain: vt has no such parameter; did you mean numChains?",
    ],
    ["params:\n  vt: {num_chains: 0}", "c.yaml:3:20: params.vt.num_chains: must be a whole number from 1 to 1000"],
    ["params: {vtt: {}}", "c.yaml:2:10: params.vtt: there is no task vtt; did you mean vt?"],
    ["max_new_tokens: {vt: x}", "c.yaml:2:22: max_new_tokens.vt: must be a whole number of at least 1"],
    ["length: 512\nlengths: 1024", "c.yaml:3:1: lengths: says the same as length; leave one out"],
    ["batch-size: 0", "c.yaml:2:13: batch-size: must be a whole number of at least 1"],
    ["set: {snapkv: 3}", "c.yaml:2:15: set.snapkv: must map keys to values, as in {capacity: 1024}"],
    ["gp_num: 2/3", "c.yaml:2:9: gp_num: must be GPUs per model, as 2, or copies per GPU, as 1/2"],
    ["view: context", "c.yaml:2:7: view: must be one of question_aware, context_only"],
    ["template: llama", "c.yaml:2:11: template: must be one of auto, default, none"],
    ["build_data: false", "c.yaml:2:13: build_data: without data_dir there are no files to load"],
    ["no_template_tasks: [zz]", "c.yaml:2:21: no_template_tasks.0: no task contains zz"],
    ["seed: 1\nseed: 2", "c.yaml:3:1: Map keys must be unique"],
    ["\tseed: 1", "c.yaml:2:1: Tabs are not allowed as indentation"],
    ["length: [512", "c.yaml:2:13: "],
  ])("%j", (text, message) => {
    const error = (() => {
      try {
        parse(text);
      } catch (thrown) {
        return thrown;
      }
    })() as KvaError;
    expect(error).toBeInstanceOf(KvaError);
    expect(error.code).toBe("usage");
    expect(error.message).toStartWith(message);
  });

  test("a benchmark that is absent or unknown, and a file that is no map", () => {
    expect(() => parseBenchmarkConfig("task_names: vt", "c.yaml")).toThrow(
      "c.yaml:1:1: benchmark_name is missing; it must be one of RULER",
    );
    expect(() => parseBenchmarkConfig("benchmark_name: RULES", "c.yaml")).toThrow(
      "c.yaml:1:17: benchmark_name: must be one of RULER",
    );
    expect(() => parseBenchmarkConfig("- RULER", "c.yaml")).toThrow(
      "c.yaml:1:1: must map keys to values, as in benchmark_name: RULER",
    );
    expect(() => parseBenchmarkConfig("", "c.yaml")).toThrow("c.yaml:1:1: must map keys to values");
  });

  test("a file that cannot be read", () => {
    expect(() => readBenchmarkConfig(join(folder(), "none.yaml"))).toThrow("none.yaml cannot be read: ");
    const path = join(folder(), "own.yaml");
    writeFileSync(path, "benchmark_name: RULER\nsed: 3\n");
    expect(() => readBenchmarkConfig(path)).toThrow(`${path}:2:1: sed: unknown key; did you mean seed?`);
  });
});

test("no two keys are the same but for case, - and _", () => {
  const plain = configKeys.map((key) => key.replaceAll("_", ""));
  expect(new Set(plain).size).toBe(plain.length);
});

// generate, score, bench, devices and data with the bundled model: the shapes that scripts rely on.
import { expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readRulerFile } from "../../src/bench/jsonl.ts";
import { accel } from "../support/accel.ts";
import { folder } from "../support/folder.ts";

const json = async (...words: string[]) => {
  const { code, out, err } = await accel(...words);
  if (code !== 0) throw new Error(err);
  return JSON.parse(out);
};

function file(name: string, text: string): string {
  const path = join(folder(), name);
  writeFileSync(path, text);
  return path;
}

const prompt =
  "The text hides one secret number. Keep it in mind.\nText: The secret number of red-apple is 1234567. We wait here.\n" +
  "Question: Which secret number belongs to red-apple?\nAnswer: The secret number of red-apple is";

test("generate finds the number, streams text, and says the same as JSON", async () => {
  const answer = await json("generate", "--prompt", prompt, "--max_new_tokens", "16", "--json");
  expect(Object.keys(answer)).toEqual(["text", "ids", "prompt_tokens", "timings"]);
  expect(Object.keys(answer.timings)).toEqual(["load_ms", "prefill_ms", "decode_ms", "ms_per_token"]);
  expect(answer.text).toContain("1234567");
  const streamed = await accel("generate", "--prompt_file", file("prompt.txt", prompt), "--max_new_tokens", "16");
  expect(streamed.out).toBe(`${answer.text}\n`);
});

test("ids are taken as they are", async () => {
  const ids = file("ids.json", JSON.stringify([0, 100, 200, 300]));
  const answer = await json("generate", "--ids_file", ids, "--max_new_tokens", "3", "--ignore_eos", "--json");
  expect([answer.prompt_tokens, answer.ids.length]).toEqual([4, 3]);
});

test("score gives each token's log-probability, and perplexity from them", async () => {
  const ids = [0, 100, 200, 300, 400];
  const path = file("ids.json", JSON.stringify(ids));
  const whole = await json("score", "--ids_file", path, "--json");
  expect(Object.keys(whole)).toEqual(["ids", "logprobs", "perplexity"]);
  expect(whole.ids).toEqual(ids);
  expect(whole.logprobs[0]).toBeNull();
  const mean = whole.logprobs.slice(1).reduce((sum: number, one: number) => sum + one, 0) / 4;
  expect(whole.perplexity).toBeCloseTo(Math.exp(-mean), 4);
  const fed = await json("score", "--ids_file", path, "--prompt_tokens", "3", "--torch_dtype", "float32", "--json");
  const after = (fed.logprobs[3] + fed.logprobs[4]) / 2;
  expect(fed.perplexity_after).toBeCloseTo(Math.exp(-after), 4);
  const { out } = await accel("score", "--ids_file", path);
  expect(out.split("\n").length).toBe(ids.length + 2);
});

test("score says that an evicting method equals Full when all is prefilled", async () => {
  const { err } = await accel("score", "--text_file", file("a.txt", prompt), "--acceleration", "SnapKV");
  expect(err).toContain("equals Full");
});

test.each([
  [["generate", "--ids_file", "[0, 5000000]"], "is not below the vocabulary size"],
  [["generate", "--ids_file", "[0, -1]"], "id 1: must be at least 0"],
  [["generate", "--ids_file", '{"ids": []}'], "must be an array of token ids"],
  [["generate", "--ids_file", "[0,"], "is not JSON"],
  [["generate", "--ids_file", "[]"], "the prompt has no tokens"],
  [
    ["generate", "--ids_file", JSON.stringify(Array(33000).fill(5))],
    "the prompt has 33000 tokens; the model takes 32768",
  ],
  [["score", "--ids_file", "[0]"], "at least 2 tokens"],
])("bad ids end with 1: %p", async ([command, flag, text], message) => {
  const { code, err } = await accel(command!, flag!, file("ids.json", text!));
  expect(err).toContain(message);
  expect(code).toBe(1);
});

test("a chat template that is not there is an error", async () => {
  const { code, err } = await accel("generate", "--prompt", "a", "--chat");
  expect(code).toBe(1);
  expect(err).toContain("has no chat template");
});

test("bench has llama-bench's fields and ours", async () => {
  const rows = await json(
    "bench",
    "-p",
    "64",
    "-n",
    "4",
    "-d",
    "0,32",
    "-b",
    "2",
    "-r",
    "2",
    "--acceleration",
    "SnapKV",
    "-o",
    "json",
  );
  expect(rows.length).toBe(8);
  expect(Object.keys(rows[0]).sort()).toEqual(
    [
      ...["n_prompt", "n_gen", "n_depth", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns"],
      ...["method", "n_seqs", "ttft_ms", "ms_per_token_p50", "ms_per_token_p99", "cache_bytes", "peak_bytes"],
    ].sort(),
  );
  for (const row of rows) {
    expect(row.samples_ns.length).toBe(2);
    expect(row.avg_ts).toBeGreaterThan(0);
  }
  expect(rows.map((row: { method: string }) => row.method).filter((name: string) => name === "Full").length).toBe(4);
});

test("bench cuts a sparse method's blocks to a density, and gives it with the time of choosing", async () => {
  const method = "XAttention[minLen=0,block=64,tau=0.99]";
  const common = ["-p", "512", "-n", "0", "-r", "1", "--no_baseline", "--acceleration", method, "-o", "json"];
  const [whole] = await json("bench", ...common);
  const [cut] = await json("bench", ...common, "--density", "0.5");
  expect(whole.density).toBeGreaterThan(0.6);
  expect(cut.density).toBeLessThanOrEqual(20 / 36 + 1e-9); // 8 query blocks: 1, 1, 2, 2, 3, 3, 4 and 4 of 36
  expect(cut.density).toBeGreaterThan(0.45);
  expect(cut.select_ms).toBeGreaterThan(0);
  const { code, err } = await accel("bench", "--density", "2");
  expect([code, err.includes("a number above 0 and at most 1")]).toEqual([2, true]);
  const dense = await accel("bench", "-p", "64", "--acceleration", "SnapKV", "--density", "0.5");
  expect([dense.code, dense.out]).toEqual([2, ""]);
  expect(dense.err).toContain(
    "--density cuts what a sparse prefill method chose, and none is run (Full, SnapKV); --acceleration takes FlexPrefill, XAttention",
  );
});

test("bench runs a shape without a file, and knows what shapes there are", async () => {
  const { code, err } = await accel("bench", "--shape", "llama-3.1-9b", "-p", "8");
  expect(code).not.toBe(0);
  expect(err).toContain("llama-3.1-8b");
});

test("devices lists both libraries and what opens", async () => {
  const report = await json("devices", "--json");
  expect(Object.keys(report)).toEqual(["devices", "library", "cublas"]);
  const cpu = report.devices.find((device: { id: string }) => device.id === "cpu:0");
  expect(Object.keys(cpu)).toEqual(["id", "name", "backend", "total_bytes", "free_bytes", "compute_capability"]);
  expect(report.library.cpu).toContain("libkvaccel_cpu.so");
});

test("methods is an array with the parameters of each", async () => {
  const methods = await json("methods", "--json");
  const snap = methods.find((method: { name: string }) => method.name === "SnapKV");
  expect(snap.params.map((param: { key: string }) => param.key)).toContain("capacity");
});

test("data writes the samples that a run would use, and they come back whole", async () => {
  const words = ["data", "--task_names", "vt", "--length", "512", "--num_samples", "2"];
  const { out } = await accel(...words);
  const path = folder();
  expect((await accel(...words, "--output_path", path)).code).toBe(0);
  const written = join(path, "512", "vt.jsonl");
  expect(readFileSync(written, "utf8")).toBe(out);
  const samples = readRulerFile(written);
  expect(samples.map((sample) => [sample.id, sample.refs.length])).toEqual([
    ["vt/512/0", 5],
    ["vt/512/1", 5],
  ]);
});

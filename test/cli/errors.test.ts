// Errors as people meet them: one sentence that names the thing and says what would be right, exit code 2 for bad usage; --verbose adds the stack.
import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runMain } from "../../src/cli/entry.ts";
import { reason } from "../../src/native/error.ts";
import { folder } from "../support/folder.ts";

let said: string[] = [];
let quiet: { mockRestore(): void }[] = [];
const { HF_HUB_CACHE, HF_HUB_OFFLINE } = process.env;
beforeEach(() => {
  said = [];
  quiet = [
    spyOn(console, "error").mockImplementation((text: unknown) => void said.push(String(text))),
    spyOn(process.stdout, "write").mockImplementation(() => true),
  ];
  Object.assign(process.env, { HF_HUB_CACHE: "/no-such-cache", HF_HUB_OFFLINE: "1" });
});
afterEach(() => {
  for (const one of quiet) one.mockRestore();
  for (const stream of [process.stdout, process.stderr]) stream.removeAllListeners("error"); // those of runMain
  process.exitCode = 0;
  for (const [key, value] of Object.entries({ HF_HUB_CACHE, HF_HUB_OFFLINE })) {
    if (value === undefined) delete process.env[key];
    else process.env[key] = value;
  }
});

async function failing(line: string): Promise<{ code: number; text: string }> {
  const code = await runMain(line.split(" ").filter((word) => word !== ""));
  return { code, text: said.join("\n") };
}

test.each([
  ["frobnicate", 2, "unknown command 'frobnicate'; there is run, bench, generate"],
  ["run --lenght 5", 2, "unknown option '--lenght'; did you mean --length?"],
  ["run --acceleration SnapVK", 2, "unknown method SnapVK; did you mean SnapKV?"],
  ["run --acceleration SnapKV[windw=3]", 2, "snapkv: unknown parameter windw; did you mean window?"],
  [
    "run --acceleration SnapKV[capacity=-3]",
    2,
    "snapkv.capacity: must be a whole number of rows of at least 1, not -3",
  ],
  ["run --acceleration SnapKV@nope", 2, "SnapKV has no preset nope; it has paper,"],
  [
    "run --acceleration SnapKV+H2O",
    2,
    "SnapKV and H2O are both of the kind eviction; at most one of each kind composes",
  ],
  ["run --acceleration SnapKV[", 2, 'a "[" without its "]" (in a shell, put the method in quotes)'],
  ["run --model_path /nope", 1, "there is no model directory /nope"],
  ["run --model_path org/Model-8B", 1, "hf download org/Model-8B"],
  [
    "run --cfg_path nope",
    2,
    "--cfg_path nope: there is no such file, and no benchmark or setup of that name; there is",
  ],
  ["run --length 12", 2, "--length 12: must be a whole number of at least 512"],
  ["run --torch_dtype int4", 2, "--torch_dtype int4: must be one of bfloat16, float16, float32"],
  ["run --device x", 2, "--device x: it takes GPU numbers (0 1 3), cuda:N or cpu"],
  ["run --memory_limit lots", 2, "--memory_limit lots: it takes bytes, as in 20GiB or 8GB"],
  ["run --view sideways", 2, "--view sideways: must be one of question_aware, context_only"],
  ["run --plugin_dir /nope", 2, "plugin folder /nope does not exist"],
  ["run --limit 0", 2, "argument '0' is invalid. It must be a whole number of at least 1."],
  ["generate", 2, "give one of --prompt, --prompt_file, --ids_file"],
  ["generate --prompt_file /nope", 1, "--prompt_file /nope cannot be read: it is not there"],
  ["generate --prompt_file /", 1, "--prompt_file / cannot be read: it is a directory"],
  ["score", 2, "give one of --text_file, --ids_file"],
  ["bench --shape nope", 2, 'there is no shape "nope"; there is llama-3.1-8b'],
  ["report", 2, "accel report: it takes dirs (run directories, as accel run leaves them in results/)"],
  ["report /nope", 2, "/nope is not a directory; give a run directory, as accel run leaves it in results/"],
  ["plugin check", 2, "accel plugin check: it takes file (a plugin file, as in plugins/my-method.ts)"],
  [
    "plugin check README.md",
    2,
    "README.md is not a plugin file; it takes a TypeScript file, as in plugins/my-method.ts",
  ],
  ["plugin new 1bad", 2, '"1bad" cannot name a plugin: it takes letters and digits that begin with a letter'],
])("accel %s: exit %i, %s", async (line, code, wanted) => {
  const failed = await failing(line);
  expect(failed.text).toContain(wanted);
  expect(failed.code).toBe(code);
  expect(failed.text).toStartWith("accel");
  expect(failed.text).not.toMatch(/\n\s+at |E[A-Z]{4,}:|undefined|\[object/);
});

test("--verbose adds the stack, wherever it stands", async () => {
  for (const line of ["--verbose run --model_path /nope", "run --model_path /nope --verbose"]) {
    said = [];
    const { text } = await failing(line);
    expect(text).toStartWith("accel: there is no model directory /nope");
    expect(text).toMatch(/\n\s+at .*locate\.ts:\d+/);
  }
});

test("what the system says is put in words", async () => {
  const path = join(folder(), "file");
  mkdirSync(path);
  const caught = (work: () => unknown) => {
    try {
      work();
      return "nothing";
    } catch (error) {
      return reason(error);
    }
  };
  expect(caught(() => writeFileSync(path, ""))).toBe("it is a directory");
  expect(caught(() => writeFileSync(join(path, "no", "such"), ""))).toBe("it is not there");
  expect(caught(() => JSON.parse("{"))).toStartWith("JSON Parse error");
});

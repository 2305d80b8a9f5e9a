// --gp_num and --device: which devices make a model copy, and what is refused with which words.
import { expect, test } from "bun:test";
import { placeModels } from "../../src/cli/placement.ts";
import { ended, startAccel } from "../support/accel.ts";

const posing = (env: Record<string, string>, ...words: string[]) => ended(startAccel(words, env));
const gpus = (count: number) => Array.from({ length: count }, (_, n) => `cuda:${n}`);

test.each([
  [1, undefined, ["cuda:0"], 1],
  [4, "1", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"], 1],
  [4, "2", ["cuda:0+cuda:1", "cuda:2+cuda:3"], 1],
  [4, "4", ["cuda:0+cuda:1+cuda:2+cuda:3"], 1],
  [2, "1/2", ["cuda:0", "cuda:1"], 2],
])("%i devices, gp_num %p: contiguous groups", (count, gpNum, groups, copies) => {
  expect(placeModels(gpus(count), gpNum)).toEqual({ groups, copies });
});

test.each([
  [4, "3", "4 devices do not make whole groups of 3; with 4, --gp_num 2 or 4 fits; --gp_num 3 fits 3 or 6 devices"],
  [6, "4", "6 devices do not make whole groups of 4; with 6, --gp_num 3 or 6 fits; --gp_num 4 fits 4 or 8 devices"],
  [2, "4", "there are 2 devices; with 2, --gp_num 2 fits; --gp_num 4 fits 4 devices"],
  [1, "2", "there is 1 device; with 1, --gp_num 1 fits; --gp_num 2 fits 2 devices"],
  [2, "2/3", "a model takes whole devices (2), or 3 models share one (1/3); not both"],
  [2, "0", "it takes devices per model, as 2, or copies per device, as 1/2"],
  [2, "1/0", "it takes devices per model"],
  [2, "half", "it takes devices per model"],
])("%i devices do not take gp_num %s", (count, gpNum, text) => {
  expect(() => placeModels(gpus(count), gpNum)).toThrow(text);
});

test("a model lies on GPUs or on the CPU", () => {
  expect(() => placeModels(["cuda:0", "cpu:0"], "2")).toThrow("not on cuda:0 and cpu:0");
  expect(placeModels(["cuda:0", "cpu:0"], "1").groups).toEqual(["cuda:0", "cpu:0"]);
});

test("the CPU poses as so many devices as it is told, and no more", async () => {
  const generate = ["generate", "--prompt", "x", "--max_new_tokens", "1"];
  const posed = { KVACCEL_CPU_DEVICES: "2" };
  const absent = await posing(posed, ...generate, "--device", "cpu:0", "cpu:2");
  expect(absent.err).toContain(
    "--device cpu:2: there is cpu:0, cpu:1; KVACCEL_CPU_DEVICES=3 makes the CPU pose as more",
  );
  const twice = await posing(posed, ...generate, "--device", "cpu", "cpu:1");
  expect(twice.err).toContain("--device names cpu:1 twice");
  const odd = await posing({ KVACCEL_CPU_DEVICES: "two" }, ...generate, "--device", "cpu");
  expect(odd.err).toContain('KVACCEL_CPU_DEVICES is "two", it must be a number from 1 to 1024');
  expect([absent.code, twice.code, odd.code]).toEqual([1, 2, 2]);
});

test("generate on a split model gives the tokens of one device", async () => {
  const posed = (...words: string[]) => posing({ KVACCEL_CPU_DEVICES: "2" }, ...words);
  const prompt = ["generate", "--prompt", "The secret word is", "--max_new_tokens", "6", "--json"];
  const [one, two] = await Promise.all([
    posed(...prompt, "--device", "cpu:0"),
    posed(...prompt, "--device", "cpu", "--gp_num", "2"),
  ]);
  expect(two.code).toBe(0);
  expect(JSON.parse(two.out).ids).toEqual(JSON.parse(one.out).ids);
});

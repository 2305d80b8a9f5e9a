// --model_path: bundled, directories, ids of the Hugging Face cache; what is near and how to get what is absent.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundledModel, hubCache, locateModel } from "../../src/model/locate.ts";
import { KvaError } from "../../src/native/error.ts";

const names = ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"];
const before = Object.fromEntries(names.map((name) => [name, process.env[name]]));
let scratch = "";

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "kvaccel-locate-"));
  for (const name of names) delete process.env[name];
  process.env.HF_HUB_CACHE = join(scratch, "hub");
});
afterEach(() => {
  rmSync(scratch, { recursive: true });
  for (const name of names) {
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
});

function makeModel(...path: string[]): string {
  const dir = join(scratch, ...path);
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "config.json"), "{}");
  return dir;
}

function cached(repo: string, commit: string, ref = "main"): string {
  const repository = join("hub", `models--${repo.replace("/", "--")}`);
  mkdirSync(join(scratch, repository, "refs"), { recursive: true });
  writeFileSync(join(scratch, repository, "refs", ref), commit);
  return makeModel(repository, "snapshots", commit);
}

function refusal(path: string): string {
  try {
    locateModel(path);
  } catch (error) {
    expect(error).toBeInstanceOf(KvaError);
    return (error as Error).message;
  }
  throw new Error(`${path} was found`);
}

test("bundled and directories are found", () => {
  expect(locateModel("bundled")).toBe(bundledModel);
  const dir = makeModel("models", "tiny");
  expect(locateModel(dir)).toBe(dir);
  expect(locateModel(`${dir}/`)).toBe(dir);
  expect(locateModel(join(dir, "..", "tiny"))).toBe(dir);
});

test("an id is found in the cache, by branch and by commit", () => {
  const commit = "0123456789abcdef0123456789abcdef01234567";
  const snapshot = cached("org/model-1b", commit);
  expect(locateModel("org/model-1b")).toBe(snapshot);
  expect(locateModel(`org/model-1b@${commit}`)).toBe(snapshot);
  expect(locateModel("org/model-1b@0123456")).toBe(snapshot);
  expect(refusal("org/model-1b@dev")).toContain(`but not its revision dev; there is ${commit}, main`);
});

test("the cache lies where the Hugging Face variables say", () => {
  expect(hubCache()).toBe(join(scratch, "hub"));
  delete process.env.HF_HUB_CACHE;
  process.env.HF_HOME = join(scratch, "home");
  expect(hubCache()).toBe(join(scratch, "home", "hub"));
  delete process.env.HF_HOME;
  process.env.XDG_CACHE_HOME = join(scratch, "xdg");
  expect(hubCache()).toBe(join(scratch, "xdg", "huggingface", "hub"));
});

test("an absent model says where it was looked for and how to get it", () => {
  const message = refusal("org/model-1b");
  expect(message).toContain(`nor in the Hugging Face cache ${join(scratch, "hub")}`);
  expect(message).toContain("get it with: hf download org/model-1b");
  process.env.HF_HUB_OFFLINE = "1";
  expect(refusal("org/model-1b")).toContain("HF_HUB_OFFLINE is set, so nothing is downloaded: unset it");
  process.env.HF_HUB_OFFLINE = "0";
  expect(refusal("org/model-1b")).not.toContain("HF_HUB_OFFLINE");
  expect(refusal("  ")).toContain("--model_path is empty");
});

test("a path or id that is almost right gets the nearest name", () => {
  const dir = makeModel("models", "llama-3.2-1b");
  expect(refusal(join(scratch, "models", "lama-3.2-1b"))).toEndWith(`; did you mean ${dir}?`);
  expect(refusal(join(scratch, "models", "zebra"))).not.toContain("did you mean");
  cached("org/model-1b", "c".repeat(40));
  expect(refusal("org/model-1")).toContain("did you mean org/model-1b?");
  expect(refusal("bundeld")).toContain("did you mean bundled?");
});

test("what is there but no model is named as what it is", () => {
  const dir = makeModel("models", "tiny");
  expect(refusal(join(dir, "config.json"))).toContain("is a file; --model_path takes a GGUF file, or the directory");
  expect(refusal(join(scratch, "models"))).toContain(
    "has no config.json, so it is no Hugging Face model directory; there are models inside of it: tiny",
  );
  const snapshot = cached("org/model-1b", "d".repeat(40));
  expect(refusal(join(snapshot, "..", ".."))).toContain("is a repository of the Hugging Face cache");
  rmSync(join(snapshot, "config.json"));
  expect(refusal("org/model-1b")).toContain("the download of org/model-1b was not finished");
});

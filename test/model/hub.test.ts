// Models from a hub over HTTP (a fake one on this machine): the cache's layout, broken transfers, and what is said when it cannot be.
import { afterAll, afterEach, beforeEach, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readWanted } from "../../src/cli/devices-memory.ts";
import { progressText } from "../../src/cli/download.ts";
import { readConfig } from "../../src/model/config.ts";
import { obtainModel } from "../../src/model/hub.ts";
import { remoteFacts } from "../../src/model/hub-facts.ts";
import { hubId } from "../../src/model/locate.ts";
import { readCheckpoint } from "../../src/model/safetensors.ts";
import { KvaError } from "../../src/native/error.ts";
import { blobName, type FakeHub, type FakeRepo, openHub } from "../support/fake-hub.ts";

const root = join(import.meta.dir, "..", "golden", "models", "llama-sharded-f16");
const files = Object.fromEntries(
  readdirSync(root).map((name) => [name, new Uint8Array(readFileSync(join(root, name)))]),
);
const gguf = new Uint8Array(readFileSync(join(import.meta.dir, "..", "golden", "gguf", "llama.gguf")));
const shard = Object.keys(files).find((name) => name.includes("00002"))!;
const commit = "0123456789abcdef0123456789abcdef01234567";
const plain: FakeRepo = {
  name: "org/tiny",
  commit,
  files: {
    ...files,
    "README.md": Buffer.from("read me"),
    "pytorch_model.bin": new Uint8Array(1000),
    "onnx/model.onnx": new Uint8Array(9),
  },
};

const scratch = mkdtempSync(join(tmpdir(), "kvaccel-hub-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const names = [
  "HF_HOME",
  "HF_HUB_CACHE",
  "HUGGINGFACE_HUB_CACHE",
  "HF_ENDPOINT",
  "HF_TOKEN",
  "HF_HUB_OFFLINE",
  "HUGGING_FACE_HUB_TOKEN",
];
const before = names.map((name) => [name, process.env[name]] as const);
let hub: FakeHub | undefined;

beforeEach(() => {
  for (const name of names) delete process.env[name];
  process.env.HF_HOME = mkdtempSync(join(scratch, "home-"));
});
afterEach(async () => {
  await hub?.close();
  hub = undefined;
  for (const [name, value] of before) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

async function serve(repo: FakeRepo): Promise<FakeHub> {
  hub = await openHub(repo);
  process.env.HF_ENDPOINT = hub.url;
  return hub;
}
const folder = () => join(process.env.HF_HOME!, "hub", "models--org--tiny");
const watch = { patienceMs: 1500, pauseMs: 1 };

async function refusal(modelPath: string): Promise<string> {
  const error = await obtainModel(modelPath, watch).then(
    () => undefined,
    (reason) => reason,
  );
  expect(error).toBeInstanceOf(KvaError);
  expect(error.code).toBe("model");
  return error.message;
}

test("a model comes into the layout that all Hugging Face libraries share, and is not asked for again", async () => {
  const { requests } = await serve(plain);
  const seen: [number, number][] = [];
  const dir = await obtainModel("org/tiny", { ...watch, progress: (done, total) => seen.push([done, total]) });
  expect(dir).toBe(join(folder(), "snapshots", commit));
  expect(readFileSync(join(folder(), "refs", "main"), "utf8")).toBe(commit);
  expect(readdirSync(dir).sort()).toEqual(Object.keys(files).sort()); // no README, no other format
  for (const [name, data] of Object.entries(files)) {
    expect(lstatSync(join(dir, name)).isSymbolicLink()).toBe(true);
    expect(readlinkSync(join(dir, name))).toBe(join("..", "..", "blobs", blobName(name, data)));
    expect(new Uint8Array(readFileSync(join(dir, name)))).toEqual(data);
  }
  expect(readConfig(dir).layers).toBe(2);
  expect(readCheckpoint(dir).size).toBeGreaterThan(10);
  const total = Object.values(files).reduce((sum, data) => sum + data.length, 0);
  expect(seen.at(-1)).toEqual([total, total]);
  expect(seen.every(([done], i) => i === 0 || done >= seen[i - 1]![0])).toBe(true);

  const asked = requests.length;
  expect(await obtainModel("org/tiny", watch)).toBe(dir);
  expect(await obtainModel(`org/tiny@${commit.slice(0, 9)}`, watch)).toBe(dir);
  expect(requests.length).toBe(asked);
});

test("a revision by its commit, into HF_HUB_CACHE", async () => {
  await serve(plain);
  process.env.HF_HUB_CACHE = mkdtempSync(join(scratch, "cache-"));
  const dir = await obtainModel(`org/tiny@${commit}`, watch);
  expect(dir).toBe(join(process.env.HF_HUB_CACHE, "models--org--tiny", "snapshots", commit));
  expect(existsSync(join(process.env.HF_HUB_CACHE, "models--org--tiny", "refs"))).toBe(false);
});

test("a transfer that breaks goes on where it stopped", async () => {
  const { requests, faults } = await serve(plain);
  const half = Math.floor(files[shard]!.length / 2);
  faults.set(shard, [{ cut: half }, { status: 503 }, { stall: 100 }]);
  const retries: string[] = [];
  const dir = await obtainModel("org/tiny", { ...watch, retry: (file, reason) => retries.push(`${file}: ${reason}`) });
  expect(new Uint8Array(readFileSync(join(dir, shard)))).toEqual(files[shard]!);
  expect(retries).toHaveLength(3);
  expect(retries[2]).toContain("no byte within 1.5 s");
  const ranges = requests
    .filter((line) => line.includes(shard) && !line.endsWith("bytes=0-0"))
    .map((line) => line.split(" ")[2]);
  const starts = ranges.map((range) => Number(/bytes=(\d+)/.exec(range ?? "bytes=0")![1]));
  expect(starts).toEqual([0, half, half, half + 100]);
  expect(existsSync(`${join(folder(), "blobs", blobName(shard, files[shard]!))}.incomplete`)).toBe(false);
});

test("what an earlier process left is used, and checked", async () => {
  const { requests } = await serve(plain);
  const blob = join(folder(), "blobs", blobName(shard, files[shard]!));
  mkdirSync(join(folder(), "blobs"), { recursive: true });
  writeFileSync(`${blob}.incomplete`, files[shard]!.subarray(0, 5000));
  await obtainModel("org/tiny", watch);
  expect(requests.some((line) => line.includes(shard) && line.includes("bytes=5000-"))).toBe(true);
  expect(new Uint8Array(readFileSync(blob))).toEqual(files[shard]!);

  // a part that is not the file's beginning is found out by the hash, and fetched anew
  rmSync(folder(), { recursive: true });
  mkdirSync(join(folder(), "blobs"), { recursive: true });
  writeFileSync(`${blob}.incomplete`, new Uint8Array(5000));
  const retries: string[] = [];
  await obtainModel("org/tiny", { ...watch, retry: (_, reason) => retries.push(reason) });
  expect(retries).toEqual(["its hash is wrong"]);
  expect(new Uint8Array(readFileSync(blob))).toEqual(files[shard]!);
});

test("bytes that are wrong twice are not taken", async () => {
  const { faults } = await serve(plain);
  faults.set(shard, [{ spoil: true }, { spoil: true }]);
  expect(await refusal("org/tiny")).toContain(`${shard} of org/tiny came twice with another hash than the hub says`);
  expect(existsSync(join(folder(), "snapshots", commit, shard))).toBe(false);
});

test("a hub that stays broken ends with its reason; the part stays for the next try", async () => {
  const { faults } = await serve(plain);
  faults.set(shard, [{ cut: 2000 }, ...Array.from({ length: 9 }, () => ({ status: 500 }))]);
  expect(await refusal("org/tiny")).toMatch(
    /00002.* the transfer broke 6 times .* not now.*\. 2000 of \d+ bytes are kept: the same command goes on/,
  );
  const part = `${join(folder(), "blobs", blobName(shard, files[shard]!))}.incomplete`;
  expect(statSync(part).size).toBe(2000);
  faults.clear();
  expect(await obtainModel("org/tiny", watch)).toContain(commit);
});

test("a private model needs HF_TOKEN", async () => {
  const { url } = await serve({ ...plain, token: "hf_right" });
  expect(await refusal("org/tiny")).toContain(`its terms must be accepted at ${url}/org/tiny; set HF_TOKEN to a token`);
  process.env.HF_TOKEN = "hf_wrong";
  expect(await refusal("org/tiny")).toContain("HF_TOKEN does not open it");
  delete process.env.HF_TOKEN;
  writeFileSync(join(process.env.HF_HOME!, "token"), "hf_right\n");
  expect(await obtainModel("org/tiny", watch)).toContain(commit);
});

test("what is not there, no network, and HF_HUB_OFFLINE say what to do", async () => {
  const { url, requests } = await serve(plain);
  expect(await refusal("org/other")).toBe(`${url} has no model org/other with revision main; see ${url}/org/other`);
  expect(await refusal("org/tiny@v9")).toContain("has no model org/tiny with revision v9");
  process.env.HF_HUB_OFFLINE = "1";
  const asked = requests.length;
  expect(await refusal("org/tiny")).toContain(
    "HF_HUB_OFFLINE is set, so nothing is downloaded: unset it, or get it with: hf download org/tiny",
  );
  expect(requests.length).toBe(asked);
  delete process.env.HF_HUB_OFFLINE;
  process.env.HF_ENDPOINT = "http://127.0.0.1:9";
  expect(await refusal("org/tiny")).toMatch(
    /127\.0\.0\.1:9 cannot be reached \(.+\)\. Without a network: run hf download org\/tiny where there is one/,
  );
});

test("a repository of GGUF files: one is named, its parts come along", async () => {
  const repo = {
    ...plain,
    files: { "a.gguf": gguf, "b-00001-of-00002.gguf": gguf.slice(0, 900), "b-00002-of-00002.gguf": gguf.slice(900) },
  };
  await serve(repo);
  expect(await refusal("org/tiny")).toContain(
    "org/tiny has no safetensors; it has GGUF files: give one, as org/tiny/a.gguf (b-00001-of-00002.gguf)",
  );
  expect(await refusal("org/tiny/c.gguf")).toContain("org/tiny has no c.gguf; it has GGUF files");
  const path = await obtainModel("org/tiny/a.gguf", watch);
  expect(path).toBe(join(folder(), "snapshots", commit, "a.gguf"));
  expect(readConfig(path).layers).toBe(2);
  expect(readdirSync(join(folder(), "snapshots", commit))).toEqual(["a.gguf"]);
  await obtainModel("org/tiny/b-00001-of-00002.gguf", watch);
  expect(readdirSync(join(folder(), "snapshots", commit)).sort()).toEqual(Object.keys(repo.files).sort());
});

test("what a model needs is known from its config.json; no weights come, and nothing stays", async () => {
  const { requests, url } = await serve({ ...plain, token: "hf_right" });
  process.env.HF_TOKEN = "hf_right";
  const facts = (await remoteFacts("org/tiny", watch))!;
  expect(facts.config).toEqual(readConfig(root));
  const weights = Object.entries(files).filter(([name]) => name.endsWith(".safetensors"));
  expect(facts.fileBytes).toBe(weights.reduce((sum, [, data]) => sum + data.length, 0));
  expect(requests.filter((line) => line.includes("/resolve/")).every((line) => line.includes("config.json"))).toBe(
    true,
  );
  expect(existsSync(folder())).toBe(false);

  const wanted = await readWanted({ model_path: "org/tiny", acceleration: [], length: [512] });
  expect([wanted.config, wanted.fileBytes]).toEqual([facts.config, facts.fileBytes]);
  process.env.HF_HUB_OFFLINE = "1";
  await expect(readWanted({ model_path: "org/tiny", acceleration: [] })).rejects.toThrow(
    "HF_HUB_OFFLINE is set, so nothing is downloaded: unset it, or get it with: hf download org/tiny",
  );
  delete process.env.HF_HUB_OFFLINE;
  process.env.HF_ENDPOINT = "http://127.0.0.1:9";
  await expect(readWanted({ model_path: "org/tiny", acceleration: [] })).rejects.toThrow("cannot be reached");
  process.env.HF_ENDPOINT = url;
  await obtainModel("org/tiny", watch);
  expect(await remoteFacts("org/tiny", watch)).toBeUndefined(); // it is here now
});

test("of a GGUF file the header comes, and one that is cut is refused by its name", async () => {
  const long = new Uint8Array(gguf.length + 3_000_000);
  long.set(gguf);
  const { requests } = await serve({ ...plain, token: "hf_right", files: { "a.gguf": long } });
  process.env.HF_TOKEN = "hf_right";
  const { config, fileBytes } = (await remoteFacts("org/tiny/a.gguf", watch))!;
  const local = join(scratch, "a.gguf");
  writeFileSync(local, gguf);
  expect([config, fileBytes]).toEqual([readConfig(local), long.length]);
  const ranges = requests.flatMap((line) => {
    const [, first, last] = /a\.gguf bytes=(\d+)-(\d+)$/.exec(line) ?? [];
    return last === undefined ? [] : [Number(last) - Number(first) + 1];
  });
  expect(ranges.reduce((sum, bytes) => sum + bytes, 0)).toBeWithin(1, 2_100_000);
  expect(existsSync(folder())).toBe(false);
  await hub!.close();

  await serve({ ...plain, files: { "b.gguf": gguf.slice(0, 900) } });
  await expect(remoteFacts("org/tiny/b.gguf", watch)).rejects.toThrow(/b\.gguf: .*(GGUF|header)/);
});

test("which words are ids of the hub", () => {
  expect(hubId("org/name@abc")).toEqual({ repo: "org/name", revision: "abc" });
  expect(hubId("gpt2")).toEqual({ repo: "gpt2", revision: "main" });
  expect(hubId("org/name/Q4/x.gguf@v1")).toEqual({ repo: "org/name", revision: "v1", file: "Q4/x.gguf" });
  for (const path of ["bundled", "./org/name", "~/org", "/org/name", root, "org/name/../x.gguf", "a/b/c"]) {
    expect(hubId(path)).toBeUndefined();
  }
});

test("the bar says how far, how much and how fast", () => {
  expect(progressText(3 * 2 ** 30, 4 * 2 ** 30, 2 ** 20, "a.safetensors", true)).toBe(
    "▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇······  75 %  3.00 GiB of 4.00 GiB  1000 MiB/s  a.safetensors",
  );
  expect(progressText(0, 0, 0, "a", false)).toBe("100 %  0 B of 0 B  a");
});

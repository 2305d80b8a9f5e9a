// From --model_path to a directory or a GGUF file: `bundled`, a path, or a Hugging Face id in the local cache.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { KvaError } from "../native/error.ts";
import { nearest } from "../plugin/nearest.ts";
import { isGguf } from "./gguf.ts";

const packageRoot = join(import.meta.dir, "..", "..");
export const bundledModel = join(packageRoot, "models", "tiny-ruler");

const hubId = /^(?<repo>[\w.-]+(?:\/[\w.-]+)?)(?:@(?<revision>[\w./-]+))?$/;

/** The directory or the GGUF file of a model; the error says what was looked for, where, and what is near. */
export function locateModel(modelPath: string): string {
  const name = modelPath.trim();
  if (name === "") throw new KvaError("usage", "--model_path is empty; give a directory, a Hugging Face id or bundled");
  if (name === "bundled") return bundledModel;
  const path = resolve(name.replace(/^~(?=\/|$)/, homedir()));
  if (existsSync(path)) return checkPath(path);
  const id = hubId.exec(name)?.groups;
  if (id && !/^[./~]/.test(name)) return inCache(id.repo!, id.revision);
  throw new KvaError("model", `there is no model directory ${path}${hint(nearPath(path))}`);
}

function checkPath(path: string): string {
  if (!statSync(path).isDirectory()) {
    if (isGguf(path)) return path;
    throw new KvaError(
      "model",
      `${path} is a file; --model_path takes a GGUF file, or the directory that holds config.json and the weights`,
    );
  }
  if (existsSync(join(path, "config.json"))) return path;
  const gguf = ggufIn(path);
  if (gguf !== undefined) return gguf;
  if (existsSync(join(path, "snapshots"))) {
    throw new KvaError(
      "model",
      `${path} is a repository of the Hugging Face cache; give its id, or one of its snapshots/ directories`,
    );
  }
  const inside = subdirectories(path).filter((name) => existsSync(join(path, name, "config.json")));
  const instead = inside.length > 0 ? `; there are models inside of it: ${inside.slice(0, 5).join(", ")}` : "";
  throw new KvaError("model", `${path} has no config.json, so it is no Hugging Face model directory${instead}`);
}

/** The one GGUF model of a directory; of a split one its first file. */
function ggufIn(path: string): string | undefined {
  const found = files(path).filter((name) => isGguf(name) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/i.test(name));
  if (found.length === 0) return undefined;
  if (found.length === 1) return join(path, found[0]!);
  throw new KvaError(
    "model",
    `${path} holds ${found.length} GGUF models; name one: ${found.sort().slice(0, 5).join(", ")}`,
  );
}

/** Where the Hugging Face libraries keep downloaded repositories. */
export function hubCache(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
  const cache = HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE;
  if (cache) return resolve(cache);
  return join(HF_HOME ? resolve(HF_HOME) : join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface"), "hub");
}

function inCache(repo: string, revision = "main"): string {
  const cache = hubCache();
  const repository = join(cache, `models--${repo.replace("/", "--")}`);
  if (!existsSync(repository)) throw new KvaError("model", notInCache(repo, cache));
  const snapshot = snapshotOf(repository, revision);
  if (!snapshot) {
    const known = [...subdirectories(join(repository, "snapshots")), ...files(join(repository, "refs"))];
    throw new KvaError(
      "model",
      `${repo} is in the cache ${cache}, but not its revision ${revision}; there is ${known.join(", ") || "none"}`,
    );
  }
  if (!existsSync(join(snapshot, "config.json"))) {
    throw new KvaError(
      "model",
      `${snapshot} has no config.json: the download of ${repo} was not finished; ${getIt(repo)}`,
    );
  }
  return snapshot;
}

function snapshotOf(repository: string, revision: string): string | undefined {
  const ref = join(repository, "refs", revision);
  const commit = existsSync(ref) && statSync(ref).isFile() ? readFileSync(ref, "utf8").trim() : revision;
  const snapshots = join(repository, "snapshots");
  const matching = subdirectories(snapshots).filter(
    (name) => name === commit || (commit.length >= 7 && name.startsWith(commit)),
  );
  return matching.length === 1 ? join(snapshots, matching[0]!) : undefined;
}

function notInCache(repo: string, cache: string): string {
  const known = subdirectories(cache)
    .filter((name) => name.startsWith("models--"))
    .map((name) => name.slice("models--".length).replace("--", "/"));
  const near = nearest(repo, ["bundled", ...known]) ?? nearPath(resolve(repo));
  return `${repo} is neither a directory here nor in the Hugging Face cache ${cache}${hint(near)}; ${getIt(repo)}`;
}

function getIt(repo: string): string {
  const command = `hf download ${repo}`;
  const offline = process.env.HF_HUB_OFFLINE;
  if (!offline || /^(0|no|off|false)$/i.test(offline)) return `get it with: ${command}`;
  return `HF_HUB_OFFLINE is set, so unset it and get it with: ${command}`;
}

/** The path with its last part replaced by the nearest directory beside it. */
function nearPath(path: string): string | undefined {
  const name = nearest(basename(path), subdirectories(dirname(path)));
  return name === undefined ? undefined : join(dirname(path), name);
}

const hint = (near: string | undefined): string => (near === undefined ? "" : `; did you mean ${near}?`);

function entries(path: string, of: "directories" | "files"): string[] {
  if (!existsSync(path)) return [];
  return readdirSync(path).filter((name) => {
    const found = statSync(join(path, name), { throwIfNoEntry: false });
    return of === "files" ? found?.isFile() : found?.isDirectory();
  });
}
const subdirectories = (path: string): string[] => entries(path, "directories");
const files = (path: string): string[] => entries(path, "files");

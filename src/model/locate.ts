// From --model_path to a directory or a GGUF file: `bundled`, a path, or a Hugging Face id in the local cache.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { KvaError } from "../native/error.ts";
import { nearest } from "../plugin/nearest.ts";
import { isGguf } from "./gguf.ts";

const packageRoot = join(import.meta.dir, "..", "..");
export const bundledModel = join(packageRoot, "models", "tiny-ruler");

/** A model of the hub; of a repository of GGUF files, which one. */
export interface HubModel {
  repo: string;
  revision: string;
  file?: string;
}

const hubName = /^(?<repo>[\w.-]+(?:\/[\w.-]+)?)(?:\/(?<file>[\w./-]+\.gguf))?(?:@(?<revision>[\w./-]+))?$/i;

/** `org/name`, `org/name@revision`, `org/name/file.gguf`; undefined where --model_path is a path or `bundled`. */
export function hubId(modelPath: string): HubModel | undefined {
  const name = modelPath.trim();
  if (name === "bundled" || /^[./~]/.test(name) || existsSync(resolve(name))) return undefined;
  const found = hubName.exec(name)?.groups;
  if (!found) return undefined;
  const { repo, file, revision = "main" } = found;
  return file?.split("/").includes("..") ? undefined : { repo: repo!, revision, ...(file && { file }) };
}

/** The directory or the GGUF file of a model; the error says what was looked for, where, and what is near. */
export function locateModel(modelPath: string): string {
  const name = modelPath.trim();
  if (name === "") throw new KvaError("usage", "--model_path is empty; give a directory, a Hugging Face id or bundled");
  if (name === "bundled") return bundledModel;
  const path = resolve(name.replace(/^~(?=\/|$)/, homedir()));
  if (existsSync(path)) return checkPath(path);
  const id = hubId(name);
  if (id) return inCache(id);
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

/** Where the cache keeps a repository. */
export const repositoryFolder = (repo: string): string => join(hubCache(), `models--${repo.replace("/", "--")}`);

/** The directory or GGUF file of a model that is in the cache with all its weights. */
export function cachedModel({ repo, revision, file }: HubModel): string | undefined {
  const snapshot = snapshotOf(repositoryFolder(repo), revision);
  if (!snapshot) return undefined;
  if (file) return existsSync(join(snapshot, file)) ? join(snapshot, file) : undefined;
  if (existsSync(join(snapshot, "config.json"))) return hasWeights(snapshot) ? snapshot : undefined;
  return ggufIn(snapshot);
}

function hasWeights(snapshot: string): boolean {
  if (existsSync(join(snapshot, "model.safetensors"))) return true;
  try {
    const index = JSON.parse(readFileSync(join(snapshot, "model.safetensors.index.json"), "utf8"));
    return Object.values(index.weight_map as Record<string, string>).every((name) => existsSync(join(snapshot, name)));
  } catch {
    return false; // no index, or a broken one: it comes anew
  }
}

function inCache(id: HubModel): string {
  const { repo, revision, file } = id;
  const repository = repositoryFolder(repo);
  if (!existsSync(repository)) throw new KvaError("model", notInCache(id));
  const snapshot = snapshotOf(repository, revision);
  if (!snapshot) {
    const known = [...subdirectories(join(repository, "snapshots")), ...files(join(repository, "refs"))];
    throw new KvaError(
      "model",
      `${repo} is in the cache ${hubCache()}, but not its revision ${revision}; there is ${known.join(", ") || "none"}; ${getIt(id)}`,
    );
  }
  if (file && existsSync(join(snapshot, file))) return join(snapshot, file);
  if (!file && existsSync(join(snapshot, "config.json"))) return snapshot;
  const gguf = file ? undefined : ggufIn(snapshot);
  if (gguf !== undefined) return gguf;
  throw new KvaError(
    "model",
    `${snapshot} has no ${file ?? "config.json"}: the download of ${repo} was not finished; ${getIt(id)}`,
  );
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

function notInCache(id: HubModel): string {
  const cache = hubCache();
  const known = subdirectories(cache)
    .filter((name) => name.startsWith("models--"))
    .map((name) => name.slice("models--".length).replace("--", "/"));
  const near = nearest(id.repo, ["bundled", ...known]) ?? nearPath(resolve(id.repo));
  return `${id.repo} is neither a directory here nor in the Hugging Face cache ${cache}${hint(near)}; ${getIt(id)}`;
}

/** True where HF_HUB_OFFLINE forbids the network. */
export function isOffline(): boolean {
  const offline = process.env.HF_HUB_OFFLINE;
  return offline !== undefined && offline !== "" && !/^(0|no|off|false)$/i.test(offline);
}

function getIt({ repo, revision, file }: HubModel): string {
  const command = ["hf download", repo, file, revision === "main" ? undefined : `--revision ${revision}`];
  const written = command.filter((word) => word !== undefined).join(" ");
  if (!isOffline()) return `get it with: ${written}`;
  return (
    `HF_HUB_OFFLINE is set, so nothing is downloaded: unset it, or get it with: ${written} ` +
    "(on a machine with a network; then copy its cache folder here and name it in HF_HOME, or give the model's directory)"
  );
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

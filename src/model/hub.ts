// Models of the Hugging Face hub: downloaded into the cache that all Hugging Face libraries share.
import { existsSync, mkdirSync, readFileSync, statfsSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { HubApiError, type ListFileEntry, listFiles, modelInfo } from "@huggingface/hub";
import { KvaError } from "../native/error.ts";
import { impatient, reasonOf, type Source, Transfer, type Watch } from "./hub-transfer.ts";
import { cachedModel, type HubModel, hubCache, hubId, isOffline, locateModel, repositoryFolder } from "./locate.ts";

/**
 * The directory or GGUF file of a model, as `locateModel` gives it; an id that is not in the cache with all its weights is downloaded first.
 * What is in the cache is taken as it is: no request asks whether the hub has a newer commit.
 */
export async function obtainModel(modelPath: string, watch: Watch = {}): Promise<string> {
  const id = hubId(modelPath);
  if (!id || cachedModel(id) !== undefined || isOffline()) return locateModel(modelPath);
  await download(id, watch);
  return locateModel(modelPath);
}

/** HF_TOKEN, or the token that `hf auth login` left. */
function accessToken(): string | undefined {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH, HF_HOME } = process.env;
  const given = HF_TOKEN || HUGGING_FACE_HUB_TOKEN;
  if (given) return given.trim();
  const file = HF_TOKEN_PATH || join(HF_HOME ? resolve(HF_HOME) : join(homedir(), ".cache", "huggingface"), "token");
  return existsSync(file) ? readFileSync(file, "utf8").trim() || undefined : undefined;
}

/** What a model takes of its repository: a commit, and files of it. */
export interface Remote {
  /** its revision is the commit */
  source: Source;
  wanted: ListFileEntry[];
}

export async function remoteModel(id: HubModel, watch: Watch): Promise<Remote> {
  const token = accessToken();
  const source: Source = {
    repo: id.repo,
    revision: id.revision,
    hubUrl: (process.env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, ""),
    ...(token !== undefined && { accessToken: token }),
    fetch: impatient(watch),
  };
  const { commit, files } = await listing(source, id);
  return { source: { ...source, revision: commit }, wanted: wantedFiles(files, id) };
}

async function download(id: HubModel, watch: Watch): Promise<void> {
  const { source, wanted } = await remoteModel(id, watch);
  const { revision: commit } = source;
  const folder = repositoryFolder(id.repo);
  const transfer = new Transfer(source, folder, wanted, watch);
  checkSpace(transfer.missingBytes, id);
  for (const file of wanted) await transfer.take(file).catch((error) => refuse(error, source, id));
  if (id.revision === commit) return;
  const ref = join(folder, "refs", id.revision);
  mkdirSync(dirname(ref), { recursive: true });
  writeFileSync(ref, commit);
}

/** The commit of the revision, and its files. */
async function listing(source: Source, id: HubModel): Promise<{ commit: string; files: ListFileEntry[] }> {
  try {
    const { sha } = await modelInfo({ ...source, name: id.repo, additionalFields: ["sha"] });
    const files: ListFileEntry[] = [];
    for await (const file of listFiles({ ...source, revision: sha, recursive: true })) files.push(file);
    return { commit: sha, files: files.filter(({ type }) => type === "file") };
  } catch (error) {
    return refuse(error, source, id);
  }
}

const small = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
];

/** What a model needs of its repository: not the same weights in other formats. */
function wantedFiles(files: readonly ListFileEntry[], { repo, file }: HubModel): ListFileEntry[] {
  const named = (fits: (path: string) => boolean) => files.filter(({ path }) => fits(path));
  if (file) {
    const parts = file.replace(/-00001-of-(\d{5})\.gguf$/i, "");
    const found = named(
      (path) => path === file || (parts !== file && path.startsWith(`${parts}-`) && /\.gguf$/i.test(path)),
    );
    if (found.length > 0) return found;
    throw new KvaError("model", `${repo} has no ${file}; ${ggufChoice(files, repo) ?? "it has no GGUF file"}`);
  }
  const weights = named((path) => /^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/.test(path));
  if (weights.length > 0) return [...named((path) => small.includes(path)), ...weights];
  const instead = ggufChoice(files, repo) ?? "kvaccel reads model.safetensors, its shards, or GGUF files";
  throw new KvaError("model", `${repo} has no safetensors; ${instead}`);
}

function ggufChoice(files: readonly ListFileEntry[], repo: string): string | undefined {
  const found = files
    .map(({ path }) => path)
    .filter((path) => /\.gguf$/i.test(path) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/i.test(path));
  if (found.length === 0) return undefined;
  return `it has GGUF files: give one, as ${repo}/${found[0]} (${found.slice(1, 6).join(", ") || "the only one"})`;
}

/** a GiB for everything else that writes there */
const spareBytes = 2 ** 30;

function checkSpace(missing: number, { repo }: HubModel): void {
  const cache = hubCache();
  mkdirSync(cache, { recursive: true });
  const { bavail, bsize } = statfsSync(cache);
  const free = bavail * bsize;
  if (missing === 0 || missing + spareBytes <= free) return;
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  throw new KvaError(
    "model",
    `${repo} needs ${gib(missing)} GiB more in ${cache}, where ${gib(free)} GiB are free; HF_HOME names another place`,
  );
}

/** What went wrong, and what to do, in one sentence. */
export function refuse(error: unknown, { hubUrl, accessToken: token }: Source, { repo, revision }: HubModel): never {
  if (error instanceof KvaError) throw error;
  const fail = (text: string): never => {
    throw new KvaError("model", text, { cause: error });
  };
  if (error instanceof HubApiError) {
    const page = `${hubUrl}/${repo}`;
    const { statusCode } = error;
    if (statusCode === 401 || statusCode === 403) {
      const how = token === undefined ? "set HF_TOKEN to a token that may read it" : "HF_TOKEN does not open it";
      fail(
        `${repo} cannot be read (status ${statusCode}): it does not exist, is private, or its terms must be accepted at ${page}; ${how}`,
      );
    }
    if (statusCode === 404) fail(`${hubUrl} has no model ${repo} with revision ${revision}; see ${page}`);
    fail(`${hubUrl} answers ${repo} with status ${statusCode}: ${error.message}`);
  }
  return fail(
    `${repo} is not in the cache ${hubCache()}, and ${hubUrl} cannot be reached (${reasonOf(error)}). Without a network: run hf download ${repo} ` +
      "where there is one, copy its cache folder here and name it in HF_HOME, or give the model's directory",
  );
}

// What a model of the hub is, without its weights: from its config.json, or the header of its GGUF file. Leaves nothing in the cache.
import { downloadFile } from "@huggingface/hub";
import { KvaError } from "../native/error.ts";
import { type ModelConfig, parseConfig } from "./config.ts";
import { readRemoteGguf } from "./gguf.ts";
import { configOf } from "./gguf-config.ts";
import { refuse, remoteModel } from "./hub.ts";
import type { Watch } from "./hub-transfer.ts";
import { parsedJson } from "./json.ts";
import { cachedModel, hubId, isOffline } from "./locate.ts";

export interface RemoteFacts {
  config: ModelConfig;
  /** of the files with weights */
  fileBytes: number;
}

/** undefined where the model is here, or none may be asked for: then `locateModel` finds it, or says what to do. */
export async function remoteFacts(modelPath: string, watch: Watch = {}): Promise<RemoteFacts | undefined> {
  const id = hubId(modelPath);
  if (!id || cachedModel(id) !== undefined || isOffline()) return undefined;
  const { source, wanted } = await remoteModel(id, watch);
  const weights = wanted.filter(({ path }) => /\.(safetensors|gguf)$/i.test(path));
  const fileBytes = weights.reduce((sum, { size }) => sum + size, 0);
  const url = (path: string) => `${source.hubUrl}/${source.repo}/resolve/${source.revision}/${path}`;
  if (id.file) {
    const parts = weights.sort((a, b) => (a.path < b.path ? -1 : 1));
    const header = await readRemoteGguf(
      parts.map(({ path, size }) => ({ url: url(path), bytes: size })),
      source.accessToken,
    );
    return { config: configOf(header, url(id.file)), fileBytes };
  }
  const name = url("config.json");
  const text = await downloadFile({ ...source, path: "config.json" })
    .then((blob) => blob?.text())
    .catch((error) => refuse(error, source, id));
  if (text === undefined) throw new KvaError("model", `${id.repo} has no config.json, so it is no Hugging Face model`);
  return { config: parseConfig(parsedJson(text, name), name), fileBytes };
}

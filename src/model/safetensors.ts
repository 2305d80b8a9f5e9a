// Headers of safetensors checkpoints, single file or sharded: where each tensor lies. Reads no weights, believes no number unchecked.
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import { checked, readJson, shown } from "./json.ts";

export interface StoredTensor {
  /** path of the file */
  file: string;
  /** as safetensors names it: BF16, F8_E4M3 */
  dtype: string;
  /** ggml's number of the block format: the tensor lies in a GGUF file */
  ggml?: number;
  shape: readonly number[];
  /** first byte, counted from the start of the file */
  offset: number;
  bytes: number;
}

const elementBits: Readonly<Record<string, number>> = {
  ...{ F64: 64, F32: 32, F16: 16, BF16: 16, I64: 64, I32: 32, I16: 16, I8: 8, U64: 64, U32: 32, U16: 16, U8: 8 },
  ...{ BOOL: 8, C64: 64, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 },
  ...{ F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
};
const prefixBytes = 8; // the header's length, little-endian
const maxHeaderBytes = 100_000_000; // the limit of the safetensors library

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const headerSchema = v.record(
  v.string(),
  v.strictObject({ dtype: v.string(), shape: v.array(size), data_offsets: v.tuple([size, size]) }),
);
const indexText = "must map each tensor's name to its file";
const indexSchema = v.looseObject({ weight_map: v.record(v.string(), v.string(indexText), indexText) }, indexText);

/** Every tensor of the checkpoint in `dir`, by name. */
export function readCheckpoint(dir: string): Map<string, StoredTensor> {
  const single = join(dir, "model.safetensors");
  if (existsSync(single)) return readHeader(single);
  const index = join(dir, "model.safetensors.index.json");
  if (existsSync(index)) return readShards(dir, index);
  throw new KvaError("model", noCheckpoint(dir));
}

function noCheckpoint(dir: string): string {
  const files = readdirSync(dir);
  const there = (end: string) => files.find((file) => file.endsWith(end));
  const wanted = "model.safetensors or model.safetensors.index.json";
  const shard = there(".safetensors");
  if (shard) return `${dir} has ${shard}, but neither ${wanted}, which says which tensor lies where`;
  const pickled = there(".bin") ?? there(".pth") ?? there(".pt");
  if (pickled) return `${dir} has its weights as ${pickled}, but not as ${wanted}; save them with save_pretrained`;
  return `${dir} has no weights: neither ${wanted}`;
}

function readShards(dir: string, index: string): Map<string, StoredTensor> {
  const { weight_map: places } = checked(indexSchema, readJson(index), index);
  const headers = new Map<string, Map<string, StoredTensor>>();
  const tensors = new Map<string, StoredTensor>();
  for (const [name, file] of Object.entries(places)) {
    if (file === "" || file === ".." || /[/\\\0]/.test(file)) {
      throw new KvaError(
        "model",
        `${index}: ${name} is said to lie in ${shown(file)}; it must be a file of the same directory`,
      );
    }
    const path = join(dir, file);
    if (!headers.has(file)) {
      if (!existsSync(path)) throw new KvaError("model", `${index} names ${file}, but ${dir} does not have it`);
      headers.set(file, readHeader(path));
    }
    const tensor = headers.get(file)!.get(name);
    if (!tensor)
      throw new KvaError("model", `${index} says that ${name} lies in ${file}, but ${path} does not have it`);
    tensors.set(name, tensor);
  }
  return tensors;
}

/** The tensors of one file. */
export function readHeader(file: string): Map<string, StoredTensor> {
  const { json, dataStart, fileBytes } = readHeaderText(file);
  const { __metadata__: _, ...entries } = parseHeader(json, file);
  const parsed = v.safeParse(headerSchema, entries);
  if (!parsed.success) {
    const name = String(parsed.issues[0].path?.[0]?.key ?? "");
    throw new KvaError(
      "model",
      `${file}: tensor ${name} has a malformed entry ${shown(entries[name])}; it must have dtype, shape and data_offsets, two byte counts`,
    );
  }
  const tensors = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(parsed.output)) {
    const [begin, end] = data_offsets;
    const bits = Object.hasOwn(elementBits, dtype) ? elementBits[dtype]! : undefined;
    if (bits === undefined) throw new KvaError("model", `${file}: tensor ${name} has the unknown type ${shown(dtype)}`);
    const bytes = (shape.reduce((product, n) => product * n, 1) * bits) / 8;
    if (end - begin !== bytes) {
      throw new KvaError(
        "model",
        `${file}: tensor ${name} is ${dtype} [${shape.join(", ")}], which takes ${bytes} bytes, but data_offsets [${begin}, ${end}] hold ${end - begin}`,
      );
    }
    if (dataStart + end > fileBytes) {
      throw new KvaError(
        "model",
        `${file}: tensor ${name} ends at byte ${dataStart + end}, but the file has ${fileBytes} bytes; it was cut, or its header is wrong`,
      );
    }
    tensors.set(name, { file, dtype, shape, offset: dataStart + begin, bytes });
  }
  checkCover(tensors, dataStart, fileBytes, file);
  return tensors;
}

function readHeaderText(file: string): { json: string; dataStart: number; fileBytes: number } {
  const descriptor = open(file);
  try {
    const fileBytes = fstatSync(descriptor).size;
    if (fileBytes < prefixBytes) {
      throw new KvaError(
        "model",
        `${file} has ${fileBytes} bytes; a safetensors file begins with 8 that hold its header's length`,
      );
    }
    const prefix = Buffer.alloc(prefixBytes);
    readSync(descriptor, prefix, 0, prefixBytes, 0);
    const headerBytes = prefix.readBigUInt64LE();
    const most = Math.min(fileBytes - prefixBytes, maxHeaderBytes);
    if (headerBytes > BigInt(most)) {
      throw new KvaError(
        "model",
        `${file} says that its header has ${headerBytes} bytes; it can have ${most} at most in a file of ${fileBytes} bytes`,
      );
    }
    const header = Buffer.alloc(Number(headerBytes));
    const read = readSync(descriptor, header, 0, header.length, prefixBytes);
    if (read !== header.length)
      throw new KvaError("model", `${file}: only ${read} of the header's ${header.length} bytes could be read`);
    return { json: header.toString("utf8"), dataStart: prefixBytes + header.length, fileBytes };
  } finally {
    closeSync(descriptor);
  }
}

function open(file: string): number {
  try {
    return openSync(file, "r");
  } catch (error) {
    throw new KvaError("model", `${file} cannot be opened: ${reason(error)}`, { cause: error });
  }
}

function parseHeader(json: string, file: string): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(json);
  } catch (error) {
    throw new KvaError("model", `${file}: the safetensors header is not valid JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
  if (typeof header === "object" && header !== null && !Array.isArray(header)) return header as Record<string, unknown>;
  throw new KvaError("model", `${file}: the safetensors header is ${shown(header)}; it must be an object`);
}

/** The tensors must fill the data part of the file: no overlap, no hole, nothing after the last one. */
function checkCover(tensors: Map<string, StoredTensor>, dataStart: number, fileBytes: number, file: string): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  let before = "the header";
  for (const [name, tensor] of inOrder) {
    if (tensor.offset !== end) {
      const how = tensor.offset < end ? `overlaps ${before}, which ends` : `leaves a hole after ${before}, which ends`;
      throw new KvaError("model", `${file}: tensor ${name} begins at byte ${tensor.offset} and ${how} at byte ${end}`);
    }
    end += tensor.bytes;
    before = `tensor ${name}`;
  }
  if (end !== fileBytes) {
    throw new KvaError(
      "model",
      `${file}: ${before} ends at byte ${end}, but the file has ${fileBytes} bytes; its header does not name all of it`,
    );
  }
}

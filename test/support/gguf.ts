// Writes GGUF files: metadata and tensors as they stand, and golden checkpoints the way llama.cpp's converter stores them.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ModelConfig } from "../../src/model/config.ts";
import { readHeader } from "../../src/model/safetensors.ts";

type Scalar = string | number | boolean;
export type Metadata = Record<string, Scalar | Scalar[]>;
export interface GgufTensor {
  /** rows first */
  shape: readonly number[];
  /** ggml's number of the format */
  format: number;
  data: Uint8Array;
}

const u32 = (x: number) => Buffer.from(Uint32Array.of(x).buffer);
const u64 = (x: number) => Buffer.from(BigUint64Array.of(BigInt(x)).buffer);
const text = (x: string) => Buffer.concat([u64(Buffer.byteLength(x)), Buffer.from(x)]);

/** A number without a fraction is a u32 (i32 below zero), any other an f32. */
function scalar(value: Scalar, asFloat = false): { type: number; bytes: Uint8Array } {
  if (typeof value === "string") return { type: 8, bytes: text(value) };
  if (typeof value === "boolean") return { type: 7, bytes: Buffer.of(value ? 1 : 0) };
  if (asFloat || !Number.isInteger(value)) return { type: 6, bytes: Buffer.from(Float32Array.of(value).buffer) };
  return value < 0 ? { type: 5, bytes: Buffer.from(Int32Array.of(value).buffer) } : { type: 4, bytes: u32(value) };
}

function value(given: Scalar | Scalar[]): Uint8Array {
  if (!Array.isArray(given)) {
    const { type, bytes } = scalar(given);
    return Buffer.concat([u32(type), bytes]);
  }
  const floats = given.some((x) => typeof x === "number" && (x < 0 || !Number.isInteger(x)));
  const items = given.map((x) => scalar(x, floats));
  return Buffer.concat([u32(9), u32(items[0]?.type ?? 4), u64(items.length), ...items.map(({ bytes }) => bytes)]);
}

const alignment = 32;
const padding = (length: number) => Buffer.alloc((alignment - (length % alignment)) % alignment);

export function ggufBytes(metadata: Metadata, tensors: Readonly<Record<string, GgufTensor>>): Buffer {
  const entries = Object.entries(tensors);
  const header: Uint8Array[] = [Buffer.from("GGUF"), u32(3), u64(entries.length), u64(Object.keys(metadata).length)];
  for (const [key, given] of Object.entries(metadata)) header.push(text(key), value(given));
  let offset = 0;
  const data: Buffer[] = [];
  for (const [name, tensor] of entries) {
    const dims = [...tensor.shape].reverse();
    header.push(text(name), u32(dims.length), ...dims.map(u64), u32(tensor.format), u64(offset));
    const bytes = Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
    data.push(bytes, padding(bytes.length));
    offset += bytes.length + padding(bytes.length).length;
  }
  const head = Buffer.concat(header);
  return Buffer.concat([head, padding(head.length), ...data]);
}

const formats: Record<string, number> = { F32: 0, F16: 1, BF16: 30 };
const names: Record<string, Record<string, string>> = JSON.parse(
  readFileSync(join(import.meta.dir, "..", "golden", "gguf", "names.json"), "utf8"),
);

/** Rows i and i + half of each head become rows 2i and 2i + 1, as the converter writes Llamas. */
function pairRows(data: Uint8Array, rows: number, heads: number): Uint8Array {
  const rowBytes = data.length / rows;
  const headRows = rows / heads;
  const result = new Uint8Array(data.length);
  for (let row = 0; row < rows; row++) {
    const inside = row % headRows;
    const half = headRows / 2;
    const to = row - inside + (inside < half ? 2 * inside : 2 * (inside - half) + 1);
    result.set(data.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return result;
}

/** The tensors of a safetensors file under the names that the Python package `gguf` gives them. */
export function convertedTensors(file: string, architecture: string, config: ModelConfig): Record<string, GgufTensor> {
  const content = readFileSync(file);
  const tensors: Record<string, GgufTensor> = {};
  for (const [name, { dtype, shape, offset, bytes }] of readHeader(file)) {
    const stored = content.subarray(offset, offset + bytes);
    const heads = /q_proj\.weight$/.test(name) ? config.heads : /k_proj\.weight$/.test(name) ? config.kvHeads : 0;
    const data = architecture === "llama" && heads > 0 ? pairRows(stored, shape[0]!, heads) : stored;
    // vectors are kept in fp32
    const vector = shape.length === 1 && dtype === "BF16";
    const wide = () =>
      new Uint8Array(Uint32Array.from(new Uint16Array(Uint8Array.from(data).buffer), (x) => x << 16).buffer);
    tensors[names[architecture]![name]!] = {
      shape,
      format: vector ? 0 : formats[dtype]!,
      data: vector ? wide() : data,
    };
  }
  return tensors;
}

/** The metadata that llama.cpp's converter writes of a config; `scaling` stands for rope.scaling.* */
export function convertedMetadata(architecture: string, config: ModelConfig, scaling: Metadata = {}): Metadata {
  const own: Metadata = {
    block_count: config.layers,
    context_length: config.maxPositions,
    embedding_length: config.hiddenSize,
    feed_forward_length: config.intermediateSize,
    "attention.head_count": config.heads,
    "attention.head_count_kv": config.kvHeads,
    "attention.key_length": config.headDim,
    "attention.value_length": config.headDim,
    "attention.layer_norm_rms_epsilon": config.normEps,
    "rope.dimension_count": config.rotaryDim,
    "rope.freq_base": config.rope.theta,
    ...(config.slidingWindow !== null && { "attention.sliding_window": config.slidingWindow }),
    ...scaling,
  };
  return {
    "general.architecture": architecture,
    ...Object.fromEntries(Object.entries(own).map(([key, given]) => [`${architecture}.${key}`, given])),
  };
}

export function writeGguf(
  path: string,
  metadata: Metadata,
  tensors: Readonly<Record<string, GgufTensor>> = {},
): string {
  writeFileSync(path, ggufBytes(metadata, tensors));
  return path;
}

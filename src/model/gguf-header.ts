// The header of a GGUF file: @huggingface/gguf reads it; every count, offset and type is checked against the file before it is believed.
import { statSync } from "node:fs";
import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import { KvaError } from "../native/error.ts";
import type { StoredTensor } from "./safetensors.ts";

type Value = string | number | boolean | Value[];

/** Block formats that are read: elements and bytes of a block, by ggml's number. */
export const ggmlFormats: Readonly<Record<number, { elements: number; bytes: number }>> = {
  [GGMLQuantizationType.F32]: { elements: 1, bytes: 4 },
  [GGMLQuantizationType.F16]: { elements: 1, bytes: 2 },
  [GGMLQuantizationType.BF16]: { elements: 1, bytes: 2 },
  [GGMLQuantizationType.Q4_0]: { elements: 32, bytes: 18 },
  [GGMLQuantizationType.Q4_1]: { elements: 32, bytes: 20 },
  [GGMLQuantizationType.Q8_0]: { elements: 32, bytes: 34 },
  [GGMLQuantizationType.Q4_K]: { elements: 256, bytes: 144 },
  [GGMLQuantizationType.Q5_K]: { elements: 256, bytes: 176 },
  [GGMLQuantizationType.Q6_K]: { elements: 256, bytes: 210 },
};
const readNames = Object.keys(ggmlFormats).map((number) => GGMLQuantizationType[Number(number)]);

export interface GgufHeader {
  metadata: Record<string, Value>;
  /** by name; `dtype` as ggml names it, `ggml` its number */
  tensors: Record<string, StoredTensor>;
  /** by tensor: what stretches the frequencies of the rotation, which is part of the configuration */
  factors: Record<string, number[]>;
}

/** A file that is not here; bytes as its hub says. fetch must answer ranges. */
export interface RemoteFile {
  bytes: number;
  fetch: typeof fetch;
}

const factorNames = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
const maxFactorBytes = 2 ** 16;

/** Integers of 64 bits become numbers where they fit; where not, the key is refused when it is asked for. */
function plain(value: unknown): Value {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  return Array.isArray(value) ? value.map(plain) : (value as Value);
}

const maxDims = 4;
const maxElements = 2 ** 40;

/** The header of a file here, or of a URL. Throws a KvaError that names the file and what is wrong. */
export async function parseGguf(file: string, remote?: RemoteFile): Promise<GgufHeader> {
  const refuse = (text: string, cause?: unknown): never => {
    throw new KvaError("model", `${file}: ${text}`, cause === undefined ? undefined : { cause });
  };
  const fileBytes = remote?.bytes ?? statSync(file).size;
  const parsed = await gguf(file, remote ? { fetch: remote.fetch } : { allowLocalFile: true }).catch((error: Error) =>
    refuse(`it cannot be read as GGUF: ${error.message}`, error),
  );
  if (!parsed.littleEndian) refuse("its numbers are big-endian; convert it for little-endian machines");
  const headerEnd = parsed.tensorInfoByteRange[1];
  const dataStart = Number(parsed.tensorDataOffset);
  if (headerEnd > fileBytes) refuse(`its header ends at byte ${headerEnd}, but the file has ${fileBytes}; it was cut`);
  const tensors: Record<string, StoredTensor> = Object.create(null);
  for (const info of parsed.tensorInfos) {
    const { name, dtype: number } = info;
    const dtype = GGMLQuantizationType[number] ?? `of the unknown type ${number}`;
    const format = ggmlFormats[number];
    if (!format) return refuse(`tensor ${name} is ${dtype}; kvaccel reads ${readNames.join(", ")}`);
    const shape = info.shape.map(Number).reverse();
    const elements = shape.reduce((product, n) => product * n, 1);
    if (shape.length < 1 || shape.length > maxDims || !(elements >= 1 && elements <= maxElements)) {
      return refuse(`tensor ${name} is [${shape.join(", ")}]; it must have 1 to ${maxDims} dimensions, none of them 0`);
    }
    if (shape.at(-1)! % format.elements !== 0) {
      return refuse(
        `tensor ${name} has rows of ${shape.at(-1)} elements; ${dtype} stores ${format.elements} at a time`,
      );
    }
    const bytes = (elements / format.elements) * format.bytes;
    const offset = dataStart + Number(info.offset);
    if (!(offset + bytes <= fileBytes)) {
      return refuse(
        `tensor ${name} ends at byte ${offset + bytes}, but the file has ${fileBytes} bytes; it was cut, or its header is wrong`,
      );
    }
    if (name in tensors) return refuse(`it has the tensor ${name} twice`);
    tensors[name] = { file, dtype, ggml: number, shape, offset, bytes };
  }
  const metadata = Object.fromEntries(Object.entries(parsed.metadata).map(([key, value]) => [key, plain(value)]));
  const factors: Record<string, number[]> = {};
  for (const name of factorNames) {
    const tensor = tensors[name];
    if (!tensor) continue;
    const { dtype, shape, bytes } = tensor;
    if (dtype !== "F32" || shape.length !== 1 || bytes > maxFactorBytes)
      refuse(`tensor ${name} is ${dtype} [${shape.join(", ")}]; it must be a short F32 vector`);
    factors[name] = Array.from(new Float32Array(await readBytes(tensor, remote)));
  }
  return { metadata, tensors, factors };
}

function readBytes({ file, offset, bytes }: StoredTensor, remote?: RemoteFile): Promise<ArrayBuffer> {
  const end = offset + bytes;
  if (!remote) return Bun.file(file).slice(offset, end).arrayBuffer();
  return remote
    .fetch(file, { headers: { Range: `bytes=${offset}-${end - 1}` } })
    .then((answer) => answer.arrayBuffer());
}

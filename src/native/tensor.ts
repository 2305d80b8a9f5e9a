// Contexts, tensors and mapped files: handles with their shapes, and the moves between host and device.
import type { Pointer } from "bun:ffi";
import { KvaError } from "./error.ts";
import { type Backend, type Library, openLibrary } from "./library.ts";

export type Dtype = "float32" | "float16" | "bfloat16" | "int32";
export const dtypes: readonly Dtype[] = ["float32", "float16", "bfloat16", "int32"];
export const elementBytes: Record<Dtype, number> = { float32: 4, float16: 2, bfloat16: 2, int32: 4 };

export const memoryKinds = ["weights", "activations", "cache", "scratch"] as const;
export type MemoryKind = (typeof memoryKinds)[number];

export interface MemoryFigures {
  bytes: number;
  peakBytes: number;
  allocations: number;
  reservedBytes: number;
}

/** A handle that a native call wrote. */
const slot = new BigUint64Array(1);
export function made(library: Library, call: (out: BigUint64Array) => number): Pointer {
  library.check(call(slot));
  return Number(slot[0]) as Pointer;
}

/** A device, its stream and its allocator. */
export class Context {
  readonly library: Library;
  readonly pointer: Pointer;
  private readonly figures = new BigInt64Array(4);

  private constructor(
    readonly backend: Backend,
    readonly device: number,
    threads: number,
  ) {
    this.library = openLibrary(backend);
    this.pointer = made(this.library, (out) => this.library.native.kva_context_create(device, threads, out));
  }

  /** device: `cpu`, `cpu:1`, `cuda:0` */
  static open(device: string, threads = 0): Context {
    const match = /^(cpu|cuda)(?::(\d+))?$/.exec(device);
    if (!match) throw new KvaError("usage", `device "${device}" is neither cpu, cpu:N nor cuda:N`);
    return new Context(match[1] as Backend, Number(match[2] ?? 0), threads);
  }

  sync(): void {
    this.library.check(this.library.native.kva_sync(this.pointer));
  }

  memory(kind?: MemoryKind): MemoryFigures {
    const index = kind === undefined ? -1 : memoryKinds.indexOf(kind);
    this.library.check(this.library.native.kva_memory(this.pointer, index, this.figures));
    const [bytes = 0, peakBytes = 0, allocations = 0, reservedBytes = 0] = Array.from(this.figures, Number);
    return { bytes, peakBytes, allocations, reservedBytes };
  }

  resetPeak(): void {
    this.library.check(this.library.native.kva_memory_reset_peak(this.pointer));
  }

  /** allocations past so many bytes fail; 0: no limit */
  limitMemory(bytes: number): void {
    this.library.check(this.library.native.kva_memory_limit(this.pointer, bytes));
  }

  /** hands cached but unused memory back to the device */
  trim(): void {
    this.library.check(this.library.native.kva_memory_trim(this.pointer));
  }

  dispose(): void {
    this.library.check(this.library.native.kva_context_destroy(this.pointer));
  }
}

type HostArray = Float32Array | Int32Array | Uint16Array | Uint8Array;

/** A matrix `[rows, columns]` on a device; a view shares the storage of another tensor. */
export class Tensor {
  /** of a handle that a native call made */
  constructor(
    readonly context: Context,
    readonly pointer: Pointer,
    readonly dtype: Dtype,
    readonly rows: number,
    readonly columns: number,
  ) {}

  static create(
    context: Context,
    dtype: Dtype,
    rows: number,
    columns: number,
    kind: MemoryKind = "activations",
  ): Tensor {
    const { library } = context;
    const pointer = made(library, (out) =>
      library.native.kva_tensor_create(
        context.pointer,
        dtypes.indexOf(dtype),
        memoryKinds.indexOf(kind),
        rows,
        columns,
        out,
      ),
    );
    return new Tensor(context, pointer, dtype, rows, columns);
  }

  /** An fp32 or i32 tensor with these values, converted to dtype. */
  static from(context: Context, values: HostArray, rows: number, columns: number, dtype?: Dtype): Tensor {
    const own: Dtype = values instanceof Int32Array ? "int32" : "float32";
    const tensor = Tensor.create(context, own, rows, columns);
    tensor.upload(values);
    if (dtype === undefined || dtype === own) return tensor;
    const converted = Tensor.create(context, dtype, rows, columns);
    tensor.copyTo(converted);
    tensor.dispose();
    return converted;
  }

  view(row: number, rows: number, column = 0, columns = this.columns): Tensor {
    const { library } = this.context;
    const pointer = made(library, (out) =>
      library.native.kva_tensor_view(this.pointer, row, rows, column, columns, out),
    );
    return new Tensor(this.context, pointer, this.dtype, rows, columns);
  }

  get bytes(): number {
    return this.rows * this.columns * elementBytes[this.dtype];
  }

  upload(values: HostArray): void {
    this.context.library.check(this.context.library.native.kva_tensor_upload(this.pointer, values, values.byteLength));
  }

  /** Waits for the device; the values in the tensor's own type. */
  downloadInto(values: HostArray): void {
    this.context.library.check(
      this.context.library.native.kva_tensor_download(this.pointer, values, values.byteLength),
    );
  }

  /** Waits for the device; converts to fp32. */
  toFloats(): Float32Array {
    const values = new Float32Array(this.rows * this.columns);
    if (this.dtype === "float32") {
      this.downloadInto(values);
      return values;
    }
    const floats = Tensor.create(this.context, "float32", this.rows, this.columns);
    try {
      this.copyTo(floats);
      floats.downloadInto(values);
    } finally {
      floats.dispose();
    }
    return values;
  }

  toInts(): Int32Array {
    const values = new Int32Array(this.rows * this.columns);
    this.downloadInto(values);
    return values;
  }

  copyTo(to: Tensor): void {
    this.context.library.check(this.context.library.native.kva_tensor_copy(this.pointer, to.pointer));
  }

  /** to a tensor of another context of the same backend */
  copyToPeer(to: Tensor): void {
    this.context.library.check(this.context.library.native.kva_tensor_peer_copy(this.pointer, to.pointer));
  }

  /** As copyToPeer, queued on the device of `to` alone: this tensor must be filled, and stay, until the copy has run. */
  pullToPeer(to: Tensor): void {
    this.context.library.check(this.context.library.native.kva_tensor_peer_pull(this.pointer, to.pointer));
  }

  fill(value: number): void {
    this.context.library.check(this.context.library.native.kva_tensor_fill(this.pointer, value));
  }

  randomize(kind: "uniform" | "normal", seed: number, scale: number): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_tensor_random(this.pointer, kind === "uniform" ? 0 : 1, seed, scale));
  }

  isFinite(): boolean {
    const finite = new Int32Array(1);
    this.context.library.check(this.context.library.native.kva_tensor_finite(this.pointer, finite));
    return finite[0] === 1;
  }

  /** fills this tensor from a mapped file; converts */
  load(map: MappedFile, offset: number, fileDtype: Dtype): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_tensor_load(this.pointer, map.pointer, offset, dtypes.indexOf(fileDtype)));
  }

  /** The same from rows of GGUF blocks, by ggml's number of the format; heads: undo llama.cpp's order of rows in each head, 0: keep it. */
  loadGgml(map: MappedFile, offset: number, format: number, heads: number): void {
    const { native } = this.context.library;
    this.context.library.check(native.kva_tensor_load_ggml(this.pointer, map.pointer, offset, format, heads));
  }

  dispose(): void {
    this.context.library.check(this.context.library.native.kva_tensor_destroy(this.pointer));
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A checkpoint file mapped into memory, read by Tensor.load. */
export class MappedFile {
  private constructor(
    private readonly library: Library,
    readonly pointer: Pointer,
    readonly bytes: number,
  ) {}

  static open(context: Context, path: string): MappedFile {
    const { library } = context;
    const bytes = new BigInt64Array(1);
    const pointer = made(library, (out) => library.native.kva_map_open(path, out, bytes));
    return new MappedFile(library, pointer, Number(bytes[0]));
  }

  close(): void {
    this.library.check(this.library.native.kva_map_close(this.pointer));
  }
}

// A block of device memory that several processes read: one makes it, the others open it by its name.
import type { Pointer } from "bun:ffi";
import { type Context, type Dtype, dtypes, type MemoryKind, made, memoryKinds, Tensor } from "./tensor.ts";

const nameBytes = 160;

export class SharedBlock {
  private constructor(
    readonly context: Context,
    private readonly pointer: Pointer,
    readonly bytes: number,
  ) {}

  static create(context: Context, bytes: number, kind: MemoryKind = "weights"): SharedBlock {
    const { library } = context;
    const memory = memoryKinds.indexOf(kind);
    const pointer = made(library, (out) => library.native.kva_shared_create(context.pointer, memory, bytes, out));
    return new SharedBlock(context, pointer, bytes);
  }

  /** A block of another process that lives, on the same device. What it holds must not be written. */
  static open(context: Context, name: string, bytes: number, kind: MemoryKind = "weights"): SharedBlock {
    const { library } = context;
    const memory = memoryKinds.indexOf(kind);
    const pointer = made(library, (out) => library.native.kva_shared_open(context.pointer, name, memory, bytes, out));
    return new SharedBlock(context, pointer, bytes);
  }

  /** Waits for the device: who opens this name finds what was queued before. */
  get name(): string {
    const { library } = this.context;
    const text = new Uint8Array(nameBytes);
    library.check(library.native.kva_shared_name(this.pointer, text, nameBytes));
    return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
  }

  /** offset: bytes, a multiple of 256 */
  tensor(offset: number, dtype: Dtype, rows: number, columns: number): Tensor {
    const { library } = this.context;
    const pointer = made(library, (out) =>
      library.native.kva_shared_tensor(this.pointer, offset, dtypes.indexOf(dtype), rows, columns, out),
    );
    return new Tensor(this.context, pointer, dtype, rows, columns);
  }

  /** frees it where it was made, lets go of it elsewhere; its tensors go before */
  dispose(): void {
    this.context.library.check(this.context.library.native.kva_shared_close(this.pointer));
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

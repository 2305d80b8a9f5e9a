// Finds and opens libkvaccel.so or libkvaccel_cpu.so, checks its ABI version, and turns statuses into errors.
import { dlopen } from "bun:ffi";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type ErrorCode, KvaError, reason } from "./error.ts";
import { symbols } from "./symbols.ts";

export type Backend = "cpu" | "cuda";
/** The version of the header that symbols.ts was written from. */
export const ABI = { major: 1, minor: 11 };
const root = join(import.meta.dir, "..", "..");

/** Where the library of a backend lies: `KVACCEL_LIB`, else `build/` of the package. */
export function libraryPath(backend: Backend): string {
  const override = process.env.KVACCEL_LIB;
  if (override) return override;
  return join(root, "build", backend === "cuda" ? "libkvaccel.so" : "libkvaccel_cpu.so");
}

const codes: Record<number, ErrorCode> = {
  [-2]: "oom",
  [-3]: "device",
  [-4]: "device",
  [-5]: "model",
  [-6]: "model",
  [-8]: "device",
};

/** A failed native call; `status` is one of the KVA_E_* numbers. */
export class NativeError extends KvaError {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(codes[status] ?? "native", message);
    this.name = "NativeError";
  }
}

function open(path: string) {
  return dlopen(path, symbols).symbols;
}
export type Symbols = ReturnType<typeof open>;

/** An open library. One per backend and process. */
export class Library {
  constructor(
    readonly path: string,
    readonly native: Symbols,
  ) {}

  get backend(): Backend {
    return String(this.native.kva_backend_name()) as Backend;
  }

  get buildInfo(): string {
    return String(this.native.kva_build_info());
  }

  /** Throws a NativeError with the library's own text where status is negative. */
  check(status: number): void {
    if (status < 0) this.fail(status);
  }

  private fail(status: number): never {
    const text = String(this.native.kva_last_error() ?? "");
    throw new NativeError(status, text || String(this.native.kva_status_text(status)));
  }

  devices(): DeviceInfo[] {
    const count = new Int32Array(1);
    this.check(this.native.kva_device_count(count));
    return Array.from({ length: count[0] ?? 0 }, (_, index) => this.device(index));
  }

  /** On a GPU the question makes a context on that device, and on no other. */
  device(index: number): DeviceInfo {
    const name = new Uint8Array(256);
    const info = new BigInt64Array(4);
    this.check(this.native.kva_device_info(index, name, name.length, info));
    const [totalBytes = 0, freeBytes = 0, computeCapability = 0, processors = 0] = Array.from(info, Number);
    return { index, name: text(name), totalBytes, freeBytes, computeCapability, processors };
  }

  /** Path of the cuBLAS that was found; "" on the CPU. Throws where it is needed and nowhere. */
  blasPath(): string {
    const path = new Uint8Array(4096);
    this.check(this.native.kva_blas_path(path, path.length));
    return text(path);
  }
}

export interface DeviceInfo {
  index: number;
  name: string;
  totalBytes: number;
  freeBytes: number;
  /** 90 for 9.0; 0 on the CPU */
  computeCapability: number;
  processors: number;
}

function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(bytes.subarray(0, end < 0 ? bytes.length : end));
}

const opened = new Map<string, Library>();

/** Opens the library of a backend; an error says how to build it. */
export function openLibrary(backend: Backend): Library {
  const path = libraryPath(backend);
  const known = opened.get(path);
  if (known) return known;
  if (!existsSync(path)) {
    throw new KvaError("device", `there is no ${backend} library at ${path}: build it with \`make ${backend}\``);
  }
  const library = new Library(path, openChecked(path));
  if (library.backend !== backend) {
    throw new KvaError("device", `${path} is a ${library.backend} library, not a ${backend} one: correct KVACCEL_LIB`);
  }
  opened.set(path, library);
  return library;
}

function openChecked(path: string): Symbols {
  let native: Symbols;
  try {
    native = open(path);
  } catch (cause) {
    throw new KvaError("device", `${path} cannot be opened: ${reason(cause)}; rebuild it with make`, {
      cause,
    });
  }
  const version = native.kva_abi_version();
  const [major, minor] = [version >> 16, version & 0xffff];
  if (major !== ABI.major || minor < ABI.minor) {
    throw new KvaError(
      "device",
      `${path} has ABI version ${major}.${minor}, this runtime needs ${ABI.major}.${ABI.minor} or a later minor: rebuild it with make`,
    );
  }
  return native;
}

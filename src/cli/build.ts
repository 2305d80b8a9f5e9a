// The native libraries, built when they are missing: `make cpu` and, with a GPU and nvcc, `make cuda`; said on stderr.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { KvaError } from "../native/error.ts";
import { type Backend, libraryPath } from "../native/library.ts";
import { tell } from "./output.ts";

const root = join(import.meta.dir, "..", "..");

/** True where the kernel driver shows an NVIDIA device. */
export function gpuPresent(): boolean {
  return existsSync("/dev/nvidiactl") || existsSync("/dev/nvidia0") || existsSync("/dev/dxg");
}

function compilerPresent(): boolean {
  const { CUDA_HOME, CUDA_PATH } = process.env;
  const places = [CUDA_HOME, CUDA_PATH, "/usr/local/cuda"].filter((place) => place !== undefined && place !== "");
  return Bun.which("nvcc") !== null || places.some((place) => existsSync(join(place!, "bin", "nvcc")));
}

/** Builds the CPU library where it is missing, and the CUDA one where it is missing and this machine can use it. */
export async function ensureLibraries(): Promise<void> {
  if (process.env.KVACCEL_LIB) return;
  if (!existsSync(libraryPath("cpu"))) await build("cpu");
  if (!gpuPresent() || existsSync(libraryPath("cuda"))) return;
  if (compilerPresent()) {
    try {
      return await build("cuda");
    } catch (error) {
      tell(`${(error as Error).message}; running on the CPU`);
    }
  } else {
    tell(
      "There is a GPU, but no CUDA compiler to build the library for it: install the CUDA toolkit (12.4 or later, " +
        "nvcc on PATH or under CUDA_HOME), then run make cuda. Running on the CPU.",
    );
  }
}

async function build(backend: Backend): Promise<void> {
  tell(`The ${backend} library is not there yet: running make ${backend}`);
  if (Bun.which("make") === null) {
    throw new KvaError("device", `make ${backend} cannot run: there is no make on PATH (install make and g++)`);
  }
  const make = Bun.spawn(["make", "--no-print-directory", backend], {
    cwd: root,
    stdin: "ignore",
    stdout: 2,
    stderr: 2,
  });
  const code = await make.exited;
  if (code !== 0) throw new KvaError("device", `make ${backend} failed with exit code ${code}: its messages are above`);
}

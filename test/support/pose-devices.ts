// KVACCEL_CPU_DEVICES as the native library reads it: what process.env says after the start reaches child processes only.
import { dlopen, FFIType } from "bun:ffi";
import { afterAll, beforeAll } from "bun:test";

const libc = dlopen(process.platform === "darwin" ? "libSystem.dylib" : "libc.so.6", {
  setenv: { args: [FFIType.cstring, FFIType.cstring, FFIType.i32], returns: FFIType.i32 },
  unsetenv: { args: [FFIType.cstring], returns: FFIType.i32 },
}).symbols;

const name = Buffer.from("KVACCEL_CPU_DEVICES\0");

/** While the tests of a file run, the CPU poses as so many devices, in this process and in its children. */
export function poseDevices(count: number): void {
  const before = process.env.KVACCEL_CPU_DEVICES;
  beforeAll(() => {
    process.env.KVACCEL_CPU_DEVICES = String(count);
    libc.setenv(name, Buffer.from(`${count}\0`), 1);
  });
  afterAll(() => {
    if (before === undefined) {
      delete process.env.KVACCEL_CPU_DEVICES;
      libc.unsetenv(name);
    } else {
      process.env.KVACCEL_CPU_DEVICES = before;
      libc.setenv(name, Buffer.from(`${before}\0`), 1);
    }
  });
}

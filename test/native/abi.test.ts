// The header, the symbol table and the libraries say the same; the binary exports nothing else and spoils no arithmetic.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ABI, libraryPath, openLibrary } from "../../src/native/library.ts";
import { symbols } from "../../src/native/symbols.ts";
import { backends, eachBackend } from "../support/backends.ts";

const header = readFileSync(join(import.meta.dir, "../../cuda/include/kvaccel.h"), "utf8");

/** name -> argument types and result, as bun:ffi names them */
function declared(): Map<string, { args: string[]; returns: string }> {
  const found = new Map<string, { args: string[]; returns: string }>();
  const types: Record<string, string> = {
    int32_t: "i32",
    uint32_t: "u32",
    int64_t: "i64",
    float: "f32",
    "const char*": "cstring",
  };
  for (const [, result, name, list] of header.matchAll(/KVA_API\s+([\w\s*]+?)\s*(kva_\w+)\(([^)]*)\)/g)) {
    const args = list!
      .split(",")
      .map((arg) => arg.trim())
      .filter((arg) => arg !== "void");
    const type = (arg: string) => {
      const bare = arg.replace(/\s*\w+$/, "").trim();
      return types[bare] ?? (bare.endsWith("*") ? "ptr" : `unknown type ${bare}`);
    };
    found.set(name!, { args: args.map(type), returns: types[result!.trim()]! });
  }
  return found;
}

/** Text, from a define like `#define NAME -1`. */
const constant = (name: string) => Number(new RegExp(`#define ${name} (-?\\d+)`).exec(header)?.[1]);

describe("the symbol table", () => {
  test("names the header's functions with their argument types, in its order", () => {
    const table = Object.entries(symbols).map(([name, { args, returns }]) => [name, { args: [...args], returns }]);
    expect(table).toEqual([...declared()] as unknown as typeof table);
    expect(table.length).toBeGreaterThan(60);
  });
});

describe.each([...backends()])("the %s library", (backend) => {
  test("has the ABI version of the header and names its backend", () => {
    const { native } = openLibrary(backend);
    const [, major, minor] = /KVA_ABI_VERSION \(\((\d+) << 16\) \| (\d+)\)/.exec(header)!;
    expect(native.kva_abi_version()).toBe((Number(major) << 16) | Number(minor));
    expect(ABI).toEqual({ major: Number(major), minor: Number(minor) });
    expect(String(native.kva_backend_name())).toBe(backend);
    expect(String(native.kva_build_info())).toMatch(/^[^\n]{10,}$/);
  });

  test("has a text for every status code, and for one that is none", () => {
    const { native } = openLibrary(backend);
    const codes = [...header.matchAll(/#define (KVA_OK|KVA_E_\w+) (-?\d+)/g)].map(([, , code]) => Number(code));
    expect(codes).toHaveLength(11);
    const texts = codes.map((code) => String(native.kva_status_text(code)));
    expect(new Set(texts).size).toBe(codes.length);
    expect(texts.every((text) => text.length > 1 && text !== "unknown status")).toBe(true);
    expect(String(native.kva_status_text(-999))).toBe("unknown status");
  });

  test("has devices with a name and memory; one that is not there is refused", () => {
    const library = openLibrary(backend);
    const devices = library.devices();
    expect(devices.length).toBeGreaterThan(0);
    for (const { name, totalBytes, freeBytes, computeCapability, processors } of devices) {
      expect(name).not.toBe("");
      expect(totalBytes).toBeGreaterThan(2 ** 28);
      expect(freeBytes).toBeLessThanOrEqual(totalBytes);
      expect(processors).toBeGreaterThan(0);
      expect(computeCapability > 0).toBe(backend === "cuda");
    }
    const slot = new BigUint64Array(1);
    expect(library.native.kva_context_create(devices.length, 0, slot)).toBe(constant("KVA_E_NO_DEVICE"));
    expect(String(library.native.kva_last_error())).toMatch(new RegExp(`device is ${devices.length}`));
    expect(slot[0]).toBe(0n);
  });

  test("says where its BLAS is", () => {
    const path = openLibrary(backend).blasPath();
    expect(backend === "cpu" ? path === "" : path.includes("cublas")).toBe(true);
  });
});

describe("libraries on disk", () => {
  // The CUDA library is looked at wherever it was built, GPU or not.
  const built = (["cpu", "cuda"] as const).filter((backend) => existsSync(libraryPath(backend)));

  test.each(built)("the %s library exports the header's functions and nothing else", (backend) => {
    const { stdout, exitCode } = Bun.spawnSync(["nm", "-D", "--defined-only", libraryPath(backend)]);
    expect(exitCode).toBe(0);
    const names = stdout
      .toString()
      .trim()
      .split("\n")
      .map((line) => line.split(/\s+/).at(-1)!.replace(/@.*/, ""));
    const own = names.filter((name) => name.startsWith("kva_"));
    expect(own.sort()).toEqual([...declared().keys()].sort());
    expect(names.filter((name) => !name.startsWith("kva_"))).toEqual([]);
  });

  test.each(built)("subnormal numbers still count after the %s library is opened", (backend) => {
    openLibrary(backend);
    expect(new Float64Array([5e-324])[0]! > 0).toBe(true);
    expect(new Float64Array([2 ** -1000])[0]! * 2 ** -74).toBe(5e-324);
  });
});

eachBackend("subnormal numbers", (backend) => {
  test("are still numbers after ops ran on all threads", () => {
    backend.context.sync();
    expect(new Float64Array([5e-324])[0]! / 1).toBe(5e-324);
  });
});

// Blocks of memory that several processes read: contents, accounts, and what is refused.
import { expect, test } from "bun:test";
import { join } from "node:path";
import { whyNotShared } from "../../src/cli/sharing.ts";
import { NativeError } from "../../src/native/library.ts";
import { Scope } from "../../src/native/scope.ts";
import { SharedBlock } from "../../src/native/shared.ts";
import { eachBackend } from "../support/backends.ts";

const opener = join(import.meta.dir, "..", "support", "open-shared.ts");
const [rows, columns, bytes] = [3, 5, 1000];

function thrown(run: () => unknown): { status: number; message: string } {
  try {
    run();
  } catch (error) {
    if (error instanceof NativeError) return { status: error.status, message: error.message };
    throw error;
  }
  throw new Error("nothing was thrown");
}

function opened(device: string, name: string, ...more: string[]) {
  const words = [device, name, `${bytes}`, `${rows}`, `${columns}`, ...more];
  const { stdout, stderr } = Bun.spawnSync([process.execPath, opener, ...words], { env: process.env });
  expect(stderr.toString()).toBe("");
  return JSON.parse(stdout.toString());
}

eachBackend("a shared block", (backend) => {
  test("is read by another process, which counts it among its memory and reserves none", async () => {
    using scope = new Scope(backend.context);
    const before = backend.context.memory("weights");
    const block = scope.own(SharedBlock.create(backend.context, bytes));
    const tensor = scope.own(block.tensor(256, "bfloat16", rows, columns));
    expect(backend.context.memory("weights").bytes - before.bytes).toBe(bytes);
    expect(backend.context.memory().reservedBytes - before.reservedBytes).toBeGreaterThanOrEqual(bytes);
    expect(await whyNotShared([`${backend.name}:99`])).toMatch(/^context_create: device (is )?99/);
    const reason = await whyNotShared([backend.device]);
    if (reason !== undefined) {
      expect(backend.name).toBe("cuda"); // a system without CUDA IPC says so with the call that failed
      expect(reason).toMatch(/^shared_(name|open): cudaIpc\w+ failed/);
      return;
    }
    tensor.fill(1.5);
    const values = Array.from({ length: rows * columns }, () => 1.5);
    const seen = opened(backend.device, block.name);
    expect(seen).toMatchObject({ values, counted: bytes, allocations: 1 });
    expect(seen.reservedBytes).toBeLessThan(bytes * 100_000); // what a pool has taken for the values, never the block
    if (backend.name !== "cpu") return;
    expect(seen.reservedBytes).toBe(0);
    expect(opened(backend.device, block.name, "write").values[0]).toBe(7); // in a page of its own
    expect(Array.from(tensor.toFloats())).toEqual(values);
    expect(opened(backend.device, block.name.replace(/\d+$/, "1"))).toEqual({
      error: expect.stringMatching(/^shared_open: .* is not what .* names: its maker is gone$/),
      status: -9,
    });
    expect(opened(backend.device, "cpu:999999999:3:1")).toEqual({
      error:
        "shared_open: /proc/999999999/fd/3: No such file or directory: processes cannot share memory here, or the one that made it is gone",
      status: -9,
    });
  });

  test("stays while tensors of it live, and keeps its context", () => {
    const block = SharedBlock.create(backend.context, bytes);
    const tensor = block.tensor(0, "float32", 5, 50);
    expect(thrown(() => block.dispose())).toEqual({
      status: -7,
      message: "shared_close: 1 tensors of the block still live",
    });
    expect(thrown(() => backend.context.dispose()).message).toMatch(/1 tensors, .* and 1 shared blocks/);
    const view = tensor.view(1, 2);
    expect(thrown(() => tensor.dispose()).status).toBe(-7);
    view.dispose();
    tensor.dispose();
    block.dispose();
  });

  test("over the limit, or over what the machine has, is out of memory", () => {
    const { context } = backend;
    context.limitMemory(context.memory().bytes + bytes - 1);
    const limited = thrown(() => SharedBlock.create(context, bytes));
    context.limitMemory(0);
    expect(limited.status).toBe(-2);
    expect(limited.message).toMatch(/1000 bytes are needed for weights, 999 are free/);
    expect(thrown(() => SharedBlock.create(context, 2 ** 50)).status).toBe(-2);
  });

  test("has tensors inside of it only, and names of its own backend only", () => {
    using scope = new Scope(backend.context);
    const block = scope.own(SharedBlock.create(backend.context, bytes));
    scope.own(block.tensor(768, "bfloat16", 1, 116)); // up to the last byte
    const cases: [number, number][] = [
      [768, 117],
      [1024, 1],
      [-256, 1],
      [100, 1],
    ];
    for (const [offset, columns] of cases) {
      const { status, message } = thrown(() => block.tensor(offset, "bfloat16", 1, columns));
      expect([status, message]).toEqual([-1, expect.stringContaining(`at offset ${offset}: it must lie in the 1000`)]);
    }
    expect(thrown(() => SharedBlock.open(backend.context, "none", bytes))).toMatchObject({
      status: -1,
      message: expect.stringMatching(/^shared_open: "none" is not the name of shared memory of/),
    });
  });
});

// Accounts of memory by kind, peaks, limits, and what a context says of things that still live.
import { expect, test } from "bun:test";
import { KvaError } from "../../src/native/error.ts";
import { Graph, Timer } from "../../src/native/graph.ts";
import { Batch, KvCache } from "../../src/native/kv.ts";
import { NativeError } from "../../src/native/library.ts";
import { Scope } from "../../src/native/scope.ts";
import { Context, type MemoryKind, Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";

const shape = {
  layers: 1,
  heads: 2,
  kvHeads: 1,
  headDim: 64,
  dtype: "float32",
  sideArrays: 0,
  unrotatedRows: 0,
} as const;

function thrown(run: () => unknown): NativeError {
  try {
    run();
  } catch (error) {
    if (error instanceof NativeError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

eachBackend("memory", (backend) => {
  test("is counted exactly, by kind and in all", () => {
    using scope = new Scope(backend.context);
    const { context } = backend;
    const kinds: MemoryKind[] = ["weights", "activations", "cache", "scratch"];
    const before = kinds.map((kind) => context.memory(kind).bytes);
    const all = context.memory();
    scope.tensor("float32", 10, 10, "weights");
    scope.tensor("bfloat16", 7, 3, "activations");
    scope.tensor("int32", 1, 5, "cache");
    scope.tensor("float16", 1, 1, "scratch");
    expect(kinds.map((kind, i) => context.memory(kind).bytes - before[i]!)).toEqual([400, 42, 20, 2]);
    expect(context.memory().bytes - all.bytes).toBe(464);
    expect(context.memory().allocations - all.allocations).toBe(4);
    expect(context.memory().reservedBytes).toBeGreaterThanOrEqual(context.memory().bytes);
  });

  test("peaks are remembered until they are reset", () => {
    using scope = new Scope(backend.context);
    const { context } = backend;
    context.resetPeak();
    const { bytes } = context.memory("activations");
    Tensor.create(context, "float32", 1000, 1000).dispose();
    scope.tensor("float32", 10, 10);
    expect(context.memory("activations").peakBytes).toBe(bytes + 4_000_000);
    expect(context.memory().peakBytes).toBeGreaterThanOrEqual(4_000_000);
    context.resetPeak();
    expect(context.memory("activations").peakBytes).toBe(bytes + 400);
  });

  test("a view takes none, and its tensor cannot go before it", () => {
    using scope = new Scope(backend.context);
    const { context } = backend;
    const tensor = scope.tensor("float32", 8, 8);
    const { bytes } = context.memory();
    const view = tensor.view(2, 3);
    expect(context.memory().bytes).toBe(bytes);
    const error = thrown(() => tensor.dispose());
    expect(error.status).toBe(-7);
    expect(error.message).toMatch(/1 views? of the tensor/);
    view.dispose();
  });

  test("past the limit an allocation fails with needed, free and limit in bytes, and nothing changes", () => {
    using scope = new Scope(backend.context);
    const { context } = backend;
    const { bytes, allocations } = context.memory();
    const limit = bytes + 10_000;
    context.limitMemory(limit);
    try {
      scope.tensor("float32", 10, 100);
      const error = thrown(() => Tensor.create(context, "float32", 20, 100));
      expect(error.status).toBe(-2);
      expect(error.code).toBe("oom");
      for (const figure of [8000, 6000, limit]) expect(error.message).toMatch(new RegExp(`\\b${figure}\\b`));
      expect(context.memory().allocations).toBe(allocations + 1);
      const cache = scope.own(KvCache.create(context, shape));
      expect(thrown(() => cache.reserve(0, 1000)).code).toBe("oom");
      expect(cache.info().allocatedBytes).toBe(0);
      cache.reserve(0, 2);
    } finally {
      context.limitMemory(0);
    }
    scope.tensor("float32", 20, 100);
  });

  test("more than the machine has is out of memory too, not a crash", () => {
    const error = thrown(() => Tensor.create(backend.context, "float32", 2 ** 31 - 1, 2 ** 31 - 1));
    expect(error.code).toBe("oom");
    expect(error.message).toMatch(/needed/);
  });
});

eachBackend("a context", (backend) => {
  test("refuses to go while things made from it live, and counts each kind", () => {
    const context = Context.open(backend.device);
    const tensor = Tensor.create(context, "float32", 2, 2);
    const view = tensor.view(0, 1);
    const cache = KvCache.create(context, shape);
    const batch = Batch.create(context, 1);
    const timer = Timer.create(context, 1);
    tensor.fill(0);
    const graph = Graph.capture(context, () => tensor.fill(1));
    const error = thrown(() => context.dispose());
    expect(error.status).toBe(-7);
    expect(error.message).toMatch(/2 tensors, 1 caches?, 1 batch(es)?, 1 graphs?, 1 timers? and 0 shared blocks/);
    for (const thing of [view, tensor, batch, cache, timer, graph]) thing.dispose();
    context.dispose();
  });

  test("is opened by a device's name only", () => {
    for (const name of ["gpu", "cpu:", "cuda:-1", ""]) expect(() => Context.open(name)).toThrow(KvaError);
    expect(() => Context.open(`${backend.name}:999`)).toThrow(/999/);
  });

  test("two contexts keep apart accounts and do not take each other's tensors", () => {
    using scope = new Scope(backend.context);
    const other = Context.open(backend.device);
    try {
      using there = new Scope(other);
      const { bytes } = backend.context.memory();
      const far = there.tensor("float32", 4, 4);
      expect(backend.context.memory().bytes).toBe(bytes);
      const near = scope.tensor("float32", 4, 4);
      expect(() => far.copyTo(near)).toThrow(/another context/);
    } finally {
      other.dispose();
    }
  });
});

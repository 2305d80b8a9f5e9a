// Wrong calls of every native function: a negative status and a sentence that names the function and the offending values.

import type { Pointer } from "bun:ffi";
import { expect, test } from "bun:test";
import { Scope } from "../../src/native/scope.ts";
import { symbols } from "../../src/native/symbols.ts";
import { Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { wrongBlocks } from "../support/wrong-blocks.ts";
import { wrongCache } from "../support/wrong-cache.ts";
import { fixture, NULL, type Wrong } from "../support/wrong-calls.ts";
import { wrongDecoder } from "../support/wrong-decoder.ts";
import { wrongEvict } from "../support/wrong-evict.ts";
import { wrongHeads } from "../support/wrong-heads.ts";
import { wrongPages } from "../support/wrong-pages.ts";
import { wrongScores } from "../support/wrong-scores.ts";
import { wrongSegments } from "../support/wrong-segments.ts";
import { wrongTensors } from "../support/wrong-tensors.ts";

const ARGUMENT = -1;
const NO_DEVICE = -4;

const wrong: Wrong[] = [
  ...wrongTensors,
  ...wrongDecoder,
  ...wrongCache,
  ...wrongScores,
  ...wrongEvict,
  ...wrongHeads,
  ...wrongSegments,
  ...wrongBlocks,
  ...wrongPages,
];

const functionsOf = (entries: readonly Wrong[]) => new Set(entries.map(([name]) => `kva_${name.split(":")[0]}`));

eachBackend("wrong arguments", (backend) => {
  for (const [name, call, text] of wrong) {
    test(name, () => {
      using scope = new Scope(backend.context);
      const x = fixture(scope, backend.context);
      const status = call(x);
      const said = String(x.native.kva_last_error());
      expect(status).toBe(name.startsWith("device_info") ? NO_DEVICE : ARGUMENT);
      expect(said).toMatch(text);
      expect(said.startsWith(`${name.split(":")[0]}: `)).toBe(true);
      expect(x.slot[0]).toBe(0n);
    });
  }

  test("tensor_load: integers, and a file that holds too little", () => {
    using scope = new Scope(backend.context);
    const { native, map, t, f } = fixture(scope, backend.context);
    const file = map();
    expect(native.kva_tensor_load(t("int32", 1, 1), file.pointer, 0, 0)).toBe(ARGUMENT);
    expect(native.kva_tensor_load(f(1, 1), file.pointer, 0, 3)).toBe(ARGUMENT);
    expect(native.kva_tensor_load(f(10_000, 1000), file.pointer, 0, 0)).toBe(-5);
    expect(String(native.kva_last_error())).toMatch(/^tensor_load: .*40000000/);
    file.close();
  });

  test("tensor_load_ggml: integers, and a format that is none", () => {
    using scope = new Scope(backend.context);
    const { native, map, t, f } = fixture(scope, backend.context);
    const file = map();
    expect(native.kva_tensor_load_ggml(t("int32", 1, 32), file.pointer, 0, 8, 0)).toBe(ARGUMENT);
    expect(native.kva_tensor_load_ggml(f(1, 32), file.pointer, 0, -1, 0)).toBe(ARGUMENT);
    expect(native.kva_tensor_load_ggml(null, file.pointer, 0, 8, 0)).toBe(ARGUMENT);
    file.close();
  });

  test("kv_keep: indices out of order or of range are refused, where the backend can see them", () => {
    using scope = new Scope(backend.context);
    const { native, kv, f } = fixture(scope, backend.context);
    expect(native.kva_rope_append(kv, 0, 0, f(8, 512), f(8, 256), f(1, 32), 0, 1)).toBe(0);
    const lists: [number[], RegExp][] = [
      [[3, 3, 4, 5], /index\[0, 1\] is 3/],
      [[1, 2, 6, 5], /index\[1, 1\] is 5/],
      [[-1, 2, 3, 4], /index\[0, 0\] is -1/],
      [[1, 2, 3, 8], /index\[1, 1\] is 8/],
    ];
    for (const [list, text] of lists) {
      const index = scope.own(Tensor.from(backend.context, Int32Array.from(list), 2, 2));
      const status = native.kva_kv_keep(kv, 0, index.pointer, NULL, 0, 0, 0);
      if (backend.name === "cpu") {
        expect(status).toBe(ARGUMENT);
        expect(String(native.kva_last_error())).toMatch(text);
        const lengths = new Int32Array(2);
        expect(native.kva_kv_lengths(kv, 0, lengths)).toBe(0);
        expect(Array.from(lengths)).toEqual([8, 8]);
      } else {
        const copy = new BigUint64Array(1);
        expect(status).toBe(0); // the device takes the nearest rows inside: nothing outside of the cache is read
        expect(native.kva_kv_fork(kv, copy)).toBe(0);
        expect(native.kva_kv_destroy(Number(copy[0]) as Pointer)).toBe(0);
        return;
      }
    }
  });

  test("a null handle is refused with a sentence by every function, and by none that destroys", () => {
    const { native } = backend.context.library;
    const call = native as unknown as Record<string, (...args: unknown[]) => number>;
    for (const [name, { args, returns }] of Object.entries(symbols)) {
      if (returns !== "i32" || !(args as readonly string[]).some((type) => type === "ptr" || type === "cstring"))
        continue;
      const status = call[name]!(
        ...args.map((type) => (type === "i64" ? 0n : type === "ptr" || type === "cstring" ? null : 0)),
      );
      if (/_(destroy|close)$/.test(name)) {
        expect([name, status]).toEqual([name, 0]);
        continue;
      }
      expect([name, status]).toEqual([name, ARGUMENT]);
      expect(String(native.kva_last_error())).toMatch(
        new RegExp(`^${name.replace("kva_", "")}: .*(is null|must be at least)`),
      );
    }
  });

  test("a null among the other pointers is refused too", () => {
    using scope = new Scope(backend.context);
    const { native, c, f, t, kv, batch, timer } = fixture(scope, backend.context);
    const calls = {
      memory: native.kva_memory(c, -1, NULL),
      tensor_create: native.kva_tensor_create(c, 0, 0, 1, 1, NULL),
      tensor_upload: native.kva_tensor_upload(f(1, 1), NULL, 4),
      tensor_finite: native.kva_tensor_finite(f(1, 1), NULL),
      linear: native.kva_linear(f(1, 1), f(1, 1), NULL, 0, NULL),
      rope_append: native.kva_rope_append(kv, 0, 0, f(1, 512), f(1, 256), NULL, 0, 1),
      attention_decode: native.kva_attention_decode(batch, 0, f(1, 256), 1, 0, NULL, NULL),
      sample: native.kva_sample(batch, NULL, 0, 0, 1, 0, t("int32", 1, 1)),
      kv_create: native.kva_kv_create(c, 1, 1, 1, 64, 0, 0, 0, NULL),
      kv_info: native.kva_kv_info(kv, NULL),
      kv_positions: native.kva_kv_positions(kv, 0, 0, NULL, 8),
      kv_fork: native.kva_kv_fork(kv, NULL),
      batch_set: native.kva_batch_set(batch, 1, NULL),
      batch_reserve: native.kva_batch_reserve(batch, 1, NULL),
      window_stats: native.kva_window_stats(kv, 0, f(1, 256), 1, 0, NULL, NULL, NULL, NULL),
      topk: native.kva_topk(f(1, 1), 1, NULL),
      timer_read: native.kva_timer_read(timer, 0, 1, NULL),
    };
    for (const [name, status] of Object.entries(calls)) expect([name, status]).toEqual([name, ARGUMENT]);
  });

  test("a tensor of another type or context is refused by the ops that take several", () => {
    using scope = new Scope(backend.context);
    const { native, f, t } = fixture(scope, backend.context);
    expect(native.kva_add(f(1, 4), t("float16", 1, 4), f(1, 4))).toBe(ARGUMENT);
    expect(String(native.kva_last_error())).toMatch(/f16/);
    expect(native.kva_pool(t("float16", 1, 4), 0, 1, t("float16", 1, 4))).toBe(ARGUMENT);
    expect(native.kva_combine(1, t("int32", 1, 4), 1, NULL, f(1, 4))).toBe(ARGUMENT);
    expect(native.kva_topk(t("bfloat16", 1, 4), 1, t("int32", 1, 1))).toBe(ARGUMENT);
  });
});

test("the table has a wrong call of every function that takes values", () => {
  const covered = functionsOf(wrong);
  const elsewhere = new Set([
    "kva_tensor_load",
    "kva_tensor_load_ggml",
    "kva_device_count",
    "kva_blas_path",
    "kva_map_open",
  ]);
  const valueTypes = ["i32", "u32", "i64", "f32"];
  const missing = Object.entries(symbols)
    .filter(
      ([name, { args, returns }]) =>
        returns === "i32" && !covered.has(name) && !elsewhere.has(name) && args.some((a) => valueTypes.includes(a)),
    )
    .map(([name]) => name);
  expect(missing).toEqual([]);
});

// Decoder ops against float64: embed, rmsnorm, linear, silu_mul, add.
import { describe, expect, test } from "bun:test";
import * as ops from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { eachBackend } from "../support/backends.ts";
import { input, output, put } from "../support/guarded.ts";
import { Random } from "../support/random.ts";
import * as reference from "../support/reference.ts";
import { floatDtypes } from "../support/tolerance.ts";

const eps = Math.fround(1e-5);
/** columns beside a view: rows aligned to 16 bytes, and not */
const sides = [8, 3];

eachBackend("embed", (backend) => {
  test.each([...floatDtypes])("takes rows of a %s table, zeros for ids outside of it", (dtype) => {
    using scope = new Scope(backend.context);
    const random = new Random(1);
    for (const width of [1, 17, 64, 128]) {
      const table = input(scope, dtype, 111, width, random.normals(111 * width), 3);
      const ids = Int32Array.of(0, 110, 5, 5, -1, 111, 2 ** 31 - 1, 7);
      const out = output(scope, dtype, ids.length, width);
      ops.embed(table.tensor, scope.ints(ids), out.tensor);
      expect(Array.from(out.read())).toEqual(Array.from(reference.embed(table.values, ids).data));
    }
  });
});

eachBackend("rmsnorm", (backend) => {
  for (const dtype of floatDtypes) {
    test(`equals the formula in ${dtype}, for whole rows and for groups`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(2);
      for (const rows of [1, 7, 16, 17, 111]) {
        for (const [width, groups] of [
          [80, 1],
          [64, 7],
          [128, 4],
          [257, 1],
        ] as const) {
          for (const beside of sides) {
            const x = input(scope, dtype, rows, groups * width, random.normals(rows * groups * width, 3), beside);
            const weight = input(scope, dtype, 1, width, random.normals(width));
            const out = output(scope, dtype, rows, groups * width, beside);
            ops.rmsnorm(x.tensor, weight.tensor, eps, out.tensor);
            expect(out.read()).toMatchReference(
              reference.both(dtype, (a) => reference.rmsnorm(x.values, weight.values, eps, a)),
            );
          }
        }
      }
    });
  }

  test("may write over its input", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "bfloat16", 17, 192, new Random(3).normals(17 * 192));
    const weight = input(scope, "bfloat16", 1, 64, new Random(4).normals(64));
    ops.rmsnorm(x.tensor, weight.tensor, eps, x.tensor);
    expect(x.tensor.toFloats()).toMatchReference(
      reference.both("bfloat16", (a) => reference.rmsnorm(x.values, weight.values, eps, a)),
    );
  });

  test("a row of zeros stays zero, and eps counts", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "float32", 2, 64, [...new Array(64).fill(0), ...new Array(64).fill(1e-3)]);
    const weight = input(scope, "float32", 1, 64, new Array(64).fill(1));
    const out = output(scope, "float32", 2, 64);
    ops.rmsnorm(x.tensor, weight.tensor, 1e-6, out.tensor);
    const values = out.read();
    expect(values.subarray(0, 64).every((value) => value === 0)).toBe(true);
    expect(values[64]).toBeCloseTo(Math.SQRT1_2, 5);
  });
});

eachBackend("linear", (backend) => {
  interface Case {
    rows: number;
    inner: number;
    outputs: number;
    bias: boolean;
    accumulate: boolean;
    wide: boolean;
    beside: number;
  }
  const cases: Case[] = [
    { rows: 1, inner: 64, outputs: 111, bias: false, accumulate: false, wide: false, beside: 8 },
    { rows: 7, inner: 80, outputs: 17, bias: true, accumulate: false, wide: false, beside: 8 },
    { rows: 16, inner: 128, outputs: 64, bias: false, accumulate: true, wide: false, beside: 8 },
    { rows: 17, inner: 257, outputs: 33, bias: true, accumulate: true, wide: false, beside: 3 },
    { rows: 111, inner: 192, outputs: 130, bias: false, accumulate: false, wide: true, beside: 8 },
    { rows: 5, inner: 1, outputs: 1, bias: true, accumulate: true, wide: true, beside: 3 },
    { rows: 3, inner: 1000, outputs: 9, bias: true, accumulate: false, wide: true, beside: 8 },
    { rows: 2, inner: 192, outputs: 8500, bias: true, accumulate: true, wide: false, beside: 8 },
    { rows: 11, inner: 1088, outputs: 70, bias: false, accumulate: true, wide: true, beside: 8 },
    { rows: 32, inner: 576, outputs: 100, bias: true, accumulate: false, wide: false, beside: 8 },
  ];
  for (const dtype of floatDtypes) {
    test(`equals x * weight^T in ${dtype}, with bias, accumulated, and into fp32`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(5);
      for (const { rows, inner, outputs, bias, accumulate, wide, beside } of cases) {
        const x = input(scope, dtype, rows, inner, random.normals(rows * inner), beside);
        const weight = input(scope, dtype, outputs, inner, random.normals(outputs * inner, 0.1), beside);
        const b = bias ? input(scope, dtype, 1, outputs, random.normals(outputs)) : null;
        const type = wide ? "float32" : dtype;
        const out = output(scope, type, rows, outputs, beside);
        const before = accumulate ? input(scope, type, rows, outputs, random.normals(rows * outputs)) : null;
        if (before) put(backend.context, out.tensor, before.values.data);
        ops.linear(x.tensor, weight.tensor, b?.tensor ?? null, out.tensor, accumulate);
        expect(out.read()).toMatchReference(
          reference.both(type, (a) =>
            reference.linear(x.values, weight.values, b?.values ?? null, before?.values ?? null, a),
          ),
        );
      }
    });
  }

  for (const dtype of floatDtypes) {
    test(`with silu_mul behind it equals one after the other in ${dtype}`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(8);
      for (const [rows, inner, width, beside, biased] of [
        [1, 256, 64, 0, false],
        [3, 100, 13, 3, true],
        [16, 512, 40, 8, true],
        [17, 64, 24, 0, false],
        [2, 640, 2200, 0, true],
      ] as const) {
        const x = input(scope, dtype, rows, inner, random.normals(rows * inner), beside);
        const weight = input(scope, dtype, 2 * width, inner, random.normals(2 * width * inner, 0.1), beside);
        const bias = biased ? input(scope, dtype, 1, 2 * width, random.normals(2 * width)) : null;
        const gateUp = scope.tensor(dtype, rows, 2 * width);
        const out = output(scope, dtype, rows, width, beside);
        ops.linearSiluMul(x.tensor, weight.tensor, bias?.tensor ?? null, gateUp, out.tensor);
        expect(out.read()).toMatchReference(
          reference.both(dtype, (a) =>
            reference.siluMul(reference.linear(x.values, weight.values, bias?.values ?? null, null, a), a),
          ),
        );
      }
    });
  }

  describe("a row's bits", () => {
    const few = [1, 2, 3, 7, 8, 9, 15, 16];
    for (const dtype of floatDtypes) {
      test(`do not depend on the number of rows beside it (${dtype})`, () => {
        using scope = new Scope(backend.context);
        const random = new Random(6);
        const streams =
          dtype !== "float32" && backend.context.library.device(backend.context.device).computeCapability >= 90;
        for (const [inner, outputs] of [
          [256, 130],
          [100, 17],
        ] as const) {
          const more = backend.name === "cpu" ? [17, 31, 64, 111] : streams && inner % 64 === 0 ? [17, 24, 32] : [];
          const counts = [...few, ...more];
          const most = Math.max(...counts);
          const x = input(scope, dtype, most, inner, random.normals(most * inner));
          const weight = input(scope, dtype, outputs, inner, random.normals(outputs * inner));
          const rowsOf = (from: number, rows: number) => {
            const out = output(scope, "float32", rows, outputs);
            ops.linear(scope.view(x.tensor, from, rows), weight.tensor, null, out.tensor);
            return out.read();
          };
          const alone = Array.from({ length: most }, (_, r) => Array.from(rowsOf(r, 1)));
          for (const count of counts) {
            expect(Array.from(rowsOf(0, count))).toEqual(alone.slice(0, count).flat());
          }
        }
      });
    }
  });
});

eachBackend("pointwise ops", (backend) => {
  for (const dtype of floatDtypes) {
    test(`silu_mul and add equal their formulas in ${dtype}`, () => {
      using scope = new Scope(backend.context);
      const random = new Random(7);
      for (const rows of [1, 7, 17, 111]) {
        for (const [width, beside] of [
          [1, 3],
          [80, 8],
          [129, 3],
        ] as const) {
          const x = input(scope, dtype, rows, 2 * width, random.normals(rows * 2 * width, 4), beside);
          const y = input(scope, dtype, rows, 2 * width, random.normals(rows * 2 * width), beside);
          const gated = output(scope, dtype, rows, width, beside);
          ops.siluMul(x.tensor, gated.tensor);
          expect(gated.read()).toMatchReference(reference.both(dtype, (a) => reference.siluMul(x.values, a)));
          const sum = output(scope, dtype, rows, 2 * width, beside);
          ops.add(x.tensor, y.tensor, sum.tensor);
          expect(sum.read()).toMatchReference(reference.both(dtype, (a) => reference.add(x.values, y.values, a)));
        }
      }
    });
  }

  test("silu is right where exp overflows or vanishes", () => {
    using scope = new Scope(backend.context);
    const x = input(scope, "float32", 4, 2, [-200, 1, 200, 1, -88.5, 3, 0, 1]);
    const out = output(scope, "float32", 4, 1);
    ops.siluMul(x.tensor, out.tensor);
    const [low, high, small, zero] = out.read();
    expect([high, zero]).toEqual([200, 0]);
    expect(Math.abs(low!)).toBeLessThan(1e-30);
    expect(Math.abs(small!)).toBeLessThan(1e-30);
  });

  test("add may write over either input", () => {
    using scope = new Scope(backend.context);
    const [a, b] = [new Random(8).normals(7 * 16), new Random(9).normals(7 * 16)];
    for (const over of ["x", "y"] as const) {
      const x = input(scope, "float16", 7, 16, a);
      const y = input(scope, "float16", 7, 16, b);
      const out = over === "x" ? x.tensor : y.tensor;
      ops.add(x.tensor, y.tensor, out);
      expect(out.toFloats()).toMatchReference(reference.both("float16", (p) => reference.add(x.values, y.values, p)));
    }
  });
});

// Loaded before every test file: the time limit, the matchers, and the last line of a run.
import { afterAll, expect, setDefaultTimeout } from "bun:test";
import { report } from "./support/backends.ts";
import { type Comparison, compare, describeComparison } from "./support/tolerance.ts";

setDefaultTimeout(1000 * Number(process.env.KVACCEL_TEST_SECONDS ?? 60));

interface OwnMatchers {
  /** relative error against `reference` at most twice that of `plain`, or the floor of the output's type */
  toMatchReference(comparison: Comparison): void;
}
declare module "bun:test" {
  interface Matchers<T> extends OwnMatchers {}
}

expect.extend({
  toMatchReference(received: unknown, comparison: Comparison) {
    const result = compare(received as ArrayLike<number>, comparison);
    return { pass: result.error <= result.allowed, message: () => describeComparison(result) };
  },
});

afterAll(() => {
  const line = report();
  if (line) console.error(line);
});

// What the quick benchmark's results.json must say: every plugin ran, cache bytes are the expected ones within 2 %, and accuracy has its order.
//   bun scripts/quick-check.ts results/tiny-ruler_quick/results.json
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Cells } from "../src/bench/cells.ts";

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error("usage: bun scripts/quick-check.ts RESULTS.json");
const { cells } = JSON.parse(readFileSync(file, "utf8")) as { cells: Pick<Cells, "accuracy" | "cost"> };

const faults: string[] = [];
const methods = new Set(cells.cost.map(({ method }) => method));
const plugins = readdirSync(join(import.meta.dir, "..", "plugins")).filter((name) => name.endsWith(".ts")).length;
if (methods.size !== plugins) faults.push(`${methods.size} methods ran, there are ${plugins} plugins`);

for (const { method, length, cacheBytes, expectedCacheBytes } of cells.cost) {
  const apart = Math.abs((cacheBytes ?? Number.NaN) / (expectedCacheBytes ?? Number.NaN) - 1);
  if (!(apart <= 0.02))
    faults.push(`${method}, ${length}: ${cacheBytes} bytes of cache, ${expectedCacheBytes} were expected`);
}

/** Mean over the lengths. */
function score(method: string): number {
  const own = cells.accuracy.filter((cell) => cell.method === method);
  return own.reduce((sum, cell) => sum + (cell.score ?? Number.NaN), 0) / own.length;
}
const order = [["Full"], ["ThinK", "KIVI"], ["SnapKV"], ["H2O", "StreamingLLM"]];
order.slice(1).forEach((lower, i) => {
  const apart = i === 0 ? 0 : 10;
  for (const better of order[i]!)
    for (const worse of lower)
      if (!(score(better) - score(worse) >= apart))
        faults.push(
          `${better} has ${score(better)} points and ${worse} ${score(worse)}: at least ${apart} must lie between`,
        );
});

for (const fault of faults) console.error(fault);
if (faults.length > 0) process.exit(1);
console.log(`${methods.size} methods: cache bytes and order as expected`);

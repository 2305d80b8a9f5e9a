// The table "Models" of docs/fidelity.md: every family and RoPE type against transformers. `bun scripts/fidelity-models.ts [cpu|cuda:0]`
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../src/engine/engine.ts";
import { bundledModel } from "../src/model/locate.ts";
import { bundledCase, distance, type FamilyCase, ropeCases, writeCase } from "../test/support/family-cases.ts";
import { sayAll } from "../test/support/logits.ts";

const device = process.argv[2] ?? "cpu";
const common = { device, prefillChunk: 4096, threads: 0, memoryLimit: 0, graphs: true };

async function measure(golden: FamilyCase, dir: string, dtype: "float32" | "bfloat16") {
  const engine = Engine.load({ ...common, model: { dir }, dtype });
  try {
    return distance(golden, await sayAll(engine, golden.ids));
  } finally {
    engine.dispose();
  }
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

async function line(model: string, rope: string, golden: FamilyCase, dir: string): Promise<void> {
  const exact = await measure(golden, dir, "float32");
  const rounded = await measure(golden, dir, "bfloat16");
  const cells = [
    ...[model, rope, exact.max.toExponential(1), rounded.mean.toFixed(4), golden.bf16.meanAbs.toFixed(4)],
    ...[rounded.clearAgreement, rounded.agreement, golden.bf16.agreement].map(percent),
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

const scratch = mkdtempSync(join(tmpdir(), "kvaccel-fidelity-"));
try {
  console.log(
    "| model | RoPE | fp32, max | bf16, mean | transformers' bf16 | clear tokens | all tokens | transformers' |",
  );
  console.log(`|---|---${"|--:".repeat(6)}|`);
  for (const golden of ropeCases) await line(golden.family, golden.rope, golden, writeCase(scratch, golden));
  await line("tiny-ruler", "default", bundledCase, bundledModel);
} finally {
  rmSync(scratch, { recursive: true });
}

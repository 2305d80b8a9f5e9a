// Every family under every RoPE type against transformers, in fp32 and in bf16 (golden files: scripts/golden/families.py).
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundledModel } from "../../src/model/locate.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, methodOf, openEngine, request } from "../support/engine.ts";
import { bundledCase, distance, type FamilyCase, familyNames, ropeCases, writeCase } from "../support/family-cases.ts";
import { sayAll } from "../support/logits.ts";

const scratch = mkdtempSync(join(tmpdir(), "kvaccel-families-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const cases = ropeCases.map((golden) => ({ ...golden, dir: writeCase(scratch, golden) }));
const full = await methodOf("Full");

test("the golden files hold every family and every RoPE type", () => {
  const all = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];
  expect(familyNames).toEqual(["glm", "glm4", "llama", "mistral", "mistral-sliding", "phi3", "qwen2", "qwen3"]);
  for (const family of familyNames) {
    const ropes = cases.filter((each) => each.family === family).map(({ rope }) => rope);
    expect(ropes).toEqual(family === "phi3" ? ["default", "longrope"] : all);
  }
});

eachBackend("families", (backend) => {
  const tolerance = backend.name === "cpu" ? 1e-4 : 1e-3;

  async function expectExact(golden: FamilyCase, dir: string) {
    const engine = openEngine(backend, { dir }, { prefillChunk: 256 });
    try {
      const { max } = distance(golden, await sayAll(engine, golden.ids));
      expect(max).toBeLessThan(tolerance);
      const { prompt, ids } = golden.greedy;
      const [done] = await generate(engine, full, [request(golden.ids.slice(0, prompt), { maxNewTokens: ids.length })]);
      expect(done!.ids).toEqual(ids);
    } finally {
      engine.dispose();
    }
  }

  async function rounded(golden: FamilyCase, dir: string) {
    const engine = openEngine(backend, { dir }, { dtype: "bfloat16" });
    try {
      return distance(golden, await sayAll(engine, golden.ids));
    } finally {
      engine.dispose();
    }
  }

  test.each(cases)("$family, $rope RoPE: fp32 gives transformers' log-probabilities and greedy tokens", (golden) =>
    expectExact(golden, golden.dir),
  );

  test.each(cases)("$family, $rope RoPE: bf16 is nearer to fp32 than transformers' bf16", async (golden) => {
    const { mean, clearAgreement } = await rounded(golden, golden.dir);
    expect(mean).toBeLessThan(golden.bf16.meanAbs);
    expect(clearAgreement).toBeGreaterThanOrEqual(0.99);
  });

  test("the bundled, trained model: fp32 exact, and in bf16 the same likeliest token at 99 % of all positions", async () => {
    await expectExact(bundledCase, bundledModel);
    const { mean, agreement } = await rounded(bundledCase, bundledModel);
    expect(mean).toBeLessThan(bundledCase.bf16.meanAbs);
    expect(agreement).toBeGreaterThanOrEqual(0.99);
  });
});

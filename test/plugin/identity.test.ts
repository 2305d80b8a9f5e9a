// Every method that evicts, on every family: a large budget is Full, bit for bit; and what a finished request says it kept is what it held.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Engine } from "../../src/engine/engine.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { fields } from "../../src/plugin/params.ts";
import { eachBackend } from "../support/backends.ts";
import { generate, openEngine, randomIds, request, trace, traceOf } from "../support/engine.ts";
import { familyNames, ropeCases, writeCase } from "../support/family-cases.ts";

const registry = await loadPlugins([ownPlugins]);
const methodOf = (text: string) => parseMethods([text], [], registry)[0]!;

/** `SnapKV[capacity=24,window=8]` of every method that evicts, with what its other forms need. */
function texts(capacity: number): string[] {
  const plain = registry.plugins
    .filter(({ plugin }) => plugin.category === "eviction")
    .map(({ plugin }) => {
      const keys = new Set(fields(plugin).map(({ key }) => key));
      const own = Object.entries({ capacity, window: 8, skipLayers: "[]" }).filter(([key]) => keys.has(key));
      return `${plugin.name}[${own.map(([key, value]) => `${key}=${value}`).join(",")}]`;
    });
  return [
    ...plain,
    `H2O[capacity=${capacity},positions=cache]`,
    `CakeKV@official[capacity=${capacity},window=8]`,
    `CaM[capacity=${capacity},compat=helm]`,
    `SnapKV[capacity=${capacity},window=8,decodeInterval=2]`,
    `L2Compress[capacity=${capacity},skipLayers=[],decode=true,interval=2]`,
  ];
}

eachBackend("a large budget", (backend) => {
  test.each(familyNames)("%s: the rows and logits of full attention, alone and in a batch", async (family) => {
    const scratch = mkdtempSync(join(tmpdir(), "kvaccel-identity-"));
    const engine = openEngine(backend, { dir: writeCase(scratch, ropeCases.find((one) => one.family === family)!) });
    try {
      const most = engine.decoder.config.vocabSize;
      const inputs = [21, 9].map((rows, s) => {
        const { ids, promptTokens } = traceOf(rows, 4, s);
        return { ids: ids.map((id) => id % most), promptTokens };
      });
      const full = await trace(engine, methodOf("Full"), inputs);
      for (const text of texts(500)) expect(await trace(engine, methodOf(text), inputs)).toEqual(full);
      const [alone] = await trace(engine, methodOf("Full"), inputs.slice(0, 1));
      const exactly = texts(25).filter((text) => !text.includes("helm")); // it makes room for the next token beforehand
      for (const text of exactly) expect(await trace(engine, methodOf(text), inputs.slice(0, 1))).toEqual([alone!]);
    } finally {
      engine.dispose();
      rmSync(scratch, { recursive: true });
    }
  });
});

eachBackend("kept positions", (backend) => {
  let engine: Engine;
  beforeAll(() => {
    engine = openEngine(backend);
  });
  afterAll(() => engine.dispose());

  describe.each(texts(20))("%s", (text) => {
    test("of a finished request are those held after the prompt and after its last token", async () => {
      const method = methodOf(text);
      const ids = randomIds(60, 31);
      const [done] = await generate(engine, method, [request(ids, { id: "r", maxNewTokens: 9 })]);
      const input = { ids: [...ids, ...done!.ids.slice(0, -1)], promptTokens: 60 };
      const [traced] = await trace(engine, method, [input]);
      expect(done!.kept!).toEqual(traced!.kept[0]!);
      expect(done!.keptAtEnd!).toEqual(traced!.kept.at(-1)!);
    });
  });

  test("CaM that never merges is StreamingLLM with half of its rows as sinks, bit for bit", async () => {
    const input = traceOf(50, 12, 32);
    const [never] = await trace(engine, methodOf("CaM[capacity=20,decision=never]"), [input]);
    const [streaming] = await trace(engine, methodOf("StreamingLLM[capacity=20,sinks=10,positions=original]"), [input]);
    expect(never!.kept).toEqual(streaming!.kept);
    expect(never!.logits).toEqual(streaming!.logits);
  });

  test("cache positions beside KIVI or ThinK, whose rows cannot turn, are refused", () => {
    expect(methodOf("CakeKV@official+KIVI").parts[0]!.params).toMatchObject({ allocation: "official", decode: "none" });
    for (const other of ["KIVI", "ThinK"]) {
      const { parts } = methodOf(`H2O[capacity=20]+${other}`);
      expect(parts[0]!.params).toMatchObject({ positions: "original", rolling: other === "KIVI" });
      const both = () => methodOf(`H2O[capacity=20,positions=cache]+${other}`);
      expect(both).toThrow(/h2o.positions: must be original beside/);
    }
  });
});

// Weights on the device: every tensor in its place, whatever the file's type; wrong shapes, names and numbers are refused.
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FloatDtype, readConfig } from "../../src/model/config.ts";
import { planWeights, targets, weightBytes } from "../../src/model/plan.ts";
import { readCheckpoint, type StoredTensor } from "../../src/model/safetensors.ts";
import { shapeConfig } from "../../src/model/shapes.ts";
import { loadWeights, randomWeights, type Weights } from "../../src/model/weights.ts";
import { KvaError } from "../../src/native/error.ts";
import type { Context, Tensor } from "../../src/native/tensor.ts";
import { eachBackend } from "../support/backends.ts";
import { writeRaw } from "../support/safetensors.ts";
import { type TinyModel, writeTinyModel } from "../support/tiny-model.ts";

const golden = join(import.meta.dir, "..", "golden", "models");

/** The numbers of a stored tensor, read without the native library. */
function stored({ file, dtype, offset, bytes }: StoredTensor): Float32Array {
  const data = new Uint8Array(readFileSync(file)).slice(offset, offset + bytes).buffer;
  if (dtype === "F32") return new Float32Array(data);
  if (dtype === "F16") return Float32Array.from(new Float16Array(data));
  return new Float32Array(Uint32Array.from(new Uint16Array(data), (half) => half << 16).buffer);
}

/** A model's tensors in the order of its plan. */
function inOrder(weights: Weights): Tensor[] {
  const { embed, finalNorm, lmHead } = weights;
  const layers = weights.layers.flatMap((layer) => Object.values(layer) as Tensor[]);
  return [embed, finalNorm, ...(lmHead === embed ? [] : [lmHead]), ...layers];
}

function withModel<T>(model: TinyModel, use: (dir: string) => T): T {
  const dir = mkdtempSync(join(tmpdir(), "kvaccel-weights-"));
  try {
    return use(writeTinyModel(dir, model));
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Loads a model that must not load; what was made on the way must be freed (the suite counts). */
function refusal(
  context: Context,
  model: TinyModel,
  dtype: FloatDtype = "float32",
  spoil?: (dir: string) => void,
): string {
  return withModel(model, (dir) => {
    spoil?.(dir);
    try {
      loadWeights(context, readConfig(dir), dir, dtype).dispose();
    } catch (error) {
      expect(error).toBeInstanceOf(KvaError);
      expect((error as KvaError).code).toBe("model");
      return (error as Error).message;
    }
    throw new Error("was loaded");
  });
}

eachBackend("weights", (backend) => {
  test.each(["llama", "llama-tied-bf16", "llama-sharded-f16", "llama-bias", "qwen2", "qwen3", "glm4", "phi3-longrope"])(
    "%s: every part of the checkpoint is in its place",
    (name) => {
      const dir = join(golden, name);
      const config = readConfig(dir);
      const checkpoint = readCheckpoint(dir);
      const weights = loadWeights(backend.context, config, dir, "float32");
      const tensors = inOrder(weights);
      targets(planWeights(config)).forEach((target, i) => {
        const values = tensors[i]!.toFloats();
        const expected = target.parts.flatMap((part) => Array.from(stored(checkpoint.get(part.name)!)));
        expect([tensors[i]!.rows, tensors[i]!.columns]).toEqual([target.rows, target.columns]);
        expect(Array.from(values)).toEqual(expected);
      });
      expect(weights.lmHead === weights.embed).toBe(config.tieEmbeddings);
      weights.dispose();
    },
  );

  test("the run's type is the tensors' type, and the bytes are as planned", () => {
    const dir = join(golden, "llama");
    const config = readConfig(dir);
    for (const dtype of ["bfloat16", "float16"] as const) {
      const weights = loadWeights(backend.context, config, dir, dtype);
      expect(inOrder(weights).every((tensor) => tensor.dtype === dtype)).toBe(true);
      expect(inOrder(weights).reduce((sum, tensor) => sum + tensor.bytes, 0)).toBe(weightBytes(config, dtype));
      expect(backend.context.memory("weights").bytes).toBeGreaterThanOrEqual(weightBytes(config, dtype));
      weights.dispose();
    }
  });

  test("tables computed anew, and a copy of tied embeddings, are left in the file", () => {
    withModel({ config: { tie_word_embeddings: true } }, (dir) => {
      const file = join(dir, "model.safetensors");
      const bytes = readFileSync(file);
      const end = 8 + Number(bytes.readBigUInt64LE());
      const header = JSON.parse(bytes.subarray(8, end).toString());
      const data = bytes.subarray(end);
      for (const name of ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]) {
        header[name] = { dtype: "F32", shape: [0], data_offsets: [data.length, data.length] };
      }
      writeRaw(file, JSON.stringify(header), data);
      loadWeights(backend.context, readConfig(dir), dir, "float32").dispose();
    });
  });

  test("a wrong shape is refused with tensor, file, found and expected", () => {
    const message = refusal(backend.context, {
      change: (name, tensor) => {
        if (name === "model.layers.1.mlp.down_proj.weight") tensor.shape = [96, 64];
      },
    });
    expect(message).toMatch(
      /^tensor model\.layers\.1\.mlp\.down_proj\.weight of .*model\.safetensors is \[96, 64\]; by config\.json it must be \[64, 96\]$/,
    );
  });

  test("missing and unexpected tensors are named", () => {
    const tooFew = (dir: string) => rewriteConfig(dir, { num_hidden_layers: 3 });
    expect(refusal(backend.context, {}, "float32", tooFew)).toMatch(
      /lacks 9 tensors, model\.layers\.2\.input_layernorm\.weight, .*, \.\.\.$/,
    );
    const tooMany = (dir: string) => rewriteConfig(dir, { num_hidden_layers: 1 });
    expect(refusal(backend.context, {}, "float32", tooMany)).toMatch(/has 9 tensors, model\.layers\.1\..* no place$/);
    const other = (dir: string) => rewriteConfig(dir, { architectures: ["Phi3ForCausalLM"] });
    expect(refusal(backend.context, {}, "float32", other)).toMatch(
      /lacks .*qkv_proj.*; it has .*which no Phi3ForCausalLM has$/,
    );
  });

  test("numbers that are not finite are refused with the tensor's name", () => {
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const message = refusal(backend.context, {
        change: (name, { values }) => {
          if (name === "model.layers.0.self_attn.k_proj.weight") values[values.length - 1] = wrong;
        },
      });
      expect(message).toContain("tensor model.layers.0.self_attn.k_proj.weight of");
      expect(message).toContain("values that are not finite in float32; the file is damaged");
    }
    const large: TinyModel = {
      dtype: "bfloat16",
      change: (name, { values }) => {
        if (name === "lm_head.weight") values[0] = 1e6;
      },
    };
    expect(refusal(backend.context, large, "float16")).toContain("float16 ends at 65504");
  });

  test("a type that kvaccel does not read is refused", () => {
    const spoil = (dir: string) => {
      const file = join(dir, "model.safetensors");
      writeFileSync(file, readFileSync(file, "latin1").replace('"dtype":"F32"', '"dtype":"I32"'), "latin1");
    };
    expect(refusal(backend.context, {}, "float32", spoil)).toMatch(
      /tensor .* is I32; kvaccel reads BF16, F16 and F32$/,
    );
  });

  test("an fp8 checkpoint is refused, by its config or by its tensors", () => {
    const fp8 = (dir: string) => {
      const file = join(dir, "model.safetensors");
      const bytes = readFileSync(file);
      const end = 8 + Number(bytes.readBigUInt64LE());
      const header = JSON.parse(bytes.subarray(8, end).toString());
      const tensor = header["lm_head.weight"];
      Object.assign(tensor, { dtype: "F8_E4M3", shape: [tensor.shape[0], 4 * tensor.shape[1]] });
      writeRaw(file, JSON.stringify(header), bytes.subarray(end));
    };
    expect(refusal(backend.context, {}, "float32", fp8)).toMatch(
      /tensor lm_head\.weight of .* is F8_E4M3; kvaccel reads BF16, F16 and F32: take the checkpoint in one of them, or a GGUF file$/,
    );
    const quantised = (dir: string) => rewriteConfig(dir, { quantization_config: { quant_method: "fp8" } });
    expect(refusal(backend.context, {}, "float32", quantised)).toContain('the weights are stored as "fp8"; take the');
  });

  test("a truncated checkpoint allocates nothing", () => {
    const spoil = (dir: string) => {
      const file = join(dir, "model.safetensors");
      writeFileSync(file, readFileSync(file).subarray(0, -100));
    };
    backend.context.resetPeak();
    const before = backend.context.memory().peakBytes;
    expect(refusal(backend.context, {}, "float32", spoil)).toContain("it was cut, or its header is wrong");
    expect(backend.context.memory().peakBytes).toBe(before);
  });

  test("random weights of a shape are finite, differ, and come from the seed", () => {
    const config = shapeConfig("tiny-ruler", 2);
    const first = randomWeights(backend.context, config, "bfloat16", 3);
    const again = randomWeights(backend.context, config, "bfloat16", 3);
    expect(first.layers.length).toBe(2);
    const values = first.layers[0]!.qkv.toFloats();
    expect(again.layers[0]!.qkv.toFloats()).toEqual(values);
    expect(first.layers[1]!.qkv.toFloats()).not.toEqual(values);
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    expect(deviation).toBeWithin(0.019, 0.021);
    expect(first.layers[0]!.inputNorm.toFloats().every((x) => x === 1)).toBe(true);
    first.dispose();
    again.dispose();
  });
});

function rewriteConfig(dir: string, changes: Record<string, unknown>): void {
  const file = join(dir, "config.json");
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...changes }));
}

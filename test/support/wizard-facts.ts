// What a wizard knows on an invented machine: two models, three benchmarks, the plugins of a folder.

import type { WizardFacts } from "../../src/cli/wizard-types.ts";
import { KvaError } from "../../src/native/error.ts";
import type { Registry } from "../../src/plugin/loader.ts";

const info = { family: "llama", layers: 5, heads: 8, kvHeads: 4, headDim: 64, hiddenSize: 256 };

export function wizardFacts(registry: Registry, more: Partial<WizardFacts> = {}): WizardFacts {
  return {
    models: [
      { value: "bundled", label: "bundled", hint: "tiny-ruler, 10 MB" },
      { value: "org/Long-8B", label: "org/Long-8B", hint: "Hugging Face cache" },
    ],
    devices: [{ value: "cpu", label: "cpu", hint: "2 cores, 24 GiB free", gpu: false }],
    benchmarks: [
      { value: "quick", label: "quick", hint: "85 s on two cores", lengths: [512, 1024, 2048], samples: 2 },
      { value: "ruler", label: "ruler", hint: "thirteen tasks", lengths: [4096, 8192], samples: 10 },
      { value: "longbench", label: "longbench", hint: "real documents", lengths: [], samples: 20 },
    ],
    setups: [],
    registry,
    readModel(path) {
      if (path === "bundled") return { info, dtype: "bfloat16", contextLength: 16384 };
      if (path === "org/Long-8B") return { info, dtype: "float16", contextLength: 131072 };
      throw new KvaError("model", `there is no model directory ${path}`);
    },
    readBenchmark(path) {
      if (path.endsWith("mine.yaml")) return { value: path, label: path, lengths: [600], samples: 3 };
      throw new KvaError("data", `${path} cannot be read`);
    },
    ...more,
  };
}

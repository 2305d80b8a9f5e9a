// What the wizard knows at its first question. The rest takes a child process and all plugin files: it comes with `ready`.
import { setupNames } from "./setups.ts";
import type { Memory } from "./wizard-memory.ts";
import { findModels } from "./wizard-models.ts";
import type { WizardFacts } from "./wizard-types.ts";

const early = (): never => {
  throw new Error("the wizard asked before its facts were there");
};

export function wizardFacts(memory: Memory): WizardFacts {
  const facts: WizardFacts = {
    models: findModels(memory.models),
    setups: setupNames().map((name) => ({ value: name, label: name, hint: "named setup" })),
    devices: [],
    benchmarks: [],
    get registry() {
      return early();
    },
    readModel: early,
    readBenchmark: early,
  };
  // loading the rest keeps this thread busy: the first question is drawn before
  facts.ready = Bun.sleep(10)
    .then(() => import("./wizard-machine.ts"))
    .then(({ addFacts }) => addFacts(facts, memory));
  facts.ready.catch(() => {}); // told where it is waited for
  return facts;
}

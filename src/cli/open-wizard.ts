// `accel` in a terminal: the wizard, then the run that it asked for.

import { tell } from "./output.ts";
import { runWizard } from "./prompts.ts";
import { wizardFacts } from "./wizard-facts.ts";
import { readMemory, rememberAnswers, rememberModel } from "./wizard-memory.ts";
import { repeatCommand } from "./wizard-summary.ts";

export async function openWizard(): Promise<number> {
  const memory = readMemory();
  const facts = wizardFacts(memory);
  const outcome = await runWizard(facts, { input: process.stdin, output: process.stdout }, memory.answers);
  if (outcome.end === "cancelled") return 130;
  rememberAnswers(outcome.answers);
  if (outcome.end === "declined") return 0;
  const { flags } = outcome;
  rememberModel(flags.model_path);
  const { run } = await import("./run.ts");
  try {
    await run({ ...flags, acceleration: flags.acceleration.length > 0 ? flags.acceleration : ["Full"] });
  } finally {
    tell(`The same again: ${repeatCommand(flags)}`);
  }
  return Number(process.exitCode ?? 0);
}

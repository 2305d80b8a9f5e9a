// The golden cases of every family under every RoPE type, as directories that load (scripts/golden/families.py made them).
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface FamilyCase {
  ids: number[];
  logprobs: (number | null)[];
  /** the likeliest token after each of the ids, and how far its logit is ahead */
  argmax: number[];
  gaps: number[];
  /** the ids that follow the first `prompt` ids */
  greedy: { prompt: number; ids: number[] };
  /** transformers in bf16 against transformers in fp32 */
  bf16: { meanAbs: number; agreement: number };
}
export interface RopeCase extends FamilyCase {
  family: string;
  rope: string;
  config: Record<string, unknown>;
}

const folder = join(import.meta.dir, "..", "golden", "families");
const read = (name: string) => JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8"));

export const familyNames: readonly string[] = readdirSync(folder, { withFileTypes: true })
  .flatMap((entry) => (entry.isDirectory() ? entry.name : []))
  .sort();
export const ropeCases: readonly RopeCase[] = familyNames.flatMap((family) =>
  (read(family) as RopeCase[]).map((each) => ({ ...each, family })),
);
export const bundledCase: FamilyCase = read("bundled");

/** Writes a directory into `scratch` with the weights of the family and the config of the case. */
export function writeCase(scratch: string, { family, rope, config }: RopeCase): string {
  const dir = join(scratch, `${family}-${rope}`);
  mkdirSync(dir);
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  symlinkSync(join(folder, family, "model.safetensors"), join(dir, "model.safetensors"));
  return dir;
}

export interface Distance {
  /** of log-probabilities */
  max: number;
  mean: number;
  /** share of positions with the same likeliest token: of all, and of those where its lead is clear */
  agreement: number;
  clearAgreement: number;
}

/** A lead is clear above so many times the mean error of transformers' own bf16; below, rounding decides which of two tokens is first. */
const clearErrors = 4;

export function distance(
  golden: FamilyCase,
  said: { argmax: readonly number[]; logprobs: readonly number[] },
): Distance {
  const differences = said.logprobs.map((value, i) => Math.abs(value - golden.logprobs[i + 1]!));
  const mean = (values: readonly number[]) => values.reduce((sum, x) => sum + x, 0) / values.length;
  const same = said.argmax.map((token, i) => (token === golden.argmax[i] ? 1 : 0));
  return {
    max: Math.max(...differences),
    mean: mean(differences),
    agreement: mean(same),
    clearAgreement: mean(same.filter((_, i) => golden.gaps[i]! > clearErrors * golden.bf16.meanAbs)),
  };
}

// Every parameter at its bounds, every choice and every preset: refused in a sentence, or run.
import { type Field, fields, presetNames } from "../plugin/params.ts";
import { type Subject, tokenIds } from "./subject.ts";

interface Setting {
  overrides: Record<string, unknown>;
  preset: string;
}

/** Where a range is open, a value above the prompt's length; odd, as some widths must be. */
const LARGE = 1001;

function bounds({ key, type, min, max, choices }: Field): unknown[] {
  switch (type) {
    case "flag":
      return [true, false];
    case "choice":
      return [...(choices ?? [])];
    case "ints":
      return [[], [min ?? 0]];
    case "int":
      return [...(min === null ? [] : [min]), max ?? LARGE];
    case "shares":
      return [0, 0.5, 1];
    case "number":
      return key === "keepRatio" ? [0.01, 1] : [...(min === null ? [] : [min]), max ?? LARGE];
  }
}

function settings(subject: Subject): Setting[] {
  const all = fields(subject.plugin);
  const values = all.flatMap((field) =>
    bounds(field).flatMap((value) => {
      const alone = { [field.key]: value };
      const ofBudget = subject.plugin.params[field.param]!.type === "budget";
      return ofBudget ? [alone] : [{ ...subject.tight, ...alone }, alone];
    }),
  );
  return [
    ...presetNames(subject.plugin).map((preset) => ({ overrides: {}, preset })),
    ...values.map((overrides) => ({ overrides, preset: "paper" })),
  ];
}

/** The settings that were run, those that were refused, and the first that failed. */
export async function runSettings(subject: Subject): Promise<{ run: number; refused: number; fault?: string }> {
  let [run, refused] = [0, 0];
  for (const { overrides, preset } of settings(subject)) {
    const label = subject.label(overrides, preset);
    try {
      if (subject.refusal(overrides, preset) !== undefined) {
        refused += 1;
        continue;
      }
      for (const count of [60, 2]) {
        await subject.generate(subject.method(overrides, preset), tokenIds(count, 11), { maxNewTokens: 3 });
      }
      run += 1;
    } catch (error) {
      return { run, refused, fault: `${label}: ${(error as Error).message}` };
    }
  }
  return { run, refused };
}

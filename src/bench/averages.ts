// The averages that are reported for a benchmark, by name: over tasks and lengths of RULER, over categories of LongBench.
import { type LongbenchKind, longbenchTask, longbenchTasks } from "./longbench-tasks.ts";
import { rulerTaskNames } from "./ruler-tasks.ts";
import { effectiveLength, mean, taskSubsets, weightedAverage } from "./score.ts";

/** One method's task scores, 0 to 100. A cell without a score, or with a part of its samples, makes its averages null. */
export interface TaskScore {
  task: string;
  length: number | null;
  score: number | null;
  whole: boolean;
}

export interface RulerAverages {
  /** the set of tasks that every length has */
  subset: "ruler13" | "loom12" | "tasks";
  /** mean over the tasks, by length */
  byLength: Record<string, number | null>;
  /** the same without fwe, where all thirteen were run */
  loom12?: Record<string, number | null>;
  mean: number | null;
  /** the longest length counts most */
  wavgInc: number | null;
  /** the shortest length counts most */
  wavgDec: number | null;
  /** largest length up to which all scores reach 85.6 */
  effectiveLength: number | null;
}

const known = (values: (number | null)[]): values is number[] => values.length > 0 && !values.includes(null);

function lengthMeans(scores: readonly TaskScore[], wanted: (task: string) => boolean): [number, number | null][] {
  const groups = Map.groupBy(
    scores.filter(({ task }) => wanted(task)),
    ({ length }) => length ?? 0,
  );
  return [...groups]
    .sort(([a], [b]) => a - b)
    .map(([length, cells]) => {
      const values = cells.map(({ score, whole }) => (whole ? score : null));
      return [length, known(values) ? mean(values) : null];
    });
}

export function rulerAverages(scores: readonly TaskScore[]): RulerAverages {
  const tasks = new Set(scores.map(({ task }) => task));
  const all = (wanted: (task: string) => boolean) =>
    rulerTaskNames.filter(wanted).every((task) => tasks.has(task)) && [...tasks].every(wanted);
  const subset = all(taskSubsets.ruler13!) ? "ruler13" : all(taskSubsets.loom12!) ? "loom12" : "tasks";
  const byLength = lengthMeans(scores, () => true);
  const values = byLength.map(([, value]) => value);
  const reached = byLength.filter((entry): entry is [number, number] => entry[1] !== null);
  return {
    subset,
    byLength: Object.fromEntries(byLength),
    ...(subset === "ruler13" && { loom12: Object.fromEntries(lengthMeans(scores, taskSubsets.loom12!)) }),
    mean: known(values) ? mean(values) : null,
    wavgInc: known(values) ? weightedAverage(values, "inc") : null,
    wavgDec: known(values) ? weightedAverage(values, "dec") : null,
    effectiveLength: effectiveLength(new Map(reached)),
  };
}

export const longbenchAverageNames = ["longbench-official-en", "longbench-official-zh", "longbench-16"] as const;
export type LongbenchAverages = Record<(typeof longbenchAverageNames)[number], number | null>;

const categories: readonly LongbenchKind[] = [
  "single-doc",
  "multi-doc",
  "summarization",
  "few-shot",
  "code",
  "synthetic",
];

/** LongBench's sets of a category in a language; code counts for both */
function namesOf(kind: LongbenchKind, language: "en" | "zh"): string[] {
  const fits = (own: "en" | "zh" | "code") => own === language || own === "code";
  return longbenchTasks
    .filter((task) => !task.extended && task.kind === kind && fits(task.language))
    .map(({ name }) => name);
}

/** the mean of the categories' means; the code sets count for both languages */
export function categoryMean(means: ReadonlyMap<LongbenchKind, number>): number | null {
  const values = categories.map((kind) => means.get(kind) ?? null);
  return known(values) ? mean(values) : null;
}

export function longbenchAverages(scores: readonly TaskScore[]): LongbenchAverages {
  const plain = scores.map((cell) => ({ ...cell, about: longbenchTask(cell.task) })).filter((c) => !c.about.extended);
  const found = new Map(plain.map(({ task, score, whole }) => [task, whole ? score : null]));
  const ofLanguage = (language: "en" | "zh") => {
    const means = new Map<LongbenchKind, number>();
    for (const kind of categories) {
      const wanted = namesOf(kind, language).map((name) => found.get(name) ?? null);
      if (known(wanted)) means.set(kind, mean(wanted));
    }
    return categoryMean(means);
  };
  const sixteen = categories.flatMap((kind) => namesOf(kind, "en")).map((name) => found.get(name) ?? null);
  return {
    "longbench-official-en": ofLanguage("en"),
    "longbench-official-zh": ofLanguage("zh"),
    "longbench-16": known(sixteen) ? mean(sixteen) : null,
  };
}

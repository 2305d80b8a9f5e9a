// One piece of a benchmark's data: some samples of one task and length, made ready for the engine. Runs in this process or in a worker.
import { KvaError } from "../native/error.ts";
import type { BenchmarkConfig } from "./config-schema.ts";
import { type Cell, cellSamples, type ReadySample } from "./dataset.ts";
import type { Calibration } from "./fit.ts";
import { longbenchTask } from "./longbench-tasks.ts";
import type { PreparedSample } from "./rows.ts";
import { followUpIds, type Metric, type Sample, type TextCodec } from "./sample.ts";
import { foundSources } from "./sources.ts";
import { sourceOf, taskFacts } from "./tasks.ts";

export interface CellJob {
  config: BenchmarkConfig;
  cell: Cell;
  /** ordinals from .. to - 1 */
  from: number;
  to: number;
  /** tokens that the model takes, prompt and answer */
  contextLength: number;
  /** samples carry their prompt's text */
  keepText: boolean;
  /** what an earlier job of the cell found; absent: found here */
  calibration?: Calibration;
}

/** A sample as it crosses from a worker: the scorer's name in place of the scorer. */
export type PlainSample = Omit<PreparedSample, "score"> & { metric: Metric; firstLine?: boolean };

export interface CellResult {
  samples: PlainSample[];
  /** sentences for the reader of the tables */
  remarks: string[];
  calibration?: Calibration;
}

export function runCellJob(job: CellJob, codec: TextCodec): CellResult {
  const { config, cell, from, to, contextLength } = job;
  if (cell.length !== null && config.build_data && config.data_dir !== null) foundSources(config.data_dir);
  const cap = config.max_new_tokens[cell.task] ?? taskFacts(config, cell.task).cap;
  const refused = cell.length !== null && config.on_overflow === "error"; // with a sentence that names the model's length
  const maxPrompt = refused ? Infinity : contextLength - cap;
  const remarks = new Set<string>();
  const samples: PlainSample[] = [];
  const found: { calibration?: Calibration } = job.calibration ? { calibration: job.calibration } : {};
  for (const ready of cellSamples(config, cell, codec, { from, to, maxPrompt, found })) {
    samples.push(plain(ready, job, codec));
    remark(ready, config, remarks);
  }
  return { samples, remarks: [...remarks], ...found };
}

function plain(ready: ReadySample, { config, contextLength, keepText }: CellJob, codec: TextCodec): PlainSample {
  const { sample, prompt, ids, questionStart, truncated } = ready;
  if (ids.length + sample.maxNewTokens > contextLength) {
    throw new KvaError(
      "data",
      `${sample.id}: the prompt has ${ids.length} tokens and the answer up to ${sample.maxNewTokens}; the model takes ` +
        `${contextLength} in all: leave out this length, or set on_overflow to truncate_middle or skip`,
    );
  }
  const result: PlainSample = {
    id: sample.id,
    task: sample.task,
    length: sample.length,
    ids: Int32Array.from(ids),
    maxNewTokens: sample.maxNewTokens,
    refs: sample.refs,
    prompt: keepText ? prompt.text : "",
    metric: sample.metric,
    ...(truncated && { truncated }),
    ...(sample.followUps && {
      followUps: sample.followUps.map((asked, i) => ({
        id: `${sample.id}+${i + 1}`,
        ids: followUpIds(sample, prompt, asked, codec, config.view === "context_only"),
        refs: asked.refs,
      })),
    }),
    ...longbenchFacts(sample, codec),
  };
  if (config.view === "question_aware") return result;
  if (questionStart !== null) return { ...result, questionStart };
  throw new KvaError(
    "usage",
    `view context_only: it is not known where the question of ${sample.id} begins; use view question_aware`,
  );
}

/** what LongBench's records say beside prompt and answers, and how their answers end */
function longbenchFacts({ task, length, meta }: Sample, codec: TextCodec): Partial<PlainSample> {
  if (length !== null) return {};
  const newline = longbenchTask(task).stopsAtNewline ? codec.encode("\n", { special: false }).at(-1) : undefined;
  return {
    sourceLength: meta.sourceLength as number,
    ...(meta.classes !== undefined && { classes: meta.classes as string[] }),
    ...(meta.firstLine === true && { firstLine: true }),
    ...(newline !== undefined && { stopIds: [newline], minNewTokens: 1 }),
  };
}

const sourceRemarks = {
  builtin: "Samples: built-in texts.",
  "stand-in": "Samples: the built-in stand-in set; its scores say nothing about LongBench.",
  "official-file": undefined,
};

function remark({ prompt }: ReadySample, config: BenchmarkConfig, remarks: Set<string>): void {
  const source = sourceRemarks[sourceOf(config)];
  const own = config.build_data && config.benchmark_name === "RULER" && config.data_dir !== null;
  if (own) remarks.add(`Samples: built-in texts, with your ${foundSources(config.data_dir!).join(", ")}.`);
  else if (source !== undefined) remarks.add(source);
  if (prompt.hadTemplate) remarks.add("Prompts of the files have a template inside; none was added.");
  if (prompt.prefixMode !== "assistant") remarks.add(`The start of the answer: prefix_mode ${prompt.prefixMode}.`);
}

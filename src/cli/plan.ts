// From settings to what runs: model, engines, methods, samples, resume keys, and the facts that make a number traceable.
import { createHash } from "node:crypto";
import { basename } from "node:path";
import type { BenchmarkConfig } from "../bench/config-schema.ts";
import { driverVersion, modelHash, resumeKey, thisBuild, tokenizerHash } from "../bench/fingerprint.ts";
import { type Preparation, prepareSamples } from "../bench/prepare.ts";
import type { PreparedSample, Task } from "../bench/rows.ts";
import type { RunPlan } from "../bench/run-contract.ts";
import type { EngineOptions, MethodSpec, Sampling } from "../engine/protocol.ts";
import type { ModelConfig } from "../model/config.ts";
import { bundledModel, locateModel } from "../model/locate.ts";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { KvaError } from "../native/error.ts";
import { type Model, modelInfo, readMethods, readModel, setUpEngines } from "./engine-setup.ts";
import { Preflight, type PreflightRow, type PromptSize } from "./preflight.ts";
import type { RunFlags, Settings } from "./settings.ts";

export interface PreparedRun {
  plan: RunPlan;
  methods: MethodSpec[];
  /** the measurements of these methods, Full first */
  tasksFor(methods: readonly MethodSpec[]): Task[];
  preparation: Preparation;
  model: ModelConfig;
  /** as in the default run directory */
  modelName: string;
  preflight: PreflightRow[];
  /** sequences that run together, auto resolved */
  batches: number[];
  dtype: EngineOptions["dtype"];
  /** for the manifest and results.json */
  facts: Record<string, unknown>;
}

/** Everything is checked here, before a library is built or an engine started. */
export async function prepareRun(settings: Settings, progress: (text: string) => void): Promise<PreparedRun> {
  const { config, sets } = settings;
  const flags = config as RunFlags;
  const model = await readModel(flags, shapeOf(config));
  const dir = tokenizerDir(config.tokenizer_path, model);
  const acceleration = config.acceleration ?? [];
  const methods = await readMethods(
    { ...flags, acceleration, set: [] },
    modelInfo(model.config),
    config.no_baseline === true,
    sets,
  );
  const tokenizer = loadTokenizer(dir);
  const preparation = await withProgress(settings, tokenizer, dir, model.config, progress);
  const engines = await setUpEngines(flags, model);
  const preflight = await Preflight.of({ config: model.config, engines, methods, sizes: sizesOf(preparation.samples) });
  const batches = settings.batches.map((batch) => (batch === "auto" ? preflight.autoBatch() : batch));
  const sampling: Sampling = {
    temperature: config.temperature ?? 0,
    topP: config.top_p ?? 1,
    topK: config.top_k ?? 0,
    seed: config.seed,
  };
  const [weights, vocabulary, build, driver] = await Promise.all([
    weightsHash(model),
    tokenizerHash(dir),
    thisBuild(),
    driverVersion(),
  ]);
  const { dtype } = engines[0]!;
  const keyOf = keyMaker({ model: weights, tokenizer: vocabulary, dtype, view: config.view, sampling });
  const tasksFor = (columns: readonly MethodSpec[]): Task[] => {
    const tasks = preparation.samples.flatMap((sample) =>
      columns.flatMap((method) => {
        const key = keyOf(sample, method);
        const repeats = Array.from({ length: config.repeat ?? 1 }, (_, repeat) => repeat);
        return batches.flatMap((batch) => repeats.map((repeat): Task => ({ key, sample, method, batch, repeat })));
      }),
    );
    return inOrder(tasks, columns);
  };
  const modelName = config.shape ?? (basename(config.model_path ?? "bundled") || "model");
  return {
    plan: {
      tasks: tasksFor(methods),
      engines,
      stopIds: [...model.config.eosIds],
      sampling,
      logSamples: config.log_samples === true,
      logKept: config.log_kept === true,
      decode: (ids) => tokenizer.decode(ids),
    },
    methods,
    tasksFor,
    preparation,
    preflight: preflight.rows(batches),
    batches,
    model: model.config,
    modelName: modelName === "bundled" ? basename(dir) : modelName,
    dtype,
    facts: {
      ...build,
      bun: Bun.version,
      platform: `${process.platform} ${process.arch}`,
      driver,
      model: {
        path: config.shape ?? dir,
        hash: weights,
        tokenizer_hash: vocabulary,
        family: model.config.family,
        dtype,
      },
      sampling,
      seed: config.seed,
      view: config.view,
    },
  };
}

/** The longest prompt of each length. */
function sizesOf(samples: readonly PreparedSample[]): PromptSize[] {
  const lengths = Map.groupBy(samples, ({ length }) => length);
  return [...lengths].map(([length, all]) => ({
    length,
    promptTokens: Math.max(...all.map(({ ids }) => ids.length)),
    newTokens: Math.max(...all.map(({ maxNewTokens }) => maxNewTokens)),
  }));
}

/** A model given as shape has random weights from the run's seed: for times, not for scores. */
function shapeOf({ shape, layers, seed }: BenchmarkConfig) {
  if (shape !== undefined) return { shape, ...(layers === undefined ? {} : { layers }), seed };
  if (layers !== undefined) throw new KvaError("usage", "--layers needs --shape");
  return undefined;
}

/** Where the tokenizer is: with the model, with the model named for it, or the bundled one for a shape. */
export function tokenizerDir(named: string | undefined, { source }: Model): string {
  if (named !== undefined) return locateModel(named);
  return "dir" in source ? source.dir : bundledModel;
}

const weightsHash = ({ source }: Model): Promise<string> =>
  "dir" in source ? modelHash(source.dir) : Promise.resolve(resumeKey(source));

async function withProgress(
  { config }: Settings,
  tokenizer: Tokenizer,
  dir: string,
  model: ModelConfig,
  progress: (text: string) => void,
): Promise<Preparation> {
  let said = performance.now();
  const options = { contextLength: model.contextLength, keepText: config.log_samples === true, tokenizer: dir };
  return prepareSamples(config, tokenizer, options, (done) => {
    if (performance.now() - said < 2000) return;
    said = performance.now();
    progress(`making samples: ${done}`);
  });
}

// The prompt's hash is made once a sample; a method's hash covers its parts and their parameters.
function keyMaker(common: { model: string; tokenizer: string; dtype: string; view: string; sampling: Sampling }) {
  const prompts = new WeakMap<PreparedSample, string>();
  const { sampling, ...rest } = common;
  const drawn = sampling.temperature > 0 ? { sampling } : {};
  return (sample: PreparedSample, method: MethodSpec): string => {
    const prompt = prompts.get(sample) ?? createHash("sha256").update(sample.ids).digest("hex");
    prompts.set(sample, prompt);
    const question = sample.questionStart ?? null;
    return resumeKey({
      ...rest,
      ...drawn,
      id: sample.id,
      prompt,
      question,
      cap: sample.maxNewTokens,
      followUps: sample.followUps?.map(({ ids }) => ids),
      method: method.hash,
    });
  };
}

/** Method by method within a length, Full first: cells fill one after the other. */
function inOrder(tasks: Task[], methods: readonly MethodSpec[]): Task[] {
  const place = new Map(methods.map((method, at) => [method.hash, at]));
  return tasks.toSorted(
    (a, b) => a.batch - b.batch || a.repeat - b.repeat || place.get(a.method.hash)! - place.get(b.method.hash)!,
  );
}

// `accel bench`: speed on random tokens, llama-bench style, of a model or of a shape with random weights.
import { EngineError, EngineProcess } from "../bench/engine-process.ts";
import { formatBytes } from "../bench/format.ts";
import { failedSpeedRow, runSpeedTest, type SpeedRow, speedTable, speedTests, testName } from "../bench/speed.ts";
import type { EngineInfo, EngineOptions, MethodSpec } from "../engine/protocol.ts";
import { KvaError } from "../native/error.ts";
import type { Registry } from "../plugin/loader.ts";
import { methodsFrom, modelInfo, readModel, readPlugins, setUpEngine } from "./engine-setup.ts";
import { Interrupted, interruptible } from "./interrupt.ts";
import type { EngineFlags, MethodFlags } from "./options.ts";
import { renderTables, type TableFormat, tell } from "./output.ts";

interface BenchFlags extends EngineFlags, MethodFlags {
  n_prompt?: number[];
  n_gen?: number[];
  n_depth?: number[];
  n_seqs?: number[];
  repetitions?: number;
  shape?: string;
  layers?: number;
  density?: number;
  no_baseline?: boolean;
  output?: TableFormat;
}

export async function bench(flags: BenchFlags): Promise<void> {
  const seed = flags.seed ?? 42;
  if (flags.layers !== undefined && flags.shape === undefined) throw new KvaError("usage", "--layers needs --shape");
  const layers = flags.layers === undefined ? {} : { layers: flags.layers };
  const model = await readModel(flags, flags.shape === undefined ? undefined : { shape: flags.shape, ...layers, seed });
  const registry = await readPlugins(flags);
  const methods = methodsFrom(registry, flags, modelInfo(model.config), flags.no_baseline === true);
  if (flags.density !== undefined) requireSparse(methods, registry);
  const tests = speedTests(methods, {
    prompt: flags.n_prompt ?? [512],
    gen: flags.n_gen ?? [128],
    depth: flags.n_depth ?? [0],
    sequences: flags.n_seqs ?? [1],
  });
  const longest = Math.max(0, ...tests.map((test) => test.depth + test.prompt + test.gen));
  if (flags.shape === undefined && longest > model.config.contextLength) {
    throw new KvaError("usage", `${longest} tokens are more than the model takes (${model.config.contextLength})`);
  }
  if (tests.length === 0) throw new KvaError("usage", "-p and -n are both 0: there is nothing to measure");
  const options = await setUpEngine(flags, model);
  const settings = {
    repetitions: flags.repetitions ?? 5,
    seed,
    vocabulary: model.config.vocabSize,
    ...(flags.density === undefined ? {} : { density: flags.density }),
  };

  const rows: SpeedRow[] = [];
  const engine = new Restarting(options);
  try {
    await interruptible(async (abort) => {
      engine.abort = abort;
      for (const test of tests) {
        rows.push(
          await engine.run(
            (running) => runSpeedTest(running, test, settings),
            (text) => failedSpeedRow(test, text),
          ),
        );
        const row = rows.at(-1)!;
        tell(`${rows.length}/${tests.length} ${row.method} ${testName(row)}: ${rate(row)}`);
      }
    });
  } catch (error) {
    if (error instanceof Interrupted && rows.length > 0) print(rows, flags, engine.info, options);
    throw error;
  } finally {
    await engine.stop();
  }
  print(rows, flags, engine.info, options);
  if (engine.died) process.exitCode = 1;
}

/** A density is a share of what a sparse prefill method chose: without one there is nothing to cut. */
function requireSparse(methods: readonly MethodSpec[], registry: Registry): void {
  const sparse = registry.plugins.map(({ plugin }) => plugin).filter(({ category }) => category === "sparse-prefill");
  const names = sparse.map(({ name }) => name);
  if (methods.some(({ parts }) => parts.some(({ name }) => names.includes(name)))) return;
  const run = methods.map(({ label }) => label).join(", ");
  throw new KvaError(
    "usage",
    `--density cuts what a sparse prefill method chose, and none is run (${run}); --acceleration takes ${names.join(", ")}`,
  );
}

const rate = (row: SpeedRow) => (row.avg_ts === null ? (row.error ?? "") : `${row.avg_ts.toFixed(1)} tokens/s`);

/** An engine that is started again after it died, so that one method's crash is one row. */
class Restarting {
  abort: AbortSignal | undefined;
  info: EngineInfo | undefined;
  died = false;
  private engine: EngineProcess | undefined;

  constructor(private readonly options: EngineOptions) {}

  async run(work: (engine: EngineProcess) => Promise<SpeedRow>, failed: (text: string) => SpeedRow): Promise<SpeedRow> {
    if (!this.engine?.alive) {
      this.engine = await EngineProcess.start(this.options, this.abort ? { abort: this.abort } : {});
      this.info = this.engine.info;
    }
    try {
      return await work(this.engine);
    } catch (error) {
      if (!(error instanceof EngineError) || this.abort?.aborted) throw error;
      this.died = true;
      return failed(error.message);
    }
  }

  async stop(): Promise<void> {
    await this.engine?.stop();
  }
}

function print(rows: SpeedRow[], flags: BenchFlags, info: EngineInfo | undefined, options: EngineOptions): void {
  const format = flags.output ?? "table";
  if (format === "json") return void process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  if (format === "jsonl") return void process.stdout.write(`${rows.map((row) => JSON.stringify(row)).join("\n")}\n`);
  const name = flags.shape ?? flags.model_path ?? "bundled";
  const weights = info ? `, weights ${formatBytes(info.weightBytes)}, ${info.deviceName}` : "";
  process.stdout.write(renderTables([speedTable(rows, `Speed: ${name}, ${options.dtype}${weights}`)], format));
}

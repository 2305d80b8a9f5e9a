// The commands and their flags. What a command does is imported when it runs, so that help is instant.
import { Command, type CommanderError, Option } from "commander";
import packageJson from "../../package.json" with { type: "json" };
import { KvaError } from "../native/error.ts";
import { suggestion } from "../plugin/nearest.ts";
import { Shown } from "./interrupt.ts";
import {
  engineOptions,
  formatOption,
  methodOptions,
  natural,
  naturals,
  samplingOptions,
  share,
  whole,
  wholes,
} from "./options.ts";

export function makeProgram(): Command {
  const program = prepared(new Command("accel"))
    .description("Compares KV-cache and sparse-attention methods: accuracy, time, memory.")
    .version(packageJson.version, "-V, --version")
    .option("--verbose", "errors with their stack")
    .addHelpText("after", "\nWithout a command: a wizard; with flags alone: accel run. More: accel COMMAND --help");
  for (const add of [
    addRun,
    addBench,
    addGenerate,
    addScore,
    addLaunch,
    addMethods,
    addPlugin,
    addDevices,
    addData,
    addReport,
    addCompare,
  ]) {
    const command = add(program);
    for (const each of [command, ...command.commands]) prepared(each).option("--verbose", "errors with their stack");
  }
  return program;
}

function prepared(command: Command): Command {
  return command
    .showSuggestionAfterError(false)
    .helpOption("-h, --help", "shows this")
    .configureOutput({ outputError: () => {} })
    .exitOverride((error) => rethrow(command, error));
}

function rethrow(command: Command, error: CommanderError): never {
  if (error.exitCode === 0) throw new Shown();
  if (error.code === "commander.help") {
    const names = command.commands.map((child) => child.name()).join(" or ");
    throw new KvaError("usage", `${fullName(command)}: it takes a command, ${names}`);
  }
  const message = error.message.replace(/^error: /, "");
  if (error.code === "commander.missingArgument") {
    const wanted = command.registeredArguments.map((one) => `${one.name()} (${one.description})`);
    throw new KvaError("usage", `${fullName(command)}: it takes ${wanted.join(" and ")}`);
  }
  const quoted = message.match(/'([^']*)'/)?.[1] ?? "";
  const known = (options: readonly Option[]) => options.map((option) => option.long ?? option.short ?? "");
  let hint = "";
  if (error.code === "commander.unknownOption") hint = suggestion(quoted, known(command.options));
  if (error.code === "commander.unknownCommand")
    hint = suggestion(
      quoted,
      command.commands.map((child) => child.name()),
    );
  throw new KvaError("usage", `${fullName(command)}: ${message}${hint ? `; ${hint}` : ""}`);
}

/** `accel plugin check` */
function fullName(command: Command): string {
  return command.parent ? `${fullName(command.parent)} ${command.name()}` : command.name();
}

function addRun(program: Command): Command {
  const run = runOptions(program.command("run").description("accuracy and timing matrix: methods x lengths x tasks"));
  return run
    .option("--watch", "does not end: a saved plugin file is loaded again, and its cells are measured anew")
    .option("--join <start>", "with others on this start of the run directory; accel launch begins one", natural)
    .addOption(takeoverOption())
    .action(async (flags) => (await import("./run.ts")).run(flags));
}

const takeoverOption = () =>
  new Option(
    "--takeover <seconds>",
    "silence after which the samples of another task of the run are taken over (120)",
  ).argParser(natural);

/** What says which run it is; `accel launch` takes the same. */
function runOptions(command: Command): Command {
  command.option(
    "--cfg_path <file>",
    "benchmark file (YAML or JSON), or the name of one in benchmarks/; default quick",
  );
  return formatOption(samplingOptions(methodOptions(engineOptions(command))), ["table", "md", "json", "jsonl", "csv"])
    .option(
      "--shape <name>",
      "a model by shape, with random weights (times mean something, scores do not): llama-3.1-8b",
    )
    .option("--layers <n>", "the first layers of the shape only", natural)
    .option(
      "--tokenizer_path <model>",
      "whose tokenizer counts the tokens; default: the model's own, of a shape the bundled one",
    )
    .option("--task_names <names...>", "tasks of the benchmark; default all")
    .option("--length <tokens...>", "lengths; default those of the benchmark file")
    .option("--data_dir <dir>", "folder with your own data: official files, or corpora for RULER's generators")
    .option("--num_samples <n>", "samples per task and length", natural)
    .option("--limit <n>", "at most so many samples per task and length", natural)
    .option("--max_length <tokens>", "cap on prompt tokens", natural)
    .option(
      "--batch_size <n...>",
      "sequences that run together, auto: as many as fit; several sizes run one after the other",
    )
    .option("--dry_run", "says what would run, what it needs of memory and what will not fit; runs nothing")
    .option(
      "--template <name>",
      "auto (the model's own chat template), none, or one by name: llama3, mistral, qwen, ...",
    )
    .option("--questions <n>", "questions over one compressed context (niah and vt tasks); 1", natural)
    .option("--view <view>", "question_aware or context_only: what a method sees when it compresses")
    .option("--repeat <n>", "measurements of each sample", natural)
    .option("--output_path <dir>", "run directory; default results/MODEL_BENCHMARK")
    .option("--save_tag <tag>", "ending of the default run directory")
    .option("--resume", "go on where an earlier run of the directory stopped (the default)")
    .option("--fresh", "measure anew; earlier rows stay in their files, unused")
    .option("--log_samples", "rows also carry the prompt")
    .option("--log_kept", "kept_*.jsonl: the positions that each layer and KV head keeps of every sample")
    .option("--no_baseline", "without Full");
}

function addLaunch(program: Command): Command {
  const launch = program.command("launch").description("a run on the nodes of a cluster");
  runOptions(
    launch
      .command("slurm")
      .description("a run as a Slurm job array: writes its batch script, submits it, follows it, prints its tables"),
  )
    .option(
      "--copies <n>",
      "model copies, an array task each; default: what --device and --gp_num make, else 1",
      natural,
    )
    .option("--nodes <n>", "instead: whole nodes, a task each, with as many copies as its GPUs hold", natural)
    .option("--partition <name>", "Slurm's, as the next ones")
    .option("--time <limit>", "of each task: 4:00:00")
    .option("--account <name>", "who is charged")
    .option("--qos <name>", "quality of service")
    .option("--gres <list>", "of each task; default: gpu:N for the N GPUs of a model copy")
    .option("--cpus_per_task <n>", "default: one for each model copy of the task, and one", natural)
    .option("--mem <size>", "of each task's node: 64G")
    .option("--sbatch <options>", "more options of sbatch: '--constraint=a100 --mail-type=END'")
    .addOption(takeoverOption())
    .option("--detach", "submits and ends: the job's number is on stdout")
    .option("--follow <dir>", "the job that was launched into this run directory, to its end")
    .action(async (flags) => (await import("./launch.ts")).launchSlurm(flags));
  return launch;
}

function addBench(program: Command): Command {
  const bench = program
    .command("bench")
    .description("speed only, on random tokens: prompt and generation rows")
    .option("-p, --n_prompt <tokens>", "prompt lengths (512)", wholes)
    .option("-n, --n_gen <tokens>", "new tokens (128)", wholes)
    .option("-d, --n_depth <tokens>", "tokens that are in the cache before the timed part (0)", wholes)
    .option("-b, --n_seqs <n>", "sequences that run together (1)", naturals)
    .option("-r, --repetitions <n>", "measurements of each row (5)", natural)
    .option("--shape <name>", "a model by shape, with random weights: llama-3.1-8b")
    .option("--layers <n>", "the first layers of the shape only", natural)
    .option("--density <share>", "cut what a sparse prefill method chose to this share of the blocks", share)
    .option("--seed <n>", "seed of weights and token ids (42)", whole)
    .option("--no_baseline", "without Full");
  return formatOption(methodOptions(engineOptions(bench)), ["table", "md", "json", "jsonl", "csv"]).action(
    async (flags) => (await import("./bench.ts")).bench(flags),
  );
}

function addGenerate(program: Command): Command {
  const generate = program
    .command("generate")
    .description("continues a prompt under a method")
    .option("--prompt <text>", "the prompt")
    .option("--prompt_file <file>", "a file with the prompt")
    .option("--ids_file <file>", "a JSON array of token ids, taken as they are")
    .option("--max_new_tokens <n>", "new tokens at most (128)", natural)
    .option("--chat", "puts the prompt into the model's chat template")
    .option("--ignore_eos", "goes on past the stop tokens")
    .option("--json", "one JSON object instead of the text");
  return samplingOptions(methodOptions(engineOptions(generate))).action(async (flags) =>
    (await import("./generate.ts")).generate(flags),
  );
}

function addScore(program: Command): Command {
  const score = program
    .command("score")
    .description("log-probabilities of a text's tokens, and its perplexity, under a method")
    .option("--text_file <file>", "a file with the text")
    .option("--ids_file <file>", "a JSON array of token ids, taken as they are")
    .option("--prompt_tokens <n>", "so many are prefilled (and compressed), the rest is fed one by one", natural)
    .option("--json", "one JSON object instead of a table");
  return methodOptions(engineOptions(score)).action(async (flags) => (await import("./score.ts")).score(flags));
}

function addMethods(program: Command): Command {
  return program
    .command("methods")
    .description("methods, their parameters and presets, and which compose")
    .option("--plugin_dir <dirs...>", "more folders with plugin files")
    .option("--json", "a JSON array")
    .option("--markdown", "the composition matrix as docs/composition.md has it")
    .action(async ({ json, markdown, plugin_dir }) => {
      const { methodsCommand } = await import("./methods.ts");
      process.exitCode = await methodsCommand({ json, markdown, pluginDir: plugin_dir });
    });
}

function addPlugin(program: Command): Command {
  const plugin = program.command("plugin").description("a new plugin file, and the promises that one must keep");
  plugin
    .command("new")
    .description("writes a commented plugin file that runs as it stands")
    .argument("<name>", "of the method, as in MyMethod")
    .option("--plugin_dir <dir>", "the folder; default: the plugins/ of kvaccel")
    .action(async (name, { plugin_dir }) => (await import("./plugin-new.ts")).pluginNew(name, plugin_dir));
  plugin
    .command("check")
    .description("checks a plugin on the CPU with a tiny random model: one line per promise")
    .argument("<file>", "a plugin file, as in plugins/my-method.ts")
    .action(async (file) => {
      process.exitCode = await (await import("./plugin-check.ts")).pluginCheck(file);
    });
  return plugin;
}

function addDevices(program: Command): Command {
  return program
    .command("devices")
    .description("devices, their memory, the libraries found; with a model: what fits, per method and length")
    .option("--model_path <model>", "memory and loading time of this model")
    .option("--shape <name>", "of a model by shape: llama-3.1-8b")
    .option("--length <tokens...>", "prompt lengths (4096 32768 131072)", naturals)
    .option("--max_new_tokens <n>", "new tokens after the prompt (128)", natural)
    .option("--acceleration <methods...>", "methods; default all")
    .option("--set <values...>", "parameters: METHOD.key=value")
    .option("--plugin_dir <dirs...>", "more folders with plugin files")
    .option("--torch_dtype <type>", "bfloat16, float16 or float32; default: the checkpoint's own")
    .option("--prefill_chunk <rows>", "rows of the prompt that go through a layer at a time (4096)", natural)
    .option("--json", "one JSON object")
    .action(async (flags) => (await import("./devices.ts")).devices(flags));
}

function addData(program: Command): Command {
  return program
    .command("data")
    .description("writes the samples of a benchmark as JSONL")
    .option("--cfg_path <file>", "benchmark file, or the name of one in benchmarks/; default quick")
    .option("--model_path <model>", "whose tokenizer counts the tokens; default bundled")
    .option("--data_dir <dir>", "folder with your own essays, SQuAD and HotpotQA")
    .option("--task_names <names...>", "tasks of the benchmark; default all")
    .option("--length <tokens...>", "lengths; default those of the benchmark file")
    .option("--num_samples <n>", "samples per task and length", natural)
    .option("--seed <n>", "seed of the samples (42)", whole)
    .option(
      "--template <name>",
      "auto (the model's own chat template), none, or one by name: llama3, mistral, qwen, ...",
    )
    .addOption(
      new Option("--dialect <name>", "whose field names a RULER file has (ruler)").choices([
        "ruler",
        "ruler-2024",
        "loom",
        "kvpress",
      ]),
    )
    .option("--output_path <dir>", "folder for LENGTH/TASK.jsonl; default: one stream on stdout")
    .action(async (flags) => (await import("./data.ts")).data(flags));
}

function addReport(program: Command): Command {
  return program
    .command("report")
    .description("run directories as one HTML file: charts, tables, provenance")
    .argument("<dirs...>", "run directories, as accel run leaves them in results/")
    .option("--output_path <file>", "the file; default DIR/report.html, of several runs ./report.html")
    .option("--sample <ids...>", "samples whose kept tokens are shown (niah_single_2/512/0); default: the shortest")
    .option("--open", "opens it in the browser")
    .action(async (dirs, flags) => (await import("./report.ts")).report(dirs, flags));
}

function addCompare(program: Command): Command {
  const compare = program
    .command("compare")
    .description("run directories side by side: scores, differences on the same samples, cost")
    .argument("<dirs...>", "run directories, as accel run leaves them in results/; the first is compared with");
  return formatOption(compare, ["table", "md", "json", "jsonl", "csv"]).action(async (dirs, flags) =>
    (await import("./compare.ts")).compare(dirs, flags),
  );
}

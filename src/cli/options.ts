// The flags of every command, by their documented names, and the types that the commands receive.
import { type Command, InvalidArgumentError, Option } from "commander";

export interface EngineFlags {
  model_path?: string;
  device?: string[];
  gp_num?: string;
  torch_dtype?: string;
  threads?: number;
  prefill_chunk?: number;
  memory_limit?: string;
  eager?: boolean;
  seed?: number;
}

export interface MethodFlags {
  acceleration?: string[];
  set?: string[];
  plugin_dir?: string[];
}

export interface SamplingFlags {
  temperature?: number;
  top_p?: number;
  top_k?: number;
}

const number = (wanted: string, fits: (x: number) => boolean) => (value: string) => {
  const x = Number(value);
  if (value.trim() === "" || !Number.isFinite(x) || !fits(x)) throw new InvalidArgumentError(`It must be ${wanted}.`);
  return x;
};
export const natural = number("a whole number of at least 1", (x) => Number.isSafeInteger(x) && x >= 1);
export const whole = number("a whole number of at least 0", (x) => Number.isSafeInteger(x) && x >= 0);
export const share = number("a number above 0 and at most 1", (x) => x > 0 && x <= 1);
const positive = number("a number of at least 0", (x) => x >= 0);

/** A list of whole numbers, `4096,32768` or `4096 32768`; repeated uses add up. */
export const naturals = (value: string, before: number[] | undefined) => [
  ...(before ?? []),
  ...value
    .split(/[\s,]+/)
    .filter((part) => part !== "")
    .map(natural),
];
export const wholes = (value: string, before: number[] | undefined) => [
  ...(before ?? []),
  ...value
    .split(/[\s,]+/)
    .filter((part) => part !== "")
    .map(whole),
];

export function engineOptions(command: Command): Command {
  return command
    .option("--model_path <model>", "a Hugging Face directory, a GGUF file, a model id, or bundled (the default)")
    .option("--device <ids...>", "GPUs (0 1 3) or cpu; default: all GPUs, else cpu")
    .option(
      "--gp_num <n>",
      "2: the layers split over two devices; 1/2: two workers per device, which share its weights",
    )
    .option("--torch_dtype <type>", "bfloat16, float16 or float32; default: the checkpoint's own")
    .option("--threads <n>", "CPU threads; 0: one per core", whole)
    .option("--prefill_chunk <rows>", "rows of the prompt that go through a layer at a time (4096)", natural)
    .option("--memory_limit <bytes>", "bytes the engine may take, 20GiB for example")
    .option("--eager", "no CUDA graphs in decode");
}

export function methodOptions(command: Command): Command {
  return command
    .option(
      "--acceleration <methods...>",
      "methods: NAME, A+B, NAME@preset, NAME[key=value], all; accel methods lists them",
    )
    .option("--set <values...>", "parameters: METHOD.key=value")
    .option("--plugin_dir <dirs...>", "more folders with plugin files");
}

export function samplingOptions(command: Command): Command {
  return command
    .option("--temperature <t>", "0 (the default) is greedy", positive)
    .option("--top_p <p>", "sample from the smallest set of tokens with this share", share)
    .option("--top_k <k>", "sample from the k likeliest tokens; 0: all", whole)
    .option("--seed <n>", "seed of samples and sampling (42)", whole);
}

export function formatOption(
  command: Command,
  choices: readonly string[],
  about = "form of the tables on stdout",
): Command {
  return command.addOption(new Option("-o, --output <format>", about).choices([...choices]));
}

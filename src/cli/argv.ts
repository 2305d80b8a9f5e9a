// The command line before commander sees it: `--like-this` becomes `--like_this`, other toolkits' names become ours.
import { KvaError } from "../native/error.ts";

/** LOOM-Eval's names of our flags. */
const aliases: Record<string, string> = {
  "--gpu_ids": "--device",
  "--gpu_allocation": "--gp_num",
  "--benchmark": "--cfg_path",
  "--output_dir": "--output_path",
};

interface ForeignFlag {
  takesValue: boolean;
  /** a sentence to show where the flag changes nothing here; throws where leaving it out would change the result */
  answer(value: string): string;
}

const harmless = (why: string, takesValue = true): ForeignFlag => ({ takesValue, answer: () => why });
const refused = (flag: string, why: string): ForeignFlag => ({
  takesValue: true,
  answer: () => {
    throw new KvaError("usage", `${flag}: ${why}`);
  },
});

/** Flags of LOOM-Scope and LOOM-Eval that kvaccel does not need. */
const foreign: Record<string, ForeignFlag> = {
  "--eval": harmless("every run is scored", false),
  "--skip_existing": harmless("finished samples are never run again", false),
  "--save_strategy": harmless("every sample is saved as soon as it is done"),
  "--gpu_memory_utilization": harmless("memory is taken as it is needed"),
  "--max_model_len": harmless("the model's own limit holds; --max_length caps prompts"),
  "--web_index": harmless("there is no web interface"),
  "--data_path": harmless("samples are generated; data_dir in the benchmark file names official files"),
  "--server": {
    takesValue: true,
    answer: (value) => {
      if (value === "transformers") return "kvaccel has one engine, its own";
      throw new KvaError("usage", `--server ${value}: kvaccel has one engine, its own; leave the flag out`);
    },
  },
  "--adapter_path": refused("--adapter_path", "adapters are not supported; merge the adapter into the model first"),
  "--rag_method": refused("--rag_method", "retrieval is not supported; leave the flag out"),
  "--rag_config_path": refused("--rag_config_path", "retrieval is not supported; leave the flag out"),
};

export interface Arguments {
  argv: string[];
  notices: string[];
}

/** Rewrites flag names only; values and everything behind `--` stay as they are. */
export function readArguments(argv: readonly string[]): Arguments {
  const result: Arguments = { argv: [], notices: [] };
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    if (word === "--") {
      result.argv.push(...argv.slice(at));
      break;
    }
    if (!word.startsWith("--")) {
      result.argv.push(word);
      continue;
    }
    const equals = word.indexOf("=");
    const written = equals < 0 ? word : word.slice(0, equals);
    if (written === "--sbatch" && equals < 0 && at + 1 < argv.length) {
      at += 1; // its value is another program's flags
      result.argv.push(`--sbatch=${argv[at]!}`);
      continue;
    }
    const value = equals < 0 ? undefined : word.slice(equals + 1);
    const flag = `--${written.slice(2).replaceAll("-", "_")}`;
    const answer = foreign[flag];
    if (answer === undefined) {
      const name = aliases[flag] ?? flag;
      result.argv.push(value === undefined ? name : `${name}=${value}`);
      continue;
    }
    const next = argv[at + 1];
    const given = value ?? (answer.takesValue && next !== undefined && !next.startsWith("--") ? next : undefined);
    if (given !== undefined && value === undefined) at += 1;
    result.notices.push(`${flag} is not needed: ${answer.answer(given ?? "")}`);
  }
  return result;
}

/** `a,b c` and `["a", "b,c"]` are lists; what stands in brackets is not split. */
export function listOf(values: readonly string[] | undefined): string[] {
  return (values ?? []).flatMap((value) => value.split(/[\s,]+(?![^[]*\])/)).filter((value) => value !== "");
}

// From the words of the command line to an exit code: 0 ok, 1 a run or a row failed, 2 bad usage, 130 interrupted.
import { KvaError } from "../native/error.ts";
import { readArguments } from "./argv.ts";
import { Interrupted, Shown } from "./interrupt.ts";

export async function runMain(words: readonly string[]): Promise<number> {
  // A reader that closes early, as in `accel methods | head`, is not an error.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(process.exitCode ?? 0);
    });
  }
  try {
    const { argv, notices } = readArguments(words);
    for (const notice of notices) console.error(notice);
    if (argv.length === 0) return await withoutWords();
    const { makeProgram } = await import("./program.ts");
    await makeProgram().parseAsync(implied(argv), { from: "user" });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return failure(error, words.includes("--verbose"));
  }
}

/** Flags without a command are those of `run`. */
function implied(argv: string[]): string[] {
  const shown = ["-h", "--help", "-V", "--version"];
  const verbose = argv.filter((word) => word === "--verbose");
  const rest = argv.filter((word) => word !== "--verbose");
  const flagsAlone = (rest[0] ?? "-").startsWith("-") && !rest.some((word) => shown.includes(word));
  return [...(flagsAlone ? ["run"] : []), ...rest, ...verbose];
}

async function withoutWords(): Promise<number> {
  if (!process.stdin.isTTY || !process.stdout.isTTY) {
    throw new KvaError(
      "usage",
      "the wizard needs a terminal; without one, use accel run --cfg_path quick (accel --help)",
    );
  }
  const { openWizard } = await import("./open-wizard.ts");
  return openWizard();
}

function failure(error: unknown, verbose: boolean): number {
  if (error instanceof Shown) return Number(process.exitCode ?? 0);
  if (error instanceof Interrupted) return 130;
  const known = error instanceof Error ? error : new Error(String(error));
  console.error(/^accel[ :]/.test(known.message) ? known.message : `accel: ${known.message}`);
  const stack = "childStack" in known && typeof known.childStack === "string" ? known.childStack : known.stack;
  if (verbose && stack) console.error(stack);
  return known instanceof KvaError && known.code === "usage" ? 2 : 1;
}

// `accel score`: log-probabilities of given tokens under a method, and perplexity = exp(-mean of the log-probabilities).
import { EngineProcess } from "../bench/engine-process.ts";
import { loadTokenizer } from "../model/tokenizer.ts";
import { KvaError } from "../native/error.ts";
import { readMethod, readModel, setUpEngine } from "./engine-setup.ts";
import { oneOf, readIds, readText } from "./input.ts";
import { interruptible } from "./interrupt.ts";
import type { EngineFlags, MethodFlags } from "./options.ts";
import { tell } from "./output.ts";

interface ScoreFlags extends EngineFlags, MethodFlags {
  text_file?: string;
  ids_file?: string;
  prompt_tokens?: number;
  json?: boolean;
}

export function perplexity(logprobs: readonly (number | null)[]): number | null {
  const known = logprobs.filter((value) => value !== null);
  return known.length === 0 ? null : Math.exp(-known.reduce((sum, value) => sum + value, 0) / known.length);
}

export async function score(flags: ScoreFlags): Promise<void> {
  const [flag, path] = oneOf({ "--text_file": flags.text_file, "--ids_file": flags.ids_file });
  const model = await readModel(flags);
  const { config, source } = model;
  const method = await readMethod(flags, config);
  const tokenizer = loadTokenizer((source as { dir: string }).dir);
  const ids = flag === "--ids_file" ? readIds(path, config) : tokenizer.encode(readText(path, flag));
  checkLength(ids.length, flags.prompt_tokens, config.contextLength);
  if (flags.prompt_tokens === undefined && method.parts.length > 0) {
    tell(
      "Without --prompt_tokens all tokens are prefilled before the method keeps or drops anything: an evicting method equals Full.",
    );
  }
  const promptTokens = flags.prompt_tokens;
  const options = await setUpEngine(flags, model);
  const { logprobs } = await interruptible(async (abort) => {
    const engine = await EngineProcess.start(options, { abort });
    try {
      return await engine.score(method, promptTokens === undefined ? { ids } : { ids, promptTokens });
    } finally {
      await engine.stop();
    }
  });
  const result = {
    ids,
    logprobs,
    perplexity: perplexity(logprobs),
    ...(promptTokens === undefined ? {} : { perplexity_after: perplexity(logprobs.slice(promptTokens)) }),
  };
  process.stdout.write(flags.json ? `${JSON.stringify(result)}\n` : asText(result, (id) => tokenizer.tokenText(id)));
}

function checkLength(tokens: number, promptTokens: number | undefined, limit: number): void {
  if (tokens < 2)
    throw new KvaError(
      "data",
      `a log-probability needs at least 2 tokens; there ${tokens === 1 ? "is 1" : "are none"}`,
    );
  if (tokens > limit) throw new KvaError("data", `the text has ${tokens} tokens; the model takes ${limit}`);
  if (promptTokens !== undefined && promptTokens >= tokens) {
    throw new KvaError(
      "usage",
      `--prompt_tokens ${promptTokens}: the text has ${tokens} tokens, so none would be left to feed`,
    );
  }
}

interface Scored {
  ids: number[];
  logprobs: (number | null)[];
  perplexity: number | null;
  perplexity_after?: number | null;
}

/** One line a token: number, id, log-probability, text; tabs between them. */
function asText(result: Scored, textOf: (id: number) => string | undefined): string {
  const lines = result.ids.map((id, at) => {
    const logprob = result.logprobs[at];
    return [at, id, typeof logprob === "number" ? logprob.toFixed(6) : "-", JSON.stringify(textOf(id) ?? "")].join(
      "\t",
    );
  });
  const figure = (value: number | null) => (value === null ? "-" : value.toPrecision(6));
  lines.push(`perplexity\t${figure(result.perplexity)}`);
  if (result.perplexity_after !== undefined) lines.push(`perplexity_after\t${figure(result.perplexity_after)}`);
  return `${lines.join("\n")}\n`;
}

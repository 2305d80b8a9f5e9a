// `accel generate`: continues a prompt under a method; text as it comes, or one JSON object.
import { EngineProcess } from "../bench/engine-process.ts";
import type { Completion } from "../engine/protocol.ts";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { KvaError } from "../native/error.ts";
import { readMethod, readModel, setUpEngine } from "./engine-setup.ts";
import { type PromptFlags, readPrompt, roomFor } from "./input.ts";
import { interruptible } from "./interrupt.ts";
import type { EngineFlags, MethodFlags, SamplingFlags } from "./options.ts";

interface GenerateFlags extends EngineFlags, MethodFlags, SamplingFlags, PromptFlags {
  max_new_tokens?: number;
  ignore_eos?: boolean;
  json?: boolean;
}

export async function generate(flags: GenerateFlags): Promise<void> {
  const model = await readModel(flags);
  const { config, source } = model;
  const method = await readMethod(flags, config);
  const tokenizer = loadTokenizer((source as { dir: string }).dir);
  const ids = readPrompt(flags, tokenizer, config);
  const request = {
    id: "prompt",
    ids,
    maxNewTokens: roomFor(ids.length, flags.max_new_tokens ?? 128, config),
    stopIds: [...config.eosIds],
    ignoreStop: flags.ignore_eos === true,
    sampling: {
      temperature: flags.temperature ?? 0,
      topP: flags.top_p ?? 1,
      topK: flags.top_k ?? 0,
      seed: flags.seed ?? 42,
    },
  };
  const options = await setUpEngine(flags, model);
  await interruptible(async (abort) => {
    const engine = await EngineProcess.start(options, { abort });
    try {
      const stream = flags.json ? undefined : tokenizer.decodeStream();
      const write = (piece: string) => process.stdout.write(piece);
      const token = (_index: number, id: number) => void write(stream?.push(id) ?? "");
      const [completion] = await engine.generate(method, [request], stream ? { token } : {});
      if (completion?.status !== "ok") throw new KvaError("native", completion?.error ?? "the engine gave no answer");
      if (stream) write(`${stream.end()}\n`);
      else write(`${JSON.stringify(answer(completion, tokenizer, engine.info.loadMs))}\n`);
    } finally {
      await engine.stop();
    }
  });
}

function answer(completion: Completion, tokenizer: Tokenizer, loadMs: number) {
  const steps = completion.tokenMs.length;
  return {
    text: tokenizer.decode(completion.ids),
    ids: completion.ids,
    prompt_tokens: completion.promptTokens,
    timings: {
      load_ms: loadMs,
      prefill_ms: completion.prefillMs,
      decode_ms: completion.decodeMs,
      ms_per_token: steps === 0 ? null : completion.decodeMs / steps,
    },
  };
}

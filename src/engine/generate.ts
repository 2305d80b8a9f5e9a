// Generation for a batch of requests, or for batches in a pipeline over the stages: packed prefills, then decode steps until all are done.
import type { Decoder } from "../model/decoder.ts";
import { KvaError } from "../native/error.ts";
import { Scope } from "../native/scope.ts";
import { elementBytes } from "../native/tensor.ts";
import type { ModelInfo } from "../plugin/index.ts";
import { Decoding } from "./decoding.ts";
import { answerFollowUps } from "./follow-ups.ts";
import { bytesBeside, expectedStorage, type LoadedMethod } from "./method.ts";
import { type PassResult, PromptPass } from "./prompt-pass.ts";
import type { Completion, Request } from "./protocol.ts";
import type { Sequence } from "./sequence.ts";

export interface GenerateEvents {
  /** a new token of the request at that index */
  token?(index: number, id: number): void;
  phase?(phase: "prefill" | "decode", done: number, total: number): void;
  /** called between pieces of work: a chance to answer others */
  breathe(): Promise<void>;
}

export interface GenerateOptions {
  decoder: Decoder;
  model: ModelInfo;
  method: LoadedMethod;
  requests: readonly Request[];
  graphs: boolean;
  /** batches of so many requests go through the stages one behind the other; absent: all are one batch */
  pipeline?: number;
}

/** Runs the requests together. Throws a KvaError where the batch cannot run at all (out of memory, a failing plugin). */
export async function generate(options: GenerateOptions, events: GenerateEvents): Promise<Completion[]> {
  const { decoder, requests } = options;
  for (const request of requests) {
    checkRequest(request);
    checkIds(request.id, request.ids, decoder.config.vocabSize);
    for (const { id, ids } of request.followUps ?? []) {
      if (ids.length === 0) throw new KvaError("data", `${id}: the question has no tokens`);
      checkIds(id, ids, decoder.config.vocabSize);
    }
  }
  decoder.sync();
  for (const { context } of decoder.stages) context.resetPeak();
  using scope = new Scope(decoder.context);
  return await new Generation(scope, options, events).run();
}

/** Refuses ids that the model does not know. */
export function checkIds(what: string, ids: readonly number[], vocabulary: number): void {
  const wrong = ids.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabulary);
  if (wrong !== undefined) {
    throw new KvaError("data", `${what}: token id ${wrong} is outside of the vocabulary of ${vocabulary} tokens`);
  }
}

function checkRequest({ id, ids, maxNewTokens, questionStart }: Request): void {
  if (ids.length === 0) throw new KvaError("data", `${id}: the prompt has no tokens`);
  if (!(Number.isInteger(maxNewTokens) && maxNewTokens >= 1)) {
    throw new KvaError("data", `${id}: maxNewTokens must be a whole number of at least 1, not ${maxNewTokens}`);
  }
  if (questionStart !== undefined && !(questionStart > 0 && questionStart <= ids.length)) {
    throw new KvaError("data", `${id}: the question starts at token ${questionStart} of a prompt of ${ids.length}`);
  }
}

class Generation {
  private readonly start = performance.now();
  private readonly passes: PromptPass[];
  private readonly sequences: Sequence[];
  private readonly completions: Completion[] = [];

  constructor(
    private readonly scope: Scope,
    private readonly options: GenerateOptions,
    private readonly events: GenerateEvents,
  ) {
    const { decoder, method, model, requests, pipeline } = options;
    const size = pipeline ?? requests.length;
    const batches = Array.from({ length: Math.ceil(requests.length / size) }, (_, b) =>
      requests.slice(b * size, (b + 1) * size),
    );
    this.passes = batches.map((batch) => new PromptPass(scope, decoder, method, model, batch));
    this.sequences = this.passes.flatMap(({ sequences }) => sequences);
  }

  async run(): Promise<Completion[]> {
    const results = await this.prefillAll();
    const loops = this.decodings(results);
    this.begin(results);
    const away = await this.followUps();
    for (const loop of loops) loop.exclude(away);
    while (loops.some(({ going }) => going)) {
      for (const loop of loops) if (loop.going) loop.turn();
      await this.events.breathe();
    }
    const decodeMethodMs = loops.reduce((sum, loop) => sum + loop.methodMs(), 0);
    return this.finish().map((completion) => ({ ...completion, decodeMethodMs }));
  }

  /** All prompts, up to the hidden states of their last rows. Of several passes each queues a stage when the one before has left it. */
  private async prefillAll(): Promise<PassResult[]> {
    const total = this.passes.reduce((rows, pass) => rows + pass.rows, 0);
    this.events.phase?.("prefill", 0, total);
    const turns = this.options.decoder.stages.map(() => new Turns());
    let failure: { error: unknown } | undefined;
    const breathe = async () => {
      if (failure) throw failure.error;
      await this.events.breathe();
    };
    const runs = this.passes.map(async (pass) => {
      try {
        return await pass.run({ breathe, enter: (stage) => turns[stage]!.take() });
      } catch (error) {
        failure ??= { error };
        throw error;
      }
    });
    const settled = await Promise.allSettled(runs); // none may go on when the scope is gone
    if (failure) throw failure.error;
    this.events.phase?.("prefill", total, total);
    return settled.map((one) => (one as PromiseFulfilledResult<PassResult>).value);
  }

  /** One loop for each stage of a pipeline, so that every device has one to work on; the sequences go round. */
  private decodings(results: readonly PassResult[]): Decoding[] {
    const { decoder, requests, graphs } = this.options;
    const sampling = requests[0]?.sampling ?? { temperature: 0, topK: 0, topP: 1, seed: 0 };
    const count = Math.min(decoder.stages.length, this.passes.length);
    return Array.from({ length: count }, (_, n) => {
      const mine = this.passes.flatMap((pass, p) => (p % count === n ? [{ pass, last: results[p]!.last }] : []));
      const members = mine.flatMap(({ pass }) => pass.sequences);
      const events = { token: (sequence: Sequence, id: number) => this.token(sequence, id) };
      const loop = new Decoding(this.scope, decoder, members, sampling, graphs, this.start, events);
      loop.begin(mine.map(({ last }) => last));
      return loop;
    });
  }

  private token(sequence: Sequence, id: number): void {
    this.events.token?.(this.sequences.indexOf(sequence), id);
    this.events.phase?.("decode", sequence.newIds.length, sequence.request.maxNewTokens);
  }

  /** figures of the sequences when their prompts are done */
  private begin(results: readonly PassResult[]): void {
    for (const [p, pass] of this.passes.entries()) {
      const methodMs =
        results[p]!.methodMs() + pass.sequences.reduce((ms, { selection }) => ms + (selection?.ms() ?? 0), 0);
      for (const sequence of pass.sequences) this.completions.push(this.figures(sequence, methodMs));
    }
  }

  /** the further questions of every sequence, before its own answer changes its cache; milliseconds spent */
  private async followUps(): Promise<number> {
    const start = performance.now();
    for (const [s, sequence] of this.sequences.entries()) {
      const { followUps } = sequence.request;
      if (!followUps?.length) continue;
      this.completions[s]!.followUps = await answerFollowUps(this.options, sequence, followUps, this.events.breathe);
    }
    return performance.now() - start;
  }

  private figures(sequence: Sequence, methodMs: number): Completion {
    const { request, cache } = sequence;
    const { heldBytes, allocatedBytes } = cache.info();
    return {
      id: request.id,
      status: "ok",
      ids: sequence.newIds,
      finish: "length",
      promptTokens: request.ids.length,
      prefillMs: 0,
      methodMs,
      ...(sequence.selection && { selectMs: sequence.selection.ms() }),
      decodeMs: 0,
      tokenMs: sequence.tokenMs,
      cacheBytes: heldBytes,
      cacheAllocatedBytes: allocatedBytes,
      expectedCacheBytes: this.expectedBytes(sequence),
      peakBytes: 0,
      numbers: {},
      ...(request.logKept ? { kept: { prompt: sequence.keptRanges(), end: [], tokens: 0 } } : {}),
    };
  }

  /** keys and values as the method's formulas store them, positions and side arrays of the rows they keep */
  private expectedBytes({ promptTokens, needs }: Sequence): number {
    const { decoder, method, model } = this.options;
    const unit = elementBytes[decoder.dtype];
    let bytes = 0;
    for (let layer = 0; layer < model.layers; layer++) {
      const head = expectedStorage(method, promptTokens, layer, model, unit);
      bytes += head.keyBytes + head.valueBytes + head.rows * bytesBeside(needs, model.headDim, unit);
    }
    return bytes * model.kvHeads;
  }

  private finish(): Completion[] {
    const peaks = this.options.decoder.stages.map(({ context }) => context.memory().peakBytes);
    const peakBytes = peaks.reduce((sum, bytes) => sum + bytes, 0);
    return this.completions.map((completion, s) => {
      const sequence = this.sequences[s]!;
      const decodeMs = sequence.tokenMs.reduce((sum, ms) => sum + ms, 0);
      const { prefillMs } = sequence;
      const kept = completion.kept && {
        ...completion.kept,
        end: sequence.keptRanges(),
        tokens: sequence.cache.info().position,
      };
      return {
        ...completion,
        ...(kept && { kept }),
        finish: sequence.finish ?? "length",
        prefillMs,
        decodeMs,
        peakBytes,
        ...(peaks.length > 1 ? { devicePeakBytes: peaks } : {}),
        numbers: sequence.end(),
      };
    });
  }
}

/** One at a time, in the order in which they came. */
class Turns {
  private last: Promise<void> = Promise.resolve();

  /** Waits for its turn; the result ends it. */
  async take(): Promise<() => void> {
    const before = this.last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.last = promise;
    await before;
    return resolve;
  }
}

// Generation for a batch of requests: one packed prefill, then decode steps until every sequence is done.
import type { Decoder } from "../model/decoder.ts";
import { KvaError } from "../native/error.ts";
import { Scope } from "../native/scope.ts";
import { elementBytes } from "../native/tensor.ts";
import type { ModelInfo } from "../plugin/index.ts";
import { DecodeLoop } from "./decode.ts";
import { answerFollowUps } from "./follow-ups.ts";
import { expectedStorage, type LoadedMethod } from "./method.ts";
import { gatherRows, prefill } from "./prefill.ts";
import type { Completion, Request } from "./protocol.ts";
import { Sequence } from "./sequence.ts";

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
  private readonly sequences: Sequence[];
  private readonly loop: DecodeLoop;
  private readonly completions: Completion[] = [];

  constructor(
    scope: Scope,
    private readonly options: GenerateOptions,
    private readonly events: GenerateEvents,
  ) {
    const { decoder, method, model, requests, graphs } = options;
    this.sequences = requests.map((request) => new Sequence(scope, decoder, request, method, model));
    const sampling = requests[0]?.sampling ?? { temperature: 0, topK: 0, topP: 1, seed: 0 };
    this.loop = scope.own(new DecodeLoop(decoder, sampling, requests.length, graphs));
  }

  async run(): Promise<Completion[]> {
    let start = performance.now();
    const methodMs = await this.prefillAll();
    let sampled = this.loop.sampleFrom();
    for (const sequence of this.sequences) this.completions.push(this.begin(sequence, methodMs));
    start += await this.followUps();

    let members = this.sequences;
    let stepStart = start;
    for (let step = 0; members.length > 0; step++) {
      const now = performance.now();
      const next = members.map((sequence, i) =>
        this.take(sequence, sampled[i]!, now - start, step > 0 ? now - stepStart : 0),
      );
      stepStart = now;
      members = this.advance(members, next);
      if (members.length > 0) sampled = this.loop.step.ids.toInts();
      await this.events.breathe();
    }
    return this.finish();
  }

  /** prefill of all prompts, up to the logits of their last rows in the step buffers; milliseconds spent in hooks */
  private async prefillAll(): Promise<number> {
    const { decoder } = this.options;
    using scope = new Scope(decoder.context);
    const total = this.sequences.reduce((rows, sequence) => rows + sequence.promptTokens, 0);
    this.events.phase?.("prefill", 0, total);
    const { hidden, starts, methodMs } = await prefill(scope, decoder, this.sequences, this.events.breathe);
    const last = gatherRows(
      scope,
      hidden,
      starts.map((at, s) => at + this.sequences[s]!.promptTokens - 1),
    );
    this.loop.setMembers(this.sequences);
    const { normed, logits } = this.loop.step;
    decoder.logits(last, normed, logits);
    const spent = methodMs() + this.sequences.reduce((ms, { selection }) => ms + (selection?.ms() ?? 0), 0);
    this.events.phase?.("prefill", total, total);
    return spent;
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

  /** a sequence takes its sampled token; the token to feed next, null when it is done */
  private take(sequence: Sequence, sampled: number, sinceStart: number, stepMs: number): number | null {
    const feeding = sequence.feeding;
    const before = sequence.newIds.length;
    if (sequence.prefillMs === 0 && !feeding) sequence.prefillMs = sinceStart;
    else if (!feeding) sequence.tokenMs.push(stepMs);
    const next = sequence.accept(sampled);
    if (sequence.newIds.length > before) {
      this.events.token?.(this.sequences.indexOf(sequence), sampled);
      this.events.phase?.("decode", sequence.newIds.length, sequence.request.maxNewTokens);
    }
    return next;
  }

  /** queues a step for the sequences that go on; the finished ones leave the batch */
  private advance(members: Sequence[], next: (number | null)[]): Sequence[] {
    const going = members.filter((_, i) => next[i] !== null);
    if (going.length === 0) return going;
    const ids = Int32Array.from(next.filter((id) => id !== null));
    if (going.length < members.length) this.loop.setMembers(going);
    if (going.length < members.length || members.some((sequence) => sequence.wasFed)) this.loop.feed(ids);
    this.loop.advance();
    return going;
  }

  /** figures of a sequence when its prompt is done */
  private begin(sequence: Sequence, methodMs: number): Completion {
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
    let bytes = 0;
    for (let layer = 0; layer < model.layers; layer++) {
      const head = expectedStorage(method, promptTokens, layer, model, elementBytes[decoder.dtype]);
      bytes += head.keyBytes + head.valueBytes + head.rows * (4 + 4 * needs.sideArrays.length);
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

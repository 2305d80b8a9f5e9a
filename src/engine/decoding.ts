// Decode steps of sequences whose prompts are done, until each of them is: tokens accepted, times noted, finished ones leave.
import type { Decoder } from "../model/decoder.ts";
import type { Scope } from "../native/scope.ts";
import { Tensor } from "../native/tensor.ts";
import { DecodeLoop } from "./decode.ts";
import type { Sampling } from "./protocol.ts";
import type { Sequence } from "./sequence.ts";

export interface DecodingEvents {
  token(sequence: Sequence, id: number): void;
}

export class Decoding {
  private readonly loop: DecodeLoop;
  private stepStart = 0;
  private first = true;

  /** start: when the request came, by performance.now() */
  constructor(
    private readonly scope: Scope,
    private readonly decoder: Decoder,
    private members: Sequence[],
    sampling: Sampling,
    graphs: boolean,
    private start: number,
    private readonly events: DecodingEvents,
  ) {
    this.loop = scope.own(new DecodeLoop(decoder, sampling, members.length, graphs));
  }

  /** Queues the first tokens. last: hidden states of the members' last prompt rows, `[members, hiddenSize]` in pieces. */
  begin(last: readonly Tensor[]): void {
    this.loop.setMembers(this.members);
    const { normed, logits, hidden } = this.loop.step;
    const rows = last.length === 1 ? last[0]! : this.stack(last, hidden);
    this.decoder.logits(rows, normed, logits);
    this.loop.sampleFrom();
  }

  private stack(pieces: readonly Tensor[], { context, dtype, rows, columns }: Tensor): Tensor {
    const all = this.scope.own(Tensor.create(context, dtype, rows, columns));
    let at = 0;
    for (const piece of pieces) {
      using place = all.view(at, piece.rows);
      piece.copyTo(place);
      at += piece.rows;
    }
    return all;
  }

  /** Time that was not spent on these sequences, and is not theirs. */
  exclude(ms: number): void {
    this.start += ms;
  }

  /** Milliseconds that the method took in a step, on the device, all sequences together; waits for it. */
  methodMs(): number {
    return this.loop.methodMs();
  }

  /** whether a sequence goes on */
  get going(): boolean {
    return this.members.length > 0;
  }

  /** Waits for the sampled tokens and queues the next step. */
  turn(): void {
    const sampled = this.loop.ids();
    const now = performance.now();
    const stepMs = this.first ? 0 : now - this.stepStart;
    const next = this.members.map((sequence, i) => this.take(sequence, sampled[i]!, now - this.start, stepMs));
    this.first = false;
    this.stepStart = now;
    this.advance(next);
  }

  /** a sequence takes its sampled token; the token to feed next, null when it is done */
  private take(sequence: Sequence, sampled: number, sinceStart: number, stepMs: number): number | null {
    const feeding = sequence.feeding;
    const before = sequence.newIds.length;
    if (sequence.prefillMs === 0 && !feeding) sequence.prefillMs = sinceStart;
    else if (!feeding) sequence.tokenMs.push(stepMs);
    const next = sequence.accept(sampled);
    if (sequence.newIds.length > before) this.events.token(sequence, sampled);
    return next;
  }

  /** queues a step for the sequences that go on; the finished ones leave the batch */
  private advance(next: (number | null)[]): void {
    const before = this.members;
    const going = before.filter((_, i) => next[i] !== null);
    this.members = going;
    if (going.length === 0) return;
    const fed = before.some((sequence) => sequence.wasFed);
    if (going.length < before.length) this.loop.setMembers(going);
    if (going.length < before.length || fed) this.loop.feed(Int32Array.from(next.filter((id) => id !== null)));
    this.loop.advance();
  }
}

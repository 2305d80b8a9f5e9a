// Decode steps of a batch: eager at first, then captured in graphs, one for each stage, where no hook needs the host.
import type { Decoder, StepBuffers } from "../model/decoder.ts";
import { sample } from "../native/ops.ts";
import { DecodeStage } from "./decode-stage.ts";
import type { Sampling } from "./protocol.ts";
import { type DecodeOp, type Launch, plan } from "./recorded.ts";
import type { Sequence } from "./sequence.ts";

export class DecodeLoop {
  private readonly stages: DecodeStage[] = [];
  private readonly recorded = new Map<Sequence, DecodeOp[][]>();
  private members: Sequence[] = [];
  private launches: Launch[][] = [];
  /** ids were sampled on the last stage that the first one has not got yet */
  private sampled = false;

  constructor(
    private readonly decoder: Decoder,
    private readonly sampling: Sampling,
    maxSequences: number,
    private readonly graphs: boolean,
  ) {
    try {
      for (let s = 0; s < decoder.stages.length; s++) this.stages.push(new DecodeStage(decoder, s, maxSequences));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  private get first(): DecodeStage {
    return this.stages[0]!;
  }
  private get last(): DecodeStage {
    return this.stages.at(-1)!;
  }

  /** The sequences of the next steps, in order. */
  setMembers(members: readonly Sequence[]): void {
    this.sampled = false;
    this.members = [...members];
    for (const stage of this.stages) stage.setMembers(members);
    this.launches = [];
  }

  /** Milliseconds that recorded ops took in the last eager step, all members and stages together; waits for it. */
  methodMs(): number {
    return this.stages.reduce((sum, stage) => sum + stage.methodMs(), 0);
  }

  /** Samples from logits `[members, vocabSize]` of the step buffers. Queued only. */
  sampleFrom(): void {
    this.sample();
    this.last.done();
    this.sampled = true;
  }

  /** Buffers of the last stage for the current number of members: logits, and the sampled ids. */
  get step(): StepBuffers {
    return this.last.step;
  }

  /** The ids sampled last, one per member. Waits for them, and for nothing that other loops queued behind on the last device. */
  ids(): Int32Array {
    this.handOver();
    return this.first.step.ids.toInts();
  }

  /** Feeds these tokens, one per member; what follows is in `step.logits` (and, sampled, in `ids()`). */
  feed(ids: Int32Array): void {
    this.handOver();
    this.first.step.ids.upload(ids);
  }

  /** One step for all members: the tokens fed or sampled last in, the next ones sampled. Queued only. */
  advance(): void {
    const perStep = this.members.some((sequence) => sequence.needs.perStep);
    for (const stage of this.stages) stage.prepare();
    if (perStep || this.launches.length === 0) this.record(perStep);
    const graphs = this.graphs && !perStep;
    this.handOver();
    for (const [s, stage] of this.stages.entries()) {
      const before = this.stages[s - 1];
      if (before) stage.pull(before, before.step.hidden, stage.step.hidden);
      stage.run(this.launches, graphs, stage === this.last ? () => this.sample() : () => {});
      stage.done();
    }
    this.sampled = true;
  }

  private sample(): void {
    const { batch, step } = this.last;
    sample(batch, step.logits, this.sampling, step.ids);
  }

  /** The sampled ids are the next ones to feed. */
  private handOver(): void {
    if (this.sampled && this.first !== this.last) this.first.pull(this.last, this.last.step.ids, this.first.step.ids);
    this.sampled = false;
  }

  private record(again: boolean): void {
    const { layers } = this.decoder.config;
    for (const sequence of this.members) {
      if (!again && this.recorded.has(sequence)) continue;
      this.recorded.set(
        sequence,
        Array.from({ length: layers }, (_, layer) => sequence.recordDecode(layer)),
      );
    }
    this.launches = Array.from({ length: layers }, (_, layer) =>
      plan(this.members.map((sequence) => this.recorded.get(sequence)?.[layer] ?? [])),
    );
  }

  dispose(): void {
    for (const stage of this.stages) stage.dispose();
  }
}

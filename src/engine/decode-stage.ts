// The decode steps of one stage: its batch, its buffers, and the graph that its layers are captured in.
import type { Decoder, StepBuffers } from "../model/decoder.ts";
import { Graph, Timer } from "../native/graph.ts";
import { Batch } from "../native/kv.ts";
import { Scope } from "../native/scope.ts";
import { type Context, Tensor } from "../native/tensor.ts";
import { PagedReads, planReads } from "./paged-reads.ts";
import { type Launch, replay } from "./recorded.ts";
import type { Sequence } from "./sequence.ts";

/** The probabilities' buffer grows by so many columns at a time. */
const PROBS_STEP = 1024;

export class DecodeStage {
  readonly batch: Batch;
  private readonly context: Context;
  /** marked when a step of this stage is queued */
  private readonly mark: Timer;
  private readonly buffers = new Map<number, { scope: Scope; step: StepBuffers }>();
  /** slots of `mark` where the last eager step began something of the method; the next slot is its end */
  private timed: number[] = [];
  private members: readonly Sequence[] = [];
  /** fp32 `[members * kvHeads, columns]`: probabilities of the current query, where a method needs them */
  private probs: Tensor | null = null;
  /** what the members read of their caches; null where they read everything */
  private reads: PagedReads | null = null;
  private graph: Graph | null = null;
  /** of the batch's storage, at the step being prepared */
  private generation = -1;
  /** the one that the last eager step ran with; -1: none since the members changed */
  private eagerGeneration = -1;
  private graphGeneration = -1;

  constructor(
    private readonly decoder: Decoder,
    private readonly stage: number,
    maxSequences: number,
  ) {
    this.context = decoder.stages[stage]!.context;
    this.batch = Batch.create(this.context, maxSequences);
    try {
      this.mark = Timer.create(this.context, 1 + 4 * decoder.config.layers);
    } catch (error) {
      this.batch.dispose();
      throw error;
    }
  }

  setMembers(members: readonly Sequence[]): void {
    this.dropGraph();
    this.members = members;
    this.batch.set(members.map(({ cache }) => cache.parts[this.stage]!));
    this.eagerGeneration = -1;
    this.reads?.dispose();
    const { layers, kvHeads } = this.decoder.config;
    const plans = Array.from({ length: layers }, (_, layer) => planReads(members.map(({ pages }) => pages[layer]!)));
    this.reads = plans.some((plan) => plan) ? new PagedReads(this.context, plans, members.length * kvHeads) : null;
  }

  /** Buffers for the current number of members; made once per number. */
  get step(): StepBuffers {
    const count = this.members.length;
    let made = this.buffers.get(count);
    if (!made) {
      const scope = new Scope(this.context);
      try {
        made = { scope, step: this.decoder.stepBuffers(scope, this.stage, count) };
      } catch (error) {
        scope.dispose();
        throw error;
      }
      this.buffers.set(count, made);
    }
    return made.step;
  }

  /** Room for the rows of the next step. */
  prepare(): void {
    this.generation = this.batch.reserve(1);
    this.decoder.updateRope(this.step, () => this.members.map((member) => member.rotatedLength + 1));
    this.fitProbs();
    if (this.reads?.fit(this.rowsToCome)) this.dropGraph();
  }

  /** Queues the layers of the stage with their recorded ops, then `after`: as a graph once an eager step ran with this storage. */
  run(launches: readonly Launch[][], graphs: boolean, after: () => void): void {
    if (this.graph && this.graphGeneration !== this.generation) this.dropGraph();
    if (!this.graph && graphs && this.eagerGeneration === this.generation) {
      this.graph = Graph.capture(this.context, () => this.queue(launches, after, false));
      this.graphGeneration = this.generation;
    }
    if (this.graph) {
      this.graph.launch();
      return;
    }
    this.queue(launches, after, true);
    this.eagerGeneration = this.generation;
  }

  /** A step of this stage is queued. */
  done(): void {
    this.mark.mark(0);
  }

  /** Queues here a copy of what another stage's last step gave; later work of that device is not waited for. */
  pull(from: DecodeStage, of: Tensor, to: Tensor): void {
    from.mark.hold(0, this.context);
    of.pullToPeer(to);
  }

  /** Milliseconds that the recorded ops of the last eager step took on the device, all members together; waits for it. */
  methodMs(): number {
    return this.timed.reduce((sum, slot) => sum + this.mark.read(slot, slot + 1), 0);
  }

  private queue(launches: readonly Launch[][], after: () => void, timed: boolean): void {
    const { probs, step, batch, reads } = this;
    if (timed) this.timed = [];
    const time = <T>(slot: number, run: () => T): T => {
      if (!timed) return run();
      this.mark.mark(slot);
      const result = run();
      this.mark.mark(slot + 1);
      this.timed.push(slot);
      return result;
    };
    this.decoder.step(this.stage, batch, step, {
      probs,
      choose: (layer) =>
        reads?.selects(layer) ? time(1 + 4 * layer, () => reads.choose(batch, layer, step.queries)) : null,
      after: (layer) => {
        const list = launches[layer]!;
        if (list.length > 0) time(3 + 4 * layer, () => replay(batch, layer, list, { rope: step.rope, probs }));
      },
    });
    batch.advance();
    after();
  }

  /** rows that the longest head holds in this step */
  private get rowsToCome(): number {
    return Math.max(...this.members.map(({ cache }) => cache.parts[this.stage]!.info().longestRows)) + 1;
  }

  /** The probabilities' buffer holds a column for every row that a head may have in this step. */
  private fitProbs(): void {
    if (!this.members.some((sequence) => sequence.needs.decodeProbs)) return;
    const rows = this.rowsToCome;
    const heads = this.members.length * this.decoder.config.kvHeads;
    if (this.probs && this.probs.columns >= rows && this.probs.rows === heads) return;
    this.dropGraph();
    this.probs?.dispose();
    this.probs = null;
    const columns = Math.ceil((rows + 1) / PROBS_STEP) * PROBS_STEP;
    this.probs = Tensor.create(this.context, "float32", heads, columns, "scratch");
  }

  private dropGraph(): void {
    this.graph?.dispose();
    this.graph = null;
    this.graphGeneration = -1;
  }

  dispose(): void {
    this.dropGraph();
    this.probs?.dispose();
    this.reads?.dispose();
    for (const { scope } of this.buffers.values()) scope.dispose();
    this.mark.dispose();
    this.batch.dispose();
  }
}

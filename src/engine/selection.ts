// What a sequence's select hook chose, layer by layer: the share of the blocks that attention read, and the time the choice took.
import type { Decoder } from "../model/decoder.ts";
import { blocksCount, blocksThin } from "../native/blocks.ts";
import { Timer } from "../native/graph.ts";
import type { Scope } from "../native/scope.ts";
import type { Tensor } from "../native/tensor.ts";
import type { TensorBlocks } from "./block-ops.ts";

interface Stage {
  timer: Timer;
  /** i32 `[layers, heads]`: blocks of the layer's set */
  counts: Tensor;
}

interface Choice {
  layer: number;
  /** the set; null: everything is read */
  set: { rows: number; denseHeads: readonly number[] } | null;
}

export class Selection {
  private readonly stages: Stage[];
  private readonly choices: Choice[] = [];

  constructor(
    scope: Scope,
    private readonly decoder: Decoder,
    /** sets are cut to this share of their blocks; null: not cut */
    private readonly cutTo: number | null,
  ) {
    const { layers, heads } = decoder.config;
    this.stages = decoder.stages.map(({ context }) => ({
      timer: scope.own(Timer.create(context, 2 * layers)),
      counts: scope.on(context).tensor("int32", layers, heads, "scratch"),
    }));
  }

  /** Runs a layer's choice, timed; counts it, and cuts it where that is wanted. */
  choose(layer: number, run: () => TensorBlocks | null): TensorBlocks | null {
    const { timer, counts } = this.stages[this.decoder.stageOf(layer)]!;
    timer.mark(2 * layer);
    const set = run();
    timer.mark(2 * layer + 1);
    if (set && this.cutTo !== null) blocksThin(set, this.cutTo);
    if (set) {
      using row = counts.view(layer, 1);
      blocksCount(set, row);
    }
    const denseHeads = set ? Array.from(set.kinds.keys()).filter((head) => set.kinds[head] === 1) : [];
    this.choices.push({ layer, set: set && { rows: set.rows, denseHeads } });
    return set;
  }

  /** milliseconds on the device; waits for it */
  ms(): number {
    return this.choices.reduce((sum, { layer }) => {
      const { timer } = this.stages[this.decoder.stageOf(layer)]!;
      return sum + timer.read(2 * layer, 2 * layer + 1);
    }, 0);
  }

  /** The share of the causal blocks that was read, mean over the layers, one without a set counting as 1; waits for the device. */
  density(): number {
    const counts = this.stages.map((stage) => stage.counts.toInts());
    const shares = this.choices.map(({ layer, set }) => {
      if (!set) return 1;
      const all = (set.rows * (set.rows + 1)) / 2;
      const read = (head: number) =>
        set.denseHeads.includes(head) ? all : counts[this.decoder.stageOf(layer)]![layer * this.heads + head]!;
      return Array.from({ length: this.heads }, (_, head) => read(head)).reduce((a, b) => a + b) / (this.heads * all);
    });
    return shares.reduce((a, b) => a + b, 0) / Math.max(1, shares.length);
  }

  private get heads(): number {
    return this.decoder.config.heads;
  }
}

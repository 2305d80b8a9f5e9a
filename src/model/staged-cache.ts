// The cache of one sequence over the stages of a model: layers keep their numbers, each device holds the rows of its own.
import { type CacheFigures, type CacheShape, KvCache } from "../native/kv.ts";
import type { Stage } from "./stages.ts";

export class StagedCache {
  private constructor(
    readonly shape: CacheShape,
    /** one for each stage */
    readonly parts: readonly KvCache[],
    private readonly stageOf: readonly number[],
  ) {}

  static create(stages: readonly Stage[], shape: CacheShape): StagedCache {
    const parts: KvCache[] = [];
    try {
      for (const { context, first, end } of stages) parts.push(KvCache.create(context, shape, first, end));
    } catch (error) {
      for (const part of parts) part.dispose();
      throw error;
    }
    const stageOf = stages.flatMap(({ first, end }, s) => new Array<number>(end - first).fill(s));
    return new StagedCache(shape, parts, stageOf);
  }

  /** a cache of its own with the same rows, side arrays and position */
  fork(): StagedCache {
    const parts: KvCache[] = [];
    try {
      for (const part of this.parts) parts.push(part.fork());
    } catch (error) {
      for (const part of parts) part.dispose();
      throw error;
    }
    return new StagedCache(this.shape, parts, this.stageOf);
  }

  /** the cache that holds a layer's rows */
  of(layer: number): KvCache {
    return this.parts[this.stageOf[layer] ?? 0]!;
  }

  reserve(layer: number, rows: number): void {
    this.of(layer).reserve(layer, rows);
  }

  info(): CacheFigures {
    const all = this.parts.map((part) => part.info());
    return {
      heldBytes: all.reduce((sum, { heldBytes }) => sum + heldBytes, 0),
      allocatedBytes: all.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0),
      position: all[0]!.position,
      longestRows: Math.max(...all.map(({ longestRows }) => longestRows)),
    };
  }

  /** rows of each KV head; does not wait for the device */
  lengths(layer: number): Int32Array {
    return this.of(layer).lengths(layer);
  }

  /** original positions in row order; waits for the device */
  positions(layer: number, kvHead: number): Int32Array {
    return this.of(layer).positions(layer, kvHead);
  }

  /** sets the logical position and the random stream of the sequence */
  seek(position: number, stream: number): void {
    for (const part of this.parts) part.seek(position, stream);
  }

  dispose(): void {
    for (const part of this.parts) part.dispose();
  }
}

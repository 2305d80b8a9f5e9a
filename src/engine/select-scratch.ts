// Scratch of a select hook before it runs: the hook is called on a layer without data, and what its operations would take is added up.
import type { Backend } from "../native/library.ts";
import type { Layer, ModelInfo, Ops } from "../plugin/index.ts";
import { headsAtOnce } from "./block-ops.ts";
import type { NamedHooks } from "./method.ts";

export interface SelectScratch {
  /** sets, sums and scores that live together in one layer */
  held: number;
  /** the native library's arena, which stays */
  arena: number;
}

/** of log-sum-exps, as cuda/ops/antidiagonal.cu takes query blocks in runs */
const antidiagonalArena = 128 * 2 ** 20;

/** The layer that takes most; nothing where no hook selects, or a hook reads everything. */
export function selectScratch(
  hooks: readonly NamedHooks[],
  model: ModelInfo,
  promptTokens: number,
  backend: Backend,
): SelectScratch {
  const most = { held: 0, arena: 0 };
  for (const { hooks: own } of hooks) {
    for (let layer = 0; own.select && layer < model.layers; layer++) {
      const meter = new Meter(model, promptTokens, backend);
      try {
        own.select(meter.layer(layer), meter.ops());
      } catch {
        break; // a hook that needs data cannot be foreseen: the run itself says what is wrong with it
      }
      most.held = Math.max(most.held, meter.held);
      most.arena = Math.max(most.arena, meter.arena);
    }
  }
  return most;
}

/** What calls of BlockOps allocate (engine/block-ops.ts), in bytes. */
class Meter {
  held = 0;
  arena = 0;
  private stride = 0;

  constructor(
    private readonly model: ModelInfo,
    private readonly tokens: number,
    private readonly backend: Backend,
  ) {}

  layer(index: number): Layer {
    const { layers, heads, kvHeads, headDim } = this.model;
    const queries = (count = this.tokens) => ({ rows: Math.min(count, this.tokens), columns: heads * headDim });
    const keys = { rows: this.tokens, columns: kvHeads * headDim };
    const sizes = { groupSize: heads / kvHeads, length: this.tokens, promptTokens: this.tokens };
    return { index, layers, heads, kvHeads, headDim, ...sizes, keys, queries } as unknown as Layer;
  }

  ops(): Ops {
    const blocks = new Proxy({} as Record<string, unknown>, {
      get:
        (_, name) =>
        (...given: unknown[]) =>
          this.call(String(name), given),
    });
    return { blocks } as unknown as Ops;
  }

  /** the result stands for whatever the operation gives */
  private call(name: string, given: unknown[]): unknown {
    switch (name) {
      case "windowSums":
        this.held += 8 * this.model.heads * (this.tokens + this.blocks(given[2] as number));
        break;
      case "means": {
        const { rows, columns } = given[0] as { rows: number; columns: number };
        this.held += 4 * Math.ceil(rows / (given[1] as number)) * columns;
        break;
      }
      case "antidiagonalScores": {
        const { stride, block } = given[2] as { stride: number; block: number };
        this.stride = stride;
        return { block };
      }
      case "pooledScores":
        return { block: given[2] };
      case "band":
        if (given[2] === undefined) this.addSet(given[0] as number);
        break;
      case "lines":
        this.addSet((given[2] as { block: number }).block);
        break;
      case "cover":
        this.addSet((given[0] as { block: number }).block);
        this.addScores((given[0] as { block: number }).block);
        break;
      case "coverMap":
        this.addScores((given[1] as { block: number }).block);
        break;
    }
    return {};
  }

  private blocks(block: number): number {
    return Math.ceil(this.tokens / block);
  }

  /** a bit for each pair of blocks and head */
  private addSet(block: number): void {
    const rows = this.blocks(block);
    this.held += 4 * this.model.heads * rows * Math.ceil(rows / 32);
  }

  /** the heads at work at once, and the tiles' sums behind antidiagonal scores */
  private addScores(block: number): void {
    const { heads, kvHeads } = this.model;
    const rows = this.blocks(block);
    const some = headsAtOnce(heads, kvHeads, rows);
    this.held += 4 * some * rows * rows;
    if (this.stride === 0 || this.backend === "cpu") return;
    const rowBytes = 4 * some * (block / this.stride) * rows;
    this.arena = Math.max(this.arena, rowBytes * Math.max(1, Math.min(rows, Math.floor(antidiagonalArena / rowBytes))));
  }
}

// The one copy of a model's weights that the engines of a device read: loaded once, then only held.
import { fillBlock } from "../model/weight-block.ts";
import type { Maker } from "../model/weights.ts";
import { KvaError } from "../native/error.ts";
import type { SharedBlock } from "../native/shared.ts";
import { Context } from "../native/tensor.ts";
import type { EngineOptions, SharedWeights } from "./protocol.ts";
import { configOf, makeWeights } from "./weight-source.ts";

export class WeightHolder {
  private constructor(
    private readonly context: Context,
    private readonly block: SharedBlock,
    /** what engines find it by */
    readonly weights: SharedWeights,
  ) {}

  /** `beat` is called every now and then meanwhile. */
  static load(options: EngineOptions, beat: () => void): WeightHolder {
    const start = performance.now();
    const config = configOf(options.model);
    const context = Context.open(options.device, options.threads);
    try {
      if (options.memoryLimit > 0) context.limitMemory(options.memoryLimit);
      const load = (maker: Maker) => makeWeights(context, config, options, beat, maker);
      const block = fillBlock(context, config, options.dtype, load);
      const { name, bytes } = block;
      context.trim();
      return new WeightHolder(context, block, { name, bytes, loadMs: performance.now() - start });
    } catch (error) {
      context.library.native.kva_context_destroy(context.pointer);
      if (error instanceof KvaError && error.code === "oom") {
        throw new KvaError("oom", `the model does not fit ${options.device}: ${error.message}`, { cause: error });
      }
      throw error;
    }
  }

  dispose(): void {
    this.block.dispose();
    this.context.dispose();
  }
}

// All weights of a model in one block of memory, each tensor at a place that the configuration alone decides.
import { SharedBlock } from "../native/shared.ts";
import { type Context, elementBytes, type Tensor } from "../native/tensor.ts";
import type { FloatDtype, ModelConfig } from "./config.ts";
import { planWeights, targets } from "./plan.ts";
import { type Maker, placeWeights, type Weights } from "./weights.ts";

const alignment = 256;
const aligned = (bytes: number) => Math.ceil(bytes / alignment) * alignment;

function blockBytes(config: ModelConfig, dtype: FloatDtype): number {
  const bytes = targets(planWeights(config)).map(({ rows, columns }) => rows * columns * elementBytes[dtype]);
  return bytes.reduce((sum, each) => sum + aligned(each), 0);
}

/** One tensor behind the other: whoever makes the same ones in the same order finds them again. */
function within(block: SharedBlock): Maker {
  let offset = 0;
  return (_context, dtype, rows, columns): Tensor => {
    const tensor = block.tensor(offset, dtype, rows, columns);
    offset += aligned(tensor.bytes);
    return tensor;
  };
}

/** A block with the weights that `load` makes in it, for other processes to read. */
export function fillBlock(
  context: Context,
  config: ModelConfig,
  dtype: FloatDtype,
  load: (make: Maker) => Weights,
): SharedBlock {
  const block = SharedBlock.create(context, blockBytes(config, dtype));
  try {
    load(within(block)).dispose();
    return block;
  } catch (error) {
    block.dispose();
    throw error;
  }
}

/** The weights that another process has in a block of this name. */
export function openBlock(context: Context, config: ModelConfig, dtype: FloatDtype, name: string): Weights {
  const block = SharedBlock.open(context, name, blockBytes(config, dtype));
  try {
    const weights = placeWeights(context, config, dtype, within(block));
    return {
      ...weights,
      dispose: () => {
        weights.dispose();
        block.dispose();
      },
    };
  } catch (error) {
    block.dispose();
    throw error;
  }
}

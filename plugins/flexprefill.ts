// FlexPrefill (Lai et al. 2025, arXiv:2502.20766): each head reads vertical and slash lines, or the blocks that pooled queries ask for.
import { type BlockOps, definePlugin, param, type Scores } from "kvaccel/plugin";

/** The authors turn tokens into blocks by this number, whatever the block. */
const TOKENS_PER_BLOCK = 128;

/** How many key blocks, or block distances, each head reads. */
type Count = (tokens: Scores, pooled: Scores) => ReturnType<BlockOps["countWithin"]>;

export default definePlugin({
  name: "FlexPrefill",
  about:
    "prefill attention reads, head by head, vertical and slash lines or blocks, as much as a share of attention asks for",
  paper: "https://arxiv.org/abs/2502.20766",
  category: "sparse-prefill",

  params: {
    gamma: param.number({ default: 0.95, min: 0, max: 1, about: "share of the attention that is read" }),
    tau: param.number({
      default: 0.1,
      min: 0,
      max: 1,
      about: "heads whose pooled estimate is nearer to their attention than this choose blocks by it",
    }),
    minBudget: param.int({
      default: 1024,
      min: 0,
      about: "tokens that vertical lines, and slash lines, cover at least",
    }),
    maxBudget: param.int({ default: 0, min: 0, about: "tokens that they cover at most; 0: no limit" }),
    block: param.int({ default: 128, min: 64, max: 128, about: "rows of a block: 64 or 128" }),
    mode: param.choice({
      choices: ["official", "covered"],
      default: "official",
      about: "official counts tokens and takes as many blocks; covered takes blocks until they hold gamma",
    }),
  },
  presets: {
    official: { mode: "official", minBudget: 1024 },
    readme: { minBudget: 512 },
  },

  // Less for the models that the authors run with less: Qwen2, and Yi-9B (a Llama of 48 layers).
  modelDefaults: ({ family, layers, hiddenSize }) =>
    family === "qwen2" || (family === "llama" && layers === 48 && hiddenSize === 4096) ? { gamma: 0.9 } : {},

  check({ block, minBudget, maxBudget }) {
    if (block !== 64 && block !== 128) return `block must be 64 or 128, not ${block}`;
    if (maxBudget > 0 && maxBudget < minBudget)
      return `maxBudget must be at least minBudget: ${maxBudget} is less than ${minBudget}`;
  },

  create({ gamma, tau, minBudget, maxBudget, block, mode }) {
    const covered = mode === "covered";
    return {
      select(layer, { blocks }) {
        const tokens = layer.promptTokens;
        const least = Math.ceil(minBudget / block);
        if (gamma >= 1 || tokens <= Math.max(2 * block, least * block)) return;
        const all = Math.ceil(tokens / block);
        const most = maxBudget > 0 ? Math.min(all, Math.ceil(maxBudget / block)) : all;

        // The last block of queries stands for all: where it attends to, against what its mean and the keys' means foretell.
        const last = layer.queries(block);
        const attention = blocks.windowSums(last, layer.keys, block);
        const keys = blocks.means(layer.keys, block);
        const foretold = blocks.pooledAttention(blocks.means(last, block), keys);
        const distance = blocks.distance(foretold, attention.columnBlocks);

        const count: Count = (columns, pooled) => {
          const counts = covered
            ? blocks.countReaching(pooled, gamma, { forced: 1, least, most })
            : blocks.divide(blocks.countWithin(columns, gamma), {
                offset: 1 + TOKENS_PER_BLOCK,
                divisor: TOKENS_PER_BLOCK,
                least,
                most,
              });
          return blocks.replaceBelow(counts, distance, tau, least); // these heads choose by their estimate, below
        };
        const { columns, columnBlocks, diagonals, diagonalBlocks } = attention;
        const vertical = blocks.best(columnBlocks, count(columns, columnBlocks), { forced: 1 });
        const slash = blocks.best(diagonalBlocks, count(diagonals, diagonalBlocks), { forced: 1 });
        // A line of tokens crosses two or three lines of blocks; the authors take one.
        const beside = covered ? { before: tokens % block === 0 ? 0 : 1, after: 1 } : {};
        const lines = blocks.lines(vertical, slash, { block, ...beside });

        const map = blocks.pooledScores(blocks.means(layer.queries(), block), keys, block);
        return blocks.coverMap(lines, map, gamma, { gate: distance, limit: tau });
      },
    };
  },
});

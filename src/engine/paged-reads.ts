// Decode attention over pages: the recorded choices of a batch as launches, and the buffers they fill.
import type { Batch } from "../native/kv.ts";
import { choosePages, type PageLists, pageScores } from "../native/pages.ts";
import { type Context, Tensor } from "../native/tensor.ts";
import type { RecordedPages } from "./page-ops.ts";

/** Sequences [first, first + sequences) of a batch that recorded the same; null: they read everything. */
interface Run {
  first: number;
  sequences: number;
  recorded: RecordedPages | null;
}

/** What a layer reads in a step. */
export type LayerReads = readonly Run[];

/** The lists that attention takes. */
export interface ChosenPages extends PageLists {
  /** no head reads more rows */
  mostRows: number;
}

/** More rows than any head holds. */
const ALL_ROWS = 2 ** 31 - 1;
/** The buffers grow by so many pages at a time. */
const PAGES_STEP = 256;

/** recorded: of each sequence. null: all of them read everything. */
export function planReads(recorded: readonly (RecordedPages | null)[]): LayerReads | null {
  if (recorded.every((one) => one === null)) return null;
  const runs: Run[] = [];
  for (const [s, one] of recorded.entries()) {
    const last = runs.at(-1);
    if (last && JSON.stringify(last.recorded) === JSON.stringify(one)) last.sequences += 1;
    else runs.push({ first: s, sequences: 1, recorded: one });
  }
  return runs;
}

export class PagedReads {
  private buffers: (PageLists & { scores: Tensor }) | null = null;

  constructor(
    private readonly context: Context,
    /** of each layer; null: everything is read */
    private readonly layers: readonly (LayerReads | null)[],
    /** sequences * kvHeads */
    private readonly heads: number,
  ) {}

  /** Buffers for heads of up to `rows` rows. True where they are new: what was captured with the old ones is void. */
  fit(rows: number): boolean {
    const choices = this.layers.flatMap((runs) => runs ?? []).flatMap(({ recorded }) => recorded ?? []);
    if (choices.length === 0) return false;
    const pages = Math.max(...choices.map(({ pageRows }) => Math.ceil(rows / pageRows)));
    if (this.buffers && this.buffers.scores.columns >= pages) return false;
    this.dispose();
    const columns = Math.ceil(pages / PAGES_STEP) * PAGES_STEP;
    const most = Math.max(...choices.map((one) => Math.floor(one.rows / one.pageRows)));
    this.buffers = {
      scores: Tensor.create(this.context, "float32", this.heads, columns, "scratch"),
      pages: Tensor.create(this.context, "int32", this.heads, Math.min(most, columns), "scratch"),
      counts: Tensor.create(this.context, "int32", 1, this.heads, "scratch"),
    };
    return true;
  }

  /** whether a layer reads less than everything */
  selects(layer: number): boolean {
    return this.layers[layer] !== null;
  }

  /** Queues a layer's choice for the queries of this step. */
  choose(batch: Batch, layer: number, queries: Tensor): ChosenPages {
    const runs = this.layers[layer]!;
    const { scores, pages, counts } = this.buffers!;
    for (const { first, sequences, recorded } of runs) {
      const range = { batch, first, sequences, layer };
      if (recorded) pageScores(range, queries, recorded.reduce, scores);
      choosePages(range, scores, recorded?.rows ?? ALL_ROWS, { pages, counts });
    }
    return { pages, counts, mostRows: Math.max(...runs.map(({ recorded }) => recorded?.rows ?? ALL_ROWS)) };
  }

  dispose(): void {
    for (const tensor of Object.values(this.buffers ?? {})) tensor.dispose();
    this.buffers = null;
  }
}

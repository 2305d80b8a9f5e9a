// ops.pages: what the select hook records for decode.
import { KvaError } from "../native/error.ts";
import { type PageSize, pageSizes } from "../native/pages.ts";
import type { PageOps, PageScores, Pages } from "../plugin/index.ts";
import { own } from "./handles.ts";

class RecordedScores implements PageScores {
  constructor(
    readonly pageRows: PageSize,
    readonly reduce: "mean" | "max",
  ) {}
}

/** What a layer of a sequence reads in every step. */
export class RecordedPages implements Pages {
  constructor(
    readonly pageRows: PageSize,
    readonly reduce: "mean" | "max",
    readonly rows: number,
  ) {}
}

export class HookPageOps implements PageOps {
  bounds(pageRows: number, options: { reduce?: "mean" | "max" } = {}): RecordedScores {
    const size = pageSizes.find((one) => one === pageRows);
    if (size !== undefined) return new RecordedScores(size, options.reduce ?? "mean");
    throw new KvaError("plugin", `ops.pages.bounds(${pageRows}): pages have ${pageSizes.join(", ")} rows`);
  }

  best(scores: PageScores, rows: number): RecordedPages {
    const { pageRows, reduce } = own(scores, RecordedScores, "ops.pages.best");
    if (Number.isInteger(rows) && rows >= pageRows) return new RecordedPages(pageRows, reduce, rows);
    throw new KvaError(
      "plugin",
      `ops.pages.best(..., ${rows}): rows must be a whole number, at least the ${pageRows} of a page`,
    );
  }
}

// What a plugin author sees of selection in decode: the select hook's scores and choice of pages.
// A page is a run of `pageRows` rows of a KV head, from row 0 on; the last one may be shorter. The hook runs once a layer, when the prompt is done;
// what it returns is recorded, and scored and chosen anew from the queries of every step, on the device.

/** A score of each page for the query of a step, for each KV head. */
export interface PageScores {
  readonly pageRows: number;
}

/** Which pages each KV head reads in a step; the select hook returns one. */
export interface Pages {
  readonly pageRows: number;
}

/** Operations of the select hook in decode, as `ops.pages`. */
export interface PageOps {
  /**
   * What the query can score on a key of the page at most: the sum over channels of max(q * least, q * greatest), from the least and the
   * greatest number of each channel over the page's keys; mean or maximum (`reduce`, default mean) over the query heads of a group, which
   * read the same pages. pageRows: 16, 32, 64 or 128. The layer keeps 2 / pageRows of its keys' bytes for it.
   */
  bounds(pageRows: number, options?: { reduce?: "mean" | "max" }): PageScores;
  /**
   * The newest page and the best others, floor(rows / pageRows) in all; ties go to the lower page. A head that holds at most `rows` rows reads
   * all of them. At least a page's rows.
   */
  best(scores: PageScores, rows: number): Pages;
}

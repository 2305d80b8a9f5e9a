// Pages of rows in TypeScript, written from cuda/include/kvaccel.h: bounds, scores, choice, and what attention then reads.
import { type Arithmetic, dot } from "./reference.ts";
import { headOf, type ReferenceLayer, type Row } from "./reference-attention.ts";

const pagesOf = (rows: readonly Row[], pageRows: number): Row[][] =>
  Array.from({ length: Math.ceil(rows.length / pageRows) }, (_, p) => rows.slice(p * pageRows, (p + 1) * pageRows));

/** For each KV head and page: sum_c max(q[c] * least[c], q[c] * greatest[c]), mean or maximum over the group. */
export function pageScores(
  { heads, groupSize, headDim }: ReferenceLayer,
  query: Float64Array,
  pageRows: number,
  reduce: "mean" | "max",
  arithmetic: Arithmetic,
): Float64Array[] {
  const { op } = arithmetic;
  return heads.map((rows, h) =>
    Float64Array.from(pagesOf(rows, pageRows), (page) => {
      const scores = Array.from({ length: groupSize }, (_, g) => {
        const q = headOf(query, h * groupSize + g, headDim);
        const best = q.map((x, c) => {
          const channel = page.map(({ key }) => key[c]!);
          return x > 0 ? Math.max(...channel) : Math.min(...channel);
        });
        return dot(q, best, arithmetic);
      });
      if (reduce === "max") return Math.max(...scores);
      return op(scores.reduce((sum, score) => op(sum + score)) / groupSize);
    }),
  );
}

/** The last page and the best others by score, ascending; null: the head reads all of its `held` rows. */
export function choosePages(scores: ArrayLike<number>, held: number, rows: number, pageRows: number): number[] | null {
  if (held <= rows) return null;
  const last = Math.ceil(held / pageRows) - 1;
  const rank = (page: number) => (Number.isNaN(scores[page]) ? -Infinity : scores[page]!);
  const others = Array.from({ length: last }, (_, page) => page);
  others.sort((a, b) => rank(b) - rank(a) || a - b);
  return [...others.slice(0, Math.floor(rows / pageRows) - 1), last].sort((a, b) => a - b);
}

/** Row numbers of the pages; null: all. */
export const rowsOfPages = (pages: readonly number[] | null, held: number, pageRows: number): number[] =>
  Array.from({ length: held }, (_, r) => r).filter((r) => pages === null || pages.includes(Math.floor(r / pageRows)));

/** The layer without the rows that are not read. */
export function readLayer(
  layer: ReferenceLayer,
  chosen: readonly (readonly number[] | null)[],
  pageRows: number,
): ReferenceLayer {
  const heads = layer.heads.map((rows, h) => rowsOfPages(chosen[h]!, rows.length, pageRows).map((r) => rows[r]!));
  return { ...layer, heads };
}

// The map of kept tokens: positions across, layers and KV heads down, each pixel as dark as the share of its tokens that is held.
import { formatShare } from "../bench/format.ts";
import { positionsOf } from "../engine/kept.ts";
import { escaped } from "./escaped.ts";
import type { KeptMethod, KeptSample } from "./kept.ts";
import { alphaPng } from "./png.ts";

const most = { columns: 480, labels: 16 };
const size = { width: 1000, left: 66, right: 12, top: 6, bottom: 36 };
/** readable on white and on black */
const colour = [72, 134, 216] as const;

/** Share of each column's positions that a head holds, as opacity. */
function pixels(ranges: readonly string[], promptTokens: number, columns: number): Uint8Array {
  const alpha = new Uint8Array(ranges.length * columns);
  const width = promptTokens / columns;
  for (const [row, text] of ranges.entries()) {
    const counts = new Uint32Array(columns);
    for (const position of positionsOf(text)) {
      const column = Math.min(columns - 1, Math.floor(position / width));
      counts[column] = counts[column]! + 1;
    }
    for (const [column, count] of counts.entries())
      alpha[row * columns + column] = Math.round(255 * Math.min(1, count / Math.max(1, width)));
  }
  return alpha;
}

export function keptChart(
  { id, promptTokens }: KeptSample,
  { series, ranges, share, answerShare }: KeptMethod,
): string {
  const heads = ranges.flat();
  const columns = Math.min(promptTokens, most.columns);
  const picture = alphaPng({
    width: columns,
    height: heads.length,
    alpha: pixels(heads, promptTokens, columns),
    colour,
  });
  const { width, left, right, top, bottom } = size;
  const inner = Math.min(560, Math.max(120, heads.length * 6));
  const layerHeight = inner / ranges.length;
  const every = Math.ceil(ranges.length / most.labels);
  const layers = ranges.flatMap((_, layer) => {
    if (layer % every !== 0) return [];
    const y = top + (layer + 0.5) * layerHeight;
    return [`<text x="${left - 8}" y="${y.toFixed(1)}" dy="0.35em" text-anchor="end">layer ${layer}</text>`];
  });
  const lines = ranges.slice(1).map((_, layer) => {
    const y = (top + (layer + 1) * layerHeight).toFixed(1);
    return `<line x1="${left}" x2="${width - right}" y1="${y}" y2="${y}" />`;
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const x = left + part * (width - left - right);
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    return `<text x="${x}" y="${top + inner + 16}" text-anchor="${anchor}">${Math.round(part * (promptTokens - 1))}</text>`;
  });
  const answer = answerShare === null ? "" : `, ${formatShare(answerShare)} of the answer's`;
  const label =
    `Tokens of ${id} that ${series} keeps after the prompt, by layer and KV head: ` +
    `${formatShare(share)} of all${answer}.`;
  return [
    `<svg class="chart wide" viewBox="0 0 ${width} ${top + inner + bottom}" role="img" aria-label="${escaped(label)}">`,
    `<rect x="${left}" y="${top}" width="${width - left - right}" height="${inner}" class="frame" />`,
    `<image x="${left}" y="${top}" width="${width - left - right}" height="${inner}" preserveAspectRatio="none" href="data:image/png;base64,${picture.toString("base64")}" />`,
    `<g class="rules">${lines.join("")}</g>`,
    `<g class="words">${layers.join("")}${ticks.join("")}`,
    `<text x="${width - right}" y="${top + inner + 31}" text-anchor="end">position in the prompt</text></g></svg>`,
  ].join("");
}

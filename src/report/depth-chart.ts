// Needle depth x length, one map a method: how many of the needles at a depth were found, as shade and as number.
import * as Plot from "@observablehq/plot";
import type { DepthCell } from "./depths.ts";
import { draw, type Figure, figure } from "./figure.ts";
import { lengthText } from "./words.ts";

export const depthText = (depth: number) => `${depth}-${depth + 10} %`;

const depths = Array.from({ length: 10 }, (_, at) => at * 10);

export function depthCharts(cells: readonly DepthCell[]): Figure[] {
  const lengths = [...new Set(cells.map((cell) => cell.length))].toSorted((a, b) => (a ?? 0) - (b ?? 0));
  const place = {
    x: (cell: DepthCell) => lengthText(cell.length),
    y: (cell: DepthCell) => depthText(cell.depth),
  };
  return [...Map.groupBy(cells, (cell) => cell.series)].map(([series, mine]) => {
    const needles = mine.reduce((sum, cell) => sum + cell.needles, 0);
    const found = mine.reduce((sum, cell) => sum + (cell.needles * cell.score) / 100, 0);
    const plot = draw(`Needles found by ${series}, by depth and length: ${Math.round(found)} of ${needles} in all.`, {
      height: 290,
      marginLeft: 74,
      x: { type: "band", domain: lengths.map(lengthText), label: "length (tokens)" },
      y: { type: "band", domain: depths.map(depthText), label: null },
      opacity: { type: "identity" },
      marks: [
        Plot.cell(mine, {
          ...place,
          fill: "var(--accent)",
          fillOpacity: (cell: DepthCell) => 0.06 + 0.0054 * cell.score,
          title: (cell: DepthCell) => `${cell.score.toFixed(0)} % of ${cell.needles} needles`,
        }),
        Plot.text(mine, { ...place, text: (cell: DepthCell) => cell.score.toFixed(0) }),
      ],
    });
    return figure(series, plot);
  });
}

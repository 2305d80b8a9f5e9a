// Bars by method, one chart a length: time split into prefill, method and decode; cache and peak bytes.
import * as Plot from "@observablehq/plot";
import { draw, type Figure, figure, shortened, width } from "./figure.ts";
import { lengthsOf, type Point, type TimeSplit } from "./points.ts";
import { linearByteTicks, linearTimeTicks } from "./ticks.ts";
import { bytesText, lengthText, msText } from "./words.ts";

export const timeParts = [
  { key: "prefill", colour: "var(--first)" },
  { key: "method", colour: "var(--second)" },
  { key: "decode", colour: "var(--third)" },
] as const satisfies { key: keyof TimeSplit; colour: string }[];

interface Bar {
  series: string;
  from: number;
  to: number;
  colour: string;
  title: string;
}

interface BarChart {
  title: string;
  label: string;
  axis: string;
  bars: Bar[];
  /** written after the bars of a method */
  ends: { series: string; at: number; text: string }[];
  format(value: number): string;
  /** of the axis */
  ticks: number[];
}

export function timeCharts(points: readonly Point[]): Figure[] {
  return perLength(points, (length, mine) => {
    const timed = mine.flatMap((point) => (point.time === null ? [] : [{ ...point, time: point.time }]));
    const bars = timed.flatMap(({ series, time }) => {
      let from = 0;
      return timeParts.map(({ key, colour }): Bar => {
        const to = from + time[key];
        const bar = { series, from, to, colour, title: `${series}, ${key}: ${msText(time[key])}` };
        from = to;
        return bar;
      });
    });
    const ends = timed.map(({ series, time }) => ({ series, at: time.total, text: msText(time.total) }));
    const label = `Time of a sample at length ${lengthText(length)}: ${spoken(ends)}`;
    return {
      title: `Length ${lengthText(length)}`,
      label,
      axis: "time of a sample",
      bars,
      ends,
      format: msText,
      ticks: linearTimeTicks(Math.max(0, ...ends.map(({ at }) => at))),
    };
  });
}

export const cacheCharts = (points: readonly Point[]) =>
  byteCharts(points, "Cache", "var(--first)", (point) => point.cacheBytes);
export const peakCharts = (points: readonly Point[]) =>
  byteCharts(points, "Peak", "var(--third)", (point) => point.peakBytes);

function byteCharts(points: readonly Point[], name: string, colour: string, of: (point: Point) => number | null) {
  return perLength(points, (length, mine) => {
    const known = mine.flatMap((point) => {
      const bytes = of(point);
      return bytes === null ? [] : [{ series: point.series, at: bytes, text: bytesText(bytes) }];
    });
    const bars = known.map(({ series, at, text }) => ({
      series,
      from: 0,
      to: at,
      colour,
      title: `${series}: ${text}`,
    }));
    const ticks = linearByteTicks(Math.max(0, ...known.map(({ at }) => at)));
    const title = `${name}, length ${lengthText(length)}`;
    return {
      title,
      label: `${title}: ${spoken(known)}`,
      axis: name.toLowerCase(),
      bars,
      ends: known,
      format: bytesText,
      ticks,
    };
  });
}

const spoken = (ends: BarChart["ends"]) => `${ends.map(({ series, text }) => `${series} ${text}`).join("; ")}.`;

function perLength(
  points: readonly Point[],
  chartOf: (length: number | null, points: readonly Point[]) => BarChart,
): Figure[] {
  return lengthsOf(points).flatMap((length) => {
    const chart = chartOf(
      length,
      points.filter((point) => point.length === length),
    );
    return chart.ends.length === 0 ? [] : [figure(chart.title, barChart(chart))];
  });
}

function barChart({ label, axis, bars, ends, format, ticks }: BarChart) {
  const names = ends.map((end) => end.series);
  const fits = Math.min(18, Math.max(...names.map((name) => name.length)));
  return draw(label, {
    height: 60 + 22 * names.length,
    marginLeft: 16 + 7.2 * fits,
    marginRight: Math.min(84, width / 4),
    x: { label: axis, ticks, tickFormat: format, grid: true },
    y: { domain: names, label: null, tickFormat: (name: string) => shortened(name, fits), tickSize: 0 },
    color: { type: "identity" },
    marks: [
      Plot.barX(bars, { x1: "from", x2: "to", y: "series", fill: "colour", title: "title" }),
      Plot.text(ends, { x: "at", y: "series", text: "text", textAnchor: "start", dx: 5 }),
    ],
  });
}

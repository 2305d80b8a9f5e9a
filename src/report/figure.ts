// A chart as text: Observable Plot drawn into a document without a browser; colours are the page's CSS variables.
import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";

export interface Figure {
  /** shown above the chart */
  title: string;
  svg: string;
}

/** What is used of a drawn chart: there are no types of the DOM here. */
type Drawn = Pick<Plot.Plot, "scale"> & {
  outerHTML: string;
  setAttribute(name: string, value: string): void;
  querySelectorAll(selector: string): Iterable<{ removeAttribute(name: string): void }>;
};

export const width = 400;

const common = {
  className: "chart",
  width,
  marginLeft: 48,
  marginRight: 16,
  marginTop: 26,
  marginBottom: 40,
  style: { fontSize: "12px" },
};

/** `label` is what a screen reader says in place of the marks. */
export function draw(label: string, options: Plot.PlotOptions): Drawn {
  const { document } = parseHTML("<html><body></body></html>");
  const plot = Plot.plot({ ...common, ...options, document }) as unknown as Drawn;
  // the picture as a whole is one image to a screen reader: names of its parts are not heard, and not allowed
  for (const part of plot.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", label);
  return plot;
}

export const figure = (title: string, plot: Drawn): Figure => ({ title, svg: plot.outerHTML });

/** Where a value lies on a scale of a drawn chart, in pixels. */
export function pixels(plot: Drawn, scale: "x" | "y"): (value: number) => number {
  const found = plot.scale(scale)!;
  return (value) => Number(found.apply(value));
}

/** Labels of bars and facets that fit their margin. */
export const shortened = (text: string, most: number) =>
  text.length <= most ? text : `${text.slice(0, most - 1).trimEnd()}…`;

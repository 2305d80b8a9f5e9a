// The section of kept tokens: choices of sample, method, layer and head; the map; the prompt's text with its kept tokens marked.
import { formatCount, formatShare } from "../bench/format.ts";
import { blank, type TableData, text } from "../bench/table.ts";
import { escaped } from "./escaped.ts";
import type { KeptSample } from "./kept.ts";
import { keptChart } from "./kept-chart.ts";

/** JSON that cannot end the script element around it. */
const embedded = (value: unknown) => JSON.stringify(value).replaceAll("<", "\\u003c");

export function keptHtml(samples: readonly KeptSample[]): string {
  if (samples.length === 0) return "";
  const runs = new Set(samples.map((sample) => sample.run));
  const names = samples.map(({ id, run }) => (runs.size > 1 ? `${id} (${run})` : id));
  const option = (name: string, value: number) => `<option value="${value}">${escaped(name)}</option>`;
  const select = (key: string, label: string, options: string[]) =>
    `<span><label for="kept-${key}">${label}</label> <select id="kept-${key}">${options.join("")}</select></span>`;
  const figures = samples.flatMap((sample, at) =>
    sample.methods.map(
      (method, own) =>
        `<figure data-sample="${at}" data-method="${own}"><figcaption>${escaped(`${method.series}, ${names[at]}`)}</figcaption>` +
        `<div class="sideways" role="group" aria-label="Map, wider than a small screen" tabindex="0">${keptChart(sample, method)}</div></figure>`,
    ),
  );
  const data = samples.map(({ id, tokens, answers, methods, coarse }) => ({
    id,
    tokens,
    answers,
    methods: methods.map(({ series, ranges, tenths }) => (coarse ? { series, tenths } : { series, ranges })),
  }));
  return [
    '<div class="kept">',
    '<p class="choices">',
    select("sample", "Sample", names.map(option)),
    select("method", "Method", []),
    select("head", "Layer and KV head", []),
    "</p>",
    ...figures,
    '<p class="note" id="kept-said" role="status"></p>',
    '<div class="kept-text" role="region" tabindex="0" aria-label="Prompt with its kept tokens marked"></div>',
    `<script type="application/json" id="kept-data">${embedded(data)}</script>`,
    "</div>",
  ].join("\n");
}

export function keptSheet(samples: readonly KeptSample[]): TableData {
  const rows = samples.flatMap((sample) =>
    sample.methods.map(({ series, share, answerShare }) => [
      text(series),
      text(sample.id),
      { text: formatCount(sample.promptTokens), value: sample.promptTokens },
      { text: formatShare(share), value: share },
      answerShare === null ? blank : { text: formatShare(answerShare), value: answerShare },
    ]),
  );
  return {
    title: "Kept tokens of these samples",
    columns: [
      { title: "method", key: "method", align: "left" },
      { title: "sample", key: "sample", align: "left" },
      { title: "prompt tokens", key: "prompt_tokens" },
      { title: "kept", key: "kept_share" },
      { title: "of the answer's tokens", key: "answer_kept_share" },
    ],
    headColumns: 1,
    rows,
    notes: ["Mean over layers and KV heads, after the prompt."],
  };
}

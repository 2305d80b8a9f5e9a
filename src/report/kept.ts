// Kept tokens of a few samples: which positions each layer and KV head holds after the prompt, and the prompt's tokens as text.
import { join } from "node:path";
import { type KeptRow, readKept } from "../bench/kept-rows.ts";
import { keptFile } from "../bench/row-files.ts";
import { identity, type Row } from "../bench/rows.ts";
import { positionsOf } from "../engine/kept.ts";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.ts";
import { KvaError } from "../native/error.ts";
import { suggestion } from "../plugin/nearest.ts";
import { seriesName } from "./points.ts";
import type { RunData } from "./run-data.ts";

export interface KeptMethod {
  series: string;
  /** [layer][kvHead] -> positions, as ranges */
  ranges: string[][];
  /** of each token, in how many tenths of the layers and heads it is held, rounded up: `0` to `9`, `a` for all */
  tenths: string;
  /** rows held over those of the prompt, mean over layers and heads */
  share: number;
  /** the same of the rows of the answer's tokens; null where it is not known which those are */
  answerShare: number | null;
}

export interface KeptSample {
  id: string;
  run: string;
  promptTokens: number;
  /** the prompt's tokens as text; null where the prompt was not logged or its tokenizer is not there */
  tokens: string[] | null;
  /** positions of the reference answers in the prompt */
  answers: number[];
  methods: KeptMethod[];
  /** its ranges are too many for the file: only `tenths` go into it */
  coarse: boolean;
}

/** What the samples of a report may take in its file, chosen by size where none is asked for. */
const defaultBytes = 400_000;
const defaultSamples = 8;

/** Samples asked for by id; otherwise the shortest ones, one of each task after the other. */
export function keptSamples(runs: readonly RunData[], asked: readonly string[] = []): KeptSample[] {
  const samples: KeptSample[] = [];
  const known = new Set<string>();
  let bytes = 0;
  for (const run of runs) {
    const source = new KeptSource(run, runs);
    for (const id of source.ids()) {
      known.add(id);
      if (asked.length > 0 ? !asked.includes(id) : samples.length >= defaultSamples || bytes >= defaultBytes) continue;
      const sample = source.sample(id);
      if (sample === undefined) continue;
      const size = sizeOf(sample);
      if (asked.length === 0 && samples.length > 0 && bytes + size > defaultBytes) continue;
      bytes += size;
      samples.push(sample);
    }
  }
  const missing = asked.find((id) => !samples.some((sample) => sample.id === id));
  if (missing === undefined) return samples;
  const hint =
    known.size === 0
      ? "no run has any: accel run --log_kept writes them"
      : suggestion(missing, nearSamples(missing, [...known]));
  throw new KvaError("usage", `--sample ${missing}: there are no kept positions of that sample; ${hint}`);
}

/** Of many samples those of the same task. */
function nearSamples(id: string, known: readonly string[]): string[] {
  const same = known.filter((other) => other.split("/")[0] === id.split("/")[0]);
  return (same.length > 0 ? same : known).slice(0, 8);
}

const rangesSize = (methods: readonly KeptMethod[]) =>
  methods.reduce((sum, { ranges }) => sum + ranges.flat().reduce((all, text) => all + text.length + 3, 0), 0);

/** Bytes in the file, its pictures as large as they can be. */
function sizeOf({ tokens, methods, promptTokens, coarse }: KeptSample): number {
  const text = tokens?.reduce((sum, token) => sum + token.length + 3, 0) ?? 0;
  const pictures = methods.reduce(
    (sum, { ranges }) => sum + (ranges.flat().length * Math.min(promptTokens, 480)) / 3,
    0,
  );
  return text + pictures + (coarse ? methods.length * promptTokens : rangesSize(methods));
}

/** The kept positions of one run directory; a file is read when a sample of it is wanted. */
class KeptSource {
  private readonly files = new Map<string, Map<string, KeptRow>>();
  private readonly rows: Map<string, Row[]>;
  private tokenizer: Tokenizer | null | undefined;

  constructor(
    private readonly run: RunData,
    private readonly runs: readonly RunData[],
  ) {
    const smallest = Math.min(...run.cells.batches);
    const usable = run.rows.filter((row) => row.batch === smallest && row.repeat === 0 && row.status === "ok");
    this.rows = Map.groupBy(usable, (row) => row.id);
  }

  /** Samples that may have kept positions: first the first sample of each task, shortest lengths first. */
  ids(): string[] {
    const order = this.run.cells.tasks;
    const firsts = [...this.rows].map(([id, rows]) => ({ id, task: rows[0]!.task, length: rows[0]!.length ?? 0 }));
    const cells = Map.groupBy(firsts, ({ task, length }) => `${task} ${length}`);
    const place = ({ id, task, length }: (typeof firsts)[number]) =>
      cells.get(`${task} ${length}`)!.findIndex((one) => one.id === id);
    return firsts
      .toSorted((a, b) => place(a) - place(b) || a.length - b.length || order.indexOf(a.task) - order.indexOf(b.task))
      .map(({ id }) => id);
  }

  private kept(row: Row): KeptRow | undefined {
    const file = keptFile(row);
    let lines = this.files.get(file);
    if (lines === undefined) {
      const read = readKept(join(this.run.path, file));
      lines = new Map(read.map((line) => [`${identity(line)}/${line.run}`, line]));
      this.files.set(file, lines);
    }
    return lines.get(`${identity(row)}/${row.run}`);
  }

  /** Undefined where no method has kept positions of it, or all keep every row. */
  sample(id: string): KeptSample | undefined {
    const rows = this.rows.get(id)!;
    const found = rows.flatMap((row) => {
      const kept = this.kept(row);
      return kept === undefined ? [] : [{ row, kept }];
    });
    const partly = found.filter(({ kept }) => !keepsAll(kept));
    if (partly.length === 0) return undefined;
    const { row, kept } = partly[0]!;
    const tokens = this.tokens(rows.find((one) => one.prompt !== undefined)?.prompt, kept.prompt_tokens);
    const answers = tokens === null ? [] : answerPositions(tokens, row.refs);
    const order = this.run.cells.methods.map((method) => method.label);
    const total = kept.prompt_tokens;
    const methods = partly
      .toSorted((a, b) => order.indexOf(a.row.method) - order.indexOf(b.row.method))
      .map(({ row: own, kept: { prompt } }): KeptMethod => {
        const series = seriesName(this.runs, this.run, own.method);
        return { series, ranges: prompt, tenths: tenthsOf(prompt.flat(), total), ...shares(prompt, total, answers) };
      });
    const coarse = rangesSize(methods) > defaultBytes;
    return { id, run: this.run.name, promptTokens: total, tokens, answers, methods, coarse };
  }

  /** The text of each token, where the prompt has as many of them as the engine saw. */
  private tokens(prompt: string | undefined, count: number): string[] | null {
    if (prompt === undefined) return null;
    const tokenizer = this.opened();
    if (tokenizer === null) return null;
    const ids = [true, false]
      .map((special) => tokenizer.encode(prompt, { special }))
      .find((encoded) => encoded.length === count);
    if (ids === undefined) return null;
    const stream = tokenizer.decodeStream();
    return ids.map((id) => stream.push(id));
  }

  /** The report of a run on another machine has no tokenizer at hand. */
  private opened(): Tokenizer | null {
    if (this.tokenizer === undefined) {
      try {
        this.tokenizer = loadTokenizer(this.run.manifest.model.path);
      } catch (error) {
        if (!(error instanceof KvaError)) throw error;
        this.tokenizer = null;
      }
    }
    return this.tokenizer;
  }
}

const keepsAll = ({ prompt, prompt_tokens }: KeptRow) =>
  prompt.flat().every((ranges) => ranges === `0-${prompt_tokens - 1}`);

/** Tokens that overlap with a place of an answer in the prompt. */
export function answerPositions(tokens: readonly string[], refs: readonly string[]): number[] {
  const text = tokens.join("");
  const places = refs.flatMap((ref) => (ref === "" ? [] : [...text.matchAll(new RegExp(RegExp.escape(ref), "gi"))]));
  const spans = places.map((place) => [place.index, place.index + place[0].length] as const);
  let at = 0;
  return tokens.flatMap((token, position) => {
    const [from, to] = [at, at + token.length];
    at = to;
    return spans.some(([first, last]) => from < last && first < to) ? [position] : [];
  });
}

function tenthsOf(heads: readonly string[], promptTokens: number): string {
  const counts = new Uint32Array(promptTokens);
  for (const head of heads) for (const position of positionsOf(head)) counts[position]! += 1;
  return Array.from(counts, (count) => Math.ceil((10 * count) / heads.length).toString(16)).join("");
}

function shares(ranges: readonly string[][], promptTokens: number, answers: readonly number[]) {
  const heads = ranges.flat().map((text) => new Set(positionsOf(text)));
  const mean = (of: (head: Set<number>) => number) => heads.reduce((sum, head) => sum + of(head), 0) / heads.length;
  return {
    share: mean((head) => head.size / promptTokens),
    answerShare:
      answers.length === 0
        ? null
        : mean((head) => answers.filter((position) => head.has(position)).length / answers.length),
  };
}

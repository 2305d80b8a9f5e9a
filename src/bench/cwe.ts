// RULER's common words: a numbered list in which a few words are repeated more often than the others.
import type { Draft, Generator } from "./draft.ts";
import type { Prng } from "./prng.ts";
import type { Exchange } from "./sample.ts";
import { drawPlainWords, type Vocabulary } from "./words.ts";

export interface CweParams {
  freqCw: number;
  freqUcw: number;
  numCw: number;
}

/** counts by length: about ten to one where the text is short, the official ones from 4096 tokens on */
export function cweCounts(length: number): Pick<CweParams, "freqCw" | "freqUcw"> {
  if (length < 1024) return { freqCw: 6, freqUcw: 1 };
  if (length < 2048) return { freqCw: 10, freqUcw: 1 };
  return length < 4096 ? { freqCw: 20, freqUcw: 2 } : { freqCw: 30, freqUcw: 3 };
}

const exampleWords = 40;
const exampleCounts = { freqCw: 10, freqUcw: 3 };
const exampleFrom = 4096; // shorter samples have no example

const lead = "The list repeats some words more than others. Note those.\nText:";

function numberedList(words: string[], { freqCw, freqUcw, numCw }: CweParams, rng: Prng): string {
  const entries = words.flatMap((word, i) => new Array<string>(i < numCw ? freqCw : freqUcw).fill(word));
  return rng
    .shuffle(entries)
    .map((word, i) => ` ${i + 1}. ${word}`)
    .join("");
}

function ask(count: number, refs: string[]) {
  return {
    question: `\nQuestion: Which ${count} words occur most in the list?`,
    opening: `Answer: The ${count} words that occur most are`,
    answer: ` ${refs.join(", ")}.`,
  };
}

export function cweGenerator(params: CweParams, length: number, vocabulary: Vocabulary): Generator {
  const { numCw } = params;
  const shown = length >= exampleFrom ? Math.max(exampleWords, 2 * numCw) : 0;

  const writeExample = (words: string[], rng: Prng): Exchange => {
    const { question, opening, answer } = ask(numCw, words.slice(0, numCw));
    const list = numberedList(words, { ...exampleCounts, numCw }, rng);
    return { user: lead + list + question, assistant: opening + answer };
  };

  return {
    unit: "distinct words",
    minUnits: numCw + 1,
    draft(units, rng): Draft {
      const drawn = drawPlainWords(shown + units, rng, vocabulary);
      const words = drawn.slice(shown);
      const refs = words.slice(0, numCw);
      return {
        ...(shown > 0 && { example: writeExample(drawn.slice(0, shown), rng) }),
        lead,
        context: numberedList(words, params, rng),
        ...ask(numCw, refs),
        refs,
        needles: [],
      };
    },
  };
}

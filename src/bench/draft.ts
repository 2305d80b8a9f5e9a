// What a RULER task gives the fitter: a sample of a chosen size, before its token count is known.
import type { Prng } from "./prng.ts";
import type { Exchange, Question } from "./sample.ts";

export interface Draft {
  example?: Exchange;
  lead: string;
  context: string;
  question: string;
  opening: string;
  refs: string[];
  /** what a perfect model writes after the opening */
  answer: string;
  /** further questions about the same context, each with answers of its own */
  followUps?: Question[];
  /** places in the context that carry the answers, in characters; empty where the whole context does */
  needles: number[];
}

export interface DraftContext {
  /** the total token budget */
  length: number;
  countTokens(text: string): number;
}

export interface Generator {
  /** the size variable's name, for messages */
  unit: string;
  minUnits: number;
  maxUnits?: number;
  /** the same `rng` state and size give the same draft */
  draft(units: number, rng: Prng, context: DraftContext): Draft;
}

/** "a", "a and b", "a, b and c" */
export function listOf(items: readonly string[]): string {
  if (items.length < 2) return items.join("");
  return `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

// RULER's variable tracking: chains of assignments hidden in filler; name all variables that hold one value.
import type { Draft, DraftContext, Generator } from "./draft.ts";
import type { Prng } from "./prng.ts";
import { essaySentences, fillerUnits, type Haystack, insertAnywhere, insertAtDepths, proseSentences } from "./prose.ts";
import { filler } from "./words.ts";

export interface VtParams {
  typeHaystack: "repeat" | "essay";
  numChains: number;
  numHops: number;
  /** questions about one context; each asks for a chain of its own */
  questions: number;
}

interface Chain {
  value: string;
  names: string[];
  statements: string[];
}

const exampleFrom = 1024; // shorter samples have no example
const exampleTokens = 300;
const exampleHops = 3; // as the bundled model was trained

class VariablePool {
  private readonly taken = new Set<string>();
  constructor(private readonly rng: Prng) {}

  private fresh(draw: () => string): string {
    for (;;) {
      const text = draw();
      if (!this.taken.has(text)) {
        this.taken.add(text);
        return text;
      }
    }
  }

  chain(hops: number): Chain {
    const letter = () => String.fromCharCode(65 + this.rng.below(26));
    const names = Array.from({ length: hops + 1 }, () => this.fresh(() => Array.from({ length: 5 }, letter).join("")));
    const value = this.fresh(() => String(this.rng.between(10000, 99998)));
    const statements = names.map((name, i) => `VAR ${name} = ${i === 0 ? value : `VAR ${names[i - 1]}`}.`);
    return { value, names, statements };
  }
}

const lead = "The text sets variables. Follow the chains.\nText:";

function ask({ value, names }: Chain) {
  return {
    question: `\nQuestion: Which variables hold the value ${value}?`,
    opening: `Answer: The variables that hold the value ${value} are`,
    answer: ` ${names.join(", ")}.`,
  };
}

/** A solved sample of at most a quarter of the length and 300 tokens, with its statements between single sentences. */
function writeExample(pool: VariablePool, rng: Prng, hops: number, { length, countTokens }: DraftContext): string {
  const limit = Math.min(Math.floor(length / 4), exampleTokens);
  let longest = pool.chain(hops);
  let sentences = 20;
  for (;;) {
    const lines = Array.from({ length: sentences }, (_, i) => filler[i % filler.length]!);
    const { question, opening, answer } = ask(longest);
    const text = `${lead}${insertAnywhere(lines, longest.statements, rng).text}${question}\n${opening}${answer}\n\n`;
    if (countTokens(text) <= limit) return text;
    if (sentences > 0) sentences = Math.floor(sentences * 0.7);
    else if (longest.names.length > 2) longest = pool.chain(longest.names.length - 2);
    else return "";
  }
}

/** statements of all chains in one random order that keeps each chain's own */
function interleave(chains: Chain[], rng: Prng): { chain: number; text: string }[] {
  const order = rng.shuffle(chains.flatMap(({ statements }, chain) => statements.map(() => chain)));
  const next = chains.map(() => 0);
  return order.map((chain) => ({ chain, text: chains[chain]!.statements[next[chain]!++]! }));
}

/** variable tracking; `essay`: the words of a user's corpus instead of generated prose */
export function vtGenerator(params: VtParams, essay?: string[]): Generator {
  const repeat = params.typeHaystack === "repeat";
  return {
    unit: repeat ? "filler units" : "words of prose",
    minUnits: repeat ? params.numHops + 1 : 0,
    draft(units, rng, context): Draft {
      const pool = new VariablePool(rng);
      const chains = Array.from({ length: Math.max(params.numChains, params.questions) }, () =>
        pool.chain(params.numHops),
      );
      const asked = chains[0]!;
      const statements = interleave(chains, rng);
      const hops = Math.min(params.numHops, exampleHops);
      const example = context.length >= exampleFrom ? writeExample(pool, rng, hops, context) : "";
      const texts = statements.map(({ text }) => text);
      const haystack: Haystack = repeat
        ? insertAnywhere(fillerUnits(units), texts, rng)
        : insertAtDepths(essay ? essaySentences(essay, units) : proseSentences(units, rng), texts, rng);
      return {
        lead: example + lead,
        context: haystack.text,
        ...ask(asked),
        refs: asked.names,
        ...(params.questions > 1 && {
          followUps: chains.slice(1, params.questions).map((chain) => ({ ...ask(chain), refs: chain.names })),
        }),
        needles: haystack.offsets.filter((_, i) => statements[i]!.chain === 0),
      };
    },
  };
}

// RULER's needle tasks: sentences that tie keys to values, hidden in filler, prose or other such sentences.
import { type Draft, type Generator, listOf } from "./draft.ts";
import type { Prng } from "./prng.ts";
import { essaySentences, fillerUnits, type Haystack, insertAnywhere, insertAtDepths, proseSentences } from "./prose.ts";
import { kindNames, type ValueKind, ValuePool, type Vocabulary } from "./words.ts";

export interface NiahParams {
  typeHaystack: "repeat" | "essay" | "needle";
  typeNeedleK: ValueKind;
  typeNeedleV: ValueKind;
  numNeedleK: number;
  numNeedleV: number;
  numNeedleQ: number;
  /** questions about one context; each asks for keys of its own */
  questions: number;
}

interface Needle {
  key: string;
  value: string;
}

function drawNeedles(params: NiahParams, keys: number, pool: ValuePool): Needle[] {
  const drawn = Array.from({ length: keys }, () => pool.draw(params.typeNeedleK));
  return drawn.flatMap((key) =>
    Array.from({ length: params.numNeedleV }, () => ({ key, value: pool.draw(params.typeNeedleV) })),
  );
}

/** needles as sentences in `units` of the haystack: words of prose, filler units or distractor needles */
function hide(needles: Needle[], units: number, params: NiahParams, pool: ValuePool, rng: Prng, essay?: string[]) {
  const kind = kindNames[params.typeNeedleV];
  const say = ({ key, value }: Needle) => `The secret ${kind} of ${key} is ${value}.`;
  const texts = needles.map(say);
  switch (params.typeHaystack) {
    case "repeat":
      return insertAnywhere(fillerUnits(units), texts, rng);
    case "needle":
      return insertAnywhere(drawNeedles({ ...params, numNeedleV: 1 }, units, pool).map(say), texts, rng);
    case "essay":
      return insertAtDepths(essay ? essaySentences(essay, units) : proseSentences(units, rng), texts, rng);
  }
}

function ask(kind: string, asked: string[], perKey: number, values: string[]) {
  const keys = listOf(asked);
  const plural = asked.length * perKey > 1;
  const question = plural
    ? `\nQuestion: Which secret ${kind}s belong to ${keys}?`
    : `\nQuestion: Which secret ${kind} belongs to ${keys}?`;
  if (!plural) return { question, opening: `Answer: The secret ${kind} of ${keys} is`, answer: ` ${values[0]}.` };
  if (perKey > 1) {
    return { question, opening: `Answer: The secret ${kind}s of ${keys} are`, answer: ` ${values.join(", ")}.` };
  }
  const answer = ` ${asked.map((key, i) => `${key} is ${values[i]}`).join(", of ")}.`;
  return { question, opening: `Answer: The secret ${kind} of`, answer };
}

/** needle tasks; `essay`: the words of a user's corpus instead of generated prose */
export function niahGenerator(params: NiahParams, words: Vocabulary, essay?: string[]): Generator {
  const keys = Math.max(params.numNeedleK, params.numNeedleQ * params.questions);
  const count = keys * params.numNeedleV;
  const kind = kindNames[params.typeNeedleV];
  const several = count > 1 || params.typeHaystack === "needle";

  return {
    unit: { repeat: "filler units", essay: "words of prose", needle: "distractors" }[params.typeHaystack],
    minUnits: params.typeHaystack === "essay" ? 0 : count,
    draft(units, rng): Draft {
      const pool = new ValuePool(rng, words);
      const needles = rng.shuffle(drawNeedles(params, keys, pool));
      const drawn = rng.sample([...new Set(needles.map(({ key }) => key))], params.numNeedleQ * params.questions);
      const { text, offsets }: Haystack = hide(needles, units, params, pool, rng, essay);
      const askFor = (place: number) => {
        const asked = drawn.slice(place * params.numNeedleQ, (place + 1) * params.numNeedleQ);
        const answers = asked.flatMap((key) => needles.flatMap((needle, i) => (needle.key === key ? [i] : [])));
        const refs = answers.map((i) => needles[i]!.value);
        return { answers, refs, ...ask(kind, asked, params.numNeedleV, refs) };
      };
      const { answers, ...first } = askFor(0);
      const later = Array.from({ length: params.questions - 1 }, (_, i) => {
        const { answers: _places, ...question } = askFor(i + 1);
        return question;
      });
      return {
        lead: several
          ? `The text hides several secret ${kind}s. Keep them in mind.\nText:`
          : `The text hides one secret ${kind}. Keep it in mind.\nText:`,
        context: text,
        ...first,
        ...(later.length > 0 && { followUps: later }),
        needles: answers.map((i) => offsets[i]!),
      };
    },
  };
}

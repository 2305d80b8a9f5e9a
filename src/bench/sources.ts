// A user's own corpora below data_dir: Paul Graham's essays, SQuAD 2.0 and HotpotQA in their official JSON form, word lists.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import type { QaSource } from "./qa-source.ts";
import { builtinVocabulary, type Vocabulary } from "./words.ts";

const text = v.pipe(v.string("must be a text"), v.nonEmpty("must not be empty"));

const essaySchema = v.object({ text });

const squadSchema = v.object({
  data: v.array(
    v.object({
      paragraphs: v.array(
        v.object({
          context: text,
          qas: v.array(
            v.object({ question: text, is_impossible: v.optional(v.boolean()), answers: v.array(v.object({ text })) }),
          ),
        }),
      ),
    }),
  ),
});

const hotpotSchema = v.array(
  v.object({
    question: text,
    answer: text,
    context: v.array(v.tuple([v.string(), v.array(v.string())])),
  }),
);

const files = {
  essay: ["PaulGrahamEssays.json"],
  squad: ["squad.json", "dev-v2.0.json"],
  hotpotqa: ["hotpotqa.json", "hotpot_dev_distractor_v1.json"],
};

/** the first of the known files, checked; undefined where there is none */
function read<T>(dir: string, kind: keyof typeof files, schema: v.GenericSchema<unknown, T>): T | undefined {
  const path = files[kind].map((name) => join(dir, name)).find((candidate) => existsSync(candidate));
  if (path === undefined) return undefined;
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new KvaError("data", `${path} is not valid JSON: ${(error as Error).message}`, { cause: error });
  }
  const result = v.safeParse(schema, content, { abortEarly: true });
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new KvaError("data", `${path}: ${v.getDotPath(issue) ?? "the file"}: ${issue.message}`);
}

/** distinct documents in order, and the number of each */
class Shelf {
  readonly documents: string[];
  private readonly numbers: Map<string, number>;

  constructor(all: readonly string[]) {
    this.documents = [...new Set(all)].sort();
    this.numbers = new Map(this.documents.map((document, i) => [document, i]));
  }

  find = (document: string): number => this.numbers.get(document)!;
}

/** unanswerable questions are left out; other paragraphs of the article are the near documents */
function fromSquad({ data }: v.InferOutput<typeof squadSchema>): QaSource {
  const articles = data.map(({ paragraphs }) => paragraphs);
  const { documents, find } = new Shelf(articles.flat().map(({ context }) => context));
  const questions = articles.flatMap((article) => {
    const numbers = [...new Set(article.map(({ context }) => find(context)))];
    return article.flatMap(({ context, qas }) =>
      qas
        .filter(({ is_impossible, answers }) => is_impossible !== true && answers.length > 0)
        .map(({ question, answers }) => ({
          text: question,
          refs: [...new Set(answers.map((answer) => answer.text))],
          gold: [find(context)],
          near: numbers.filter((number) => number !== find(context)),
        })),
    );
  });
  return { documents, questions };
}

/** every paragraph that a question comes with is gold */
function fromHotpot(data: v.InferOutput<typeof hotpotSchema>): QaSource {
  const written = data.map(({ context }) => context.map(([title, sentences]) => `${title}\n${sentences.join("")}`));
  const { documents, find } = new Shelf(written.flat());
  const questions = data.map(({ question, answer }, i) => {
    return { text: question, refs: [answer], gold: [...new Set(written[i]!.map(find))], near: [] };
  });
  return { documents, questions };
}

const loaded = new Map<string, QaSource | undefined>();

/** questions and documents of a user's data set; undefined where there is no file */
export function userQa(dir: string, dataset: "squad" | "hotpotqa"): QaSource | undefined {
  const key = join(dir, dataset);
  if (!loaded.has(key)) {
    const squad = dataset === "squad" ? read(dir, "squad", squadSchema) : undefined;
    const hotpot = dataset === "hotpotqa" ? read(dir, "hotpotqa", hotpotSchema) : undefined;
    const source = (squad && fromSquad(squad)) ?? (hotpot && fromHotpot(hotpot));
    if (source?.questions.length === 0)
      throw new KvaError("data", `${dir}: ${dataset} holds no question with an answer`);
    loaded.set(key, source);
  }
  return loaded.get(key);
}

/** a user's essays; undefined where there is no file */
export function userEssay(dir: string): string | undefined {
  return read(dir, "essay", essaySchema)?.text;
}

const wordFiles = {
  nouns: ["nouns.txt", "nounlist.txt"],
  adjectives: ["adjectives.txt", "adjectivelist.txt"],
  verbs: ["verbs.txt", "verblist.txt"],
  large: ["english_words.txt", "words.txt"],
};
const fewestWords = 50;

/** one word a line, sorted, without repeats; undefined where there is no file */
function wordList(dir: string, kind: keyof typeof wordFiles): string[] | undefined {
  const path = wordFiles[kind].map((name) => join(dir, name)).find((candidate) => existsSync(candidate));
  if (path === undefined) return undefined;
  const words = new Set<string>();
  for (const [at, line] of readFileSync(path, "utf8").split("\n").entries()) {
    const word = line.trim();
    if (/\s/.test(word)) throw new KvaError("data", `${path}:${at + 1}: there must be one word on a line`);
    if (word !== "") words.add(word);
  }
  if (words.size >= fewestWords) return [...words].sort();
  throw new KvaError("data", `${path} holds ${words.size} different words; at least ${fewestWords} are needed`);
}

const vocabularies = new Map<string, Vocabulary>();

/** A user's words; a list that is absent is the built-in one. */
export function userWords(dir: string): Vocabulary {
  const known = vocabularies.get(dir);
  if (known !== undefined) return known;
  const [nouns, adjectives, verbs, large] = [
    wordList(dir, "nouns"),
    wordList(dir, "adjectives"),
    wordList(dir, "verbs"),
    wordList(dir, "large"),
  ];
  const own = [nouns, adjectives, verbs].flatMap((list) => list ?? []);
  const made: Vocabulary = {
    nouns: nouns ?? builtinVocabulary.nouns,
    adjectives: adjectives ?? builtinVocabulary.adjectives,
    plain: own.length > 0 ? [...new Set(own)].sort() : builtinVocabulary.plain,
    ...(large && { large }),
  };
  vocabularies.set(dir, made);
  return made;
}

/** What a user's directory has for the generators, by name; the error says what it could have. */
export function foundSources(dir: string): string[] {
  if (!existsSync(dir)) throw new KvaError("data", `data_dir ${dir} is not there`);
  const all = { essays: files.essay, SQuAD: files.squad, HotpotQA: files.hotpotqa, ...wordFiles };
  const found = Object.entries(all).filter(([, names]) => names.some((name) => existsSync(join(dir, name))));
  if (found.length > 0) return found.map(([name]) => (name === "large" ? "words" : name));
  throw new KvaError(
    "data",
    `data_dir ${dir} has nothing for RULER's generators, which take ${Object.values(all).flat().join(", ")}; for official ` +
      "samples set build_data to false",
  );
}

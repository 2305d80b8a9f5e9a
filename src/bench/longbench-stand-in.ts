// A stand-in for LongBench's data: a few invented records of each data set's form, so that every path runs without a download.
// Scores on it say nothing about LongBench.
import type { LongbenchRecord } from "./longbench.ts";
import type { LongbenchTask } from "./longbench-tasks.ts";
import { type Prng, stream } from "./prng.ts";
import { proseSentences } from "./prose.ts";
import { builtinQa } from "./qa-source.ts";
import * as words from "./words.ts";
import { spelledWord } from "./words.ts";

const records = 12;

type Draft = Pick<LongbenchRecord, "input" | "context" | "answers"> & { all_classes?: string[] };
type Maker = (rng: Prng, at: number, seed: number) => Draft;

const prose = (count: number, rng: Prng) => proseSentences(count, rng).join(" ");
const capital = (text: string) => text[0]!.toUpperCase() + text.slice(1);
const several = <T>(count: number, make: (at: number) => T): T[] => Array.from({ length: count }, (_, at) => make(at));

/** a question about one of five paragraphs of an article */
function singleDoc(_: Prng, at: number, seed: number): Draft {
  const { documents, questions } = builtinQa("squad", seed);
  const { text, refs, gold, near } = questions[at]!;
  const context = [...gold, ...near].sort((a, b) => a - b).map((document) => documents[document]!);
  return { input: text, context: context.join("\n\n"), answers: refs };
}

/** as singleDoc, but every third question is about another article */
function paperQuestion(rng: Prng, at: number, seed: number): Draft {
  const asked = singleDoc(rng, at, seed);
  if (at % 3 !== 2) return asked;
  return { ...asked, input: singleDoc(rng, at + records, seed).input, answers: ["unanswerable"] };
}

function multiDoc(rng: Prng, at: number, seed: number): Draft {
  const { documents, questions } = builtinQa("hotpotqa", seed);
  const { text, refs, gold } = questions[at]!;
  const passages = rng.shuffle([...gold]).map((document, i) => `Passage ${i + 1}:\n${documents[document]!}`);
  return { input: text, context: passages.join("\n\n"), answers: refs };
}

/** paragraphs whose first sentences are the summary */
function summary(input: string): Maker {
  return (rng) => {
    const paragraphs = several(6, () => proseSentences(60, rng));
    return {
      input,
      context: paragraphs.map((paragraph) => paragraph.join(" ")).join("\n\n"),
      answers: [paragraphs.map((paragraph) => paragraph[0]!).join(" ")],
    };
  };
}

const questionKinds: Readonly<Record<string, (rng: Prng) => string>> = {
  Person: (rng) => `Who is the ${rng.pick(words.people)} of ${capital(spelledWord(rng))} ?`,
  Place: (rng) => `Where does the ${rng.pick(words.people)} ${rng.pick(words.names)} live ?`,
  "Number of things": (rng) => `How many ${rng.pick(words.adjectives)} things are in the ${rng.pick(words.nouns)} ?`,
  Number: (rng) => `What is the number of the ${rng.pick(words.nouns)} ?`,
  Date: (rng) => `When did the ${rng.pick(words.nouns)} arrive in ${capital(spelledWord(rng))} ?`,
};

function classified(
  form: (text: string, kind: string) => string,
  kinds: Readonly<Record<string, (rng: Prng) => string>>,
): Maker {
  return (rng) => {
    const classes = Object.keys(kinds);
    const drawn = several(16, () => rng.pick(classes)).map((kind) => ({ kind, text: kinds[kind]!(rng) }));
    const asked = drawn.pop()!;
    return {
      input: form(asked.text, "").trimEnd(),
      context: drawn.map(({ text, kind }) => form(text, kind)).join("\n"),
      answers: [asked.kind],
      all_classes: classes,
    };
  };
}

/** solved samples, then one whose solution is wanted */
function fewShot(solve: (rng: Prng, at: number, seed: number) => { task: string; solution: string }): Maker {
  return (rng, at, seed) => {
    const shown = several(4, (i) => solve(rng, records * (i + 2) + at, seed));
    const { task, solution } = solve(rng, at, seed);
    return { input: task, context: shown.map((one) => one.task + one.solution).join("\n\n"), answers: [solution] };
  };
}

const trivia = fewShot((_, at, seed) => {
  const { documents, questions } = builtinQa("squad", seed);
  const { text, refs, gold } = questions[at]!;
  return { task: `Passage:\n${documents[gold[0]!]!}\nQuestion:\n${text}\nAnswer:\n`, solution: refs[0]! };
});

const dialogue = fewShot((rng) => {
  const [one, other] = rng.sample(words.names, 2) as [string, string];
  const [thing, place] = [rng.pick(words.nouns), rng.pick(words.places)];
  const lines = [
    `${one}: Do you still have the ${thing}?`,
    `${other}: Yes, it is at the ${place}. ${proseSentences(15, rng)[0] ?? ""}`,
    `${one}: May I take it tomorrow?`,
    `${other}: Of course.`,
  ];
  return {
    task: `Dialogue: ${lines.join("\n")}\nSummary: `,
    solution: `${one} will take the ${thing} that ${other} has at the ${place}.`,
  };
});

function countParagraphs(rng: Prng): Draft {
  const different = several(rng.between(5, 9), () => prose(40, rng));
  const all = rng.shuffle([...different, ...several(rng.between(2, 6), () => rng.pick(different))]);
  const context = all.map((paragraph, i) => `Paragraph ${i + 1}: ${paragraph}`).join("\n\n");
  return { input: "", context, answers: [String(different.length)] };
}

function retrieveParagraph(rng: Prng): Draft {
  const paragraphs = several(12, () => proseSentences(50, rng));
  const asked = rng.below(paragraphs.length);
  const context = paragraphs.map((paragraph, i) => `Paragraph ${i + 1}: ${paragraph.join(" ")}`).join("\n\n");
  return { input: paragraphs[asked]!.slice(0, 2).join(" "), context, answers: [`Paragraph ${asked + 1}`] };
}

function code(rng: Prng, input: boolean): Draft {
  const functions = several(12, () => {
    const [name, field] = [spelledWord(rng), spelledWord(rng)];
    return [
      `    def get_${name}(self):`,
      `        value = self.${field}`,
      `        return value + ${rng.between(1, 99)}`,
    ];
  });
  const [name, field] = [spelledWord(rng), spelledWord(rng)];
  const start = [`    def set_${name}(self, ${field}):`, ""].join("\n");
  const context = `class ${capital(spelledWord(rng))}:\n${functions.map((lines) => lines.join("\n")).join("\n\n")}\n\n`;
  const answers = [`        self.${field} = ${field}`];
  return input ? { input: start, context, answers } : { input: "", context: context + start, answers };
}

const zhPlaces = ["青石", "白河", "云林", "东湾", "南山", "金桥", "柳林", "石门"];
const zhNames = ["王海", "李梅", "张远", "刘星", "陈平", "赵雪", "周明", "林青"];
const zhThings = ["大桥", "学校", "图书馆", "车站", "公园", "医院", "市场", "剧院"];
const zhSentences: readonly ((rng: Prng) => string)[] = [
  (rng) => `${rng.pick(zhPlaces)}镇的${rng.pick(zhThings)}每天早上八点开门。`,
  (rng) => `去年${rng.pick(zhNames)}在${rng.pick(zhPlaces)}镇住了三个月。`,
  (rng) => `${rng.pick(zhThings)}旁边有一条很长的路，春天开满了花。`,
  (rng) => `居民们希望${rng.pick(zhThings)}能够早日修好。`,
];
const zhProse = (count: number, rng: Prng) => several(count, () => rng.pick(zhSentences)(rng)).join("");

function zhQuestion(rng: Prng): Draft {
  const [place, name, thing] = [rng.pick(zhPlaces), rng.pick(zhNames), rng.pick(zhThings)];
  const fact = `${place}镇新${thing}的设计者是${name}。`;
  const context = several(8, () => zhProse(6, rng));
  context.splice(rng.below(8), 0, zhProse(2, rng) + fact + zhProse(2, rng));
  return { input: `${place}镇新${thing}的设计者是谁？`, context: context.join("\n"), answers: [name] };
}

function zhSummary(rng: Prng): Draft {
  const topics = several(
    4,
    () => `会议决定在${rng.pick(zhPlaces)}镇修建${rng.pick(zhThings)}，由${rng.pick(zhNames)}负责。`,
  );
  const context = topics.map((topic) => `${rng.pick(zhNames)}：${topic}${zhProse(6, rng)}`).join("\n");
  return { input: "", context, answers: [topics.join("")] };
}

function zhRetrieve(rng: Prng): Draft {
  const paragraphs = several(10, () => zhProse(5, rng) + String(rng.between(1000, 9999)));
  const asked = rng.below(paragraphs.length);
  const context = paragraphs.map((paragraph, i) => `段落${i + 1}：${paragraph}`).join("\n\n");
  return { input: paragraphs[asked]!, context, answers: [`段落${asked + 1}`] };
}

const zhNews: Readonly<Record<string, (rng: Prng) => string>> = {
  体育: (rng) => `${rng.pick(zhPlaces)}队昨晚在主场三比一获胜。`,
  天气: (rng) => `${rng.pick(zhPlaces)}镇明天有大雨。`,
  交通: (rng) => `${rng.pick(zhPlaces)}镇的新公路今天通车。`,
};

const makers: Readonly<Record<string, Maker>> = {
  narrativeqa: singleDoc,
  qasper: paperQuestion,
  multifieldqa_en: singleDoc,
  multifieldqa_zh: zhQuestion,
  hotpotqa: multiDoc,
  "2wikimqa": multiDoc,
  musique: multiDoc,
  dureader: zhQuestion,
  gov_report: summary(""),
  qmsum: summary("What was said first about each point?"),
  multi_news: summary(""),
  vcsum: zhSummary,
  trec: classified((question, kind) => `Question: ${question}\nType: ${kind}`, questionKinds),
  triviaqa: trivia,
  samsum: dialogue,
  lsht: classified((news, kind) => `新闻：${news}\n类别：${kind}`, zhNews),
  passage_count: countParagraphs,
  passage_retrieval_en: retrieveParagraph,
  passage_retrieval_zh: zhRetrieve,
  lcc: (rng) => code(rng, false),
  "repobench-p": (rng) => code(rng, true),
};

/** The stand-in's records of a data set, the same for one seed. */
export function standIn(task: LongbenchTask, seed: number): LongbenchRecord[] {
  return several(records, (at) => {
    const draft = makers[task.dataset]!(stream("stand-in", task.name, seed, at), at, seed);
    const all = draft.context + draft.input;
    const length = task.language === "zh" ? all.length : all.split(/\s+/).length;
    return { ...draft, length, language: task.language === "code" ? "python" : task.language };
  });
}

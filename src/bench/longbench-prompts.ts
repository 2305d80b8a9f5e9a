// Our wording of LongBench's prompts, and other wordings from a JSON map of data set to template with {context} and {input}.
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";
import { match, suggestion } from "../plugin/nearest.ts";
import { longbenchDefaults } from "./longbench-tasks.ts";

const short = "Reply with the shortest answer that is complete, and nothing else.";
const fromPassages = `Use the passages to answer the question. ${short}`;
const multiDoc = `${fromPassages}\n\nPassages:\n{context}\n\n${fromPassages}\n\nQuestion: {input}\nAnswer:`;

const paper =
  "Use the article to answer the question with one phrase or sentence. Reply with the exact word unanswerable where the article " +
  "does not say it, and with yes, no or unanswerable where the question asks for yes or no. Explain nothing.";
const story = `Use the story to answer the question, with one phrase if that is enough. ${short}`;
const text = `Use the text to answer the question. ${short}`;
const zhText = "请根据文章回答问题，只写出答案，不作任何说明。";
const zhMany = "请根据所给的文章回答问题。";
const report = "Summarize the report on about one page.";
const meeting = "Answer the query about the meeting in one or a few sentences.";
const news = "Summarize all of the news passages on about one page.";
const zhMeeting = "请总结会议的内容。";
const count =
  "Find out how many different paragraphs there are, when copies of the same one count once. Reply with the number in digits only.";
const retrieve =
  "Find the paragraph that the summary was written from. Reply in the form Paragraph 1, Paragraph 2 and so on.";
const zhRetrieve = "请找出摘要所对应的段落，按照“段落1”、“段落2”的格式回答。";

const ours: Readonly<Record<string, string>> = {
  narrativeqa: `${story}\n\nStory: {context}\n\n${story}\n\nQuestion: {input}\n\nAnswer:`,
  qasper: `${paper}\n\nArticle: {context}\n\n${paper}\n\nQuestion: {input}\n\nAnswer:`,
  multifieldqa_en: `${text}\n\n{context}\n\n${text}\n\nQuestion: {input}\nAnswer:`,
  multifieldqa_zh: `${zhText}\n\n{context}\n\n${zhText}\n\n问题：{input}\n答案：`,
  hotpotqa: multiDoc,
  "2wikimqa": multiDoc,
  musique: multiDoc,
  dureader: `${zhMany}\n\n文章：{context}\n\n${zhMany}\n\n问题：{input}\n答案：`,
  gov_report: `${report}\n\nReport:\n{context}\n\n${report}\n\nSummary:`,
  qmsum: `${meeting}\n\nTranscript:\n{context}\n\n${meeting}\n\nQuery: {input}\nAnswer:`,
  multi_news: `${news}\n\nNews:\n{context}\n\n${news}\n\nSummary:`,
  vcsum: `${zhMeeting}\n\n会议记录：\n{context}\n\n${zhMeeting}\n\n总结：`,
  trec: "Name the type of the last question, as in the examples.\n\n{context}\n{input}",
  triviaqa: `Answer the last question from its passage, as in the examples. ${short}\n\n{context}\n\n{input}`,
  samsum: "Summarize the last dialogue in a few short sentences, as in the examples.\n\n{context}\n\n{input}",
  lsht: "请参照例子，判断最后一条新闻的类别。\n\n{context}\n{input}",
  passage_count: `${count}\n\n{context}\n\n${count}\n\nNumber:`,
  passage_retrieval_en: `${retrieve}\n\n{context}\n\nSummary:\n\n{input}\n\n${retrieve}\n\nAnswer:`,
  passage_retrieval_zh: `${zhRetrieve}\n\n{context}\n\n摘要：\n\n{input}\n\n${zhRetrieve}\n\n答案：`,
  lcc: "Complete the code.\n{context}The next line of code:\n",
  "repobench-p": "Complete the code.\n{context}{input}The next line of code:\n",
};

const fileSchema = v.record(v.string(), v.string("must be a text"), "must map data sets to templates");

/** The templates of a file, each with {context} once; data sets that it leaves out keep our wording. */
function readPrompts(path: string): Record<string, string> {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new KvaError("usage", `prompt_file ${path} cannot be read as JSON: ${reason(error)}`, {
      cause: error,
    });
  }
  const result = v.safeParse(fileSchema, content, { abortEarly: true });
  if (!result.success) {
    const issue = result.issues[0];
    throw new KvaError("usage", `prompt_file ${path}: ${v.getDotPath(issue) ?? "the file"} ${issue.message}`);
  }
  const prompts: Record<string, string> = {};
  for (const [name, template] of Object.entries(result.output)) {
    const dataset = match(name, longbenchDefaults);
    if (dataset === undefined) {
      throw new KvaError(
        "usage",
        `prompt_file ${path}: ${name} is no data set; ${suggestion(name, longbenchDefaults)}`,
      );
    }
    if (template.split("{context}").length !== 2) {
      throw new KvaError("usage", `prompt_file ${path}: ${name} must hold {context} once`);
    }
    prompts[dataset] = template;
  }
  return prompts;
}

const files = new Map<string, Record<string, string>>();

/** lead, context and question of a record; braces inside of the record stay as they are */
export function promptParts(dataset: string, record: { context: string; input: string }, file: string | null) {
  if (file !== null && !files.has(file)) files.set(file, readPrompts(file));
  const template = (file === null ? undefined : files.get(file)![dataset]) ?? ours[dataset]!;
  const [before, after] = template.split("{context}") as [string, string];
  const filled = (part: string) => part.split("{input}").join(record.input);
  return { lead: filled(before), context: record.context, question: filled(after) };
}

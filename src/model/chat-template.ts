// Chat templates: Jinja source from chat_template.jinja or tokenizer_config.json, rendered as transformers renders it.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import * as v from "valibot";
import { KvaError } from "../native/error.ts";
import { checked } from "./json.ts";

export interface Message {
  role: string;
  content: string;
}

export interface TemplateOptions {
  /** end with the opening of the model's answer (default) */
  addGenerationPrompt?: boolean;
  /** the day that a template asks for; default: today */
  date?: Date;
  /** further variables, as `enable_thinking` of Qwen3 */
  variables?: Readonly<Record<string, unknown>>;
}

const named = v.array(v.object({ name: v.string(), template: v.string() }));
const templateSchema = v.object({
  chat_template: v.nullish(v.union([v.string(), named], "must be a template, or a list of {name, template}")),
});

/** The model's template: the file wins over the key; of a list, the one named `default`. */
export function readTemplate(dir: string, value: unknown): ChatTemplate | undefined {
  const file = join(dir, "chat_template.jinja");
  if (existsSync(file)) return new ChatTemplate(readFileSync(file, "utf8"), file);
  return templateOf(value, join(dir, "tokenizer_config.json"));
}

/** The value of `chat_template` in a file: a template, or a list of named ones. */
export function templateOf(value: unknown, file: string): ChatTemplate | undefined {
  const { chat_template: given } = checked(templateSchema, { chat_template: value }, file);
  const source = Array.isArray(given) ? given.find(({ name }) => name === "default")?.template : given;
  return typeof source === "string" ? new ChatTemplate(source, `chat_template of ${file}`) : undefined;
}

/** Parsed at its first use: a broken template only stops those who ask for it. */
export class ChatTemplate {
  private parsed: Template | undefined;

  constructor(
    private readonly source: string,
    /** where it stands, for errors */
    readonly place: string,
  ) {}

  render(messages: readonly Message[], tokens: Record<string, string>, options: TemplateOptions): string {
    const { addGenerationPrompt = true, date = new Date(), variables } = options;
    try {
      // the library's own strftime_now reads the clock and the machine's language
      this.parsed ??= new Template(this.source.replaceAll(/\bstrftime_now\b/g, "formatted_now"));
      return this.parsed.render({
        ...tokens,
        messages,
        add_generation_prompt: addGenerationPrompt,
        formatted_now: (format: string) => strftime(date, format),
        ...variables,
      });
    } catch (error) {
      throw new KvaError("model", `the ${this.place} cannot be rendered: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
}

const months = "January February March April May June July August September October November December".split(" ");
const days = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");
const two = (n: number): string => String(n).padStart(2, "0");

const directives: Readonly<Record<string, (date: Date) => string>> = {
  "%Y": (date) => String(date.getFullYear()),
  "%m": (date) => two(date.getMonth() + 1),
  "%d": (date) => two(date.getDate()),
  "%B": (date) => months[date.getMonth()]!,
  "%b": (date) => months[date.getMonth()]!.slice(0, 3),
  "%A": (date) => days[date.getDay()]!,
  "%a": (date) => days[date.getDay()]!.slice(0, 3),
  "%H": (date) => two(date.getHours()),
  "%M": (date) => two(date.getMinutes()),
  "%S": (date) => two(date.getSeconds()),
  "%y": (date) => two(date.getFullYear() % 100),
  "%%": () => "%",
};

/** Python's strftime in the C locale, for the directives that templates use. */
function strftime(date: Date, format: string): string {
  return format.replaceAll(/%[A-Za-z%]/g, (directive) => {
    const write = directives[directive];
    if (!write) throw new Error(`strftime_now does not know ${directive}`);
    return write(date);
  });
}

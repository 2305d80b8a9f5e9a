// Chat templates by name, for models whose files bring none, and for other toolkits' benchmark files, which name them.
import type { Message } from "./sample.ts";

type Render = (messages: readonly Message[]) => string;

/** Turns wrapped alike, then the head of the answer; `begin` stands before the first turn. */
function turns(begin: string, turn: (message: Message) => string, answer: string): Render {
  return (messages) => begin + messages.map(turn).join("") + answer;
}

const chatml = turns(
  "",
  ({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`,
  "<|im_start|>assistant\n",
);
const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;

const glm = turns("[gMASK]<sop>", ({ role, content }) => `<|${role}|>\n${content}`, "<|assistant|>\n");

export const namedTemplates = {
  llama3: turns(
    "<|begin_of_text|>",
    ({ role, content }) => `${header(role)}${content.trim()}<|eot_id|>`,
    header("assistant"),
  ),
  llama2: turns(
    "",
    ({ role, content }) => (role === "user" ? `<s>[INST] ${content.trim()} [/INST]` : ` ${content.trim()} </s>`),
    "",
  ),
  mistral: turns(
    "<s>",
    ({ role, content }) => (role === "user" ? `[INST] ${content.trim()} [/INST]` : ` ${content.trim()}</s>`),
    "",
  ),
  chatml,
  qwen: chatml,
  glm4: glm,
  chatglm: glm,
} satisfies Record<string, Render>;

export type TemplateName = keyof typeof namedTemplates;
export const templateNames = Object.keys(namedTemplates) as TemplateName[];

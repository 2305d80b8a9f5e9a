// 10,000 random Unicode strings of each kind of tokenizer against the Python library (hashes made by scripts/golden/strings.py).
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { digest, randomStrings, stringBlock, stringCount } from "../support/strings.ts";

const golden = join(import.meta.dir, "..", "golden", "tokenizers");
const kinds = readdirSync(golden, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? entry.name : []));
const read = (name: string) => JSON.parse(readFileSync(join(golden, name), "utf8"));

const decodeEvery = 4; // blocks: text from ids takes longer than ids from text

test("there is every kind", () => {
  expect(kinds.sort()).toEqual(["glm4", "llama2", "llama3", "mistral", "qwen2"]);
});

test.each(kinds)(
  "%s: the ids of 10,000 random strings, and the text that a quarter of them decodes to",
  (kind) => {
    const tokenizer = loadTokenizer(join(golden, kind));
    const { ids, decoded }: Record<string, string[]> = read(`${kind}.random.json`);
    const added: { content: string }[] = read(`${kind}/tokenizer.json`).added_tokens;
    const specials = added.map(({ content }) => content).slice(0, 8);
    expect(ids).toHaveLength(stringCount / stringBlock);
    let texts: string[] = [];
    let block = 0;
    for (const text of randomStrings(specials)) {
      if (texts.push(text) < stringBlock) continue;
      const encoded = texts.map((each) => tokenizer.encode(each, { special: false }));
      expect([block, digest(encoded.map((each) => each.join(" ")))]).toEqual([block, ids![block]!]);
      if (block % decodeEvery === 0) {
        expect([block, digest(encoded.map((each) => tokenizer.decode(each)))]).toEqual([block, decoded![block]!]);
      }
      texts = [];
      block++;
    }
  },
  30_000,
);

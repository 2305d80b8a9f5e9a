// Chinese text into words as jieba's precise mode cuts it (with the hidden Markov model for unknown words).
import type { cut as Cut } from "jieba-wasm";

let cut: typeof Cut | undefined;

const latin = /^[a-zA-Z0-9+#&._%-]+$/;
/** Unknown words in Latin letters: digits and letters, perhaps with a decimal part and a percent sign. */
const latinWord = /[a-zA-Z0-9]+(?:\.[0-9]+)?%?/g;
/** what the library takes for one word, and jieba does not: any character in place of the decimal point */
const joined = /^[a-zA-Z0-9]+[+#&_%-][0-9]+%?$/;
/** letters and signs in any other form: a word of the dictionary, such as C++ */
const listed = /[a-zA-Z0-9][+#&_-]|[+#&_-][a-zA-Z0-9]/;

/** The words and what stands between them in latinWord's sense, in order. */
function cutLatin(text: string): string[] {
  const words: string[] = [];
  let at = 0;
  for (const { 0: word, index } of text.matchAll(latinWord)) {
    if (index > at) words.push(text.slice(at, index));
    words.push(word);
    at = index + word.length;
  }
  if (at < text.length) words.push(text.slice(at));
  return words;
}

/** Every character of the text is in exactly one word. The dictionary is loaded at the first call (0.5 s). */
export function segmentChinese(text: string): string[] {
  cut ??= (require("jieba-wasm") as { cut: typeof Cut }).cut;
  const words = cut(text, true);
  if (!words.some((word) => joined.test(word))) return words;
  const result: string[] = [];
  let run: string[] = [];
  const flush = () => {
    result.push(...(run.some((word) => joined.test(word)) ? cutLatin(run.join("")) : run));
    run = [];
  };
  for (const word of words) {
    if (latin.test(word) && (joined.test(word) || !listed.test(word))) run.push(word);
    else {
      flush();
      result.push(word);
    }
  }
  flush();
  return result;
}

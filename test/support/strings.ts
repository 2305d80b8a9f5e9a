// The random strings of scripts/golden/strings.py, character by character.
import { createHash } from "node:crypto";

export const stringCount = 10_000;
export const stringBlock = 100;

const ranges: readonly (readonly [number, number])[] = [
  [0x20, 0x7f],
  [0x61, 0x7b],
  [0x61, 0x7b],
  [0x30, 0x3a],
  [0x20, 0x21],
  [0x20, 0x21],
  [0x9, 0xe],
  [0xa0, 0x100],
  [0x100, 0x180],
  [0x300, 0x350],
  [0x391, 0x3a2],
  [0x410, 0x450],
  [0x5d0, 0x5eb],
  [0x627, 0x63b],
  [0x905, 0x93a],
  [0xe01, 0xe30],
  [0x1100, 0x1113],
  [0x1e00, 0x1e90],
  [0x2000, 0x2010],
  [0x2018, 0x2028],
  [0x2070, 0x2072],
  [0x20a0, 0x20ad],
  [0x2150, 0x2160],
  [0x2190, 0x21a0],
  [0x2500, 0x2580],
  [0x2581, 0x2582],
  [0x3041, 0x3097],
  [0x30a1, 0x30fb],
  [0x4e00, 0x9fa6],
  [0xac00, 0xd7a4],
  [0xfe00, 0xfe10],
  [0xff01, 0xff5f],
  [0xfeff, 0xff00],
  [0xfffd, 0xfffe],
  [0xe000, 0xe010],
  [0x1f600, 0x1f640],
  [0x1f468, 0x1f46a],
  [0x200d, 0x200e],
  [0x1d400, 0x1d450],
  [0x10400, 0x10428],
  [0x20000, 0x20100],
];

/** `specials`: texts of added tokens that are strewn in. */
export function* randomStrings(specials: readonly string[]): Generator<string> {
  let state = 2026;
  const below = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % limit;
  };
  for (let i = 0; i < stringCount; i++) {
    let text = "";
    for (let left = 1 + below(60); left > 0; left--) {
      if (specials.length > 0 && below(50) === 0) text += specials[below(specials.length)]!;
      const [first, end] = ranges[below(ranges.length)]!;
      text += String.fromCodePoint(first + below(end - first));
    }
    yield text;
  }
}

/** of the rows of a block */
export const digest = (rows: readonly string[]): string =>
  createHash("sha256").update(rows.join("\n")).digest("hex").slice(0, 16);

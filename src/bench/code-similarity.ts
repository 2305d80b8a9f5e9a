// Similarity of two lines of code: the ratio of Ratcliff and Obershelp as Python's difflib computes it, in whole percent.

interface Block {
  x: number;
  y: number;
  size: number;
}

/** where each character of `y` stands; in texts of 200 and more, the popular ones are no anchors of a match */
function places(y: readonly string[]): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const [at, char] of y.entries()) {
    const list = found.get(char);
    if (list) list.push(at);
    else found.set(char, [at]);
  }
  if (y.length < 200) return found;
  const most = Math.floor(y.length / 100) + 1;
  for (const [char, list] of found) if (list.length > most) found.delete(char);
  return found;
}

/** The longest block of anchors that both pieces have, the first of the longest, made longer at its ends by equal characters. */
function longestMatch(x: readonly string[], y: readonly string[], at: Map<string, number[]>, piece: number[]): Block {
  const [xLow, xHigh, yLow, yHigh] = piece as [number, number, number, number];
  let best: Block = { x: xLow, y: yLow, size: 0 };
  let lengths = new Map<number, number>();
  for (let i = xLow; i < xHigh; i++) {
    const next = new Map<number, number>();
    for (const j of at.get(x[i]!) ?? []) {
      if (j < yLow) continue;
      if (j >= yHigh) break;
      const size = (lengths.get(j - 1) ?? 0) + 1;
      next.set(j, size);
      if (size > best.size) best = { x: i - size + 1, y: j - size + 1, size };
    }
    lengths = next;
  }
  while (best.x > xLow && best.y > yLow && x[best.x - 1] === y[best.y - 1]) {
    best = { x: best.x - 1, y: best.y - 1, size: best.size + 1 };
  }
  while (best.x + best.size < xHigh && best.y + best.size < yHigh && x[best.x + best.size] === y[best.y + best.size]) {
    best.size++;
  }
  return best;
}

/** 2 x matched characters over all of them */
export function matchRatio(prediction: string, ref: string): number {
  const [x, y] = [Array.from(prediction), Array.from(ref)];
  const at = places(y);
  let matched = 0;
  const pieces = [[0, x.length, 0, y.length]];
  for (let piece = pieces.pop(); piece !== undefined; piece = pieces.pop()) {
    const block = longestMatch(x, y, at, piece);
    if (block.size === 0) continue;
    matched += block.size;
    const [xLow, xHigh, yLow, yHigh] = piece as [number, number, number, number];
    pieces.push([xLow, block.x, yLow, block.y], [block.x + block.size, xHigh, block.y + block.size, yHigh]);
  }
  return (2 * matched) / (x.length + y.length);
}

/** 2 x the longest common subsequence over all characters: one minus the edit distance in which a change counts two */
export function editRatio(prediction: string, ref: string): number {
  const [x, y] = [Array.from(prediction), Array.from(ref)];
  let row = new Array<number>(y.length + 1).fill(0);
  for (const char of x) {
    const next = [0];
    for (let j = 1; j <= y.length; j++) {
      next.push(char === y[j - 1] ? row[j - 1]! + 1 : Math.max(row[j]!, next[j - 1]!));
    }
    row = next;
  }
  return (2 * row[y.length]!) / (x.length + y.length);
}

/** Python's round(): a half goes to the even neighbour */
function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

export type Ratio = typeof matchRatio;

/** The prediction's first line that is neither a comment nor a fence, against the reference; whole percent, as 0 to 1. */
export function codeSimilarity(prediction: string, ref: string, ratio: Ratio = matchRatio): number {
  const lines = prediction.replace(/^\n+/, "").split("\n");
  const line = lines.find((one) => !one.includes("`") && !one.includes("#") && !one.includes("//")) ?? "";
  if (line === ref) return 1;
  if (line === "" || ref === "") return 0;
  return roundHalfEven(100 * ratio(line, ref)) / 100;
}

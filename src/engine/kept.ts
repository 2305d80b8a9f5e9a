// Kept positions as text: `0-3,17,20-22`, so that a head that keeps all of a long prompt is a few bytes.

/** Ascending positions as ranges: `0-3,17`; no position is the empty text. */
export function rangesOf(positions: ArrayLike<number>): string {
  const parts: string[] = [];
  for (let i = 0; i < positions.length; i++) {
    const first = positions[i]!;
    while (i + 1 < positions.length && positions[i + 1] === positions[i]! + 1) i++;
    parts.push(first === positions[i] ? `${first}` : `${first}-${positions[i]}`);
  }
  return parts.join(",");
}

/** The positions of such a text, ascending. */
export function positionsOf(ranges: string): number[] {
  if (ranges === "") return [];
  return ranges.split(",").flatMap((part) => {
    const [first = 0, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

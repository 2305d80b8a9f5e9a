// Names beside the points of a scatter chart: each at the first of four places where it meets no point, no other name and no edge.

export interface Anchor {
  x: number;
  y: number;
  text: string;
}

export interface Label extends Anchor {
  /** where the text stands */
  textX: number;
  textY: number;
  anchor: "start" | "middle" | "end";
}

export interface Bounds {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const letter = 6.9;
const line = 13;
const gap = 8;
const dot = 5;

const meets = (a: Bounds, b: Bounds) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

/** In the order given, so that the first names get the best places; a name without a free place is left out. */
export function placeLabels(anchors: readonly Anchor[], bounds: Bounds): Label[] {
  const taken = anchors.map(({ x, y }): Bounds => ({ left: x - dot, right: x + dot, top: y - dot, bottom: y + dot }));
  return anchors.flatMap((anchor) => {
    const place = places(anchor).find(({ box }) => inside(box, bounds) && !taken.some((other) => meets(box, other)));
    if (place === undefined) return [];
    taken.push(place.box);
    return [place.label];
  });
}

const inside = (box: Bounds, bounds: Bounds) =>
  box.left >= bounds.left && box.right <= bounds.right && box.top >= bounds.top && box.bottom <= bounds.bottom;

function places(anchor: Anchor): { label: Label; box: Bounds }[] {
  const { x, y, text } = anchor;
  const wide = text.length * letter;
  const at = (textX: number, textY: number, side: Label["anchor"]) => {
    const left = side === "start" ? textX : side === "end" ? textX - wide : textX - wide / 2;
    const box = { left, right: left + wide, top: textY - line / 2, bottom: textY + line / 2 };
    return { label: { ...anchor, textX, textY, anchor: side }, box };
  };
  return [
    at(x + gap, y, "start"),
    at(x - gap, y, "end"),
    at(x, y - gap - line / 2, "middle"),
    at(x, y + gap + line / 2, "middle"),
    at(x + gap, y + line, "start"),
    at(x + gap, y - line, "start"),
    at(x - gap, y + line, "end"),
    at(x - gap, y - line, "end"),
  ];
}

// A picture of one colour and many opacities as a PNG: what a map of kept rows needs, a thousandth of its size as rectangles.
import { crc32, deflateSync } from "node:zlib";

export interface AlphaPicture {
  width: number;
  height: number;
  /** opacity of each pixel, row by row, 0 to 255 */
  alpha: Uint8Array;
  /** red, green, blue */
  colour: readonly [number, number, number];
}

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const ends = Buffer.alloc(8);
  ends.writeUInt32BE(data.length, 0);
  ends.writeUInt32BE(crc32(body), 4);
  return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
}

/** A palette picture: index i is the colour at opacity i. */
export function alphaPng({ width, height, alpha, colour }: AlphaPicture): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 3, 0, 0, 0], 8); // 8 bits, palette, one way of compressing and filtering, not interlaced
  const lines = Buffer.alloc(height * (width + 1)); // each line begins with its filter: none
  for (let y = 0; y < height; y++) lines.set(alpha.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const palette = Buffer.alloc(3 * 256, Uint8Array.from(colour));
  const opacities = Uint8Array.from({ length: 256 }, (_, i) => i);
  const parts = [
    chunk("IHDR", header),
    chunk("PLTE", palette),
    chunk("tRNS", opacities),
    chunk("IDAT", deflateSync(lines, { level: 9 })),
    chunk("IEND", Buffer.alloc(0)),
  ];
  return Buffer.concat([Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]), ...parts]);
}

// What a card can do at most: bytes of a copy, operations of a large matrix product. What memory it has free, and how work on it is timed.
import { Timer } from "../../src/native/graph.ts";
import { type Backend, openLibrary } from "../../src/native/library.ts";
import { linear } from "../../src/native/ops.ts";
import { Scope } from "../../src/native/scope.ts";
import { Context } from "../../src/native/tensor.ts";

export interface Ceilings {
  device: string;
  /** bytes read and written per second by a copy within the device */
  copy: number;
  /** bf16 operations per second of a large matrix product */
  gemm: number;
}

/** How often work is timed, and what comes before each time. */
export interface Repeat {
  /** samples at most; the run before them does not count */
  samples?: number;
  /** asked before each sample but the first: whether there is time for it */
  more?: () => boolean;
  prepare?: () => void;
}

/** Milliseconds of each run, by the device's own clock, after one that does not count. */
export function timeMs(context: Context, run: () => void, { samples = 7, more, prepare }: Repeat = {}): number[] {
  using scope = new Scope(context);
  const timer = scope.own(Timer.create(context, 2));
  const once = () => {
    prepare?.();
    timer.mark(0);
    run();
    timer.mark(1);
    return timer.read(0, 1);
  };
  once();
  const ms = [once()];
  while (ms.length < samples && (more?.() ?? true)) ms.push(once());
  return ms;
}

/** Bytes of device memory that nobody holds now. */
export function freeBytes(device: string): number {
  const [backend, index] = device.split(":");
  return openLibrary(backend as Backend).device(Number(index)).freeBytes;
}

const fastest = (ms: number[]) => ms.toSorted((a, b) => a - b)[ms.length >> 1]! / 1000;

export function ceilings(device: string): Ceilings {
  const context = Context.open(device);
  const big = context.backend === "cuda";
  const size = big ? 8192 : 1024;
  try {
    using scope = new Scope(context);
    const from = scope.tensor("bfloat16", big ? 131072 : 8192, 8192);
    const to = scope.tensor("bfloat16", from.rows, from.columns);
    from.randomize("normal", 1, 1);
    const copySeconds = fastest(timeMs(context, () => from.copyTo(to), { samples: 9 }));
    const [x, w, out] = [1, 2, 3].map((seed) => {
      const tensor = scope.tensor("bfloat16", size, size);
      tensor.randomize("normal", seed, 1);
      return tensor;
    });
    const gemmSeconds = fastest(timeMs(context, () => linear(x!, w!, null, out!), { samples: 9 }));
    const name = context.library.devices()[context.device]?.name ?? device;
    return { device: name, copy: (2 * from.bytes) / copySeconds, gemm: (2 * size ** 3) / gemmSeconds };
  } finally {
    context.trim();
    context.dispose();
  }
}

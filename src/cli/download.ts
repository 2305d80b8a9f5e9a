// The model of --model_path, downloaded first where it is an id that is not in the cache: a bar on a terminal, else a line now and then.
import { formatBytes } from "../bench/format.ts";
import { obtainModel } from "../model/hub.ts";
import type { Watch } from "../model/hub-transfer.ts";

const barWidth = 24;
const lineEveryMs = 10_000;
const drawEveryMs = 100;

/** `▇▇▇▇····  31 %  4.9 of 15.0 GiB  112 MiB/s  model-00002-of-00004.safetensors` */
export function progressText(done: number, total: number, ratePerMs: number, file: string, bar: boolean): string {
  const share = total === 0 ? 1 : done / total;
  const filled = Math.round(share * barWidth);
  const drawn = bar ? `${"▇".repeat(filled)}${"·".repeat(barWidth - filled)} ` : "";
  const rate = ratePerMs > 0 ? `  ${formatBytes(ratePerMs * 1000)}/s` : "";
  return `${drawn}${String(Math.floor(100 * share)).padStart(3)} %  ${formatBytes(done)} of ${formatBytes(total)}${rate}  ${file}`;
}

/** Draws on `out`; `end` leaves the cursor on a fresh line. */
export function watchDownload(out: NodeJS.WriteStream = process.stderr): { watch: Watch; end(): void } {
  const bar = out.isTTY === true && process.env.TERM !== "dumb";
  let begun: { ms: number; done: number } | undefined;
  let drawnMs = Number.NEGATIVE_INFINITY;
  let drawn = false;
  const clear = () => {
    if (drawn) out.write("\r\x1b[K");
    drawn = false;
  };
  const watch: Watch = {
    progress(done, total, file) {
      const now = performance.now();
      begun ??= { ms: now, done };
      if (now - drawnMs < (bar ? drawEveryMs : lineEveryMs) && done < total) return;
      drawnMs = now;
      const rate = now > begun.ms ? (done - begun.done) / (now - begun.ms) : 0;
      const text = progressText(done, total, rate, file, bar);
      if (!bar) return void out.write(`${text.trim()}\n`);
      clear();
      out.write(text.slice(0, Math.max(20, (out.columns ?? 80) - 1)));
      drawn = true;
    },
    retry(file, reason) {
      clear();
      out.write(`${file}: ${reason}; trying again from where it stopped\n`);
    },
  };
  return {
    watch,
    end() {
      if (drawn) out.write("\n");
      drawn = false;
    },
  };
}

/** The directory or GGUF file of the model. */
export async function fetchModel(modelPath: string): Promise<string> {
  const { watch, end } = watchDownload();
  try {
    return await obtainModel(modelPath, watch);
  } finally {
    end();
  }
}

// Writes a checkpoint of a shape with random weights as safetensors, and times how it loads from the page cache onto the device: seconds, and
// the host memory that the engine holds beyond the mapped file. usage: bun scripts/gpu/loading.ts FOLDER [SHAPE] [DEVICE]; KEEP=1 leaves it
// for others
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { EngineProcess } from "../../src/bench/engine-process.ts";
import { planWeights, targets } from "../../src/model/plan.ts";
import { shapeConfig, shapeJson } from "../../src/model/shapes.ts";
import { engineOptions } from "../bench/engine-options.ts";

const [, , folder = "/tmp/loading", shape = "llama-3.1-8b", device = "cuda:0"] = process.argv;
const PIECE = 64 << 20;

/** bf16 numbers of about 0.01, of either sign */
function someWeights(): Uint8Array {
  const words = new Uint16Array(PIECE / 2);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = 0x3c00 | ((state >>> 16) & 0x807f);
  }
  return new Uint8Array(words.buffer);
}

function writeCheckpoint(): number {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(shapeJson(shape)));
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { name, shape: sizes } of targets(planWeights(shapeConfig(shape))).flatMap((target) => target.parts)) {
    const bytes = sizes.reduce((product, size) => product * size, 2);
    header[name] = { dtype: "BF16", shape: sizes, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(folder, "model.safetensors"), "w");
  writeSync(file, Buffer.concat([prefix, text]));
  const piece = someWeights();
  for (let at = 0; at < end; at += PIECE) writeSync(file, piece, 0, Math.min(PIECE, end - at));
  closeSync(file);
  return end;
}

/** Memory of the engine's process that is not a mapped file. */
function ownBytes(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const of = (key: string) => 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1] ?? 0);
    return of("RssAnon") + of("RssShmem");
  } catch {
    return 0;
  }
}

const started = performance.now();
const bytes = writeCheckpoint();
console.log(`${(bytes / 1e9).toFixed(2)} GB written in ${((performance.now() - started) / 1000).toFixed(1)} s`);
console.log("| load | s | GB/s | host memory beyond the mapping, GiB |\n|---|---|---|---|");
for (let run = 1; run <= 3; run++) {
  const children = new Set<number>();
  let most = 0;
  const timer = setInterval(() => {
    const list = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, "utf8");
    for (const pid of list.trim().split(" ")) if (pid) children.add(Number(pid));
    for (const pid of children) most = Math.max(most, ownBytes(pid));
  }, 50);
  const engine = await EngineProcess.start({
    model: { dir: folder },
    device,
    ...engineOptions,
  });
  clearInterval(timer);
  const seconds = engine.info.loadMs / 1000;
  console.log(
    `| ${run} | ${seconds.toFixed(2)} | ${(bytes / 1e9 / seconds).toFixed(1)} | ${(most / 2 ** 30).toFixed(2)} |`,
  );
  await engine.stop();
}
if (!process.env.KEEP) rmSync(join(folder, "model.safetensors"));

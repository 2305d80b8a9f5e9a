// Two devices, measured: bun scripts/gpu/split.ts PART... of bandwidth, tokens, pipeline, copies, kill, large. On a machine without
// GPUs: KVACCEL_CPU_DEVICES=2 BACKEND=cpu SHAPE=tiny-ruler LENGTHS=512,1024 bun scripts/gpu/split.ts ...
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunEvent } from "../../src/bench/run-contract.ts";
import { RunDirectory } from "../../src/bench/rundir.ts";
import { execute } from "../../src/cli/execute.ts";
import { readSettings } from "../../src/cli/settings.ts";
import { Engine } from "../../src/engine/engine.ts";
import type { Completion, MethodSpec, Request } from "../../src/engine/protocol.ts";
import { weightBytes } from "../../src/model/plan.ts";
import { Context, Tensor } from "../../src/native/tensor.ts";
import { parseMethods } from "../../src/plugin/compose.ts";
import { loadPlugins, ownPlugins } from "../../src/plugin/loader.ts";
import { engineOptions } from "../bench/engine-options.ts";

const {
  BACKEND = "cuda",
  SHAPE = "llama-3.1-8b",
  LENGTHS = "4096,131072",
  SAMPLES = "16",
  LARGE = "llama-3.1-70b",
} = process.env;
const [shortest, longest] = LENGTHS.split(",").map(Number) as [number, number];
const samples = Number(SAMPLES);
const middle = BACKEND === "cuda" ? 32768 : shortest;
const one = `${BACKEND}:0`;
const both = `${BACKEND}:0+${BACKEND}:1`;
const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
const seconds = (ms: number) => `${(ms / 1000).toFixed(3)} s`;
const row = (...cells: unknown[]) => console.log(`| ${cells.join(" | ")} |`);
const breathe = async () => {};

function open(device: string, shape = SHAPE, layers?: number): Engine {
  const model = { shape, seed: 42, ...(layers === undefined ? {} : { layers }) };
  return Engine.load({ ...engineOptions, model, device });
}

function prompt(length: number, id: number, maxNewTokens: number, vocabulary: number): Request {
  let state = 1000 * id + length;
  const ids = Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % vocabulary;
  });
  const sampling = { temperature: 0, topK: 0, topP: 1, seed: 0 };
  return { id: String(id), ids, maxNewTokens, stopIds: [], ignoreStop: true, sampling };
}

async function methods(...names: string[]): Promise<MethodSpec[]> {
  return parseMethods(names, [], await loadPlugins([ownPlugins]));
}

const parts: Record<string, () => Promise<void> | void> = { bandwidth, tokens, pipeline, copies, kill, large };

function bandwidth(): void {
  const contexts = [0, 1].map((n) => Context.open(`${BACKEND}:${n}`));
  console.log("copy from device to device: size, direction, GB/s (median of 10)");
  for (const mib of [0.0078125, 1, 16, 256]) {
    const columns = Math.round(mib * 2 ** 19);
    const [a, b] = contexts.map((context) => Tensor.create(context, "bfloat16", 1, columns));
    for (const [from, to, name] of [
      [a!, b!, "0 to 1"],
      [b!, a!, "1 to 0"],
    ] as const) {
      from.fill(1);
      from.copyToPeer(to);
      const times = Array.from({ length: 10 }, () => {
        for (const context of contexts) context.sync();
        const start = performance.now();
        for (let n = 0; n < 10; n++) from.copyToPeer(to);
        for (const context of contexts) context.sync();
        return (performance.now() - start) / 10;
      }).toSorted((x, y) => x - y);
      const ms = times[5]!;
      row(`${mib} MiB`, name, ((columns * 2) / ms / 1e6).toFixed(2), `${(1000 * ms).toFixed(1)} us`);
    }
    a!.dispose();
    b!.dispose();
  }
  for (const context of contexts) context.dispose();
}

async function tokens(): Promise<void> {
  const [whole, split] = [open(one), open(both)];
  console.log(
    `${SHAPE}: stages ${split.info.stages.map((s) => `[${s.first}, ${s.end}) ${gib(s.weightBytes)}`).join(", ")}`,
  );
  row(
    "tokens",
    "method",
    "same ids",
    "prefill 1",
    "prefill 2",
    "ms/token 1",
    "ms/token 2",
    "peak 1",
    "peak of each of 2",
  );
  for (const length of [shortest, longest]) {
    for (const method of await methods("Full", "SnapKV[capacity=2048]", "KIVI", "XAttention")) {
      const results: Completion[] = [];
      for (const engine of [whole, split]) {
        try {
          const request = prompt(length, 1, 32, engine.config.vocabSize);
          if (length === shortest) await engine.generate(method, [request], { breathe });
          results.push((await engine.generate(method, [request], { breathe }))[0]!);
        } catch (error) {
          console.log(`${length} ${method.label} on ${engine.options.device}: ${(error as Error).message}`);
        }
      }
      const [a, b] = results;
      if (!a || !b) continue;
      const step = ({ tokenMs }: Completion) => tokenMs.toSorted((x, y) => x - y)[tokenMs.length >> 1]!.toFixed(2);
      const distinct = new Set(a.ids).size;
      const same =
        JSON.stringify(a.ids) === JSON.stringify(b.ids) ? `yes (${distinct} different)` : `NO ${a.ids} / ${b.ids}`;
      const peaks = b.devicePeakBytes!.map(gib).join(" + ");
      row(
        length,
        method.label,
        same,
        seconds(a.prefillMs),
        seconds(b.prefillMs),
        step(a),
        step(b),
        gib(a.peakBytes),
        peaks,
      );
    }
  }
  const scores: number[][] = [];
  for (const engine of [whole, split]) {
    const { ids } = prompt(shortest, 2, 1, engine.config.vocabSize);
    const [method] = await methods("Full");
    scores.push(
      (await engine.score(method!, { ids, promptTokens: shortest - 64 }, breathe)).logprobs.slice(1) as number[],
    );
  }
  const differences = scores[0]!.map((value, i) => Math.abs(value - scores[1]![i]!));
  row(`log-probabilities of ${shortest} tokens, 64 fed`, `largest difference ${Math.max(...differences)}`);
  whole.dispose();
  split.dispose();
}

async function pipeline(): Promise<void> {
  const newTokens = 64;
  const [method] = await methods("Full");
  const rates: number[] = [];
  const ids: string[] = [];
  for (const device of [one, both]) {
    const engine = open(device);
    const requests = Array.from({ length: samples }, (_, n) => prompt(middle, n, newTokens, engine.config.vocabSize));
    await engine.generate(method!, [{ ...requests[0]!, maxNewTokens: 4 }], { breathe });
    const start = performance.now();
    const done: Completion[] = [];
    if (device === one)
      for (const request of requests) done.push(...(await engine.generate(method!, [request], { breathe })));
    else
      for (let at = 0; at < samples; at += 4)
        done.push(...(await engine.generate(method!, requests.slice(at, at + 4), { breathe }, 1)));
    const ms = performance.now() - start;
    rates.push(samples / ms);
    ids.push(JSON.stringify(done.map((completion) => completion.ids)));
    const peaks = Math.max(
      ...done.map(({ devicePeakBytes, peakBytes }) => Math.max(...(devicePeakBytes ?? [peakBytes]))),
    );
    row(
      `${samples} samples of ${middle} + ${newTokens}`,
      device,
      seconds(ms),
      `${((1000 * samples) / ms).toFixed(3)} samples/s`,
      `peak of a device ${gib(peaks)}`,
    );
    engine.dispose();
  }
  row("pipeline over two / one at a time on one", (rates[1]! / rates[0]!).toFixed(3), `same ids: ${ids[0] === ids[1]}`);
}

async function measured(devices: string[], options: { count: number; length: number; onStart?(at: number): void }) {
  const path = mkdtempSync(join(tmpdir(), "kvaccel-split-"));
  const starts: number[] = [];
  const notes: string[] = [];
  let last = 0;
  const event = (event: RunEvent) => {
    if (event.type === "start") {
      starts.push(performance.now());
      options.onStart?.(starts.length);
    }
    if (event.type === "note") notes.push(event.text);
    if (event.type === "row") last = performance.now();
  };
  const settings = readSettings({
    cfg_path: "RULER",
    task_names: ["niah_single_1"],
    shape: SHAPE,
    device: devices,
    length: [options.length],
    num_samples: options.count,
    output_path: path,
    gp_num: "1",
  });
  const report = await execute(settings, { event });
  const directory = RunDirectory.open(path);
  const rows = [...directory.rows.values()];
  await directory.close();
  rmSync(path, { recursive: true });
  return { ms: last - starts[0]!, rows, notes, outcome: report.outcome };
}

async function copies(): Promise<void> {
  const count = Math.min(12, samples);
  const rates: number[] = [];
  for (const devices of [[one], [one, `${BACKEND}:1`]]) {
    const { ms, rows } = await measured(devices, { count, length: middle });
    rates.push(rows.length / ms);
    const shares = devices.map((device) => `${device} ran ${rows.filter((made) => made.device === device).length}`);
    row(`gp_num 1, ${count} samples of ${middle}`, devices.join(" "), seconds(ms), shares.join(", "));
  }
  row("two copies / one", (rates[1]! / rates[0]!).toFixed(3));
}

async function kill(): Promise<void> {
  const marker = join("src", "engine", "worker.ts");
  const children = async () =>
    (await Bun.$`pgrep -P ${process.pid} -f ${marker}`.quiet().nothrow().text()).trim().split("\n");
  let killed = "";
  const onStart = (at: number) => {
    if (at !== 3) return;
    void children().then(([first]) => {
      killed = first ?? "";
      process.kill(Number(killed), "SIGKILL");
    });
  };
  const { rows, notes } = await measured([one, `${BACKEND}:1`], { count: 8, length: middle, onStart });
  row("worker killed", killed, `rows ${rows.length} of 8, ok ${rows.filter(({ status }) => status === "ok").length}`);
  for (const made of rows.filter(({ attempts }) => attempts > 1))
    row("second attempt", made.id, made.device, made.status);
  for (const note of notes) console.log(note);
}

async function large(): Promise<void> {
  const start = performance.now();
  let engine: Engine | undefined;
  for (const layers of BACKEND === "cuda" ? [80, 72, 64] : [5]) {
    try {
      engine = open(both, LARGE, layers);
      break;
    } catch (error) {
      console.log(`${LARGE}, ${layers} layers: ${(error as Error).message}`);
    }
  }
  if (!engine) return;
  const { config } = engine;
  row(
    LARGE,
    `${config.layers} layers`,
    `loaded in ${seconds(performance.now() - start)}`,
    engine.info.stages.map((s) => gib(s.weightBytes)).join(" + "),
  );
  const [method] = await methods("Full");
  await engine.generate(method!, [prompt(512, 0, 4, config.vocabSize)], { breathe });
  const [done] = await engine.generate(method!, [prompt(middle, 1, 32, config.vocabSize)], { breathe });
  const bytes = weightBytes(config, "bfloat16");
  const matrices = bytes / 2 - 2 * config.vocabSize * config.hiddenSize;
  const flops = 2 * matrices * middle + 2 * config.layers * config.heads * config.headDim * middle ** 2;
  const cache = config.layers * config.kvHeads * config.headDim * 4 * middle;
  const step = done!.tokenMs.toSorted((x, y) => x - y)[done!.tokenMs.length >> 1]!;
  row(`prefill ${middle}`, seconds(done!.prefillMs), `floor at 700 TFLOP/s ${seconds((flops / 700e12) * 1000)}`);
  row("decode", `${step.toFixed(2)} ms/token`, `floor at 2.99 TB/s ${((bytes + cache) / 2.99e9).toFixed(2)} ms`);
  row("peak of each device", done!.devicePeakBytes!.map(gib).join(" + "));
  engine.dispose();
}

for (const name of process.argv.slice(2)) {
  const part = parts[name];
  if (!part) throw new Error(`there is no part ${name}; there is ${Object.keys(parts).join(", ")}`);
  console.log(`## ${name}`);
  const start = performance.now();
  await part();
  console.log(`(${name}: ${seconds(performance.now() - start)})`);
}

// Engines that share a device's weights, measured: bytes of the device, loading, restart of a killed one, equal tokens.
// bun scripts/gpu/shared.ts; MODEL=folder reads a checkpoint in place of random weights; without a GPU: BACKEND=cpu SHAPE=tiny-ruler PROMPT=512 bun scripts/gpu/shared.ts
import { readFileSync } from "node:fs";
import type { EngineProcess } from "../../src/bench/engine-process.ts";
import { formatBytes } from "../../src/bench/format.ts";
import { WeightHolders } from "../../src/bench/weight-holders.ts";
import { whyNotShared } from "../../src/cli/sharing.ts";
import type { EngineOptions, MethodSpec, Request } from "../../src/engine/protocol.ts";
import { engineOptions } from "../bench/engine-options.ts";

const { BACKEND = "cuda", SHAPE = "llama-3.1-8b", PROMPT = "4096", COUNTS = "1,2,4", MODEL } = process.env;
const device = `${BACKEND}:0`;
const full: MethodSpec = { label: "Full", parts: [], hash: "full" };
const model = MODEL === undefined ? { shape: SHAPE, seed: 42 } : { dir: MODEL };
const common = { ...engineOptions, model, device };
const ids = Array.from({ length: Number(PROMPT) }, (_, n) => 1 + ((n * 7919) % 400));
const sampling = { temperature: 0, topK: 0, topP: 1, seed: 0 };
const request: Request = { id: "one", ids, maxNewTokens: 32, stopIds: [], ignoreStop: true, sampling };

/** Bytes in use on the GPU, CUDA's own included; of the CPU the memory of these processes, shared pages once. */
function used(): number {
  if (BACKEND === "cuda") {
    const query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"];
    return Number(`${Bun.spawnSync(query).stdout}`.trim()) * 2 ** 20;
  }
  const { stdout } = Bun.spawnSync(["pgrep", "-P", `${process.pid}`, "-f", "engine/worker.ts"]);
  const pss = (pid: string) => /^Pss: +(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1];
  return `${stdout}`
    .split("\n")
    .filter(Boolean)
    .reduce((sum, pid) => sum + 1024 * Number(pss(pid)), 0);
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;
const answer = async (engine: EngineProcess) => (await engine.generate(full, [request]))[0]!;
let expected: string | undefined;

async function measure(count: number, shared: boolean): Promise<void> {
  const idle = used();
  const options: EngineOptions = shared ? { ...common, sharedBy: count } : common;
  const holders = new WeightHolders({});
  const start = performance.now();
  const engines = await Promise.all(Array.from({ length: count }, () => holders.engine(options)));
  const ready = performance.now() - start;
  const loaded = used() - idle;
  const answers = await Promise.all(engines.map(answer));
  const afterwards = used() - idle;
  process.kill(engines[0]!.pid, "SIGKILL");
  await engines[0]!.gone;
  const killed = performance.now();
  const again = await holders.engine(options);
  const back = performance.now() - killed;
  answers.push(await answer(again));
  const living = [again, ...engines.slice(1)];
  const restarted = shared ? await withoutHolder(living, () => holders.engine(options)) : undefined;
  if (restarted) answers.push(await answer(restarted.engine));
  const texts = answers.map((one) => one.ids.join(" "));
  expected ??= texts[0];
  const { info } = again;
  const cells = [
    count,
    shared ? "one" : "each its own",
    formatBytes(info.weightBytes),
    formatBytes(loaded),
    formatBytes(afterwards),
    formatBytes(Math.max(...answers.map(({ peakBytes }) => peakBytes))),
    seconds(ready),
    seconds(info.sharedWeights?.loadMs ?? info.loadMs),
    seconds(info.loadMs),
    seconds(back),
    restarted ? seconds(restarted.ms) : "-",
    texts.every((text) => text === expected) ? "equal" : "DIFFERENT",
  ];
  console.log(`| ${cells.join(" | ")} |`);
  await Promise.all([...living, ...(restarted ? [restarted.engine] : [])].map((engine) => engine.stop()));
  await holders.stop();
}

/** Kills the process that holds the weights, and with it all engines that read them: the time until a new one is ready. */
async function withoutHolder(engines: EngineProcess[], start: () => Promise<EngineProcess>) {
  const { stdout } = Bun.spawnSync(["pgrep", "-P", `${process.pid}`, "-f", "worker.ts weights"]);
  const killed = performance.now();
  process.kill(Number(`${stdout}`.trim()), "SIGKILL");
  for (const { message } of await Promise.all(engines.map(({ gone }) => gone)))
    if (!message.includes("holds the weights")) throw new Error(`an engine ended otherwise: ${message}`);
  return { engine: await start(), ms: performance.now() - killed };
}

const titles = [
  "engines",
  "weights",
  "weights' bytes",
  "used when loaded",
  "used after a prompt each",
  "peak of an engine",
  "until all are ready",
  "weights loaded",
  "engine's load",
  "back after a kill",
  "back after the holder's",
  "tokens",
];
const reason = await whyNotShared([device]);
console.log(`${MODEL ?? SHAPE}, ${device}, prompts of ${PROMPT} tokens; ${reason ?? "processes share memory"}`);
console.log(`| ${titles.join(" | ")} |\n|${titles.map(() => "---|").join("")}`);
await measure(1, false);
await measure(2, false);
if (reason === undefined) for (const count of COUNTS.split(",").map(Number)) await measure(count, true);

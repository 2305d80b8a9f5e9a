// The engine process: takes calls from its parent over IPC, one at a time, and answers. Started as `bun src/engine/worker.ts`. In the same
// way a process is started that only holds weights for the engines of a device.
import { KvaError } from "../native/error.ts";
import { Engine } from "./engine.ts";
import type { FromEngine, ToEngine } from "./protocol.ts";
import { WeightHolder } from "./weight-holder.ts";

/** How long work may go on before the process looks at its mail, and how often it shows that it lives. */
const BREATHE_MS = 20;
const HEARTBEAT_MS = 1000;

let engine: Engine | null = null;
let holder: WeightHolder | null = null;
let breathed = performance.now();
let beaten = performance.now();

function send(message: FromEngine): void {
  process.send?.(message);
}

function beat(): void {
  const now = performance.now();
  if (now - beaten < HEARTBEAT_MS) return;
  send({ type: "heartbeat" });
  beaten = now;
}

async function breathe(): Promise<void> {
  if (performance.now() - breathed < BREATHE_MS) return;
  beat();
  await new Promise((resolve) => setImmediate(resolve));
  breathed = performance.now();
}

function failure(error: unknown, call?: number): FromEngine {
  const code = error instanceof KvaError ? error.code : "error";
  const known = code === "oom" || code === "plugin" || code === "model" || code === "device" ? code : "error";
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  return { type: "failed", ...(call === undefined ? {} : { call }), code: known, message, ...(stack ? { stack } : {}) };
}

function loaded(): Engine {
  if (!engine) throw new KvaError("native", "the engine process was asked to work before a model was loaded");
  return engine;
}

async function answer(message: Exclude<ToEngine, { type: "stop" }>): Promise<FromEngine> {
  switch (message.type) {
    case "load":
      engine = Engine.load(message.options, beat);
      return { type: "loaded", info: engine.info };
    case "hold":
      holder = WeightHolder.load(message.options, beat);
      return { type: "held", weights: holder.weights };
    case "generate": {
      const { call, method, requests, pipeline } = message;
      const events = {
        token: (index: number, id: number) => send({ type: "token", call, index, id }),
        phase: (phase: "prefill" | "decode", done: number, total: number) =>
          send({ type: "phase", call, phase, done, total }),
        breathe,
      };
      const completions = await loaded().generate(method, requests, events, pipeline);
      return { type: "generated", call, completions };
    }
    case "score":
      return {
        type: "scored",
        call: message.call,
        result: await loaded().score(message.method, message.request, breathe),
      };
  }
}

let queue: Promise<void> = Promise.resolve();

async function handle(message: ToEngine): Promise<void> {
  if (message.type === "stop") {
    engine?.dispose();
    holder?.dispose();
    process.exit(0);
  }
  const loading = message.type === "load" || message.type === "hold";
  try {
    send(await answer(message));
  } catch (error) {
    send(failure(error, loading ? undefined : message.call));
    if (loading) process.exit(1);
  }
}

process.on("message", (message: ToEngine) => {
  queue = queue.then(() => handle(message));
});
process.on("disconnect", () => process.exit(0));
// Ctrl-C reaches the whole process group; the parent decides when to stop.
process.on("SIGINT", () => {});

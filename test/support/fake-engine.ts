// An engine process without a model: speaks the protocol; what it does is in the method's label.
import { appendFileSync, existsSync, writeFileSync } from "node:fs";
import type { Completion, FromEngine, MethodSpec, Request, ToEngine } from "../../src/engine/protocol.ts";

const send = (message: FromEngine) => process.send!(message);
/** A folder for marks that outlive a process, and the log of what was run. */
const state = process.env.FAKE_ENGINE_STATE ?? "";

function once(name: string): boolean {
  const mark = `${state}/${name.replaceAll("/", "_")}`;
  if (existsSync(mark)) return false;
  writeFileSync(mark, "");
  return true;
}

function completion(request: Request, method: MethodSpec): Completion {
  const oom = method.label === "OutOfMemory" && request.ids.length > 600;
  const steps = Math.min(request.maxNewTokens, 5);
  return {
    id: request.id,
    status: oom ? "oom" : "ok",
    ids: oom ? [] : request.ids.slice(0, steps),
    finish: "length",
    ...(oom ? { error: "the cache needs 2.0 GiB, 1.0 GiB is free" } : {}),
    promptTokens: request.ids.length,
    prefillMs: request.ids.length / 10,
    methodMs: 1,
    decodeMs: 2 * (steps - 1),
    tokenMs: Array.from({ length: steps - 1 }, () => 2),
    cacheBytes: request.ids.length * 100,
    cacheAllocatedBytes: request.ids.length * 110,
    expectedCacheBytes: request.ids.length * 100,
    peakBytes: 1_000_000,
    numbers: holder ? { holder: holder[1] } : {},
    ...(request.logKept ? { kept: { prompt: [["0-3,9"]], end: [["0-3,9-10"]], tokens: 11 } } : {}),
  };
}

/** Process and number of the holder that this engine reads. */
let holder: [number, number] | undefined;

async function generate(call: number, method: MethodSpec, requests: Request[]): Promise<void> {
  const first = requests[0]!;
  if (first.id === "warm-up")
    return void send({ type: "generated", call, completions: requests.map((r) => completion(r, method)) });
  if (state) appendFileSync(`${state}/log`, `${method.label} ${requests.map((r) => r.id).join(" ")}\n`);
  if (method.label === "Dies") process.kill(process.pid, "SIGSEGV");
  if (method.label === "DiesOnce" && once(first.id)) process.kill(process.pid, "SIGKILL");
  if (method.label === "KillsHolder" && once("holder")) {
    process.kill(holder![0], "SIGKILL");
    await Bun.sleep(60_000);
  }
  if (method.label === "LosesDevice" && once("device")) {
    return void send({
      type: "failed",
      call,
      code: "device",
      message: "cudaLaunchKernel failed: the GPU has fallen off the bus",
    });
  }
  if (method.label === "Timed") await Bun.sleep(first.ids.length / 20);
  if (method.label === "Hangs") for (;;);
  if (method.label === "Sleeps") await Bun.sleep(60_000);
  if (method.label === "Slow") await Bun.sleep(30);
  if (method.label === "Throws" || (method.label === "ThrowsInBatch" && requests.length > 1)) {
    return void send({
      type: "failed",
      call,
      code: "plugin",
      message: "Throws, prefill, layer 0: no such thing",
      stack: "at throws.ts:3",
    });
  }
  for (const [index, { ids }] of requests.entries()) send({ type: "token", call, index, id: ids[0]! });
  send({ type: "generated", call, completions: requests.map((request) => completion(request, method)) });
}

async function receive(message: ToEngine): Promise<void> {
  switch (message.type) {
    case "hold": {
      const dir = "dir" in message.options.model ? message.options.model.dir : "";
      if ("shape" in message.options.model) {
        send({ type: "failed", code: "oom", message: "the model needs 16 GiB, 8 GiB is free" });
        process.exit(1);
      }
      if (dir === "dies-once" && once("loading")) process.kill(process.pid, "SIGKILL");
      const first = once("holding");
      const name =
        dir === "unreadable" || (dir === "unreadable-once" && first) ? "gone" : `${process.pid} ${first ? 1 : 2}`;
      return void send({ type: "held", weights: { name, bytes: 5000, loadMs: 1 } });
    }
    case "load":
      if (message.options.weights) holder = message.options.weights.name.split(" ").map(Number) as [number, number];
      if (message.options.weights?.name === "gone") {
        send({ type: "failed", code: "error", message: "shared_open: its maker is gone" });
        process.exit(1);
      }
      if ("shape" in message.options.model) {
        send({ type: "failed", code: "oom", message: "the model needs 16 GiB, 8 GiB is free" });
        process.exit(1);
      }
      if (
        !message.options.weights &&
        "dir" in message.options.model &&
        message.options.model.dir === "dies-once" &&
        once("loading")
      ) {
        process.kill(process.pid, "SIGKILL");
      }
      if (message.options.device === "cpu:9" && existsSync(`${state}/device`)) {
        send({ type: "failed", code: "device", message: "device 9 is not one of the 1 that the driver shows" });
        process.exit(1);
      }
      return void send({
        type: "loaded",
        info: {
          backend: "cpu",
          buildInfo: "fake",
          deviceName: "no device",
          computeCapability: 0,
          totalBytes: 0,
          freeBytes: 0,
          weightBytes: 0,
          cacheBytesPerToken: 100,
          loadMs: 1,
          ...(message.options.weights && { sharedWeights: { bytes: 5000, loadMs: 1 } }),
          stages: [],
        },
      });
    case "generate":
      return generate(message.call, message.method, message.requests);
    case "score":
      return void send({
        type: "scored",
        call: message.call,
        result: { logprobs: [null, ...message.request.ids.slice(1).map(() => -1)] },
      });
    case "stop":
      process.exit(0);
  }
}

process.on("message", (message: ToEngine) => void receive(message));
process.on("disconnect", () => process.exit(0));

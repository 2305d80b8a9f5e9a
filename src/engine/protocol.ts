// What the parent process and an engine process say to each other (JSON over IPC), and the shapes of requests and results.
import type { FloatDtype, ModelConfig } from "../model/config.ts";

/** Where the weights come from: a Hugging Face directory, or a named shape or a config filled with random numbers. */
export type ModelSource =
  | { dir: string }
  | { shape: string; layers?: number; seed: number }
  /** deviation: of the weights; larger ones make attention more peaked */
  | { config: ModelConfig; seed: number; deviation: number };

/** Weights that a process holds on a device for engines of other processes. */
export interface SharedWeights {
  /** by which the native library opens them */
  name: string;
  /** on the device */
  bytes: number;
  /** that the process took to load them */
  loadMs: number;
}

export interface EngineOptions {
  model: ModelSource;
  /** `cpu:0`, `cuda:1`; `cuda:0+cuda:1` where the layers are split over several */
  device: string;
  dtype: FloatDtype;
  /** rows of a row chunk in prefill */
  prefillChunk: number;
  /** CPU threads; 0 = one per core */
  threads: number;
  /** bytes the allocator of each device may hand out; 0 = no limit */
  memoryLimit: number;
  /** capture decode steps in a graph where the method allows it */
  graphs: boolean;
  /** so many engines of the device read one copy of the weights, which a process of its own holds; absent: each has its own */
  sharedBy?: number;
  /** that copy, once it is loaded */
  weights?: SharedWeights;
}

/** One plugin of a method, with its effective parameter values as they stand in YAML. */
export interface MethodPart {
  /** display name, `SnapKV` */
  name: string;
  /** plugin file, absolute */
  file: string;
  preset: string;
  /** all parameters, defaults included; a budget is `{capacity}` or `{keepRatio}` */
  params: Record<string, unknown>;
}

/** A method as run: one plugin, or several composed, in order. Full is the empty list. */
export interface MethodSpec {
  /** column title: `SnapKV`, `XAttention+SnapKV`, `SnapKV[capacity=256]` */
  label: string;
  parts: MethodPart[];
  /** first 12 hex digits of the SHA-256 of the parts' names and parameters */
  hash: string;
}

export interface Sampling {
  /** 0: greedy */
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
}

/** A further question over the cache as the prompt left it: its ids are fed one by one to a fork, then it is answered. */
export interface FollowUp {
  id: string;
  ids: number[];
  maxNewTokens: number;
}

export interface FollowUpAnswer {
  id: string;
  /** new ids, the stop id not included */
  ids: number[];
  finish: "stop" | "length";
  /** from the fork to the first new token, and from it to the last */
  feedMs: number;
  decodeMs: number;
}

export interface Request {
  id: string;
  /** prompt token ids, special tokens included */
  ids: number[];
  maxNewTokens: number;
  stopIds: number[];
  /** stop ids among the first so many new tokens are taken as they are, and generation goes on */
  minNewTokens?: number;
  /** context_only view: the first token of the question; rows before it are compressed, the rest is fed token by token */
  questionStart?: number;
  sampling: Sampling;
  /** answered one after the other before the prompt's own answer; their time is not in the completion's */
  followUps?: FollowUp[];
  /** stop after `maxNewTokens` only (speed runs) */
  ignoreStop?: boolean;
  /** report the kept positions of each layer and KV head */
  logKept?: boolean;
  /** sets of blocks are cut to this share of the causal ones, after they were chosen (speed runs) */
  density?: number;
}

/** Positions that each layer and KV head holds, as ranges (`0-3,17`): [layer][kvHead]. */
export interface KeptRows {
  /** when the prompt was done */
  prompt: string[][];
  /** when the sequence ended, after `tokens` tokens in all */
  end: string[][];
  tokens: number;
}

/** Bytes and times of one sequence; times in milliseconds. */
export interface Completion {
  id: string;
  status: "ok" | "oom" | "error";
  /** new ids, the stop id not included */
  ids: number[];
  finish: "stop" | "length";
  /** what went wrong, where status is not ok */
  error?: string;
  promptTokens: number;
  /** until the first new token is known: time to first token */
  prefillMs: number;
  /** of it, in the method's hooks, on the device */
  methodMs: number;
  /** of it, choosing the blocks that attention reads */
  selectMs?: number;
  /** in the method's recorded ops in one decode step, on the device, all sequences of the call together: of the last step without a graph */
  decodeMethodMs?: number;
  /** from the first new token to the last */
  decodeMs: number;
  /** each decode step */
  tokenMs: number[];
  /** bytes of the rows held when the prompt was done */
  cacheBytes: number;
  cacheAllocatedBytes: number;
  /** what the method's own formula says, page rounding and padding included */
  expectedCacheBytes: number;
  /** allocator's peak during this request, weights included; of a split model the sum over its devices */
  peakBytes: number;
  /** of a split model: the peak of each device */
  devicePeakBytes?: number[];
  followUps?: FollowUpAnswer[];
  /** numbers from the plugins' `end()` */
  numbers: Record<string, number>;
  kept?: KeptRows;
}

export interface ScoreRequest {
  ids: number[];
  /** tokens that are prefilled (and compressed); the rest is fed one by one. Absent: all are prefilled. */
  promptTokens?: number;
}
export interface ScoreResult {
  /** logprobs[i] is that of ids[i] given those before it; the first is null */
  logprobs: (number | null)[];
}

/** A device of an engine, and the layers [first, end) that it holds. */
export interface StageInfo {
  device: string;
  name: string;
  first: number;
  end: number;
  totalBytes: number;
  freeBytes: number;
  weightBytes: number;
}

/** Bytes are sums over the devices of a split model. */
export interface EngineInfo {
  backend: string;
  buildInfo: string;
  deviceName: string;
  computeCapability: number;
  totalBytes: number;
  freeBytes: number;
  weightBytes: number;
  /** cache bytes of one token of one sequence, all layers */
  cacheBytesPerToken: number;
  loadMs: number;
  /** weightBytes are a holder's: the other engines of the device read the same, and the device has them once; loadMs: the holder's time */
  sharedWeights?: { bytes: number; loadMs: number };
  stages: StageInfo[];
}

export type ToEngine =
  | { type: "load"; options: EngineOptions }
  /** load the weights for other engines, and hold them */
  | { type: "hold"; options: EngineOptions }
  /** requests of one call are decoded together as a batch; with `pipeline`, as batches of so many that fill the stages of a split model */
  | { type: "generate"; call: number; method: MethodSpec; requests: Request[]; pipeline?: number }
  | { type: "score"; call: number; method: MethodSpec; request: ScoreRequest }
  | { type: "stop" };

export type FromEngine =
  | { type: "loaded"; info: EngineInfo }
  | { type: "held"; weights: SharedWeights }
  | { type: "heartbeat" }
  /** new tokens of a running call, in order; index: position in the call's requests */
  | { type: "token"; call: number; index: number; id: number }
  | { type: "phase"; call: number; phase: "prefill" | "decode"; done: number; total: number }
  | { type: "generated"; call: number; completions: Completion[] }
  | { type: "scored"; call: number; result: ScoreResult }
  /** call absent: loading failed, the process ends */
  | {
      type: "failed";
      call?: number;
      code: "oom" | "plugin" | "model" | "device" | "error";
      message: string;
      stack?: string;
    };

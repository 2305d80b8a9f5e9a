// A worker thread that makes samples: loads the tokenizer once, then answers jobs in turn.
import { loadTokenizer } from "../model/tokenizer.ts";
import { KvaError } from "../native/error.ts";
import { type CellJob, type CellResult, runCellJob } from "./cell-job.ts";

declare const self: Worker;

export type ToSampleWorker = { tokenizer: string } | { job: CellJob };
export type FromSampleWorker = { result: CellResult } | { error: { code: KvaError["code"]; message: string } };

let codec: ReturnType<typeof loadTokenizer>;

self.onmessage = ({ data }: MessageEvent<ToSampleWorker>) => {
  try {
    if ("tokenizer" in data) codec = loadTokenizer(data.tokenizer);
    else {
      const result = runCellJob(data.job, codec);
      self.postMessage({ result } satisfies FromSampleWorker, [
        ...result.samples.map(({ ids }) => ids.buffer as ArrayBuffer),
      ]);
    }
  } catch (error) {
    const { message } = error as Error;
    const code = error instanceof KvaError ? error.code : "data";
    self.postMessage({ error: { code, message } } satisfies FromSampleWorker);
  }
};

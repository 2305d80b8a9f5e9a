// Ctrl-C, SIGTERM and SIGHUP: the first asks the work to stop, the second drops what is in flight.

/** The command was interrupted: exit code 130. */
export class Interrupted extends Error {
  constructor() {
    super("interrupted");
    this.name = "Interrupted";
  }
}

/** Help or the version was shown: nothing is left to do. */
export class Shown extends Error {}

export interface Interrupts {
  stop: AbortSignal;
  abort: AbortSignal;
  /** the same as Ctrl-C */
  request(): void;
  dispose(): void;
}

export function listenForInterrupts(say: (text: string) => void = () => {}): Interrupts {
  const stop = new AbortController();
  const abort = new AbortController();
  const handler = () => {
    if (stop.signal.aborted) return abort.abort();
    say("stopping: the sample in flight may finish within 3 s; once more to drop it");
    stop.abort();
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, handler);
  return {
    stop: stop.signal,
    abort: abort.signal,
    request: handler,
    dispose() {
      for (const signal of signals) process.off(signal, handler);
    },
  };
}

/** For commands with one call: any signal ends it. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const handler = () => controller.abort();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, handler);
  try {
    const result = await work(controller.signal);
    if (controller.signal.aborted) throw new Interrupted();
    return result;
  } catch (error) {
    throw controller.signal.aborted ? new Interrupted() : error;
  } finally {
    for (const signal of signals) process.off(signal, handler);
  }
}

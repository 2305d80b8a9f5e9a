// Single keys while a run goes on. The terminal is in raw mode meanwhile, so Ctrl-C and Ctrl-Z are keys too.
import type { ReadStream } from "node:tty";

export interface Keys {
  close(): void;
}

const suspend = "\x1a";

/** Calls the action of each key pressed; `undefined` where the input is no terminal. */
export function listenForKeys(input: ReadStream, actions: Readonly<Record<string, () => void>>): Keys | undefined {
  if (!input.isTTY) return undefined;
  const heard = (data: Buffer | string): void => {
    for (const key of data.toString()) {
      if (key === suspend) sleep();
      else actions[key]?.();
    }
  };
  const begin = (): void => {
    input.setRawMode(true);
    input.resume();
  };
  const sleep = (): void => {
    input.setRawMode(false);
    process.kill(process.pid, "SIGTSTP");
  };
  begin();
  input.on("data", heard);
  process.on("SIGCONT", begin);
  return {
    close() {
      input.off("data", heard);
      process.off("SIGCONT", begin);
      input.setRawMode(false);
      input.pause();
    },
  };
}

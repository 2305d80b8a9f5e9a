// Errors that users read: a sentence, and a code that decides what happens next.
export type ErrorCode = "usage" | "model" | "data" | "plugin" | "device" | "oom" | "native" | "io";

/** An error with a text for the user. `usage` ends with exit code 2, all others with 1. */
export class KvaError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "KvaError";
  }
}

/** What the operating system's code means; its own text names the call and the path again. */
const systemReasons: Record<string, string> = {
  ENOENT: "it is not there",
  ENOTDIR: "a part of the path is no directory",
  EISDIR: "it is a directory",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EMFILE: "too many files are open",
  ENAMETOOLONG: "the name is too long",
};

/** Why something failed, in words. */
export function reason(error: unknown): string {
  const { code = "", message } = error as NodeJS.ErrnoException;
  return systemReasons[code] ?? message ?? String(error);
}

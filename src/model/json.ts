// JSON files of a model directory: read, parsed and checked by a schema, with errors that name file, key and value.
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { KvaError, reason } from "../native/error.ts";

/** The parsed content of a file; the error names the file, and the place where the text is broken. */
export function readJson(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new KvaError("model", `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
  return parsedJson(text, path);
}

/** `path` stands in the error. */
export function parsedJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = text.trim() === "" ? "the file is empty" : (error as Error).message;
    throw new KvaError("model", `${path} is not valid JSON: ${reason}`, { cause: error });
  }
}

/** A value as it stands in a message: JSON, cut after 60 characters. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "absent";
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** `value` as `schema` gives it; the error names file, key and value, and says what would be right. */
export function checked<T>(schema: v.GenericSchema<unknown, T>, value: unknown, file: string): T {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const issue = result.issues[0];
  const key = v.getDotPath(issue);
  if (key === null) throw new KvaError("model", `${file} is ${shown(value)}; it ${issue.message}`);
  throw new KvaError("model", `${file}: ${key} is ${shown(issue.input)}; it ${issue.message}`);
}

/** An object, not a list. */
export function jsonObject(): v.GenericSchema<unknown, Record<string, unknown>> {
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  return v.custom<Record<string, unknown>>(isObject, "must be a JSON object");
}

/** A whole number from min to max. */
export function count(max: number, min = 1): v.GenericSchema<unknown, number> {
  const text = `must be a whole number from ${min} to ${max}`;
  return v.pipe(v.number(text), v.safeInteger(text), v.minValue(min, text), v.maxValue(max, text));
}

/** A finite number above 0. */
export function positive(): v.GenericSchema<unknown, number> {
  const text = "must be a number above 0";
  return v.pipe(v.number(text), v.finite(text), v.gtValue(0, text));
}
